"""The launcher for Slurm: stages as arrays of jobs that wait for each other, and one more job that closes the launch.

Stages of a kind that ask for the same resources, and that are equally deep in the graph, share an array; small ones
share a job. Arrays wait for the jobs of their inputs by `afterany`: a job looks for records, not for how others ended.
A round is what is submitted at once. The closing job (bench/commands/finalizer.py) runs when all others are gone; it
submits another round of what was lost, or writes the report.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.graph.stage import ALONE, Stage, stage_source
from bench.launch import scheduler
from bench.launch.launches import (
    Jobs,
    Launch,
    Planned,
    create,
    launch_folders,
    open_launch,
    release,
    submitted,
    take,
)
from bench.launch.site import Site, resources_for, submitit_parameters
from bench.launch.work import Order
from bench.store.attempts import histories
from bench.store.records import Store
from bench.suite.resources import Resources
from bench.suite.trial import Suite

Part = dict[str, Any]

SUBMITTING = 600.0  # seconds that a launch without jobs is believed to be still at it
CLAIMED_ELSEWHERE = 10  # jobs of other launches that a closing job waits for, at most; the rest it looks at later


@dataclass(frozen=True)
class Batch:
    """An array to submit: numbers of stages by element, the batches it waits for, and jobs of other launches."""

    name: str
    parameters: Part
    elements: list[list[int]]
    after: tuple[int, ...]
    others: tuple[str, ...] = ()
    closing: bool = False


def planned(
    suite: Suite, todo: Iterable[Stage], estimates: dict[str, float], site: Site, about: Part
) -> tuple[Part, list[Planned]]:
    """What a launch is about, and its stages with what their jobs ask for."""
    stages = []
    for stage in todo:
        row = suite.file.rows[stage.row].resources
        resources = resources_for(stage.kind, site, suite.file.resources, row).model_dump(mode="json")
        tasks = stage.context.get("execution", {}).get("processes", 1)
        inputs = tuple(other.key for other in stage.inputs.values())
        stages.append(Planned(*stage.key, stage.title, inputs, estimates[stage.identity], tasks, resources))
    closing = resources_for("report", site, suite.file.resources).model_dump(mode="json")
    return {**about, "on": "slurm", "site": site.model_dump(mode="json"), "closing": closing}, stages


def launch_slurm(about: Part, stages: list[Planned], todo: Sequence[Stage], store: Store) -> Launch:
    """Submit the stages and return at once. Raises UserError, with nothing left in the queue, if Slurm refuses."""
    orders = [Order.of(stage) for stage in _with_local_weights(todo)]
    environment = {name: value for name, value in os.environ.items() if name.startswith("VTB_")}
    launch = create(store, {**about, "environment": environment}, stages, orders)
    launch.suite_file.write_bytes(Path(about["file"]).read_bytes())
    submit_round(launch, range(len(stages)), 1, time.time())
    return launch


def _with_local_weights(stages: Sequence[Stage]) -> list[Stage]:
    """Stages whose pretrained weights are files that nodes can read without a network, fetched here if need be."""
    from bench.models.weights import resolved

    found = {
        (backbone, pretrained): resolved(backbone, pretrained).value
        for backbone, pretrained in {(stage.spec["backbone"], stage.context["pretrained"]) for stage in stages}
    }
    for stage in stages:
        stage.context = {
            **stage.context,
            "pretrained": found[stage.spec["backbone"], stage.context["pretrained"]],
        }
    return list(stages)


def resubmit(launch: Launch) -> list[Jobs]:
    """Another round of all that has no record, with all attempts anew. Raises UserError if jobs are still to come."""
    known = scheduler.jobs()
    if active := [job for jobs in launch.jobs() for job in scheduler.active(known, jobs.ids())]:
        hint = "wait for its end, or `cancel` it first"
        raise UserError(f"{len(active)} of its jobs run or will run", where=launch.name, hint=hint)
    numbers = launch.lacking()
    again = f"python run_suite.py {launch.about['suite']} --on slurm"
    if not (launch.folder / "orders.jsonl").is_file():
        raise UserError("`gc` has removed what its jobs need", where=launch.name, hint=again)
    if any(stage_source(order.kind, order.modules) != order.source for order in launch.orders(numbers).values()):
        raise UserError("the code has changed since, and so has what its stages mean", where=launch.name, hint=again)
    launch.reopen()
    return submit_round(launch, numbers, 1 + max((jobs.round for jobs in launch.jobs()), default=0), time.time())


# --- a round ----------------------------------------------------------------------------------------------------------


def submit_round(launch: Launch, numbers: Iterable[int], number: int, since: float) -> list[Jobs]:
    """Submit these stages as far as no other launch is at them, and a closing job; what was submitted.

    Attempts before `since` do not count. Raises UserError if Slurm refuses; then nothing of the round stays.
    """
    wanted, done = list(numbers), list[Jobs]()
    try:
        own, others, later = _claim(launch, wanted)
        with scheduler.outside():
            batches = plan_round(launch, own, others, since, bool(later))
            _check(launch, batches)
            for batch in batches:
                jobs = Jobs(
                    _submit(launch, batch, done, number, since),
                    *(batch.name, batch.elements, number, since, time.time(), batch.closing),
                )
                launch.add(jobs)
                done.append(jobs)
    except BaseException as error:
        scheduler.cancel(jobs.job for jobs in done)
        for stage in wanted:
            release(launch.store, launch.stages[stage].key, launch.name)
        launch.end("cancelled")
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        raise UserError(f"Slurm did not take a job: {error}", where=launch.name) from error
    return done


def _claim(launch: Launch, numbers: Iterable[int]) -> tuple[list[int], dict[int, str], list[int]]:
    """(stages that this launch carries out, stages of others with the job to wait for, stages that have to wait)."""
    alive = _Others(launch)
    own: list[int] = []
    others: dict[int, str] = {}
    later: list[int] = []
    for number in numbers:
        key = launch.stages[number].key
        holder = take(launch.store, key, launch.name, alive)
        if holder is not None:
            if job := _job_of(launch.store, holder, key, alive.active[holder]):
                others[number] = job
            else:
                later.append(number)
        elif launch.store.done(*key):  # another launch has finished it since this one was planned
            release(launch.store, key, launch.name)
        else:
            own.append(number)
    waiting = {launch.stages[number].identity for number in later}
    for number in list(own):  # inputs come first, so one pass finds all that follows from them
        if any(identity in waiting for _, identity in launch.stages[number].inputs):
            waiting.add(launch.stages[number].identity)
            own.remove(number)
            later.append(number)
            release(launch.store, launch.stages[number].key, launch.name)
    return own, others, later


class _Others:
    """Other launches that go on, with their active jobs. It looks again for one it does not know, which may be new."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.active = _alive(launch)
        self.over: set[str] = set()

    def __contains__(self, name: object) -> bool:
        if name not in self.active and name not in self.over:
            self.active = _alive(self.launch)
            self.over |= {str(name)} - set(self.active)
        return name in self.active


