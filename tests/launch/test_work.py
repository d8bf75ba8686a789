"""Execution of a stage, whatever it does."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.core.errors import Interrupted, StageError
from bench.core.identity import digest
from bench.graph.stage import stage_source
from bench.launch.work import Order, assist, execute
from bench.stages.work import Compute, Work
from bench.store.records import Store
from tests.errors import says

MODULES = ("bench.core.seeds",)
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
        return execute(order, Store(tmp_path), COMPUTE, LAUNCH, stopping)

    return executed


def events(tmp_path: Path) -> list[dict[str, Any]]:
    return Store(tmp_path).events()


def test_success_leaves_a_record_that_names_weights_by_their_tag(
    tmp_path: Path, carry_out: Callable[..., str | None]
) -> None:
    assert carry_out(lambda work: {"pretrained": work.context["pretrained"]}) is None
    record = Store(tmp_path).read("probe", ORDER.identity)
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
    assert Store(tmp_path).read("probe", ORDER.identity)["result"] == {"first": True}


def test_a_damaged_record_is_named_once_and_made_again(
    tmp_path: Path, carry_out: Callable[..., str | None], caplog: pytest.LogCaptureFixture
) -> None:
    file = Store(tmp_path).folder("probe", ORDER.identity) / "record.json"
    file.parent.mkdir(parents=True)
    file.touch()
    assert carry_out(lambda work: {"again": True}) is None
    assert caplog.text.count(str(file)) == 1 and "runs again" in caplog.text
    assert Store(tmp_path).read("probe", ORDER.identity)["result"] == {"again": True}


def test_a_record_of_a_newer_version_ends_its_stage(tmp_path: Path, carry_out: Callable[..., str | None]) -> None:
    file = Store(tmp_path).folder("probe", ORDER.identity) / "record.json"
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
    assert not Store(tmp_path).done("probe", ORDER.identity)
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
    assert not Store(tmp_path).done("probe", ORDER.identity)


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
