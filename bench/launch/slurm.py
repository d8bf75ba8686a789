"""Launches on Slurm: what can start is submitted as job arrays, and what died is submitted again.

`Dispatcher` does both. The command that launches a suite lets it submit what can start at once; from then on the driver
does, a job that looks at the store and the queue every few seconds (`bench/commands/driver.py`). All that a dispatcher
knows comes from there, so a driver may be killed at any moment: the next one goes on. A driver's job is a function
(folder of the launch, time since which attempts count) that the caller provides, and that submitit must be able to
import on a node.

Ready stages of one kind with the same resources share an array; small ones share a job, and so do a training and what
needs only its record. Nothing waits for other jobs in the queue, because stages are submitted when their inputs have
records, or will have them in the same job.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.graph.stage import ALONE, Stage
from bench.launch import scheduler
from bench.launch.claims import Claims, release_all
from bench.launch.code import environment
from bench.launch.failures import out_of_memory
from bench.launch.launches import JobArray, Launch, LaunchData, PlannedStage, active_jobs, create, jobs_of, stage_jobs
from bench.launch.schedule import Schedule
from bench.launch.scheduler import QueuedJob
from bench.launch.site import Site, driver_resources, enlarged, resources_for, submitit_parameters
from bench.launch.work import Order
from bench.models.weights import resolved
from bench.store.attempts import Attempts, attempts_since
from bench.store.records import Store
from bench.suite.resources import Resources
from bench.suite.trial import Suite
from bench.suite.yaml_lines import Where

SETTLE = 5.0  # seconds after a job's end in which its last files may still come to be seen

Drive = Callable[[str, float], None]
SlurmOptions = dict[str, Any]  # of submitit's SlurmExecutor.update_parameters


@dataclass(frozen=True)
class Submission:
    """An array to submit, with the stage numbers of each array task; or the driver, with none."""

    name: str
    options: SlurmOptions
    array_tasks: list[list[int]]
    driver: bool = False


def on_site(
    site: Site, place: Where, suite: Suite, about: LaunchData, stages: Iterable[PlannedStage], todo: Sequence[Stage]
) -> tuple[LaunchData, list[PlannedStage]]:
    """The data of a launch on a site, and its stages with their tasks and resources.

    Raises UserError for what no job can have, where it is set: in a row, in the suite, or in the site (`place`).
    """
    of_suite = suite.file.resources

    @cache
    def resources(kind: str, row: str = "", tasks: int = 1) -> dict[str, Any]:
        of_row = suite.file.rows[row].resources if row else {}
        layers = ((of_row, suite.where, ("rows", row)), (of_suite, suite.where, ()), (site.resources, place, ()))

        def where_set(key: str, *names: str) -> str:
            of = ((own, name, at, above) for own, at, above in layers for name in names if name in own)
            found = (at((*above, "resources", name, key)) for own, name, at, above in of if getattr(own[name], key))
            return next(found, "")

        try:
            driver, alone = kind == "driver", kind in (*ALONE, "driver") or tasks > 1
            asked = driver_resources(site, of_suite) if driver else resources_for(kind, site, of_suite, of_row)
            if alone and (asked.slots or 1) > 1 and (where := where_set("slots", kind)):
                what = f"a job of {kind} has no slots" + f", with recipe.processes={tasks}" * (tasks > 1)
                raise UserError(what, where=where, hint="leave them out; slots: 1 undoes those of another place")
            submitit_parameters(asked, tasks, kind, site)
        except UserError as error:
            where = where_set(error.where.rpartition(".")[2], kind, "all")
            raise error.at(where or place(("signal",))) from error
        return asked.model_dump(mode="json")

    data = {**about, "on": "slurm", "site": site.model_dump(mode="json"), "driver": resources("driver")}
    tasks = (stage.context.get("execution", {}).get("processes", 1) for stage in todo)
    each = zip(stages, todo, tasks, strict=True)
    return data, [replace(own, tasks=n, resources=resources(stage.kind, stage.row, n)) for own, stage, n in each]


def create_on_slurm(about: LaunchData, stages: list[PlannedStage], todo: Sequence[Stage], store: Store) -> Launch:
    """Make a launch on Slurm, with all that its jobs need. Nothing is submitted yet."""
    if "%" in str(store.root):
        raise UserError("has a % in it, which Slurm replaces in names of output files", where=f"--store {store.root}")
    _use_local_weights(todo)
    orders = [Order.of(stage) for stage in todo]
    return create(store, about, stages, orders, Path(about["file"]))


def _use_local_weights(stages: Iterable[Stage]) -> None:
    """Replace tags of pretrained weights by files, downloaded now if need be, because nodes may have no network."""
    file = cache(resolved)
    for stage in stages:
        if backbone := stage.spec.get("backbone"):  # class features from a file are read without a backbone
            stage.context = {**stage.context, "pretrained": file(backbone, stage.context["pretrained"]).value}


def begin(launch: Launch, drive: Drive | None) -> list[JobArray]:
    """Submit what can start, and a driver, if one is given. Raises UserError, with no job left, if one is refused."""
    arrays = list[JobArray]()
    try:
        check(launch)
        arrays += (dispatcher := Dispatcher(launch)).submit()
        if dispatcher.refused:
            raise UserError(dispatcher.refused, where=launch.name)
        if drive:
            arrays += submit_drivers(launch, drive, launch.about["created"])
    except BaseException as error:
        scheduler.cancel(array.job for array in launch.arrays())
        release_all(launch)
        launch.end("cancelled")
        if not launch.arrays():  # nothing was submitted, so nothing is left of it
            shutil.rmtree(launch.folder)
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        raise UserError(f"Slurm refused a job: {error}", where=launch.name) from error
    return arrays


def reopen(launch: Launch) -> float:
    """Open a launch again. Returns the time since which attempts count; one that had ended gets new attempts.

    Raises UserError while a driver goes on.
    """
    queue = scheduler.jobs()
    if lives := active_jobs((array for array in launch.arrays() if array.driver), queue):
        hint = "wait for the end of the launch, or `cancel` it first"
        raise UserError(f"its driver goes on: job {lives[0]} ({queue[lives[0]].state})", where=launch.name, hint=hint)
    if not (launch.folder / "orders.jsonl").is_file():
        raise UserError("`gc` has removed files that its jobs need", where=launch.name, hint=launch.command)
    check(launch)
    since = time.time() if launch.ended() else launch.since
    launch.reopen()
    return since


# --- the dispatcher ---------------------------------------------------------------------------------------------------


class Dispatcher:
    """Submits the stages of a launch that can start, and learns what became of them.

    Attempts before `since` do not count, nor do deaths that are seen before the time `excused`, because the store was
    away. `refused`: what Slurm said if it did not take all jobs at the last submission.
    """

    def __init__(self, launch: Launch, since: float = 0.0, excused: float = 0.0) -> None:
        self.launch, self.store, self.excused = launch, launch.store, excused
        self.site = Site.model_validate(launch.about["site"])
        self.since = since or launch.about["created"]
        self.refused = ""
        self._numbers = {stage.identity: number for number, stage in enumerate(launch.stages)}
        self._gone = dict[str, float]()  # job that has ended -> when that was seen first
        self._jobs = dict[str, tuple[str, JobArray]]()  # identity of a stage -> its latest job
        for array in stage_jobs(launch.arrays()):
            self._note(array)
        claims = Claims(self.store, launch.name)
        self.schedule = Schedule(launch.stages, self.store, claims, beside=True)
        self.schedule.resume(lambda stage: stage.identity in self._jobs and claims.mine(stage.key))

    def _note(self, array: JobArray) -> None:
        stages = self.launch.stages
        self._jobs |= {stages[n].identity: (job, array) for job, numbers in array.jobs().items() for n in numbers}

    @property
    def going_on(self) -> bool:
        """True if a stage runs, or waits for another launch."""
        return bool(self.schedule.running or self.schedule.waiting)

    # --- what became of the jobs ---

    def look(self, queue: dict[str, QueuedJob]) -> list[str]:
        """Note the end of running stages; those that may be tried again are ready again. Returns what to say of it."""
        self.schedule.look_again()
        known = {kind: self.store.known(kind) for kind in {stage.kind for stage in self.schedule.running.values()}}
        found, over = self._attempts(), list[PlannedStage]()
        begun = {attempts.start.get("job") for attempts in found.values() if attempts.start}
        running = sorted(self.schedule.running.values(), key=lambda own: self._numbers[own.identity])
        for stage in running:  # inputs first
            if stage.identity in known[stage.kind] and self.store.done(*stage.key):
                self.schedule.finish(stage, None)
            elif self._is_over(stage, found[stage.identity], queue, begun):
                over.append(stage)
        found = self._attempts() if over else found  # with the deaths that were logged
        return list(filter(None, (self._over(stage, found[stage.identity]) for stage in over)))

    def _is_over(
        self, stage: PlannedStage, attempts: Attempts, queue: dict[str, QueuedJob], begun: set[str | None]
    ) -> bool:
        """True if the attempt at a stage has ended without a record; a death without a word is logged."""
        job, array = self._jobs[stage.identity]
        if job in queue and queue[job].active:
            self._gone.pop(job, None)
            return attempts.broke(array.time)  # its job goes on with other stages
        if time.monotonic() - self._gone.setdefault(job, time.monotonic()) < SETTLE:
            return False
        state = queue[job].state if job in queue else "gone"
        last = attempts.last and attempts.last["time"] >= array.time
        if attempts.running or (not (last or job in begun) and self.schedule.startable(stage)):
            reason = f"ended without an error in job {job} ({state})"
            state = "OUT_OF_MEMORY" if out_of_memory(self.launch.folder / "jobs", job, state) else state
            fault: dict[str, Any] = {"machine": True} if time.time() < self.excused else {}
            self.store.log("death", *stage.key, title=stage.title, job=job, reason=reason, state=state, **fault)
        return True

    def _over(self, stage: PlannedStage, attempts: Attempts) -> str:
        if attempts.over(self.site.attempts, stage.grows):
            reason = str((attempts.failure or {}).get("reason", "it has no attempts left"))
            self.schedule.finish(stage, reason)
            return f"{stage.title}: failed: {reason.splitlines()[-1] if reason else ''}"
        if not self.schedule.startable(stage):
            self.schedule.put_back(stage)
            return ""  # it was to follow another
        self.schedule.repeat(stage)
        return f"{stage.title}: {(attempts.last or {}).get('event', 'not started')}, will be tried again"

    # --- what can start ---

    def submit(self) -> list[JobArray]:
        """Submit what is ready, as far as the site lets it run at once."""
        self.refused, own = "", list[int]()
        busy = {self._jobs[identity][0] for identity in self.schedule.running}  # before what died starts again
        room = self.site.parallel - len(busy) if self.site.parallel else sys.maxsize
        attempts = self._attempts()
        while stage := self.schedule.start():
            found = attempts[stage.identity]
            if not found.over(self.site.attempts, stage.grows) and self._has_no_room(stage, found):
                found = self._attempts()[stage.identity]
            if found.over(self.site.attempts, stage.grows):
                self._over(stage, found)
            else:
                own.append(self._numbers[stage.identity])
        following = {number: self._following(self.launch.stages[number], attempts) for number in own}
        submitted = list[JobArray]()
        for each in arranged(self.launch, own, self.site, attempts, scheduler.max_array, following) if own else ():
            taken = self._submit(each, room) if room > 0 and not self.refused else 0
            submitted += self.launch.arrays()[-1:] if taken else ()
            room -= taken
            for number in (number for task in each.array_tasks[taken:] for number in task):
                self.schedule.put_back(self.launch.stages[number])
        return submitted

    def _attempts(self) -> Mapping[str, Attempts]:
        """The attempts that count; memory that ran out before a retry is remembered, so that it grows on from there."""
        return attempts_since(self.store, self.since, self.launch.about["created"])

    def _following(self, first: PlannedStage, attempts: Mapping[str, Attempts]) -> list[int]:
        """Start small stages that need only the record of a training, to be carried out behind it in its job."""
        if first.kind != "train" or attempts[first.identity].spent:
            return []
        choose = Followers(first, self.site)
        found = self.schedule.follow(first, lambda own: not attempts[own.identity].spent and choose(own))
        return [self._numbers[own.identity] for own in found]

    def _has_no_room(self, stage: PlannedStage, attempts: Attempts) -> bool:
        """True, after a failure is logged, if memory ran out and the stage may not ask for more."""
        try:
            enlarged(Resources(**stage.resources), attempts, stage.kind)
        except UserError as error:
            self.store.log("failure", *stage.key, title=stage.title, reason=str(error), final=True)
            return True
        return False

    def _submit(self, submission: Submission, room: int) -> int:
        """Submit as many array tasks as there is room for. Returns their number; 0 if Slurm refuses."""
        from submitit.core.utils import FailedJobError

        part = replace(submission, array_tasks=submission.array_tasks[:room])
        try:
            with scheduler.outside():
                job = _submit(self.launch, part, self.since)
        except (UserError, FailedJobError, OSError) as error:
            self.refused = str(error)
            return 0
        array = JobArray(job, part.name, part.array_tasks, self.since, time.time())
        self.launch.add(array)
        self._note(array)
        return len(part.array_tasks)


# --- submissions ------------------------------------------------------------------------------------------------------


class Followers:
    """Chooses stages that the job of a first one may carry out behind it: what suits them, and together are small."""

    def __init__(self, first: PlannedStage, site: Site) -> None:
        self.first, self.left, self.room = first, site.pack_most - 1, site.pack * 60.0

    def __call__(self, stage: PlannedStage) -> bool:
        anyhow = dict.fromkeys(("time", "memory_limit", "slots"))  # may differ
        names = ("cpus", "gpus", "memory")
        most, needed = ({name: own.resources.get(name) or 0 for name in names} for own in (self.first, stage))
        suits = {**self.first.resources, **most, **anyhow} == {**stage.resources, **most, **anyhow}
        suits = suits and all(needed[name] <= own for name, own in most.items())
        suits = suits and bool(needed["memory"]) == bool(most["memory"])  # none: as much as Slurm gives
        alone = stage.kind in ALONE or self.first.tasks > 1 or stage.tasks > 1
        if alone or not suits or stage.seconds > self.room or not self.left:
            return False
        self.left, self.room = self.left - 1, self.room - stage.seconds
        return True


def arranged(
    launch: Launch,
    numbers: Iterable[int],
    site: Site,
    attempts: Mapping[str, Attempts] | None = None,
    limit: Callable[[], int] = lambda: scheduler.DEFAULT_MAX_ARRAY,
    following: Mapping[int, list[int]] | None = None,
) -> list[Submission]:
    """Stages as arrays: those of one kind with the same resources share one, as large as the site lets it be.

    `following`: by stage, those that its job carries out behind it.
    """
    following = following or {}
    most = site.max_array or limit()
    tried = {identity for identity, found in (attempts or {}).items() if found.spent}
    of = defaultdict(Attempts, attempts or {})
    groups: dict[tuple[str, int, Resources], list[int]] = {}
    for number in numbers:
        stage = launch.stages[number]
        resources = enlarged(Resources(**stage.resources), of[stage.identity], stage.kind)
        groups.setdefault((stage.kind, stage.tasks, resources), []).append(number)
    submissions = list[Submission]()
    for (kind, tasks, resources), members in groups.items():
        name = f"{launch.about['suite']}-{kind}"
        options = _options(launch, resources, tasks, name, site)
        packed = _packed(launch, members, site, tried, following)
        array_tasks = [[n for own in task for n in (own, *following.get(own, ()))] for task in packed]
        parts = (array_tasks[start : start + most] for start in range(0, len(array_tasks), most))
        submissions += [Submission(name, options, part) for part in parts]
    return submissions


def _packed(
    launch: Launch, numbers: list[int], site: Site, tried: set[str], following: Mapping[int, list[int]]
) -> list[list[int]]:
    """Stages by array task, the longest first, with the time of those that follow.

    Stages that failed before, that have many tasks or that measure time do not share a job. Others fill its slots.
    """
    slots = Resources(**launch.stages[numbers[0]].resources).side_by_side
    room = min(site.pack, launch.stages[numbers[0]].resources["time"] / 2) * 60.0 * slots
    stages = {number: launch.stages[number] for number in numbers}
    seconds = {n: sum(launch.stages[own].seconds for own in (n, *following.get(n, ()))) for n in numbers}
    array_tasks, filled, count, bundles = list[list[int]](), inf, 0, slots  # of the last one: seconds, stages, bundles
    for number, stage in sorted(stages.items(), key=lambda own: (own[1].identity in tried, -seconds[own[0]], own[0])):
        alone = stage.tasks > 1 or stage.kind in ALONE or stage.identity in tried
        own = 1 + len(following.get(number, ()))
        full = bundles >= slots and filled + seconds[number] > room
        if alone or full or count + own > site.pack_most:
            array_tasks.append([])
            filled, count, bundles = 0.0, 0, 0
        array_tasks[-1].append(number)
        filled, count, bundles = (inf, count, slots) if alone else (filled + seconds[number], count + own, bundles + 1)
    return array_tasks


def submit_drivers(launch: Launch, drive: Drive, since: float) -> list[JobArray]:
    """Submit a driver and its successor, so that also one that ends as it starts is followed."""
    first = submit_driver(launch, drive, since)
    return [first, submit_driver(launch, drive, since, after(first.job), memory=2.0)]


def after(job: str) -> SlurmOptions:
    """The option of a driver that begins when a job has ended, whatever ended it."""
    return {"dependency": f"afterany:{job}"}


def submit_driver(
    launch: Launch, drive: Drive, since: float, options: SlurmOptions | None = None, memory: float = 1.0
) -> JobArray:
    """Submit a driver with options of sbatch on top of its own, and so many times the memory that it asks for."""
    with scheduler.outside():
        submission = driver_submission(launch, options or {}, memory)
        job = _submit(launch, submission, since, drive)
    array = JobArray(job, submission.name, [[]], since, time.time(), driver=True)
    launch.add(array)
    return array


def driver_submission(launch: Launch, more: SlurmOptions | None = None, memory: float = 1.0) -> Submission:
    """The driver's job."""
    site, resources = Site.model_validate(launch.about["site"]), Resources(**launch.about["driver"])
    if resources.memory:
        resources = resources.model_copy(update={"memory": round(resources.memory * memory)})
    name = f"{launch.about['suite']}-driver"
    options = _options(launch, resources, 1, name, site)
    options["additional_parameters"] |= more or {}
    return Submission(name, options, [[]], driver=True)