def _alive(launch: Launch) -> dict[str, list[str]]:
    """Other launches that go on, with their active jobs. One without jobs is about to submit some."""
    others = {
        folder: submitted(folder)
        for folder in launch_folders(launch.store)
        if folder != launch.folder and not (folder / "ended.json").is_file() and (folder / "orders.jsonl").is_file()
    }
    known = scheduler.jobs({folder.owner() for folder in others})  # asked after that, it knows all these jobs
    found = {}
    for folder, jobs in others.items():
        if active := scheduler.active(known, [identifier for job in jobs for identifier in job.ids()]):
            found[folder.name] = active
        elif submitted(folder) != jobs or (
            not any(job.closing for job in jobs) and time.time() - folder.stat().st_mtime < SUBMITTING
        ):
            found[folder.name] = []
    return found


def _job_of(store: Store, holder: str, key: tuple[str, str], active: list[str]) -> str | None:
    """The job of another launch after which a stage of its is decided; None if it has not submitted it yet."""
    other = open_launch(store.root / "launches" / holder)
    for jobs in reversed(other.jobs()):
        if jobs.closing and jobs.job in active:
            closing = jobs.job
            break
    else:
        return None
    for jobs in reversed(other.jobs()):
        for identifier, numbers in zip(jobs.ids(), jobs.elements, strict=True):
            if identifier in active and any(other.stages[number].key == key for number in numbers):
                return identifier
    return closing


