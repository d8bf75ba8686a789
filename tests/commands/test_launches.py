"""The commands on launches: `status`, `logs`, `cancel`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import typer

from bench.commands import display
from bench.commands import launches as launch_commands
from bench.core.errors import UserError
from bench.core.processes import Stopped, this_process
from bench.launch import scheduler
from bench.launch.claims import take
from bench.launch.scheduler import QueuedJob
from tests.launch.scenes import EVALUATE, OTHER, TEXTS, TRAIN, Scene, no_slurm, rewritten, stage

ROOT = Path(__file__).parent.parent.parent
WAITING = QueuedJob("PENDING", "Dependency")
TRACEBACK = "Traceback (most recent call last):\n" + "".join(f"  line {n}\n" for n in range(30)) + "KeyError: '[red]'\n"

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The exit code of a command with the scene's store, and what it said, blanks made equal."""
    app = typer.Typer(pretty_exceptions_enable=False)
    for command in (launch_commands.status, launch_commands.logs, launch_commands.cancel):
        app.command()(command)

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        try:
            app([*arguments, "--store", str(tmp_path / "store")])
        except SystemExit as end:
            code = int(end.code or 0)
        return code, capsys.readouterr().out

    return run


def line(text: str, begin: str) -> str:
    """The line that begins so, with single blanks."""
    found = [" ".join(each.replace("│", " ").split()) for each in text.splitlines()]
    return next(each for each in found if each.startswith(begin))


# --- status -----------------------------------------------------------------------------------------------------------


def test_status_counts_stages_by_state_and_shows_what_runs(scene: Scene, run: Run) -> None:
    scene.queue["9"] = WAITING
    scene.record(TEXTS, seconds=100.0)
    scene.queue |= {
        "2_0": QueuedJob("RUNNING", "None"),
        "2_1": QueuedJob("PENDING", "JobHeldUser"),
        "3": QueuedJob("PENDING", "Priority"),
    }
    scene.log("start", TRAIN, 60.0, job="2_0", host="node1")
    known = {"title": "", "done": 25, "total": 100, "unit": "steps", "started": scene.now - 60.0}
    scene.store.report_progress(*TRAIN.key, known)
    code, text = run("status")
    assert code == 0
    assert "going on" in text and scene.launch.name in text
    assert line(text, "in all") == "in all 1 1 2"
    assert line(text, "train") == "train 1 1"
    running = line(text, "running ")
    assert "2_0" in running and "tr [train]" in running and "25/100 steps (25%)" in running
    assert "ETA 3:" in running
    assert line(text, "ETA").endswith("with 1 at once as now")
    assert line(text, "queued:") == "queued: 1 JobHeldUser, 1 Priority"
    assert "`scontrol release 2_1`" in text


def test_status_of_a_complete_launch_ends_with_0(scene: Scene, run: Run) -> None:
    for planned in scene.launch.stages:
        scene.record(planned)
    scene.launch.end("complete")
    code, text = run("status")
    assert (code, "complete since" in text) == (0, True)


@pytest.mark.parametrize("state", ["incomplete", "cancelled"])
def test_status_of_a_launch_that_ended_otherwise_ends_with_1(scene: Scene, run: Run, state: str) -> None:
    scene.launch.end(state)
    code, text = run("status")
    assert (code, f"{state} since" in text) == (1, True)


def test_what_was_completed_after_its_end_is_well(scene: Scene, run: Run) -> None:
    scene.launch.end("incomplete")
    for planned in scene.launch.stages:
        scene.record(planned)
    code, text = run("status")
    assert (code, "by now every stage has its record" in text) == (0, True)


def test_status_ends_with_1_once_nobody_is_left_to_try_again(scene: Scene, run: Run) -> None:
    scene.log("failure", TRAIN, 10.0, reason="no", final=False)
    scene.queue["2_1"] = QueuedJob("PENDING", "Resources")
    code, text = run("status")
    assert (code, "nothing submits others, because no driver is left" in text) == (1, True)
    scene.queue["9"] = WAITING
    code, text = run("status")
    assert (code, "will be tried again" in text) == (0, True)
    scene.queue.clear()
    code, text = run("status")
    assert (code, "gone: no driver is left" in text and f"retry {scene.launch.name}" in text) == (1, True)


