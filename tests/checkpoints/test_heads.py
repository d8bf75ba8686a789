"""The heads of official checkpoints: their sizes, what they hold beside parameters, and what merging makes of them."""

from __future__ import annotations

import pytest
import torch

from bench.checkpoints.heads import HEADS, official_head
from bench.checkpoints.official import _fitting, _model
from bench.core.errors import UserError
from bench.models.backbones import supported_names
from bench.models.state_dicts import SOURCES, State, collapsed, official_names
from tests.errors import refused
from tests.official_files import golden, head_state

mote, text4vis = HEADS["mote"], HEADS["text4vis"]


def published(method: str, backbone: str, **choices: int) -> tuple[State, State]:
    """Tower and head of a model of published size, without memory."""
    return official_names(_model(method, backbone, {"tower": "tuned", **choices}).trained_state())


@pytest.mark.parametrize(("backbone", "layers", "count"), [("ViT-B-16", 4, 102), ("ViT-L-14", 6, 152)])
def test_released_heads(backbone: str, layers: int, count: int) -> None:
    tower, head = published("mote", backbone, layers=layers, num_experts=4)
    assert mote.choices(head) == {"layers": layers, "num_experts": 4}
    fixed = mote.additions(head)
    assert len({*head, *fixed, SOURCES}) == count and {tuple(logits.shape) for logits in fixed.values()} == {(4,)}
    assert _fitting(tower)[0] == f"{backbone}-quickgelu" and backbone in _fitting(tower)


def test_dense_heads() -> None:
    tower, head = published("text4vis", "ViT-B-16", layers=6)
    assert text4vis.choices(head) == {"layers": 6} and not text4vis.additions(head)
    assert not _fitting({**tower, "visual.proj": torch.zeros(768, 13)}) and "ViT-B-16" in supported_names()
    with pytest.raises(UserError, match="the head has no experts"):
        mote.choices(head)
    with pytest.raises(UserError, match="the head has experts"):
        text4vis.choices(published("mote", "ViT-B-16", layers=1, num_experts=2)[1])
    with pytest.raises(UserError, match="no temporal transformer"):
        text4vis.choices({SOURCES: torch.zeros(5, 512)})


def test_collapsed_experts_are_a_dense_head_with_their_plain_mean() -> None:
    head = golden("ckpt.fusion_model_state_dict.")
    dense = collapsed(head)
    assert text4vis.choices(dense) == {"layers": 1} and SOURCES in dense
    for official, own in (("up", "c_fc"), ("dn", "c_proj")):
        for kind in ("weight", "bias"):
            experts = [head[f"transformer.resblocks.0.mlp.fc_{official}.{i}.{kind}"] for i in range(4)]
            torch.testing.assert_close(dense[f"transformer.resblocks.0.mlp.{own}.{kind}"], sum(experts) / 4)
    assert dense.keys() - {SOURCES} == head_state("text4vis", layers=1).keys()


def test_unequal_merge_weights_are_refused() -> None:
    head = golden("ckpt.fusion_model_state_dict.")
    mote.refuse(head)
    with pytest.raises(UserError, match="not merged equally"):
        mote.refuse({**head, "transformer.resblocks.0.mlp.mote_fusion_weight": torch.ones(4)})


def test_weights_of_a_backbone_are_no_training_to_import() -> None:
    with refused("'clip_mean' has no official layout", where="--method", hint="recipe.pretrained"):
        official_head("clip_mean")
