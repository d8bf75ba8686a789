"""Video towers: closed forms, the order of tokens, positions in time, and weights in ViCLIP's official layout."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.models.backbones import backbone, model_config
from bench.models.clip import Clip, VideoTower, load_clip
from bench.models.weights import check_tag
from tests import zoo
from tests.errors import refused

NAME = "glyph-viclip"


def with_table(seed: int = 0) -> Clip:
    """Random weights with a table of positions that differ; it starts at zero."""
    clip = load_clip(NAME, "random:0")
    table_1TW = clip.visual.temporal_positional_embedding
    assert not table_1TW.any()
    table_1TW.copy_(torch.randn(table_1TW.shape, generator=torch.Generator().manual_seed(seed)))
    return clip


def clips(frames: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, frames, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def official(clip: Clip) -> dict[str, Tensor]:
    """The weights under ViCLIP's names, with its kernels over one frame and its temperature."""
    state: dict[str, Tensor] = {}
    for name, tensor in clip.state_dict().items():
        if name == "logit_scale":
            state["temp"] = (-tensor).exp()
        elif name.startswith("visual."):
            state[name.replace("visual.", "vision_encoder.", 1)] = tensor[:, :, None] if "conv1" in name else tensor
        else:
            state[f"text_encoder.{name}"] = tensor
    return state


# ---------------------------------------------------------------------------------------------------------------------
# Closed forms


@pytest.mark.parametrize(
    ("name", "visual", "total", "gflops"),
    [
        ("ViCLIP-B-16", 86_198_784, 149_603_841, {8: 359.13, 16: 899.35}),
        ("ViCLIP-L-14", 303_974_400, 427_590_145, {8: 1652.74, 16: 4129.51}),
    ],
)
def test_known_figures(name: str, visual: int, total: int, gflops: dict[int, float]) -> None:
    spec = backbone(name)
    with torch.device("meta"):
        clip = Clip(spec, model_config(name))
    sizes = {key: parameter.numel() for key, parameter in clip.named_parameters()}
    assert (sum(n for key, n in sizes.items() if key.startswith("visual.")), sum(sizes.values())) == (visual, total)
    assert {frames: round(spec.view_flops(frames) / 1e9, 2) for frames in gflops} == gflops
    assert spec.video and spec.features(8) == 1 and spec.mean == (0.485, 0.456, 0.406)
    text = 2.4416 if name == "ViCLIP-B-16" else 5.4747
    assert spec.text_flops() / 1e9 == pytest.approx(text, abs=5e-5)


@pytest.mark.parametrize("frames", [1, 4, 10])
def test_flops_equal_the_counter(frames: int) -> None:
    spec = backbone(NAME)
    with torch.device("meta"):
        clip = Clip(spec, model_config(NAME))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        clip.encode_clips(torch.empty(1, frames, 3, 64, 64, device="meta"))
    assert spec.view_flops(frames) == counter.get_total_flops()


def test_frames_of_an_image_tower_cost_the_same_each() -> None:
    spec = backbone("ViT-B-16")
    assert spec.view_flops(8) == 8 * spec.view_flops(1) and (spec.video, spec.features(8)) == (False, 8)


# ---------------------------------------------------------------------------------------------------------------------
# Forward


def test_one_feature_a_clip_that_its_order_changes() -> None:
    clip, clips_BT3HW = with_table(), clips(4)
    features_B1D = clip.encode_clips(clips_BT3HW)
    assert features_B1D.shape == (2, 1, clip.spec.embed_dim)
    assert not torch.allclose(clip.encode_clips(clips_BT3HW.flip(1)), features_B1D, atol=1e-4)
    torch.testing.assert_close(clip.encode_clips(clips_BT3HW[1:])[0], features_B1D[1], atol=1e-6, rtol=0)
    clip.visual.temporal_positional_embedding.zero_()
    torch.testing.assert_close(clip.encode_clips(clips_BT3HW.flip(1)), clip.encode_clips(clips_BT3HW))


def test_tokens_run_over_the_frames_of_a_patch_first() -> None:
    tower, clips_BT3HW = with_table().visual, clips(4)
    assert isinstance(tower, VideoTower)
    patches = (tower.grid_size[0]) ** 2
    tokens_BKW = tower.tokens(clips_BT3HW)
    assert tokens_BKW.shape[1] == 1 + 4 * patches
    for patch, frame in ((0, 3), (5, 2)):
        changed_BT3HW = clips_BT3HW.clone()
        row, column = divmod(patch, tower.grid_size[1])
        changed_BT3HW[:, frame, :, 16 * row, 16 * column] += 1
        moved = (tower.tokens(changed_BT3HW) - tokens_BKW).abs().amax(dim=(0, 2)).nonzero().flatten()
        assert moved.tolist() == [1 + patch * 4 + frame]
    torch.testing.assert_close(tokens_BKW[0, 0], tower.class_embedding + tower.positional_embedding[0])


