"""Copies of code: what is in them, and that a process which has adopted one does not see an edit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.core.identity import read_sources_again
from bench.graph.stage import Stage, stage_source
from bench.launch import code
from bench.launch.launches import Launch, PlannedStage, create
from bench.store.records import Store
from tests.errors import refused
from tests.launch.launched import stage

ROOT = Path(code.__file__).parents[2]
NAMES = ("bench", "methods", "reports", "suites", "run_suite.py")


def copied_project(folder: Path) -> Path:
    """A copy of the project's packages, as a checkout or a wheel has them."""
    for name in NAMES:
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / name, ignore=ignore) if source.is_dir() else shutil.copy(source, folder)
    return folder


def python(command: str, cwd: Path, **variables: str) -> str:
    """Output of a Python process with these variables and no other of Python's."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    run = subprocess.run(
        [sys.executable, "-c", command], cwd=cwd, env={**outside, **variables}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Writes a package of somebody else, and forgets it at the end."""
    folder = tmp_path / "others"
    monkeypatch.syspath_prepend(str(folder))
    tops = set[str]()

    def write(**files: str) -> Path:
        for name, text in files.items():
            path = folder / name.replace("__", "/").replace("_init", "__init__").replace("_py", ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            tops.add(path.relative_to(folder).parts[0].removesuffix(".py"))
        return folder

    read_sources_again()
    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
        del sys.modules[name]
    read_sources_again()


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_a_copy_has_the_project_without_compiled_code(store: Store) -> None:
    folder = store.code(code.freeze(store))
    assert {entry.name for entry in folder.iterdir()} == set(NAMES)
    assert (folder / "bench/assets/templates.yaml").read_bytes() == (ROOT / "bench/assets/templates.yaml").read_bytes()
    assert not [*folder.rglob("__pycache__")]
    # Of these MB five are the built-in weights of the embedded world, an image and a video tower.
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 8.5e6


def test_equal_code_is_kept_once_and_compiled_code_does_not_count(store: Store) -> None:
    name = code.freeze(store)
    compiled = store.code(name) / "bench/__pycache__/errors.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"compiled")
    assert code.freeze(store) == name
    assert compiled.exists()


def test_a_damaged_copy_is_set_aside_and_made_again(store: Store) -> None:
    name = code.freeze(store)
    file = store.code(name) / "bench/core/errors.py"
    file.write_text("raise")
    assert not code.is_intact(store.code(name))
    assert code.freeze(store) == name
    assert code.is_intact(store.code(name))
    (aside,) = (store.root / "damaged").iterdir()
    assert (aside / "bench/core/errors.py").read_text() == "raise"
    assert not [*(store.root / "writing").iterdir()]


def test_a_copy_that_another_launch_made_meanwhile_is_never_moved(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved for a moment only, it would miss files for the launch that runs from it."""
    made: list[tuple[Path, int]] = []

    def faster(path: Path) -> None:
        if not made:  # the other launch makes its copy while this one writes
            made.append((path, 0))
            folder = store.code(code.freeze(store))
            made[0] = folder, folder.stat().st_ino

    monkeypatch.setattr(code, "sync", faster)
    name = code.freeze(store)
    assert made == [(store.code(name), store.code(name).stat().st_ino)]
    assert not (store.root / "damaged").exists() and not [*(store.root / "writing").iterdir()]


def test_one_byte_more_or_another_name_is_other_code(store: Store, others: Callable[..., Path]) -> None:
    folder = others(mine___init_py="", mine__model_py="A = 1\n")
    names = [code.freeze(store, ["mine.model"])]
    (folder / "mine/model.py").write_text("A = 1 \n")
    names.append(code.freeze(store, ["mine.model"]))
    (folder / "mine/model.py").rename(folder / "mine/models.py")
    names.append(code.freeze(store, ["mine.model"]))
    assert len(set(names)) == 3


def test_packages_of_others_are_copied_as_a_whole(store: Store, others: Callable[..., Path]) -> None:
    folder = others(lab___init_py="", lab__shared_py="B = 1", lab__mine__model_py="", decoder_py="C = 1")
    (folder / "lab/loop").symlink_to(folder / "lab")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere/linked.py").write_text("D = 1")
    (folder / "lab/linked").symlink_to(folder / "elsewhere")
    os.mkfifo(folder / "lab/pipe")
    copy = store.code(code.freeze(store, ["lab.mine.model", "decoder", "decoder"]))
    files = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    mine = {name for name in files if name.startswith(("lab", "decoder"))}
    assert mine == {"lab/__init__.py", "lab/shared.py", "lab/mine/model.py", "lab/linked/linked.py", "decoder.py"}


def test_an_installed_copy_is_the_same_code_as_a_checkout(store: Store, tmp_path: Path) -> None:
    site = copied_project(tmp_path / "site-packages" / "somewhere")
    command = f"from bench.launch.code import *; print(freeze(Store(Path({str(store.root)!r}))))"
    assert python(command, tmp_path, PYTHONPATH=str(site)) == code.freeze(store)


# --- processes --------------------------------------------------------------------------------------------------------


def test_a_child_started_in_a_checkout_imports_the_copy(store: Store, tmp_path: Path) -> None:
    folder, checkout = store.code(code.freeze(store)), tmp_path / "checkout"
    (checkout / "bench").mkdir(parents=True)
    (checkout / "bench/__init__.py").write_text("raise SystemExit('the checkout')")
    shown = python("import bench.core, methods; print(bench.core.__file__)", checkout, **code.environment(folder))
    assert shown == str(folder / "bench/core/__init__.py")


def test_the_copy_comes_before_what_was_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"/one{os.pathsep}/two")
    path = code.environment(tmp_path)["PYTHONPATH"]
    assert path.split(os.pathsep) == [str(tmp_path), "/one", "/two"]
    monkeypatch.setenv("PYTHONPATH", path)
    assert code.environment(tmp_path)["PYTHONPATH"] == path


def test_what_is_imported_late_comes_from_the_copy(
    store: Store, others: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = "from pathlib import Path\nFILE = Path(__file__).with_name('asset.py')\n"
    folder = others(mine___init_py=start, mine__asset_py="as it was", mine__late_py="A = 1", alone_py="import mine")
    mine, alone = import_module("mine"), import_module("alone")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    before = (dict(os.environ), [*sys.path])
    copy = store.code(code.freeze(store, ["mine.late", "alone"]))
    for name in ("asset", "late"):
        (folder / f"mine/{name}.py").write_text("not ( Python")
    with code.adopt(copy):
        late = import_module("mine.late")
        assert (late.A, mine.FILE.read_text()) == (1, "as it was")
        assert late.__file__ == str(copy / "mine/late.py")
        assert alone.__file__ == str(copy / "alone.py")
        assert os.environ["PYTHONPATH"].startswith(str(copy))
        assert copy / "suites" == code.SUITES
    assert (dict(os.environ), [*sys.path]) == before
    assert (mine.FILE, late.__file__) == (folder / "mine/asset.py", str(folder / "mine/late.py"))
    assert code.SUITES == ROOT / "suites"


def test_an_edit_between_plan_and_copy_is_refused(store: Store, others: Callable[..., Path]) -> None:
    folder = others(mine___init_py="", mine__model_py="from mine.parts import A", mine__parts_py="A = 1")
    planned: code.Sources = {("evaluate", ("mine.model",)): code.source_hashes("mine.model")}

    def check(text: str) -> None:
        (folder / "mine/parts.py").write_text(text)
        copy = store.code(code.freeze(store, ["mine"]))
        with code.adopt(copy):
            code.refuse_changed(planned, copy)

    check("A = 1  # a remark")
    (folder / "mine/unused.py").write_text("half sav(")
    check("A = 1")
    for text in ("A = 2", "A ="):
        with pytest.raises(UserError, match="the code changed while the suite was planned; start it again") as raised:
            check(text)
        assert raised.value.where.partition(":")[0] == "mine/parts.py"


def test_sources_are_those_of_each_kind_once() -> None:
    modules = ("bench.stages.texts",)
    stages = [Stage("texts", {"n": n}, {}, modules, {}, "", 1.0) for n in range(2)]
    assert [*code.sources(stages)] == [("texts", modules)]
    assert "bench.stages.texts" in code.sources(stages)["texts", modules]


# --- launches ---------------------------------------------------------------------------------------------------------


def launched(store: Store, *stages: PlannedStage, **about: object) -> Launch:
    return create(store, {"suite": "tiny", "on": "local", "folder": "/", "command": "make it", **about}, list(stages))


def test_files_that_differ_from_the_code_of_a_launch(store: Store, others: Callable[..., Path]) -> None:
    folder = others(mine___init_py="", mine__model_py="", mine__gone_py="")
    name, where = code.freeze(store, ["mine"]), {"mine": [str(folder / "mine")], "bench": ["/nowhere/bench"]}
    launch = launched(store, code=name, places=where)
    assert code.changed_files(launch) == []
    (folder / "mine/model.py").write_text("A = 1")
    (folder / "mine/new.py").write_text("")
    (folder / "mine/gone.py").unlink()
    assert code.changed_files(launch) == ["mine/gone.py", "mine/model.py", "mine/new.py"]
    assert code.changed_files(launched(store)) == []


def test_kinds_with_other_identities_by_their_source_or_an_inputs(store: Store) -> None:
    texts = stage("t")
    train = stage("m", texts)
    evaluate, other = stage("e", train, kind="evaluate"), stage("w", kind="weights")
    modules = ["bench.stages.texts"]
    now = stage_source("texts", tuple(modules))
    known = [["weights", modules, now], ["train", modules, "other"], ["evaluate", modules, now]]
    assert code.changed_kinds(launched(store, texts, train, evaluate, other, sources=known)) == ["train", "evaluate"]
    assert code.changed_kinds(launched(store, train, evaluate)) == []


def test_a_command_is_run_again_under_the_code_of_a_launch(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[tuple[list[str], dict[str, str]]]()
    monkeypatch.setattr(os, "execve", lambda program, command, variables: calls.append((command, variables)))
    environment = {"VTB_DATA": "/data", "VTB_STORE": "elsewhere"}
    launch = launched(store, code=code.freeze(store), environment=environment)
    code.run_under(launch, ["retry", launch.name])
    ((command, variables),) = calls
    assert launch.code and command == [sys.executable, str(launch.code / "run_suite.py"), "retry", launch.name]
    assert variables["VTB_DATA"] == "/data" and variables.get("VTB_STORE") == os.environ.get("VTB_STORE")
    monkeypatch.setenv("PYTHONPATH", variables["PYTHONPATH"])
    code.run_under(launch, ["retry", launch.name])
    assert len(calls) == 1


def test_code_that_is_gone_or_changed_is_not_run(store: Store) -> None:
    launch = launched(store, code=code.freeze(store))
    assert launch.code
    (launch.code / "bench/more.py").write_text("")
    for each, what in ((launch, "was changed"), (launched(store), "is not in the store")):
        with refused(what, hint="cd / && make it"):
            code.run_under(each, [])
