"""The Slurm launcher: stages as job arrays that wait for each other, and a finalizer that ends the launch.

Stages of one kind with the same resources and the same depth in the graph share an array; small ones share a job.
Arrays wait for the jobs of their inputs by `afterany`: a job checks for records, not for the exit codes of others. A
round is everything that is submitted at once. The finalizer runs after all other jobs of its round. It is a function
(folder of the launch, round, time since which attempts count) that the caller provides, and that submitit must be able
to import on a node.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.graph.stage import ALONE, Stage, stage_source
from bench.launch import scheduler
from bench.launch.claims import OtherLaunches, release, take
from bench.launch.launches import (
    JobArray,
    Launch,
    LaunchData,
    PlannedStage,
    StageKey,
    active_jobs,
    create,
    jobs_of,
    open_launch,
)
from bench.launch.site import Site, resources_for, submitit_parameters
from bench.launch.work import Order
from bench.models.weights import resolved
from bench.store.attempts import attempts_since
from bench.store.records import Store
from bench.suite.resources import Resources
from bench.suite.trial import Suite

OTHERS = 10  # most jobs of other launches that a finalizer waits for; it looks at the rest later

Finalizer = Callable[[str, int, float], None]
SlurmOptions = dict[str, Any]  # of submitit's SlurmExecutor.update_parameters


@dataclass(frozen=True)
class Submission:
    """An array to submit, with the stage numbers of each array task.

    `after`: earlier submissions of the round, by index, and jobs of other launches, by id, that it waits for.
    """

    name: str
    options: SlurmOptions
    array_tasks: list[list[int]]
    after: tuple[int | str, ...]
    finalizer: bool = False


def on_site(
    site: Site, suite: Suite, about: LaunchData, stages: Iterable[PlannedStage], todo: Iterable[Stage]
) -> tuple[LaunchData, list[PlannedStage]]:
    """The data of a launch on a site, and its stages with their tasks and resources."""

    def resources(kind: str, row: Mapping[str, Resources] | None = None) -> dict[str, Any]:
        return resources_for(kind, site, suite.file.resources, row).model_dump(mode="json")

    data = {**about, "on": "slurm", "site": site.model_dump(mode="json"), "finalizer": resources("report")}
    return data, [
        replace(
            planned,
            tasks=stage.context.get("execution", {}).get("processes", 1),
            resources=resources(stage.kind, suite.file.rows[stage.row].resources),
        )
        for planned, stage in zip(stages, todo, strict=True)
    ]


def launch_slurm(
    about: LaunchData, stages: list[PlannedStage], todo: Sequence[Stage], store: Store, finalizer: Finalizer
) -> Launch:
    """Submit the stages and return at once. Raises UserError, with no job left in the queue, if Slurm refuses."""
    _use_local_weights(todo)
    orders = [Order.of(stage) for stage in todo]
    environment = {name: value for name, value in os.environ.items() if name.startswith("VTB_")}
    launch = create(store, {**about, "environment": environment}, stages, orders)
    launch.suite_file.write_bytes(Path(about["file"]).read_bytes())
    submit_round(launch, range(len(stages)), 1, time.time(), finalizer)
    return launch


def _use_local_weights(stages: Iterable[Stage]) -> None:
    """Replace tags of pretrained weights by files, downloaded now if need be, because nodes may have no network."""
    file = cache(resolved)
    for stage in stages:
        if backbone := stage.spec.get("backbone"):  # class features from a file are read without a backbone
            stage.context = {**stage.context, "pretrained": file(backbone, stage.context["pretrained"]).value}


def resubmit(launch: Launch, finalizer: Finalizer) -> list[JobArray]:
    """Submit all stages without a record again, with new attempts. Raises UserError while jobs of the launch remain."""
    if active := active_jobs(launch.arrays(), scheduler.jobs()):
        hint = "wait for its end, or `cancel` it first"
        raise UserError(f"{len(active)} of its jobs run or will run", where=launch.name, hint=hint)
    numbers = launch.missing()
    again = f"python run_suite.py {launch.about['suite']} --on slurm"
    if not (launch.folder / "orders.jsonl").is_file():
        raise UserError("`gc` has removed files that its jobs need", where=launch.name, hint=again)
    if any(stage_source(order.kind, order.modules) != order.source for order in launch.orders(numbers).values()):
        raise UserError("the code has changed since the launch", where=launch.name, hint=again)
    launch.reopen()
    round = 1 + max((array.round for array in launch.arrays()), default=0)
    return submit_round(launch, numbers, round, time.time(), finalizer)


# --- a round ----------------------------------------------------------------------------------------------------------


def submit_round(
    launch: Launch, numbers: Iterable[int], round: int, since: float, finalizer: Finalizer
) -> list[JobArray]:
    """Submit these stages, except those that other launches carry out, and the finalizer.

    Attempts before `since` do not count. Raises UserError if Slurm refuses; then no job of the round stays.
    """
    wanted, done = list(numbers), list[JobArray]()
    try:
        own, others, later = _claim(launch, wanted)
        with scheduler.outside():
            submissions = plan_round(launch, own, others, since, bool(later))
            _check(launch, submissions)
            for each in submissions:
                job = _submit(launch, each, done, round, since, finalizer)
                array = JobArray(job, each.name, each.array_tasks, round, since, time.time(), each.finalizer)
                launch.add(array)
                done.append(array)
    except BaseException as error:
        scheduler.cancel(array.job for array in done)
        for number in wanted:
            release(launch.store, launch.stages[number].key, launch.name)
        launch.end("cancelled")
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        raise UserError(f"Slurm refused a job: {error}", where=launch.name) from error
    return done


def _claim(launch: Launch, numbers: Iterable[int]) -> tuple[list[int], dict[int, str], list[int]]:
    """(own stages, stages of other launches with the job to wait for, stages for a later round)."""
    alive = OtherLaunches(launch.store)
    own, later, others, waiting = list[int](), list[int](), dict[int, str](), set[str]()
    for number in numbers:  # inputs come first
        stage = launch.stages[number]
        inputs_wait = any(identity in waiting for _, identity in stage.inputs)
        holder = None if inputs_wait else take(launch.store, stage.key, launch.name, alive)
        job = _job_of(launch.store, holder, stage.key, alive.jobs(holder) or []) if holder else None
        if job:
            others[number] = job
        elif inputs_wait or holder:
            later.append(number)
            waiting.add(stage.identity)
        elif launch.store.done(*stage.key):  # another launch has finished it since this one was planned
            release(launch.store, stage.key, launch.name)
        else:
            own.append(number)
    return own, others, later


def _job_of(store: Store, holder: str, key: StageKey, active: list[str]) -> str | None:
    """The job of another launch to wait for a stage: its own, else the finalizer; None if not submitted yet."""
    other = open_launch(store.root / "launches" / holder)
    arrays = other.arrays()[::-1]
    finalizer = next((array.job for array in arrays if array.finalizer and array.job in active), None)
    own = (job for job, numbers in jobs_of(arrays) if any(other.stages[number].key == key for number in numbers))
    return finalizer and next((job for job in own if job in active), finalizer)


# --- submissions ------------------------------------------------------------------------------------------------------


def plan_round(
    launch: Launch, own: list[int], others: dict[int, str], since: float = 0.0, waits: bool = False, limit: int = 0
) -> list[Submission]:
    """The arrays of a round, inputs before the stages that need them, then the finalizer.

    `limit`: most tasks of an array, asked of Slurm by default; `waits`: stages are left for a later round.
    """
    site = Site.model_validate(launch.about["site"])
    limit = limit or site.max_array or scheduler.max_array()
    submissions: list[Submission] = []
    place: dict[str, int | str] = {launch.stages[number].identity: job for number, job in others.items()}
    tried = {identity for identity, attempts in attempts_since(launch.store, since).items() if attempts.spent}
    for numbers in _alike(launch, own):
        first = launch.stages[numbers[0]]
        name = f"{launch.about['suite']}-{first.kind}"
        options = submitit_parameters(Resources(**first.resources), first.tasks, name, site)
        array_tasks = _packed(launch, numbers, site, tried)
        for start in range(0, len(array_tasks), limit):
            part = array_tasks[start : start + limit]
            inputs = {identity for task in part for n in task for _, identity in launch.stages[n].inputs}
            after = {place[identity] for identity in inputs if identity in place}
            ordered = tuple(sorted(after, key=lambda each: (isinstance(each, str), each)))
            place |= {launch.stages[n].identity: len(submissions) for task in part for n in task}
            submissions.append(Submission(name, options, part, ordered))
    name = f"{launch.about['suite']}-report"
    options = submitit_parameters(Resources(**launch.about["finalizer"]), 1, name, site)
    waiting = sorted(set(others.values()))[:OTHERS]
    if waits and not submissions and not waiting:  # another launch is submitting; its jobs will soon be known
        options["additional_parameters"] = {**options["additional_parameters"], "begin": "now+60"}
    return [*submissions, Submission(name, options, [[]], (*range(len(submissions)), *waiting), finalizer=True)]


def _alike(launch: Launch, own: list[int]) -> list[list[int]]:
    """Groups of stages that can share an array: same depth, kind and resources; smaller depths first."""
    depth: dict[str, int] = {}
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number in own:
        stage = launch.stages[number]
        depth[stage.identity] = 1 + max((depth.get(identity, 0) for _, identity in stage.inputs), default=0)
        alike = (depth[stage.identity], stage.kind, stage.tasks, repr(sorted(stage.resources.items())))
        groups.setdefault(alike, []).append(number)
    return [groups[alike] for alike in sorted(groups)]


def _packed(launch: Launch, numbers: list[int], site: Site, tried: set[str]) -> list[list[int]]:
    """Stages by array task, the longest first.

    Stages that failed before, that have many tasks or that measure time do not share a job.
    """
    room = min(site.pack, launch.stages[numbers[0]].resources["time"] / 2) * 60.0
    array_tasks, filled = list[list[int]](), inf
    stages = {number: launch.stages[number] for number in numbers}
    for number, stage in sorted(
        stages.items(), key=lambda item: (item[1].identity in tried, -item[1].seconds, item[0])
    ):
        alone = stage.tasks > 1 or stage.kind in ALONE or stage.identity in tried
        if alone or filled + stage.seconds > room or len(array_tasks[-1]) >= site.pack_most:
            array_tasks.append([])
            filled = 0.0
        array_tasks[-1].append(number)
        filled = inf if alone else filled + stage.seconds
    return array_tasks


def _submit(
    launch: Launch, submission: Submission, before: list[JobArray], round: int, since: float, finalizer: Finalizer
) -> str:
    """Submit through submitit. Returns the job number."""
    from submitit import SlurmExecutor

    from bench.launch.job import run_array_task

    executor = SlurmExecutor(folder=launch.folder / "jobs", python=launch.about["site"]["python"])
    executor.update_parameters(**_options(submission, [array.job for array in before]))
    folder = str(launch.folder)
    if submission.finalizer:
        return str(executor.submit(finalizer, folder, round, since).job_id)
    count = len(submission.array_tasks)
    jobs = executor.map_array(run_array_task, [folder] * count, submission.array_tasks, [since] * count)
    return str(jobs[0].job_id).partition("_")[0]


def _options(submission: Submission, jobs: list[str]) -> SlurmOptions:
    """Options for submitit, with the dependency on earlier submissions, whose job numbers are `jobs`."""
    if not submission.after:
        return submission.options
    after = [jobs[each] if isinstance(each, int) else each for each in submission.after]
    more = {**submission.options["additional_parameters"], "dependency": "afterany:" + ":".join(after)}
    return {**submission.options, "additional_parameters": more}


def script(launch: Launch, submission: Submission, jobs: list[str]) -> str:
    """The batch script as submitit writes it."""
    from submitit.slurm.slurm import _make_sbatch_string

    python = launch.about["site"]["python"] or shlex.quote(sys.executable)
    count = len(submission.array_tasks)
    text: str = _make_sbatch_string(
        command=f"{python} -u -m submitit.core._submit {shlex.quote(str(launch.folder / 'jobs'))}",
        folder=launch.folder / "jobs",
        map_count=count if count > 1 else None,
        **_options(submission, jobs),
    )
    return text


def _check(launch: Launch, submissions: list[Submission]) -> None:
    """Raise UserError, before anything is submitted, if Slurm would refuse one of the submissions."""
    alike = {repr(submission.options): submission for submission in submissions}
    for submission in alike.values():
        scheduler.check(script(launch, replace(submission, after=()), []))