def test_alike_failures_are_shown_once_with_the_end_of_a_traceback_and_what_to_do(scene: Scene, run: Run) -> None:
    for planned in (TRAIN, OTHER):
        scene.log("start", planned, 20.0, job="2_0", host="node1")
        scene.log("failure", planned, 10.0, reason=TRACEBACK, final=False)
    code, text = run("status")
    assert code == 1
    assert line(text, "error: 2 stages") == "error: 2 stages: tr [train]; ot [train]"
    assert text.count("KeyError: '[red]'") == 1
    assert "what to do:" in text and "on node1" in text
    assert "line 29" in text and "line 5\n" not in text
    assert "line 5\n" in run("status", "--full")[1]
    assert line(text, "blocked: 1") == "blocked: 1, by tr [train] (1)"


def test_stages_that_a_cancelled_launch_has_left_are_no_failures(scene: Scene, run: Run) -> None:
    scene.launch.end("cancelled")
    assert "what to do" not in run("status")[1]
    (scene.launch.folder / "ended.json").unlink()
    assert "what to do" in run("status")[1]


def test_status_lists_every_stage_if_asked(scene: Scene, run: Run) -> None:
    scene.queue["3"] = QueuedJob("PENDING", "Priority")
    text = run("status", "--stages")[1]
    assert line(text, "queued evaluate") == f"queued evaluate {EVALUATE.identity} 3 - - ev [evaluate] (Priority)"
    assert all(planned.identity in text for planned in scene.launch.stages)


def test_status_without_slurm_says_what_the_store_says(scene: Scene, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "jobs", no_slurm)
    scene.log("start", TRAIN, 10.0, job="2_0")
    code, text = run("status")
    assert code == 0
    assert "there is no squeue here, so no Slurm" in text
    assert line(text, "in all") == "in all 1 3"


def test_status_of_a_launch_of_other_code_says_how_to_see_more(
    scene: Scene, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "moved_on", lambda launch: "1 file, e.g. bench/x.py")
    more = f"why {scene.launch.name} --store {scene.store.root}` shows more)"
    assert line(run("status")[1], "the checkout differs").endswith(more)


def test_status_and_logs_show_a_driver_in_the_foreground_and_what_slurm_refuses(scene: Scene, run: Run) -> None:
    launch = scene.launched("mine", TRAIN)
    assert "no job has driven this launch" in run("logs", "driver")[1]
    take(scene.store, ("driver", launch.name), json.dumps({**this_process(), "pid": os.getpid()}), ())
    (launch.folder / "alive").write_text("sbatch: error:\n  QOSMaxSubmitJobPerUserLimit")
    here = f"driver: process {os.getpid()} on {socket.gethostname()}, in the foreground; its output is on its terminal"
    code, text = run("status")
    assert (code, line(text, "driver: ")) == (0, here)
    assert line(text, "Slurm refuses") == (
        "Slurm refuses jobs: sbatch: error: QOSMaxSubmitJobPerUserLimit; the driver asks again"
    )
    assert here in run("logs", "driver")[1]
    (launch.folder / "alive").write_text("")
    assert "Slurm refuses" not in run("status")[1]


def test_a_launch_is_named_by_its_suite_or_the_start_of_its_id(scene: Scene, run: Run) -> None:
    later = scene.launched("later", TEXTS)
    assert scene.launch.name in run("status", "small")[1]
    assert later.name in run("status", later.name[:-2])[1]
    with pytest.raises(UserError, match="unknown launch or suite 'nothing'"):
        run("status", "nothing")


def test_launches_are_listed(scene: Scene, run: Run) -> None:
    scene.queue["3"] = QueuedJob("PENDING", "Priority")
    local = rewritten(scene.launched("local", TEXTS, on="local"), host="elsewhere")
    ended = scene.launched("ended", TEXTS)
    ended.end("complete")
    code, text = run("status", "--list")
    assert code == 0
    assert line(text, scene.launch.name) == f"{scene.launch.name} slurm 4 stages going on"
    assert line(text, local.name) == f"{local.name} local 1 stages gone"
    assert line(text, ended.name) == f"{ended.name} slurm 1 stages complete"


