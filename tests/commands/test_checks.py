"""What fails for certain is refused before a launch starts, all in one message and with exit code 2."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from bench.commands import checks
from bench.commands.app import main
from bench.commands.checks import too_few_devices, unusable_device
from bench.commands.suites import _alike
from bench.core.errors import UserError, unknown
from bench.graph.build import build_graph
from bench.suite.resolve import load_suite
from methods.registry import PLUGINS, methods
from tests.errors import says
from tests.suites import write_suite


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_gpus", lambda: 1)
    monkeypatch.setattr(checks, "_has_mps", lambda: False)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a refused run."""
    assert main(["run", *arguments]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def test_all_that_is_wrong_is_one_message_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    suite = write_suite(tmp_path, ("role: zero", "views: {size: 224, resize: 224}, role: zero"))
    options = ["--device", "cuda9", "--tensorboard", str(tmp_path / "events"), "--wandb", "project"]
    message = run(capsys, str(suite), "--store", str(tmp_path / "runs"), *options)
    says(message, "--device: ", "cuda9", "auto, cpu, cuda", "--tensorboard", "--wandb", "small.yaml:16", "allowed: 64")
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


@pytest.mark.parametrize(
    "row",
    [
        "method: vita_clip, config: {context: generic, context_vectors: 13, frames: 4}",
        "method: tc_clip, config: {text_length: 8}",
        "method: text4vis, config: {head: none, classifier: coop, context: 13}",
        "method: vificlip, config: {prompts: {image_depth: 4, text_depth: 2, text: 12}}",
    ],
)
def test_a_class_name_without_room_beside_learnt_words_is_named_before_anything_is_written(
    row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_suite(tmp_path, ("templates: glyphs", "templates: name"), ("report:", f"  own: {{{row}}}\nreport:"))
    message = run(capsys, str(suite), "seeds=[0]", "--store", str(tmp_path / "runs"))
    says(message, "own seed", "class '", "is too long beside learnt words", "names may have", "use fewer learnt words")
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_options_are_told_beside_a_suite_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = run(capsys, str(write_suite(tmp_path, ("seeds:", "seed:"))), "--device", "gpu")
    says(message, "small.yaml:2: seed", "did you mean 'seeds'?", "--device", "a GPU is cuda")


def test_a_method_with_experts_has_to_tell_them_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example of the docs without its hooks is refused before anything is trained."""
    docs = Path(__file__).parents[2] / "docs"
    shutil.copytree(docs / "method_with_experts/expert_pool", tmp_path / "bare_experts")
    model = (tmp_path / "bare_experts/model.py").read_text().replace("expert_pool", "bare_experts")
    for hook in ("expert_parameters", "unused_parameters"):
        assert hook in model
        model = model.replace(hook, f"no_{hook}")
    (tmp_path / "bare_experts/model.py").write_text(model)
    monkeypatch.setenv(PLUGINS, "")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(docs / "method_template"), *sys.path])
    suite = write_suite(tmp_path, ("method: dense_temporal", "method: bare_experts"), ("config: {layers: 1}", ""))
    try:
        message = run(capsys, str(suite), "--plugin", "bare_experts", "--store", str(tmp_path / "runs"))
    finally:
        methods.cache_clear()
    says(message, "bare_experts.model", "no expert_parameters and no unused_parameters", "docs/add_a_method.md")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("file", "hook", "written", "said"),
    [
        (
            "model.py",
            "deploy",
            "depoly",
            ("mistaken.model: Model has 'depoly'", "is it 'deploy'?", "a Model without deploy"),
        ),
        ("model.py", "loss", "losses", ("mistaken.model", "a Model without loss")),
        (
            "config.py",
            "expert_choices",
            "expert_choice",
            ("mistaken.config", "is it 'expert_choices'?", "row 'dense' has no"),
        ),
    ],
)
def test_hooks_of_a_method_that_are_misspelt_or_absent(
    file: str,
    hook: str,
    written: str,
    said: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    docs = Path(__file__).parents[2] / "docs"
    shutil.copytree(docs / "method_with_experts/expert_pool", tmp_path / "mistaken")
    for part in ("config.py", "model.py"):
        text = (tmp_path / "mistaken" / part).read_text().replace("expert_pool", "mistaken")
        assert part != file or f"def {hook}(" in text
        text = text.replace(f"def {hook}(", f"def {written}(") if part == file else text
        (tmp_path / "mistaken" / part).write_text(text)
    monkeypatch.setenv(PLUGINS, "")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(docs / "method_template"), *sys.path])
    changes = ("method: dense_temporal", "method: mistaken"), ("config: {layers: 1}", "")
    suite = write_suite(tmp_path, *changes, ("experts: [mote]", "experts: [dense]"))
    for name in [name for name in sys.modules if name.split(".")[0] == "mistaken"]:
        monkeypatch.delitem(sys.modules, name)
    try:
        message = run(capsys, str(suite), "--plugin", "mistaken", "--store", str(tmp_path / "runs"))
    finally:
        methods.cache_clear()
    says(message, *said)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("device", "good"), [("cuda", True), ("cuda:0", True), ("cuda:1", False), ("mps", False)])
@pytest.mark.usefixtures("one_gpu")
def test_a_device_has_to_be_here(device: str, good: bool) -> None:
    assert [error.allowed for error in unusable_device(device, "--device", here=True)] == (
        [] if good else [["auto", "cpu", "cuda", "cuda:0"]]
    )


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "cpu", "auto", "mps"])
def test_devices_of_other_machines_are_not_looked_for(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_gpus", lambda: pytest.fail("torch was asked"))
    assert not [*unusable_device(device, "--device", here=False)]


@pytest.mark.parametrize("device", ["", "gpu", "cuda9", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "cuda:99999"])
def test_a_device_has_a_form(device: str) -> None:
    assert [*unusable_device(device, "--device", here=False)]


@pytest.mark.usefixtures("one_gpu")
def test_each_process_of_a_training_needs_a_gpu(tmp_path: Path) -> None:
    trials = load_suite(write_suite(tmp_path), ("recipe.processes=2",)).trials
    for device, refused in {"auto": True, "cuda": True, "cuda:0": True, "cpu": False}.items():
        assert ["recipe.processes" in str(error) for error in too_few_devices(trials, device)] == [True] * refused


@pytest.mark.usefixtures("one_gpu")
def test_the_device_of_a_profile_has_to_be_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = write_suite(tmp_path, ("report:\n", "report:\n  profile: {device: 'cuda:999'}\n"))
    says(run(capsys, str(suite), "--store", str(tmp_path / "runs")), "small.yaml:23: report.profile.device", "cuda:999")
    assert main(["plan", str(suite), "--store", str(tmp_path / "runs")]) == 0  # to be run on another machine, perhaps
    says(capsys.readouterr().out, "note: ", "small.yaml:23: report.profile.device: torch finds no device cuda:999 here")
    assert main(["plan", str(suite), "--store", str(tmp_path / "runs"), "report.profile.device=auto"]) == 0
    assert "no device" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["plan", "run", "report"])
@pytest.mark.parametrize("option", ["--store", "--cache"])
def test_every_command_on_a_suite_refuses_folders_that_cannot_be(
    command: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    monkeypatch.setenv("VTB_CACHE", "")  # so that it is put back
    suite, before = str(write_suite(tmp_path)), sorted(tmp_path.iterdir())
    places = {"/proc/x": "cannot be written", "/dev/null": "not a folder", "dangling": "nowhere, which", "file": "file"}
    for place, reason in places.items():
        assert main([command, suite, "--store", str(tmp_path / "runs"), option, str(tmp_path / place)]) == 2
        says(capsys.readouterr().err, option, place, reason)
    assert main(["compare", "a", "b", "--store", "/proc/x"]) == 2
    says(capsys.readouterr().err, "--store", "/proc cannot be written")
    if command == "plan":
        could_be = ["--store", str(tmp_path / "runs" / "deep"), "--cache", str(tmp_path / "cache" / "deep")]
        assert main([command, suite, *could_be]) == 0
    assert sorted(tmp_path.iterdir()) == before


def test_folders_that_cannot_be_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    suite = str(write_suite(tmp_path))
    for place in (file, file / "below", tmp_path / "dangling"):
        says(run(capsys, suite, "--store", str(place)), "--store", place, "not a folder")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VTB_CACHE", "")  # so that it is put back
            says(run(capsys, suite, "--store", str(tmp_path / "runs"), "--cache", str(place)), "--cache", place)
    says(run(capsys, suite, "--store", str(tmp_path / ("n" * 300))), "n" * 300, "name too long")


def test_a_folder_without_the_right_to_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(dir: Path) -> str:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(checks, "mkdtemp", refuse)
    says(run(capsys, str(write_suite(tmp_path)), "--store", str(tmp_path / "runs")), "--store", "cannot be written")


def test_unknown_tags_of_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(backbone: str, tag: str) -> None:  # as open_clip's list does, whose import takes seconds
        raise unknown(f"weights of '{backbone}'", tag, ["openai"])

    monkeypatch.setattr(checks, "check_tag", refuse)
    suite = write_suite(tmp_path, ("recipe:\n", "recipe:\n  pretrained: opanai\n"))
    says(run(capsys, str(suite), "--store", str(tmp_path / "runs")), "recipe.pretrained", "'opanai'", "'openai'?")
    assert not (tmp_path / "runs").exists()


def test_files_that_are_no_suites_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe.yaml", "folder.yaml", "zero.yaml"):
        says(run(capsys, str(tmp_path / name)), name, "not a regular file")
    says(run(capsys, str(write_suite(tmp_path).rename(tmp_path / f"{'n' * 200}.yaml"))), "200 characters", "up to 100")


def test_failures_of_one_cause_are_one_message(tmp_path: Path) -> None:
    graph = build_graph(load_suite(write_suite(tmp_path)))
    one, two, three = list(graph.stages)[:3]
    found = _alike({one: "full", two: "broken", three: "full"}, graph)
    assert found == {"full": [graph.stages[one].title, graph.stages[three].title], "broken": [graph.stages[two].title]}


def test_a_suite_keeps_what_keeps_it_from_running(tmp_path: Path) -> None:
    (problem,) = load_suite(
        write_suite(tmp_path, ("role: zero", "views: {size: 224, resize: 224}, role: zero"))
    ).problems
    assert isinstance(problem, UserError) and problem.allowed == ["64"]
