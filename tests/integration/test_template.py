"""The template of a method, installed from its own folder as another package, is found, keeps the contract and runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.videos import write_tiny_dataset

ROOT = Path(__file__).parent.parent.parent
TEMPLATE = ROOT / "docs/method_template"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the template in it; what it needs is borrowed from this one."""
    folder = tmp_path_factory.mktemp("template")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    found = folder / "venv/bin/python"
    packages = subprocess.run(
        [found, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (Path(packages) / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    source = shutil.copytree(TEMPLATE, folder / "method")  # an installation leaves files beside its source
    install = [str(found), "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", str(source)]
    subprocess.run(install, check=True, capture_output=True)
    return found


def run(python: Path, folder: Path, *arguments: object) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VTB_STORE")}
    done = subprocess.run(
        [python, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed(python: Path, tmp_path: Path) -> None:
    assert "attention_pool  Attention pooling: one learnable query" in run(
        python, tmp_path, ROOT / "run_suite.py", "list", "methods"
    )


def test_it_keeps_the_contract(python: Path, tmp_path: Path) -> None:
    plugin = ("-p", "conformance.plugin", "--method", "attention_pool", "--pyargs", "conformance")
    told = run(python, tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin)
    assert " passed" in told
    assert "mote" not in told


def test_the_example_with_experts_keeps_the_contract(python: Path, tmp_path: Path) -> None:
    """Installed nowhere: found by `--plugin`, as in a run."""
    shutil.copytree(ROOT / "docs/method_with_experts/expert_pool", tmp_path / "expert_pool")
    plugin = (
        "-p",
        "conformance.plugin",
        "--plugin",
        "expert_pool",
        "--method",
        "expert_pool",
        "--pyargs",
        "conformance",
    )
    told = run(python, tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin)
    assert " passed" in told and "failed" not in told


def tiny(folder: Path) -> list[str]:
    """Puts a tiny dataset in the place of the embedded world's."""
    write_tiny_dataset(folder)
    told = {"root": str(folder), "splits": {name: str(folder / f"{name}.txt") for name in ("train", "test")}}
    places = ["closed-set", "new-objects", "new-verbs"]
    return [
        f"datasets.tiny={json.dumps({**told, 'classes': str(folder / 'classes.csv')})}",
        "recipe.source=tiny",
        *(f"protocols.{place}.dataset=tiny" for place in places),
        "protocols.closed-set.split=test",
    ]


@pytest.mark.parametrize("world", [tiny, pytest.param(lambda folder: [], marks=pytest.mark.suites, id="embedded")])
def test_it_runs_in_a_suite(
    python: Path, tmp_path: Path, world: Callable[[Path], list[str]], users_cache: None
) -> None:
    small = ("seeds=[0]", "recipe.epochs=1", "recipe.warmup_epochs=0", "recipe.views.copies=1", *world(tmp_path))
    run(
        python,
        tmp_path,
        ROOT / "run_suite.py",
        TEMPLATE / "suite.yaml",
        "--store",
        tmp_path / "runs",
        "--jobs",
        "0",
        *small,
    )
    table = (tmp_path / "runs/reports/suite/table.md").read_text()
    assert table.count("Attention pooling |") == 2
    assert "missing" not in table
