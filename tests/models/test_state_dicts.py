"""State dicts: official layouts there and back, and errors that name tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.core.errors import UserError
from bench.models.state_dicts import (
    HEAD,
    TOWER,
    Layout,
    collapsed,
    layers_in,
    official_layout,
    official_names,
    read_official,
    refuse_differences,
    require_finite,
    trained_names,
)
from bench.models.torch_files import read_torch
from tests.errors import refused

ONE = torch.ones(1)
VISUAL, TEXT, FUSED = {"visual.proj": ONE}, {"token_embedding.weight": ONE}, {"a.weight": ONE}


def saved(folder: Path, content: object) -> Path:
    torch.save(content, folder / "checkpoint.pt")
    return folder / "checkpoint.pt"


@pytest.mark.parametrize(
    "layout",
    [
        {"epoch": 3, TOWER: VISUAL | TEXT, HEAD: FUSED},
        {"epoch": 3, TOWER: VISUAL | TEXT | {f"fusion_model.{name}": tensor for name, tensor in FUSED.items()}},
        {TOWER: VISUAL, HEAD: FUSED},
    ],
    ids=["two dictionaries", "one dictionary", "no texts, no epoch"],
)
def test_an_official_layout_is_read_and_written_alike(layout: dict[str, Any], tmp_path: Path) -> None:
    official = read_official(saved(tmp_path, {**layout, "optimizer_state_dict": {}}))
    assert (official.tower, official.head) == (VISUAL, FUSED)
    assert official.texts == (TEXT if "epoch" in layout else {})
    assert official_layout(official) == layout


def test_the_name_of_a_data_parallel_wrapper_is_taken_away(tmp_path: Path) -> None:
    wrapped = {TOWER: {f"module.{name}": tensor for name, tensor in VISUAL.items()}, HEAD: FUSED}
    assert read_official(saved(tmp_path, wrapped)).tower == VISUAL


OTHER = Layout(
    {
        "model": {
            **{"image.": "clip.visual.", "text.": "clip.", "logit_scale": "clip.logit_scale"},
            **{"image.blocks.*.extra": "head.extra.*", "image.first": "head.extra.0"},
        },
        "beside": {"": "head."},
    },
    dropped=("table*",),
    wrapped=True,
)
OTHER_NAMES = ["image.proj", "text.ln.bias", "logit_scale", "image.first", "image.blocks.10.extra", "table.rows"]


def test_another_layout_is_read_and_written_alike(tmp_path: Path) -> None:
    model = {f"module.{name}": ONE * place for place, name in enumerate(OTHER_NAMES)}
    content = {"model": model, "beside": {"module.a.weight": ONE}}
    official = read_official(saved(tmp_path, content), OTHER)
    assert (official.tower, official.texts) == ({"visual.proj": 0, "logit_scale": 2}, {"ln.bias": 1})
    assert official.head == {"extra.0": 3, "extra.10": 4, "a.weight": 1}
    assert official.dropped == {"model/table.rows": 5}
    assert official_layout(official, OTHER) == content


def test_names_without_a_place_in_a_layout_are_refused(tmp_path: Path) -> None:
    with refused("2 unexpected tensors: visual.proj, image.blocks.0.extra", where="checkpoint.pt"):
        read_official(
            saved(tmp_path, {"model": VISUAL | {"image.first": ONE, "image.blocks.0.extra": ONE, "beside": ONE}}),
            OTHER._replace(dropped=("beside",)),
        )
    with refused("it holds model_state_dict", where="checkpoint.pt", hint="model and beside"):
        read_official(saved(tmp_path, {TOWER: VISUAL}), OTHER)


def test_files_of_another_kind_and_broken_values_are_refused(tmp_path: Path) -> None:
    with refused("it holds state, other", where="checkpoint.pt", hint="--pretrained"):
        read_official(saved(tmp_path, {"state": {}, "other": 1}))
    with refused("a.weight", "finite", where="checkpoint.pt"):
        read_official(saved(tmp_path, {TOWER: VISUAL, HEAD: {"a.weight": torch.tensor([torch.nan])}}))


@pytest.mark.parametrize(
    ("content", "named"), [(b"", "truncated"), (b"PK\x03\x04 and no more", "truncated"), (b"text", "not a torch file")]
)
def test_what_is_no_torch_file_is_told_apart(content: bytes, named: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(content)
    with refused(named, where=str(file)):
        read_torch(file)


def test_names_of_a_trained_state_and_back() -> None:
    assert official_names(trained_names(VISUAL, FUSED)) == (VISUAL, FUSED)
    assert set(trained_names(VISUAL, FUSED)) == {"clip.visual.proj", "head.a.weight"}


def test_collapsed_experts_are_their_mean() -> None:
    mlp = "transformer.resblocks.0.mlp."
    head = {f"{mlp}fc_{way}.{i}.bias": torch.tensor([float(i)]) for way in ("up", "dn") for i in range(3)}
    found = collapsed({**head, "transformer.resblocks.0.ln_1.bias": torch.zeros(1)})
    means = {f"{mlp}c_fc.bias": torch.ones(1), f"{mlp}c_proj.bias": torch.ones(1)}
    assert found == {"transformer.resblocks.0.ln_1.bias": torch.zeros(1), **means}


def test_layers_are_counted_by_the_highest_number() -> None:
    state = dict.fromkeys(("blocks.0.a", "blocks.3.b", "blocks.3.c", "other.20.c"), torch.zeros(1))
    assert (layers_in(state, r"blocks\.(\d+)\."), layers_in(state, r"none\.(\d+)")) == (4, 0)
    for number in ("1000000000", "9" * 5000):
        with refused("only 5 tensors", number[:150]):
            layers_in(state | {f"blocks.{number}.a": torch.zeros(1)}, r"blocks\.(\d+)\.")


KINDS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_single_value_that_is_not_finite_is_found_anywhere(kind: torch.dtype, value: float) -> None:
    for place in (0, 500, 1000):
        tensor = torch.linspace(-6e4, 6e4, 1001)  # as large as float16 can be
        tensor[place] = value
        with refused("broken: ", where="file", hint="this"):
            require_finite([("whole", torch.ones(3)), ("broken", tensor.to(kind))], "file", "this")


def test_whole_numbers_masks_and_the_largest_numbers_are_finite() -> None:
    masks = {"visual.attn_mask": torch.tensor([0.0, -torch.inf]), "mask": torch.tensor([-torch.inf])}
    numbers = {
        str(kind): torch.tensor([torch.finfo(kind).max, torch.finfo(kind).min], dtype=kind) for kind in KINDS[2:4]
    }
    half = {"half": torch.tensor([65504.0, -65504.0], dtype=torch.float16)}
    others = {"ids": torch.arange(3), "flags": torch.tensor([True]), "empty": torch.empty(0, 5)}
    require_finite({**masks, **numbers, **half, **others}.items(), "file")


def test_names_in_errors_give_no_orders_to_a_terminal() -> None:
    with pytest.raises(UserError) as caught:
        require_finite([("a\x1b[2J\ud800\n" + "b" * 9999, torch.tensor(torch.nan))], "file")
    assert caught.value.what.isascii() and caught.value.what.isprintable() and len(caught.value.what) < 400


def test_differences_are_counted_and_the_first_named() -> None:
    expected = {name: torch.zeros(2) for name in "abcdef"}
    found = {"a": torch.zeros(2), "b": torch.zeros(3), "x": torch.zeros(1)}
    with refused("no head", "4", "c, d, e and 1 more", "unexpected tensors: x", "b is [3], expected [2]", where="file"):
        refuse_differences(expected, found, "no head", "file")
    refuse_differences(expected, expected, "no head", "file")