def test_watching_goes_on_until_the_launch_has_ended(scene: Scene, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.queue["9"] = WAITING
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            scene.queue.clear()
            scene.launch.end("incomplete")

    monkeypatch.setattr(time, "sleep", sleep)
    code, text = run("status", "--watch", "--interval", "7")
    assert (code, waits, text.count("going on")) == (1, [7.0, 7.0], 2)
    assert "incomplete since" in text


def test_watching_can_be_left(scene: Scene, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seconds: float) -> None:
        raise Stopped(signal.SIGINT)

    scene.queue["9"] = WAITING
    monkeypatch.setattr(time, "sleep", interrupted)
    assert run("status", "--watch")[0] == 0


def test_looking_after_launches_imports_nothing_heavy(scene: Scene, tmp_path: Path) -> None:
    scene.log("failure", TRAIN, 10.0, reason=TRACEBACK, final=False)
    code = f"""
import sys
from pathlib import Path
from bench.commands import launches as launch_commands
from bench.launch import scheduler
scheduler.jobs = lambda users=(): dict()
scheduler.cancel = print
store = Path({str(tmp_path / "store")!r})
launch_commands.logs("tr", store=store, name=None, lines=3)
launch_commands.cancel(None, store)
try:
    launch_commands.status(None, store, stages=True, full=True, all_launches=False, watch=False, interval=1)
except launch_commands.typer.Exit:
    pass
heavy = ["torch", "torchvision", "open_clip", "decord", "pandas", "submitit"]
sys.exit(", ".join(name for name in heavy if name in sys.modules) or 0)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "cancelled" in ended.stdout


# --- logs -------------------------------------------------------------------------------------------------------------


def test_logs_tell_what_happened_to_a_stage_and_show_the_end_of_its_output(scene: Scene, run: Run) -> None:
    scene.log("start", TRAIN, 50.0, job="2_0", host="node1", pid=7, launch=scene.launch.name)
    scene.log("note", TRAIN, 45.0, text="[bold]a frame was repeated[/bold]")
    scene.log("interrupted", TRAIN, 40.0, reason="saved at step 3 of 9", done=3)
    scene.log("failure", TRAIN, 30.0, reason="first\n[red]second[/red]", final=True)
    scene.log("blocked", EVALUATE, 20.0, lacking=[TRAIN.key])
    scene.submit("5", [1, 2], wave=2)
    checkpoint = scene.store.checkpoint(*TRAIN.key)
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.pt").write_bytes(b"x" * 2000)
    scene.output("2_0_0_log.err", "one\ntwo\nthree [blue]\n")
    scene.output("5_0_log.out", "10%\r50%\r\x1b[31mall\x1b[0m of it\n")
    code, text = run("logs", "tr [TRAIN]", "--lines", "2")
    assert code == 0
    assert f"tr [train]  (train {TRAIN.identity})" in text
    assert "started on node1, process 7, job 2_0, by launch" in text
    assert "note: [bold]a frame was repeated[/bold]" in text
    assert "interrupted at 3: saved at step 3 of 9" in text
    assert "failed, another attempt would fail too: \n      first\n      [red]second[/red]\n" in text
    assert f"checkpoint: {checkpoint}, 2.0 kB" in text
    assert "job 2_0\n" in text and "job 5, shared with 1 other stage\n" in text
    assert "      two\n      three [blue]\n" in text and "one\n" not in text
    assert "      all of it\n" in text
    assert "not started, no record of tr [train]" in run("logs", EVALUATE.identity[:4])[1]


def test_logs_of_a_stage_that_is_done_say_where_its_record_is(scene: Scene, run: Run) -> None:
    scene.record(TRAIN, seconds=75.0)
    text = run("logs", "tr")[1]
    assert "done in 1:15" in text
    assert f"record: {scene.store.folder(*TRAIN.key)}" in text


def test_logs_of_a_title_that_there_is_not_name_close_ones(scene: Scene, run: Run) -> None:
    with pytest.raises(UserError) as raised:
        run("logs", "tr [trian]")
    assert raised.value.allowed[0] == "tr [train]"


def test_logs_show_a_few_of_many_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    Scene(tmp_path, monkeypatch, *(stage("train", f"{n:02d}") for n in range(25)))
    text = run("logs", "train")[1]
    assert text.count("(train ") == 20
    assert "and 5 more stages" in text


# --- cancel -----------------------------------------------------------------------------------------------------------


def test_cancel_ends_the_driver_first_then_the_others_and_gives_claims_back(
    scene: Scene, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.queue["9"] = QueuedJob("RUNNING", "None")
    scene.queue |= {
        "2_0": QueuedJob("RUNNING", "None"),
        "2_1": QueuedJob("PENDING", "Priority"),
        "3": QueuedJob("COMPLETED", "None"),
    }
    take(scene.store, TRAIN.key, scene.launch.name, ())
    take(scene.store, OTHER.key, "another", ())
    cancelled: list[set[str]] = []

    def cancel(identifiers: Iterable[str]) -> None:
        cancelled.append(set(identifiers))
        if cancelled[-1] == {"9"}:  # it had just submitted a job
            scene.submit("12", [1], wave=2)
            scene.queue["12"] = QueuedJob("PENDING", "Priority")
        scene.queue = {n: j for n, j in scene.queue.items() if n.partition("_")[0] not in cancelled[-1]}

    monkeypatch.setattr(scheduler, "cancel", cancel)
    monkeypatch.setattr(launch_commands, "POLL", 0.0)
    assert run("cancel")[0] == 0
    assert cancelled == [{"9"}, {"2", "12"}]
    assert scene.launch.ended() and scene.launch.ended()["state"] == "cancelled"  # type: ignore[index]
    left = [path.name for path in (scene.store.root / "claims").iterdir()]
    assert left == [f"train-{OTHER.identity}.1.json"]
    assert run("status")[0] == 1


def test_cancel_asks_a_job_again_that_had_itself_requeued(
    scene: Scene, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.queue["3"] = QueuedJob("RUNNING", "None")
    asked: list[str] = []

    def cancel(identifiers: Iterable[str]) -> None:
        asked.extend(identifiers)
        scene.queue["3"] = QueuedJob("PENDING" if len(asked) == 1 else "CANCELLED", "None")

    monkeypatch.setattr(scheduler, "cancel", cancel)
    monkeypatch.setattr(launch_commands, "POLL", 0.0)
    run("cancel")
    assert asked == ["3", "3"]


def test_cancel_says_which_jobs_do_not_end(
    scene: Scene, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.queue["3"] = QueuedJob("COMPLETING", "None")
    monkeypatch.setattr(scheduler, "cancel", lambda identifiers: None)
    monkeypatch.setattr(launch_commands, "POLL", 0.0)
    monkeypatch.setattr(launch_commands, "SECONDS_TO_END", 0.05)
    left: list[str] = []
    monkeypatch.setattr(launch_commands.console, "print", lambda text, **style: left.append(text))
    run("cancel")
    assert left == ["still ending: 3"]


def test_what_has_ended_is_not_cancelled(scene: Scene, run: Run) -> None:
    scene.launch.end("complete")
    code, text = run("cancel")
    assert (code, "has ended already (complete)" in text) == (0, True)
    assert scene.launch.ended()["state"] == "complete"  # type: ignore[index]


def test_cancel_without_slurm_is_an_error(scene: Scene, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "jobs", no_slurm)
    with pytest.raises(UserError, match="there is no squeue"):
        run("cancel")
    assert scene.launch.ended() is None


def test_a_launch_that_is_just_being_submitted_is_not_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    scene = Scene(tmp_path, monkeypatch, TEXTS)
    with pytest.raises(UserError, match="being submitted"):
        run("cancel")
    assert scene.launch.ended() is None


@pytest.fixture
def process() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts a process that waits for a signal, with one more word in its command line."""
    started: list[subprocess.Popen[bytes]] = []

    def start(word: str) -> subprocess.Popen[bytes]:
        code = "import signal, time; print(flush=True); time.sleep(60)"
        started.append(subprocess.Popen([sys.executable, "-c", code, word], stdout=-1, stderr=subprocess.DEVNULL))
        assert started[-1].stdout and started[-1].stdout.readline()
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()


proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at command lines in /proc")


@proc
def test_cancel_interrupts_a_local_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, process: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    scene, started = Scene(tmp_path, monkeypatch, TEXTS, on="local"), process("run_suite.py")
    rewritten(scene.launch, pid=started.pid, born=None)
    monkeypatch.setattr(launch_commands, "POLL", 0.01)
    assert run("cancel")[0] == 0
    assert started.wait(5) == -signal.SIGTERM
    assert scene.launch.ended()["state"] == "cancelled"  # type: ignore[index]


@proc
def test_cancel_leaves_a_process_alone_that_is_no_run_of_suites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, process: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    scene, started = Scene(tmp_path, monkeypatch, TEXTS, on="local"), process("editor")
    rewritten(scene.launch, pid=started.pid, born=None)
    with pytest.raises(UserError, match="not a run of suites"):
        run("cancel")
    assert started.poll() is None


def test_cancel_of_a_launch_on_another_machine_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    scene = Scene(tmp_path, monkeypatch, TEXTS, on="local")
    rewritten(scene.launch, host="elsewhere")
    with pytest.raises(UserError, match="it was started on elsewhere"):
        run("cancel")
