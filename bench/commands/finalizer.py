"""The closing job: when all jobs of a round are gone, another round of what was lost, or the report and the end."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from bench.launch import scheduler
from bench.launch.job import prepare
from bench.launch.launches import Jobs, Launch, open_launch, release
from bench.launch.slurm import submit_round, summary
from bench.store.attempts import histories


def close(folder: str, round: int, since: float) -> None:
    """What submitit calls. Attempts before `since` do not count."""
    launch = open_launch(Path(folder))
    prepare(launch)
    with scheduler.outside():
        # Where this job itself was interrupted and runs again, what it had submitted is submitted anew.
        scheduler.cancel(job for jobs in launch.jobs() if jobs.round > round for job in jobs.ids())
        _note_deaths(launch, round, since)
    if again := worth_repeating(launch, since):
        print(summary(submit_round(launch, again, round + 1, since)), flush=True)
    else:
        _finish(launch)


def worth_repeating(launch: Launch, since: float) -> list[int]:
    """The stages without a record that have attempts left, and whose inputs are there or are repeated too."""
    known, attempts = histories(launch.store, since), launch.about["site"]["attempts"]
    lacking = set(launch.lacking())
    given_up: set[str] = set()
    for number in sorted(lacking):  # inputs come first
        stage = launch.stages[number]
        history = known.get(stage.identity)
        if (history and history.over(attempts)) or any(identity in given_up for _, identity in stage.inputs):
            given_up.add(stage.identity)
    return sorted(number for number in lacking if launch.stages[number].identity not in given_up)


def _note_deaths(launch: Launch, round: int, since: float) -> None:
    """Attempts that ended without a word are failures of their stage; a job that never came up, of all its stages."""
    known, states = histories(launch.store, since), scheduler.jobs()
    lacking = set(launch.lacking())
    seen = {event.get("job") for event in launch.store.events() if event["time"] >= since}
    for identifier, numbers in _elements(launch.jobs(), round):
        unfinished = [number for number in numbers if number in lacking]
        died = [n for n in unfinished if (h := known.get(launch.stages[n].identity)) and h.started]
        if not died and identifier not in seen:
            died = unfinished
        state = states[identifier].state if identifier in states else "gone"
        for number in died:
            stage = launch.stages[number]
            told = {
                "title": stage.title,
                "job": identifier,
                "reason": f"ended without a word in job {identifier} ({state})",
            }
            launch.store.log("death", *stage.key, **told)


def _elements(jobs: list[Jobs], round: int) -> Iterator[tuple[str, list[int]]]:
    for submitted in jobs:
        if submitted.round == round and not submitted.closing:
            yield from zip(submitted.ids(), submitted.elements, strict=True)


def _finish(launch: Launch) -> None:
    """The report, and the end of the launch, whether or not all stages have their records."""
    known = histories(launch.store)
    lacking = [launch.stages[number].identity for number in launch.lacking()]
    failed = [identity for identity in lacking if (history := known.get(identity)) and history.failure]
    for stage in launch.stages:
        release(launch.store, stage.key, launch.name)
    try:
        print(f"report: {write_report_of(launch)}", flush=True)
    except Exception:
        traceback.print_exc()
    launch.end("incomplete" if lacking else "complete", failed, set(lacking) - set(failed))


def write_report_of(launch: Launch) -> Path:
    """The report of a launch's suite as it was when it was launched."""
    from bench.graph.build import build_graph
    from bench.suite.resolve import load_suite
    from reports.collect import collect
    from reports.page import write_report

    os.chdir(launch.about["folder"])
    suite = load_suite(launch.suite_file, tuple(launch.about["overrides"]), Path(launch.about["file"]).parent)
    origin = {**launch.about["provenance"], "launch": launch.name, "time": time.time()}
    results = collect(suite, build_graph(suite), launch.store, origin)
    return write_report(results, launch.store.root / "reports" / suite.name)
