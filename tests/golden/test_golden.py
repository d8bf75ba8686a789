"""Every golden file agrees with product code, and a file that does not is noticed."""

from __future__ import annotations

import json
from math import nan
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.golden import replay as replaying
from tests.golden.replay import beyond, kind_of, main, replay, tolerance

HERE = Path(__file__).parent
PARTLY = {"vificlip"}  # of a method that is not here: tests/stages/training read their parts of it
FILES = sorted(file for file in HERE.iterdir() if file.suffix in {".safetensors", ".json"} and file.stem not in PARTLY)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_product_code_reproduces_the_golden_file(file: Path) -> None:
    deviations = replay(file)
    assert not {name: deviations[name] for name in beyond(file, deviations)}


@pytest.mark.parametrize("output", ["out.eval.logits_unseen_tfm", "out.train.grad.transformer.resblocks.1.ln_2.bias"])
@pytest.mark.parametrize("shift", [3e-4, nan])
def test_a_perturbed_output_exits_1(tmp_path: Path, output: str, shift: float) -> None:
    case = load_file(HERE / "mote_head.safetensors")
    case[output][0] += shift
    save_file(case, tmp_path / "mote_head.safetensors")
    assert main([str(tmp_path / "mote_head.safetensors")]) == 1


def test_an_output_that_is_not_computed_exits_1(tmp_path: Path) -> None:
    case = load_file(HERE / "text4vis_head.safetensors")
    save_file(case | {"out.novel": torch.zeros(1)}, tmp_path / "text4vis_head_b.safetensors")
    assert main([str(tmp_path / "text4vis_head_b.safetensors")]) == 1


def test_a_rate_that_is_one_iteration_late_exits_1(tmp_path: Path) -> None:
    case = json.loads((HERE / "lr_schedule.json").read_text())
    case["lr_per_iteration"].insert(0, case["lr_per_iteration"][0])
    (tmp_path / "lr_schedule.json").write_text(json.dumps(case))
    assert main([str(tmp_path / "lr_schedule.json")]) == 1


def test_the_longest_kind_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(replaying.KINDS, "actionclip", lambda path: {})
    assert kind_of(Path("actionclip_frame_sampling.json")) == "actionclip_frame_sampling"
    assert kind_of(Path("actionclip_b.safetensors")) == "actionclip"


def test_a_kind_has_tolerances_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(replaying.TOLERANCES, "mote_head", {"test.*": 5e-5})
    names = "test.probabilities", "frames", "grad.scale"
    assert [tolerance(name, "mote_head") for name in names] == [5e-5, 1e-5, 1e-4]
    assert [tolerance(name) for name in names] == [1e-5, 1e-5, 1e-4]


def test_an_unknown_kind_exits_2_and_names_the_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "mote_hed.json")]) == 2
    assert "did you mean 'mote_head'?" in capsys.readouterr().err
