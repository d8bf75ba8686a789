"""Causes of failed stages, and groups of failures with the same cause."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.launch import failures
from bench.launch.failures import TAIL, cause, grouped, job_outputs, tail
from bench.launch.scheduler import QueuedJob
from bench.launch.states import StageStatus
from bench.suite.recipe import Recipe
from tests.launch.scenes import stage

TRACEBACK = 'Traceback (most recent call last):\n  File "bench/stages/train.py", line {line}, in run\n{error}\n'
KILLED_STEP = "slurmstepd-node1: error: *** STEP 1.0 ON node1 CANCELLED AT 2026-11-21T13:22:03 ***\n"

ERRORS = {
    TRACEBACK.format(line=1, error="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"): (
        "out of GPU memory"
    ),
    TRACEBACK.format(line=1, error="MemoryError"): "out of memory",
    TRACEBACK.format(line=1, error="RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate"): "out of memory",
    TRACEBACK.format(line=1, error="OSError: [Errno 28] No space left on device: 'x'"): "disk full",
    TRACEBACK.format(
        line=1, error="RuntimeError: [enforce fail at inline_container.cc:671] . unexpected pos 128 vs 0"
    ): ("disk full"),
    "/shared/runs: the store is not there (no store.json); is its disk mounted?": "store missing",
    TRACEBACK.format(line=1, error="OSError: [Errno 116] Stale file handle: 'x'"): "node",
    TRACEBACK.format(line=1, error="RuntimeError: CUDA error: uncorrectable ECC error encountered"): "node",
    TRACEBACK.format(line=1, error="torch.distributed.DistBackendError: NCCL error in: x"): "node",
    TRACEBACK.format(line=1, error="RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer"): "node",
    TRACEBACK.format(line=1, error="bench.stages.training.ranks.LostRank: another rank is gone or silent: x"): "node",
    TRACEBACK.format(line=1, error="KeyError: 'alpha'"): "error",
    TRACEBACK.format(line=1, error="RuntimeError: CUDA error: device-side assert triggered"): "error",
    "the loss is not finite at step 12: {'ce': nan}; try a lower recipe.lr": "not finite",
    "2 videos of 'ucf101' cannot be decoded and are not declared:\n  a.avi: no frames": "undecodable videos",
    "no video of the training list can be decoded": "undecodable videos",
    "the code has changed since the launch, so the stage has another identity; launch it again": "changed code",
    "interrupted 3 times without progress; give its jobs more time: resources.train.time": "out of time",
    "rank 1 of 2 died of SIGKILL (was memory short?)": "killed",
    "draw 3: the list has no video of the drawn half of the classes": "refused",
}
OUTPUTS = {
    (f"slurmstepd: error: StepId=1.0 exceeded memory limit (3 > 2), being killed\n{KILLED_STEP}", ""): "out of memory",
    ("slurmstepd: error: Detected 1 oom_kill event in StepId=1.0\nsrun: error: node1: task 0: Killed", ""): (
        "out of memory"
    ),
    ("srun: error: node1: task 0: Out Of Memory", "FAILED"): "out of memory",
    ("", "OUT_OF_MEMORY"): "out of memory",
    ("slurmstepd: error: *** JOB 7 ON node1 CANCELLED AT 2026-11-21T13:22:03 DUE TO TIME LIMIT ***", ""): "out of time",
    ("", "TIMEOUT"): "out of time",
    ("", "NODE_FAIL"): "node",
    ("srun: error: node1: task 0: Bus error", "FAILED"): "node",
    ("Fatal Python error: Segmentation fault", ""): "killed",
    (f"srun: error: node1: task 0: Killed\n{KILLED_STEP}", "FAILED"): "killed",
    ("", "CANCELLED"): "killed",
    ("", ""): "ended without an error",
    (TRACEBACK.format(line=1, error="KeyError: 'folder'"), "FAILED"): "error",
}


@pytest.mark.parametrize(("reason", "name"), ERRORS.items())
def test_what_a_stage_says_tells_why_it_failed(reason: str, name: str) -> None:
    assert cause(reason, fatal="Traceback" not in reason).name == name


@pytest.mark.parametrize(("told", "name"), OUTPUTS.items())
def test_of_a_stage_that_ended_without_a_word_its_job_tells(told: tuple[str, str], name: str) -> None:
    output, state = told
    assert cause("", output, state).name == name


def test_a_local_process_that_died_is_not_said_to_have_been_out_of_memory() -> None:
    assert cause("its process died 3 times (killed, or out of memory?)").name == "killed"


def test_output_of_another_stage_in_the_same_job_does_not_explain_a_traceback() -> None:
    reason = TRACEBACK.format(line=1, error="KeyError: 'alpha'")
    assert cause(reason, "oom_kill event").name == "error"


def test_a_lost_connection_is_explained_by_what_ended_the_other_process() -> None:
    reason = TRACEBACK.format(line=1, error="LostRank: another rank is gone or silent")
    assert cause(reason, "oom_kill event").name == "out of memory"


@pytest.mark.parametrize("output", ["bash: line 9: python3: command not found", "ModuleNotFoundError: No module"])
def test_a_job_that_never_came_to_its_stages_is_told_apart(output: str) -> None:
    assert cause("", output, "FAILED", began=False).name == "job did not start"
    assert cause("", output, "FAILED", began=True).name != "job did not start"


def test_actions_name_fields_of_the_recipe_that_there_are() -> None:
    actions = [found.action for found in failures.CAUSES.values()]
    named = {name for action in actions for name in re.findall(r"recipe\.(\w+)", action)}
    assert {"lr", "accumulate", "checkpointing"} <= named <= set(Recipe.model_fields)


# --- together ---------------------------------------------------------------------------------------------------------


def failed(name: str, time: float, reason: str, kind: str = "train", **event: object) -> StageStatus:
    event = {"event": "failure", "time": time, "reason": reason, **event}
    return StageStatus(stage(kind, name), "failed", "7", failure=event, started=time - 1.0)


def lost(name: str, job: str, started: float | None = 1.0) -> StageStatus:
    return StageStatus(stage("train", name), "lost", job, started=started)


def output(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def test_failures_that_are_alike_are_one_with_the_first_traceback(tmp_path: Path) -> None:
    reasons = [TRACEBACK.format(line=n, error=f"ValueError: shape ({n}, 4) at '{n}.pt'") for n in range(200)]
    statuses = [failed(f"{n:03d}", 1000.0 - n, reason) for n, reason in enumerate(reasons)]
    (group,) = grouped(statuses, tmp_path)
    assert len(group.failures) == 200
    assert group.example.text == reasons[199].rstrip()


def test_errors_that_differ_are_told_apart_and_the_most_frequent_comes_first(tmp_path: Path) -> None:
    one = TRACEBACK.format(line=1, error="KeyError: 'alpha'")
    two = TRACEBACK.format(line=1, error="ValueError: no")
    groups = grouped([failed("a", 1.0, one), failed("b", 2.0, two), failed("c", 3.0, two)], tmp_path)
    assert [[f.status.stage.title for f in group.failures] for group in groups] == [
        ["b [train]", "c [train]"],
        ["a [train]"],
    ]


def test_stages_that_did_not_fail_are_left_out(tmp_path: Path) -> None:
    states = ("done", "running", "queued", "blocked")
    assert grouped([StageStatus(stage("train", "a"), state) for state in states], tmp_path) == []


def test_the_action_names_the_kind_of_stage(tmp_path: Path) -> None:
    train, encode = failed("a", 1.0, "MemoryError"), failed("b", 2.0, "MemoryError", kind="encode")
    assert "resources.train.memory" in grouped([train], tmp_path)[0].action
    assert "resources.all.memory" in grouped([train, encode], tmp_path)[0].action


def test_a_lost_stage_is_explained_by_the_errors_of_its_own_job(tmp_path: Path) -> None:
    output(tmp_path, "7_1_0_log.err", "fine")
    output(tmp_path, "7_1_1_log.err", "oom_kill event")
    output(tmp_path, "7_10_0_log.err", "DUE TO TIME LIMIT")
    output(tmp_path, "7_1_0_log.out", "NODE_FAIL")
    (group,) = grouped([lost("a", "7_1")], tmp_path)
    assert (group.cause.name, group.example.text) == ("out of memory", "fine\noom_kill event")


def test_a_lost_stage_is_explained_by_what_slurm_still_knows(tmp_path: Path) -> None:
    (group,) = grouped([lost("a", "7_1")], tmp_path, {"7_1": QueuedJob("NODE_FAIL", "None")})
    assert group.cause.name == "node"


def test_what_no_job_has_begun_is_not_explained_by_what_ended_others(tmp_path: Path) -> None:
    output(tmp_path, "7_0_log.err", "oom_kill event")
    output(tmp_path, "8_0_log.err", "oom_kill event")
    stages = [lost("a", "7"), lost("b", "7", None), lost("c", "", None), lost("d", "8", None)]
    groups = {group.cause.name: [f.status.stage.title for f in group.failures] for group in grouped(stages, tmp_path)}
    titles = [each.stage.title for each in stages]
    assert {name: sorted(own) for name, own in groups.items()} == {
        "out of memory": [titles[0], titles[3]],
        "not started": titles[1:3],
    }


def test_a_death_is_explained_by_the_job_that_it_happened_in(tmp_path: Path) -> None:
    output(tmp_path, "5_0_log.err", "exceeded memory limit")
    output(tmp_path, "7_0_log.err", "DUE TO TIME LIMIT")
    (group,) = grouped([failed("a", 1.0, "its job 5 ended: gone", event="death", job="5")], tmp_path)
    assert group.cause.name == "out of memory"


def test_an_interruption_without_progress_is_one_for_lack_of_time(tmp_path: Path) -> None:
    (group,) = grouped([failed("a", 1.0, "saved at step 3 of 9", event="interrupted", done=3)], tmp_path)
    assert (group.cause.name, group.example.text) == ("out of time", "interrupted: saved at step 3 of 9")
    early = failed("a", 1.0, "saved at step 3 of 9", event="interrupted", done=3, job="7")
    (group,) = grouped([early], tmp_path, {"7": QueuedJob("CANCELLED", "None")})
    assert group.cause.name == "killed"


def test_a_stage_that_refuses_is_told_from_one_with_an_error(tmp_path: Path) -> None:
    (group,) = grouped([failed("a", 1.0, "the list is empty", final=True)], tmp_path)
    assert group.cause.name == "refused"


def test_no_more_than_the_end_of_an_output_is_read(tmp_path: Path) -> None:
    output(tmp_path, "7_0_log.err", "oom_kill\n" + "x" * TAIL + "\nlast\n")
    assert tail(tmp_path / "7_0_log.err") == "last\n"
    assert grouped([lost("a", "7")], tmp_path)[0].cause.name == "ended without an error"


def test_bytes_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "7_0_log.err").write_bytes(b"\xff\xfe oom_kill")
    assert grouped([lost("a", "7")], tmp_path)[0].cause.name == "out of memory"


def test_a_missing_output_is_empty(tmp_path: Path) -> None:
    assert tail(tmp_path / "none.err") == ""
    assert job_outputs(tmp_path / "none")["7"] == []
