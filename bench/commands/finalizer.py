"""The finalizer of a round on Slurm: submit lost stages again, or write the report and end the launch."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from bench.commands.display import summary
from bench.commands.options import write_suite_report
from bench.graph.build import build_graph
from bench.launch import scheduler
from bench.launch.claims import release
from bench.launch.job import set_environment
from bench.launch.launches import Launch, jobs_of, open_launch
from bench.launch.slurm import submit_round
from bench.store.attempts import attempts_since
from bench.suite.resolve import load_suite


def finalize(folder: str, round: int, since: float) -> None:
    """End a round of the launch in `folder`. submitit calls this on a node. Attempts before `since` do not count."""
    launch = open_launch(Path(folder))
    set_environment(launch)
    with scheduler.outside():
        # If the finalizer was interrupted and runs again, it cancels the jobs that it had submitted, and submits anew.
        scheduler.cancel(job for job, _ in jobs_of(array for array in launch.arrays() if array.round > round))
        _log_deaths(launch, round, since)
    if again := worth_repeating(launch, since):
        print(summary(submit_round(launch, again, round + 1, since, finalize)), flush=True)
    else:
        _finish(launch)


def worth_repeating(launch: Launch, since: float) -> list[int]:
    """The stages without a record that have attempts left, and whose inputs have records or are repeated too."""
    found, most = attempts_since(launch.store, since), launch.about["site"]["attempts"]
    missing = launch.missing()
    given_up: set[str] = set()
    for number in missing:  # inputs come first
        stage = launch.stages[number]
        if found[stage.identity].over(most) or any(identity in given_up for _, identity in stage.inputs):
            given_up.add(stage.identity)
    return [number for number in missing if launch.stages[number].identity not in given_up]


def _log_deaths(launch: Launch, round: int, since: float) -> None:
    """Log a death for each attempt without an outcome, and for all stages of a job that never started."""
    found, queue = attempts_since(launch.store, since), scheduler.jobs()
    missing = set(launch.missing())
    started = {event.get("job") for event in launch.store.events() if event["time"] >= since}
    for job, numbers in jobs_of(array for array in launch.arrays() if array.round == round and not array.finalizer):
        unfinished = [launch.stages[number] for number in numbers if number in missing]
        died = [stage for stage in unfinished if found[stage.identity].running]
        state = queue[job].state if job in queue else "gone"
        for stage in died if died or job in started else unfinished:
            reason = f"ended without an error in job {job} ({state})"
            launch.store.log("death", *stage.key, title=stage.title, job=job, reason=reason)


def _finish(launch: Launch) -> None:
    """Write the report and end the launch, also if stages have no records."""
    found = attempts_since(launch.store)
    missing = [launch.stages[number].identity for number in launch.missing()]
    failed = [identity for identity in missing if found[identity].failure]
    for stage in launch.stages:
        release(launch.store, stage.key, launch.name)
    try:
        _report(launch)
    except Exception:
        traceback.print_exc()
    launch.end("incomplete" if missing else "complete", failed, set(missing) - set(failed))


def _report(launch: Launch) -> None:
    """Write the report of the suite as it was submitted."""
    os.chdir(launch.about["folder"])
    suite = load_suite(launch.suite_file, tuple(launch.about["overrides"]), Path(launch.about["file"]).parent)
    origin = {**launch.about["provenance"], "launch": launch.name}
    write_suite_report(suite, build_graph(suite), launch.store, origin)