# --- what is submitted ------------------------------------------------------------------------------------------------


def plan_round(
    launch: Launch, own: list[int], others: dict[int, str], since: float = 0.0, waits: bool = False, limit: int = 0
) -> list[Batch]:
    """The arrays of a round, inputs before what needs them, and the closing job. `limit`: elements of an array."""
    site = Site.model_validate(launch.about["site"])
    limit = limit or site.max_array or scheduler.max_array()
    batches: list[Batch] = []
    batch_of: dict[str, int] = {}  # identity -> its batch
    elsewhere = {launch.stages[number].identity: job for number, job in others.items()}
    tried = {identity for identity, history in histories(launch.store, since).items() if history.spent}
    for numbers in _alike(launch, own):
        first = launch.stages[numbers[0]]
        name = f"{launch.about['suite']}-{first.kind}"
        parameters = submitit_parameters(Resources(**first.resources), first.tasks, name, site)
        elements = _packed(launch, numbers, site, tried)
        for start in range(0, len(elements), limit):
            part = elements[start : start + limit]
            inputs = {identity for element in part for n in element for _, identity in launch.stages[n].inputs}
            after = tuple(sorted({batch_of[identity] for identity in inputs if identity in batch_of}))
            waiting = tuple(sorted({elsewhere[identity] for identity in inputs if identity in elsewhere}))
            batches.append(Batch(name, parameters, part, after, waiting))
            batch_of |= {launch.stages[n].identity: len(batches) - 1 for element in part for n in element}
    resources = Resources(**launch.about["closing"])
    name = f"{launch.about['suite']}-report"
    parameters = submitit_parameters(resources, 1, name, site)
    everything = tuple(range(len(batches)))
    waiting = tuple(sorted(set(elsewhere.values())))[:CLAIMED_ELSEWHERE]
    if waits and not batches and not waiting:  # another launch is just submitting; its jobs will be known soon
        parameters["additional_parameters"] = {**parameters["additional_parameters"], "begin": "now+60"}
    return [*batches, Batch(name, parameters, [[]], everything, waiting, closing=True)]


def _alike(launch: Launch, own: list[int]) -> list[list[int]]:
    """Stages that can share an array: of a depth, a kind and resources; the least deep first."""
    depth: dict[str, int] = {}
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number in own:
        stage = launch.stages[number]
        depth[stage.identity] = 1 + max((depth.get(identity, 0) for _, identity in stage.inputs), default=0)
        alike = (depth[stage.identity], stage.kind, stage.tasks, repr(sorted(stage.resources.items())))
        groups.setdefault(alike, []).append(number)
    return [groups[alike] for alike in sorted(groups)]


def _packed(launch: Launch, numbers: list[int], site: Site, tried: set[str]) -> list[list[int]]:
    """Stages by job, the longest first. A job of its own has what has failed before, has many tasks, measures time."""
    stages = launch.stages
    room = min(site.pack, stages[numbers[0]].resources["time"] / 2) * 60.0
    elements: list[list[int]] = []
    filled = room
    for number in sorted(numbers, key=lambda n: (stages[n].identity in tried, -stages[n].seconds, n)):
        alone = stages[number].tasks > 1 or stages[number].kind in ALONE or stages[number].identity in tried
        full = not elements or filled + stages[number].seconds > room or len(elements[-1]) >= site.pack_most
        if alone or full:
            elements.append([])
            filled = 0.0
        elements[-1].append(number)
        filled = room if alone else filled + stages[number].seconds
    return elements


