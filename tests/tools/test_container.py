"""The recipe of a container: what it copies and runs is tried in a folder in the place of the container."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RECIPE = re.sub(r"^#.*\n", "", (ROOT / "tools" / "container.def").read_text())
SECTIONS = {
    part.partition("\n")[0]: [line.strip() for line in part.splitlines()[1:] if line.strip()]
    for part in RECIPE.split("\n%")
}


def copied(folder: Path) -> None:
    """Lay out the files of the recipe below `folder`."""
    for line in SECTIONS["files"]:
        source, target = line.split()
        place = folder / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, place)


def run(line: str, *arguments: str) -> str:
    """The output of a line, which finds the scripts of this Python."""
    scripts = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    command = ["sh", "-c", line, "sh", *arguments]
    return subprocess.run(
        command, env={**os.environ, "PATH": scripts}, check=True, capture_output=True, text=True
    ).stdout


def test_its_python_is_one_that_the_project_supports() -> None:
    least = PROJECT["project"]["requires-python"].removeprefix(">=")
    found = re.search(r"From: python:([\d.]+)-slim", SECTIONS["Bootstrap: docker"][0])
    assert found and tuple(map(int, found[1].split("."))) >= tuple(map(int, least.split(".")))


def test_it_copies_what_is_packed_and_nothing_else() -> None:
    settings = PROJECT["tool"]["setuptools"]
    packages = [name.removesuffix("*") for name in settings["packages"]["find"]["include"]]
    own = ["pyproject.toml", "constraints.txt", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]]
    pairs = dict(line.split() for line in SECTIONS["files"])
    assert {*pairs} == {*own, *packages, *(f"{name}.py" for name in settings["py-modules"])}
    assert pairs == {name: f"/opt/vtb/{name}" for name in pairs} and all((ROOT / name).exists() for name in pairs)


@pytest.mark.slow
def test_its_install_line_is_that_of_the_makefile_and_installs(tmp_path: Path) -> None:
    (line,) = SECTIONS["post"]
    (made,) = (own.strip() for own in (ROOT / "Makefile").read_text().splitlines() if "pip install" in own)
    words, ours = shlex.split(made), shlex.split(line)
    assert words[1:6] == [*ours[1:4], "--quiet", "--constraint"] and "--constraint" in ours  # python -m pip install
    assert ours[ours.index("--constraint") + 1] == f"/opt/vtb/{words[6]}" and ours[-1] == "/opt/vtb"
    copied(tmp_path)
    tried = line.replace("/opt/vtb", str(tmp_path / "opt/vtb")).replace("--quiet", "--no-index --no-deps --dry-run")
    said = run(tried.replace("python ", f"{sys.executable} ", 1) + " --no-build-isolation --ignore-installed")
    assert f"Would install {PROJECT['project']['name']}-{PROJECT['project']['version']}" in said.replace("_", "-")


@pytest.mark.slow
def test_what_it_runs_is_the_program() -> None:
    version = f"video-transfer-bench {PROJECT['project']['version']}\n"
    (runs,), (tests,) = SECTIONS["runscript"], SECTIONS["test"]
    assert run(runs, "--version") == run(tests) == version