def _options(launch: Launch, resources: Resources, tasks: int, name: str, site: Site) -> SlurmOptions:
    """Options for submitit. A job has its launch as its comment, by which it is found in the queue, and its code."""
    options = submitit_parameters(resources, tasks, name, site)
    code = environment(launch.code) if launch.code else {}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in code.items()]
    return {**options, "comment": launch.name, "setup": [*options["setup"], *exports]}


def _submit(launch: Launch, submission: Submission, since: float, drive: Drive | None = None) -> str:
    """Submit through submitit. Returns the job number."""
    from submitit import SlurmExecutor

    from bench.launch.job import run_array_task

    executor = SlurmExecutor(folder=launch.folder / "jobs", python=launch.about["site"]["python"])
    executor.update_parameters(**submission.options)
    folder = str(launch.folder)
    if drive:
        return str(executor.submit(drive, folder, since).job_id)
    count = len(submission.array_tasks)
    jobs = executor.map_array(run_array_task, [folder] * count, submission.array_tasks, [since] * count)
    return str(jobs[0].job_id).partition("_")[0]


def script(launch: Launch, submission: Submission) -> str:
    """The batch script as submitit writes it."""
    from submitit.slurm.slurm import _make_sbatch_string

    python = launch.about["site"]["python"] or shlex.quote(sys.executable)
    count = len(submission.array_tasks)
    text: str = _make_sbatch_string(
        command=f"{python} -u -m submitit.core._submit {shlex.quote(str(launch.folder / 'jobs'))}",
        folder=launch.folder / "jobs",
        map_count=count if count > 1 else None,
        **submission.options,
    )
    return text


