"""Execution of a stage, whatever it does."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module as importing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.core.errors import Interrupted, StageError
from bench.core.identity import digest
from bench.graph.stage import stage_source
from bench.launch import meter, work
from bench.launch.claims import take
from bench.launch.launches import create
from bench.launch.work import Order, assist, execute
from bench.stages import checkpoint
from bench.stages.work import Compute, Work
from bench.store.attempts import attempts_since
from bench.store.records import MissingStore, Store
from tests.errors import says

MODULES = ("bench.stages.probe", "bench.core.seeds")
ORDER = Order(
    *("probe", "a" * 32, "a stage", {}, {"pretrained": "openai@/shared/weights.pt"}, {}, 1.0),
    *(MODULES, stage_source("probe", MODULES)),
)
COMPUTE = Compute("cpu")
LAUNCH: dict[str, Any] = {"launch": "one", "job": "7_1", "revision": "abc"}

Stage = Callable[[Work], dict[str, Any]]


@pytest.fixture
def carry_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str | None]:
    """Execute a function as the stage."""

    def executed(run: Stage, order: Order = ORDER, stopping: Callable[[], bool] = lambda: False) -> str | None:
        monkeypatch.setitem(sys.modules, "bench.stages.probe", SimpleNamespace(run=run))
        return execute(order, Store.create(tmp_path), COMPUTE, LAUNCH, stopping)

    return executed


def events(tmp_path: Path) -> list[dict[str, Any]]:
    return Store.create(tmp_path).events()


def test_success_leaves_a_record_that_names_weights_by_their_tag(
    tmp_path: Path, carry_out: Callable[..., str | None]
) -> None:
    assert carry_out(lambda work: {"pretrained": work.context["pretrained"]}) is None
    record = Store.create(tmp_path).read("probe", ORDER.identity)
    assert record["result"] == {"pretrained": "openai@/shared/weights.pt"}
    assert record["context"] == {"pretrained": "openai"}
    assert record["provenance"]["job"] == "7_1"
    assert "bench.core.seeds" in record["source"] and digest(record["source"]) == ORDER.source
    assert [(e["event"], e.get("launch"), e.get("job")) for e in events(tmp_path)] == [
        ("start", "one", "7_1"),
        ("end", None, None),
    ]


def test_what_is_done_is_not_repeated(tmp_path: Path, carry_out: Callable[..., str | None]) -> None:
    carry_out(lambda work: {"first": True})
    carry_out(lambda work: {"first": False})
    assert Store.create(tmp_path).read("probe", ORDER.identity)["result"] == {"first": True}


def test_a_damaged_record_is_named_once_and_made_again(
    tmp_path: Path, carry_out: Callable[..., str | None], caplog: pytest.LogCaptureFixture
) -> None:
    file = Store.create(tmp_path).folder("probe", ORDER.identity) / "record.json"
    file.parent.mkdir(parents=True)
    file.touch()
    assert carry_out(lambda work: {"again": True}) is None
    assert caplog.text.count(str(file)) == 1 and "runs again" in caplog.text
    assert Store.create(tmp_path).read("probe", ORDER.identity)["result"] == {"again": True}


def test_a_record_of_a_newer_version_ends_its_stage(tmp_path: Path, carry_out: Callable[..., str | None]) -> None:
    file = Store.create(tmp_path).folder("probe", ORDER.identity) / "record.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"schema": 2}')
    says(carry_out(lambda work: {}) or "", file, "schema 2", "update this program")
    assert file.read_text() == '{"schema": 2}' and events(tmp_path)[-1]["final"]


def test_an_interruption_is_logged_with_how_far_it_came(tmp_path: Path, carry_out: Callable[..., str | None]) -> None:
    def run(work: Work) -> dict[str, Any]:
        assert work.stopping()
        raise Interrupted("saved at step 5 of 9", 5)

    with pytest.raises(Interrupted):
        carry_out(run, stopping=lambda: True)
    assert [(e["event"], e.get("done")) for e in events(tmp_path)] == [("start", None), ("interrupted", 5)]
    assert not Store.create(tmp_path).done("probe", ORDER.identity)
    assert not list((tmp_path / "writing").iterdir())


@pytest.mark.parametrize(
    ("error", "final", "said"),
    [(StageError("the loss is not finite"), True, "the loss is not finite"), (KeyError("x"), False, "Traceback")],
)
def test_a_failure_says_whether_another_attempt_is_worth_it(
    tmp_path: Path, carry_out: Callable[..., str | None], error: Exception, final: bool, said: str
) -> None:
    def run(work: Work) -> dict[str, Any]:
        raise error

    reason = carry_out(run)
    assert reason is not None
    assert reason.startswith(said)
    failure = events(tmp_path)[-1]
    assert (failure["event"], failure["final"], failure["reason"]) == ("failure", final, reason)


def test_other_code_than_that_of_the_launch_is_refused(tmp_path: Path, carry_out: Callable[..., str | None]) -> None:
    reason = carry_out(lambda work: {}, replace(ORDER, source="other"))
    assert reason is not None
    assert reason.startswith("the code has changed since the launch")
    assert not Store.create(tmp_path).done("probe", ORDER.identity)


def test_further_ranks_take_part_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(work: Work) -> dict[str, Any]:
        (work.out / "file").write_text("of a further rank")
        work.progress(1, 2, "steps")
        return {}

    monkeypatch.setitem(sys.modules, "bench.stages.probe", SimpleNamespace(run=run))
    assist(ORDER, Store(tmp_path), COMPUTE, lambda: False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device", "/store/x"), ValueError("No space left on device")]
)
def test_a_full_store_is_one_line_also_where_the_log_cannot_be_written(
    error: Exception, carry_out: Callable[..., str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(work: Work) -> dict[str, Any]:
        monkeypatch.setattr(Store, "log", refuse)
        raise error

    def refuse(*arguments: object, **details: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    reason = carry_out(run)
    assert reason and reason.endswith("No space left on device") and "\n" not in reason


def test_a_record_says_what_its_stage_cost_over_all_attempts(
    tmp_path: Path, carry_out: Callable[..., str | None]
) -> None:
    def interrupted(work: Work) -> dict[str, Any]:
        raise Interrupted("saved at step 5 of 9", 5)

    def failing(work: Work) -> dict[str, Any]:
        raise KeyError("x")

    with pytest.raises(Interrupted):
        carry_out(interrupted)
    carry_out(failing)
    assert carry_out(lambda work: {}) is None
    outcomes = [event for event in events(tmp_path) if event["event"] != "start"]
    assert [event["event"] for event in outcomes] == ["interrupted", "failure", "end"]
    assert all(event["startup"] > 0 and event["compute"] >= 0 and event["memory"] > 0 for event in outcomes)
    cost = Store(tmp_path).read("probe", ORDER.identity)["cost"]
    assert cost["seconds"] == cost["compute"] and cost["flops"] == 1.0 and cost["waiting"] == 0
    assert cost["attempts"] == 3 and "device_memory" not in cost
    for name in ("startup", "compute"):
        assert cost["all_attempts"][name] == pytest.approx(sum(event[name] for event in outcomes), abs=0.1)


def test_seconds_are_those_of_the_stage_without_what_it_imports(
    tmp_path: Path, carry_out: Callable[..., str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(meter, "time", SimpleNamespace(time=lambda: float(next(clock))))
    monkeypatch.setattr(work, "import_module", lambda name: [next(clock) for _ in range(100)] and importing(name))
    assert carry_out(lambda work: {}) is None
    cost = Store(tmp_path).read("probe", ORDER.identity)["cost"]
    assert cost["startup"] >= 200 and cost["seconds"] == 1  # the module of its method, and that of its kind


def test_a_job_says_how_long_it_waited_and_what_memory_it_got(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bench.stages.probe", SimpleNamespace(run=lambda work: {}))
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "2048")
    started = meter.process_start()
    asked = started - 60.0
    store, other = Store.create(tmp_path), replace(ORDER, identity="b" * 32)
    assert execute(ORDER, store, COMPUTE, LAUNCH, submitted=asked, started=started) is None
    assert execute(other, store, COMPUTE, LAUNCH) is None
    first, second = (store.read("probe", order.identity)["cost"] for order in (ORDER, other))
    assert first["waiting"] == pytest.approx(60.0, abs=1.0) and second["waiting"] == 0.0  # behind it
    assert 0.0 <= second["startup"] < first["startup"] <= time.time() - asked - 60.0
    assert [e["memory_asked"] for e in store.events() if e["event"] == "start"] == [2048, 2048]


def test_a_store_that_goes_away_is_never_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if its disk was unmounted while a stage runs, and mounted again."""
    root, away = tmp_path / "runs", tmp_path / "away"
    store = Store.create(root)

    def run(work: Work) -> dict[str, Any]:
        if not work.checkpoint.exists():
            checkpoint.save(work.checkpoint / "training.pt", {"step": 5})
            root.rename(away)
            work.progress(5, 9, "steps")
        return {"resumed": checkpoint.load(work.checkpoint / "training.pt", lambda state: state["step"])}

    monkeypatch.setitem(sys.modules, "bench.stages.probe", SimpleNamespace(run=run))
    for _ in range(2):  # while it runs, and when it starts
        says(execute(ORDER, store, COMPUTE, LAUNCH) or "", root, "the store is not there", "mounted")
        assert not root.exists()
    for write in (
        lambda: checkpoint.save(store.checkpoint(*ORDER.key) / "training.pt", {}),
        lambda: create(store, {"suite": "tiny", "on": "local"}, []),
        lambda: take(store, ORDER.key, "one", ()),
        lambda: store.writing(*ORDER.key, {}).__enter__(),
    ):
        with pytest.raises(OSError):
            write()
    root.mkdir()  # a mount point
    says(execute(ORDER, store, COMPUTE, LAUNCH) or "", "the store is not there")
    assert not list(root.iterdir())
    root.rmdir()
    away.rename(root)
    assert execute(ORDER, store, COMPUTE, LAUNCH) is None
    record = store.read(*ORDER.key)
    assert record["result"] == {"resumed": 5} and record["cost"]["attempts"] == 2


def test_a_store_that_came_back_knows_whose_fault_it_was(tmp_path: Path, carry_out: Callable[..., str | None]) -> None:
    def run(work: Work) -> dict[str, Any]:
        raise MissingStore(tmp_path)

    says(carry_out(run) or "", tmp_path, "the store is not there")
    assert attempts_since(Store(tmp_path))[ORDER.identity].spent == 0
