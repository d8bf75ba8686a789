"""An official checkpoint from `import` to a report, without training, and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from bench.commands.app import main
from bench.store.records import Store
from tests.errors import says
from tests.official_files import mote_checkpoint
from tests.videos import write_tiny_dataset

SUITE = """\
title: Released
datasets:
  tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}
recipe: {source: tiny, templates: glyphs, pretrained: "random:0", views: {frames: 2}}
protocol: {templates: glyphs, views: {frames: 2}}
protocols:
  closed-set: {role: closed-set, dataset: tiny}
rows:
"""


pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_dataset(tmp_path)
    torch.save(mote_checkpoint(), tmp_path / "released.pt")
    return tmp_path


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def test_an_imported_checkpoint_is_measured_and_exported_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, clip = ("--store", folder / "runs"), ("--backbone", "glyph-vit", "--pretrained", "random:0")
    assert run("import", folder / "released.pt", "--method", "mote", *clip, *store) == 0
    row = yaml.safe_load(capsys.readouterr().out.partition("use it in a row of a suite:\n")[2])
    suite = yaml.safe_load(SUITE) | {"rows": {"released": {"method": "mote", **row}}}
    (folder / "released.yaml").write_text(yaml.safe_dump(suite))
    assert run(folder / "released.yaml", *store, "--jobs", "0", "--workers", "0", "--device", "cpu") == 0
    records = Store.create(folder / "runs")
    assert len(records.known("train")) == 1  # the imported one
    (measured,) = records.known("evaluate")
    assert records.read("evaluate", measured)["result"]["videos"] == 6
    assert run("export", row["recipe"]["imported"], folder / "back.pt", *store) == 0
    back, first = (torch.load(folder / name, weights_only=True) for name in ("back.pt", "released.pt"))
    for part in ("model_state_dict", "fusion_model_state_dict"):
        wanted = {name.removeprefix("module."): tensor for name, tensor in first[part].items()}
        assert wanted.keys() == back[part].keys()
        assert all(torch.equal(back[part][name], tensor) for name, tensor in wanted.items())


def test_a_checkpoint_that_was_not_imported_is_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = "  released: {method: mote, config: {tower: tuned, layers: 1}, recipe: {imported: 0123456789abcdef}}\n"
    (folder / "released.yaml").write_text(SUITE + row)
    assert run(folder / "released.yaml", "--store", folder / "runs", "--jobs", "0") == 2
    says(capsys.readouterr().err, "import FILE", "--method mote", "--backbone glyph-vit")