def check(launch: Launch) -> None:
    """Raise UserError, before anything is submitted, if Slurm would refuse a job of any stage, or the driver."""
    site = Site.model_validate(launch.about["site"])
    submissions = [*arranged(launch, range(len(launch.stages)), site), driver_submission(launch)]
    for submission in {repr(submission.options): submission for submission in submissions}.values():
        try:
            scheduler.check(script(launch, replace(submission, array_tasks=submission.array_tasks[:1])))
        except UserError as error:
            if isinstance(error.__cause__, FileNotFoundError):  # there is no Slurm
                raise
            kind = submission.name.rpartition("-")[2]
            first = None if submission.driver else launch.stages[submission.array_tasks[0][0]]
            asked = Resources(**(first.resources if first else launch.about["driver"])).written()
            told = ", ".join(f"{key}: {own}" for key, own in asked.items())
            hint = f"{first.title if first else kind} asks for {told}"
            what = f"Slurm refuses jobs of {kind}: {error.what}"
            raise UserError(what, where=f"resources: {kind}", hint=hint) from error


def active_jobs_of(launch: Launch, queue: dict[str, QueuedJob]) -> list[str]:
    """The jobs of a launch that run or will run, by its own list and by the name that each has in the queue."""
    listed = {job for job, _ in jobs_of(launch.arrays())}
    return [job for job, found in queue.items() if found.active and (job in listed or found.comment == launch.name)]