def test_positions_of_other_numbers_of_frames() -> None:
    tower = with_table().visual
    assert isinstance(tower, VideoTower)
    table_1TW = tower.temporal_positional_embedding
    torch.testing.assert_close(tower.positions(1), table_1TW.mean(dim=1, keepdim=True))
    assert torch.equal(tower.positions(3), table_1TW[:, :3]) and torch.equal(tower.positions(4), table_1TW)
    longer_1TW = tower.positions(8)
    torch.testing.assert_close(longer_1TW[:, 0], table_1TW[:, 0])  # half-pixel centres: -0.25 is held at the end
    torch.testing.assert_close(longer_1TW[:, 1], 0.75 * table_1TW[:, 0] + 0.25 * table_1TW[:, 1])


def test_activations_can_be_computed_again() -> None:
    clip, clips_BT3HW = with_table(), clips(4)
    clip.visual.requires_grad_(True)
    gradients = []
    for again in (False, True):
        clip.visual.set_grad_checkpointing(again)
        clip.zero_grad()
        clip.encode_clips(clips_BT3HW).square().sum().backward()
        gradients.append(clip.visual.temporal_positional_embedding.grad)
    assert gradients[0] is not None and gradients[0].any()
    torch.testing.assert_close(gradients[0], gradients[1])


# ---------------------------------------------------------------------------------------------------------------------
# Weights


@pytest.mark.parametrize("wrapper", ["model", "module", ""])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_official_file_gives_the_same_model(tmp_path: Path, wrapper: str, prefix: str) -> None:
    clip, file = with_table(), tmp_path / "viclip.pth"
    state = {f"{prefix}{name}": tensor for name, tensor in official(clip).items()}
    torch.save({wrapper: state, "epoch": 10, "global_step": 7, "optimizer": {}} if wrapper else state, file)
    loaded = load_clip(NAME, str(file))
    assert torch.equal(loaded.encode_clips(clips(4)), clip.encode_clips(clips(4)))
    texts = ["a photo of a skull rising"]
    assert torch.equal(loaded.encode_texts(texts), clip.encode_texts(texts))
    torch.testing.assert_close(loaded.logit_scale, clip.logit_scale)


def test_a_file_under_names_of_openai_is_read_as_well(tmp_path: Path) -> None:
    clip, file = with_table(), tmp_path / "own.safetensors"
    save_file(clip.state_dict(), file)
    assert torch.equal(load_clip(NAME, str(file)).encode_clips(clips(4)), clip.encode_clips(clips(4)))


def test_broken_official_files_are_refused(tmp_path: Path) -> None:
    state, file = official(with_table()), tmp_path / "viclip.pth"
    kernel, table = "vision_encoder.conv1.weight", "vision_encoder.temporal_positional_embedding"
    for changes, what in (
        ({kernel: state[kernel].expand(-1, -1, 2, -1, -1)}, "covers 2 frames"),
        ({table: state[table][:, :3]}, "temporal_positional_embedding"),
        ({"temp": torch.tensor(-1.0)}, "logit_scale"),
        ({"text_encoder.extra": torch.ones(1)}, "1 unexpected tensors"),
    ):
        torch.save({"model": {**state, **changes}}, file)
        with refused(what, where="viclip.pth"):
            load_clip(NAME, str(file))
    torch.save({"model": {name: own for name, own in state.items() if name != table}}, file)
    with refused("1 tensors are missing: visual.temporal_positional_embedding", where="viclip.pth"):
        load_clip(NAME, str(file))


def test_there_are_no_tags_but_files_and_random_weights() -> None:
    with refused("'openai'", "random:<seed>", where="pretrained"):
        check_tag("ViCLIP-B-16", "openai")
    with refused("built-in weights", where="pretrained"):
        load_clip(NAME, "builtin")
    check_tag("ViCLIP-B-16", "random:0")


def test_the_tokenizer_is_clips_with_32_places(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.forbid_network(monkeypatch)
    with torch.device("meta"):
        clip = Clip(backbone("ViCLIP-B-16"), model_config("ViCLIP-B-16"))
    tokens_NL = clip.tokenizer(["a video of a dog.", "word " * 60])
    expected_NL = open_clip.get_tokenizer("ViT-B-16")(["a video of a dog."])
    assert tokens_NL.shape == (2, 32) and torch.equal(tokens_NL[:1], expected_NL[:, :32])
    assert int(tokens_NL[1, -1]) == 49407  # cut, with the end mark in the last place
