"""Every command of docs/first_comparison.md, in its order, on miniature copies of Kinetics-400 and UCF-101."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from bench.commands.app import main
from tests.data import miniatures

PAGE = (Path(__file__).parents[2] / "docs" / "first_comparison.md").read_text(encoding="utf-8")
SUITE = next(block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if block.startswith("# first.yaml"))
SITE = next(block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if block.startswith("resources:"))
COMMANDS = [
    shlex.split(line)[2:]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("python run_suite.py")
]
SMALL = [
    *("recipe.shots=2", "recipe.batch=4", "recipe.backbone=glyph-vit", "recipe.pretrained=random:0"),
    *("recipe.epochs=1", "recipe.warmup_epochs=0", "recipe.templates=name", "recipe.views.frames=2"),
    *(f"protocols.{name}.views.{key}=64" for name in ("K400", "UCF") for key in ("size", "resize")),
    *(f"protocols.{name}.{pair}" for name in ("K400", "UCF") for pair in ("templates=name", "views.frames=2")),
]


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a reader works in; $VTB_DATA holds both datasets."""
    for name, make in (("kinetics-400", miniatures.kinetics400), ("ucf101", miniatures.ucf101)):
        places = make(tmp_path / "downloads")
        (tmp_path / "data" / name).mkdir(parents=True)
        for key, link in (("root", "videos"), ("lists", "lists")):
            (tmp_path / "data" / name / link).symlink_to(places[key])
    monkeypatch.setenv("VTB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VTB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VTB_SITE", str(tmp_path / "site.yaml"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first.yaml").write_text(SUITE)
    (tmp_path / "site.yaml").write_text(SITE)
    return tmp_path


def carried_out(command: list[str], folder: Path) -> list[str]:
    """A command of the page on the miniatures: its suite made small, its places below the reader's folder."""
    below = [str(folder / part[1:]) if part.startswith(("/fast", "/shared")) else part for part in command]
    if below[0] == "plan":
        return [*below, *SMALL]
    if below[0] == "first.yaml":
        store = ["--store", "other"] if "--dry-run" in below else ["--jobs", "0", "--device", "cpu"]
        return [*below, *SMALL, "seeds=[0]", "report.profile=null", "--workers", "0", *store]
    return [*below, "--workers", "0"]


def test_the_page_from_download_to_table(downloads: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = []
    for command in COMMANDS:
        if "status" in command or ("slurm" in command and "--dry-run" not in command):
            continue  # these need a cluster: tests/integration/test_slurm_suites.py
        assert main(carried_out(command, downloads)) == 0, command
        done.append(command[0])
    assert done == ["doctor", "doctor", "prepare", "plan", "first.yaml", "first.yaml"]
    told = capsys.readouterr().out
    for line in ("all findings: doctor/ucf101/doctor.csv", "use the copy in a suite:", "first: 7 trials"):
        assert line in told and line.partition("ucf101")[0] in PAGE
    assert "report.html" in told and (downloads / "runs/reports/first/report.html").is_file()
    assert list(pd.read_csv(downloads / "runs/reports/first/table.csv")["label"]) == [
        *("CLIP mean-pool", "Dense temporal", "MoTE")
    ]
    assert "#SBATCH --partition=gpu" in told


def test_a_copy_may_be_trained_on_under_a_name_of_its_own(downloads: Path) -> None:
    assert main(["prepare", "kinetics-400", str(downloads / "copy"), "--split", "train", "--workers", "0"]) == 0
    declared = f"datasets={{kinetics-400-256: {{like: kinetics-400, root: {downloads / 'copy'}}}}}"
    assert main(["plan", "first.yaml", *SMALL, declared, "recipe.source=kinetics-400-256"]) == 0