def _submit(launch: Launch, batch: Batch, before: list[Jobs], number: int, since: float) -> str:
    """Hand a batch to Slurm through submitit; its job number."""
    from submitit import SlurmExecutor

    from bench.commands.finalizer import close
    from bench.launch.job import run_element

    executor = SlurmExecutor(folder=launch.folder / "jobs", python=launch.about["site"]["python"])
    executor.update_parameters(**_parameters(batch, [jobs.job for jobs in before]))
    folder = str(launch.folder)
    if batch.closing:
        return str(executor.submit(close, folder, number, since).job_id)
    count = len(batch.elements)
    jobs = executor.map_array(run_element, [folder] * count, batch.elements, [since] * count)
    return str(jobs[0].job_id).partition("_")[0]


def _parameters(batch: Batch, identifiers: list[str]) -> Part:
    """What submitit is told, with the jobs that have to end first."""
    after = [*(identifiers[index] for index in batch.after), *batch.others]
    if not after:
        return batch.parameters
    dependency = {"dependency": "afterany:" + ":".join(after)}
    return {**batch.parameters, "additional_parameters": {**batch.parameters["additional_parameters"], **dependency}}


def script(launch: Launch, batch: Batch, identifiers: list[str]) -> str:
    """The batch script as submitit writes it."""
    from submitit.slurm.slurm import _make_sbatch_string

    python = launch.about["site"]["python"] or shlex.quote(sys.executable)
    count = len(batch.elements)
    text: str = _make_sbatch_string(
        command=f"{python} -u -m submitit.core._submit {shlex.quote(str(launch.folder / 'jobs'))}",
        folder=launch.folder / "jobs",
        map_count=count if count > 1 else None,
        **_parameters(batch, identifiers),
    )
    return text


def _check(launch: Launch, batches: list[Batch]) -> None:
    """Raises UserError, before anything is submitted, if Slurm would refuse one of the batches."""
    alike = {repr(batch.parameters): batch for batch in batches}
    for batch in alike.values():
        scheduler.check(script(launch, replace(batch, after=(), others=()), []))


def preview(about: Part, stages: list[Planned], store: Store) -> list[str]:
    """The scripts that would be submitted, as `--dry-run` shows them. Nothing is written and Slurm is not asked."""
    launch = Launch(store.root / "launches" / "<launch>", about, tuple(stages))
    limit = about["site"]["max_array"] or scheduler.DEFAULT_MAX_ARRAY
    batches = plan_round(launch, list(range(len(stages))), {}, limit=limit)
    names = [f"<{index}: {batch.name}>" for index, batch in enumerate(batches, start=1)]
    return [
        f"# {names[index]}: {_described(batch)}\n{script(launch, batch, names)}" for index, batch in enumerate(batches)
    ]


def _described(batch: Batch) -> str:
    if batch.closing:
        return "resubmits what was lost, or writes the report"
    stages = sum(map(len, batch.elements))
    return f"{_number(stages, 'stage')} in {_number(len(batch.elements), 'job')}"


def summary(done: list[Jobs]) -> str:
    """What was submitted, in words."""
    arrays = [jobs for jobs in done if not jobs.closing]
    jobs, stages = sum(len(a.elements) for a in arrays), sum(len(e) for a in arrays for e in a.elements)
    size = f"{_number(stages, 'stage')} in {_number(jobs, 'job')} ({_number(len(arrays), 'array')})"
    return f"{size}, closed by job {done[-1].job}"


def _number(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'s' * (count != 1)}"
