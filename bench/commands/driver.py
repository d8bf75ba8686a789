"""The driver of a launch on Slurm: a small job that submits what can start, until nothing is left, and then reports.

It looks at the store and at the queue every few seconds. What it knows comes from there, so it may be killed, requeued
or started twice: one driver holds the claim, and a successor waits in the queue for its end, whatever that is. Before
its time limit it requeues itself. `run --on slurm --driver here` runs the same loop in the foreground.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from bench.commands.display import counted, summary
from bench.commands.options import open_launched
from bench.commands.reporting import write_suite_report
from bench.core.errors import UserError
from bench.core.processes import Stopped, this_process
from bench.launch import scheduler
from bench.launch.claims import beating, goes_on, release, release_all, take
from bench.launch.failures import out_of_memory
from bench.launch.job import StopSignals, job_id, leave, set_environment
from bench.launch.launches import Launch, open_launch
from bench.launch.scheduler import QueuedJob
from bench.launch.slurm import Dispatcher, active_jobs_of, after, submit_driver
from bench.store.attempts import attempts_since

LOOK = 5.0  # seconds between two looks at the store and the queue
REFUSING = 600.0  # seconds for which Slurm may refuse all jobs of a launch that has none in the queue, before it ends
EXCUSED = 60.0  # seconds after the store was away in which deaths that are seen cost no attempt
WAITED_FOR = (errno.ENOSPC, errno.EDQUOT, errno.ENODEV, errno.ESTALE)  # a report waits until the store is well again
HOUR, OFTEN = 3600.0, 10  # more drivers than this in an hour wait before they begin
RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")  # states of a job with a process


def drive(folder: str, since: float) -> None:
    """Body of the driver's job. submitit calls this on a node. Attempts before `since` do not count."""
    stop = StopSignals()
    launch = open_launch(Path(folder))
    set_environment(launch)
    driver = Driver(launch, since, job_id(), stop)
    if driver.claimed():
        driver.arrange_successor()
        driver.run()
    if stop() and not launch.ended():
        leave(stop, 0)


def drive_here(launch: Launch, since: float) -> bool:
    """Drive a launch in this process. Attempts before `since` do not count. Returns True if it became complete."""
    driver = Driver(launch, since, json.dumps(this_process()), lambda: False)
    if not driver.claimed():
        raise UserError("another driver runs", where=launch.name, hint="`status` shows it")
    try:
        driver.run()
    except Stopped as stop:
        raise Stopped(stop.number, ["retry", launch.name, "--here", "--store", launch.store.root]) from stop
    return (launch.ended() or {}).get("state") == "complete"


class Driver:
    """Drives a launch. `holder` says who claims that: a job's id, or this process as JSON."""

    def __init__(self, launch: Launch, since: float, holder: str, stop: Callable[[], bool]) -> None:
        self.launch, self.since, self.holder, self.stop = launch, since, holder, stop
        self.followed = True  # False while Slurm refuses its successor
        self._claims = launch.store, ("driver", launch.name)

    # --- one driver at a time ---

    def claimed(self) -> bool:
        """Claim the launch. Returns False if it has ended, or another driver runs; one that ends is waited for."""
        while not self.stop() and not self.launch.ended():
            if (other := take(*self._claims, self.holder, self)) is None:
                return True
            if _state(other, _queue()) != "COMPLETING":
                say(f"driver {other} runs already, so this one ends")
                return False
            time.sleep(1.0)
        return False

    def __contains__(self, holder: object) -> bool:
        """True if another driver goes on."""
        other = str(holder)
        if other.startswith("{"):
            return goes_on(self.launch.folder, {**self.launch.about, **json.loads(other)})
        return other == self.holder or _state(other, _queue()) in RUNNING

    def arrange_successor(self) -> None:
        """Submit a driver that begins when this job has ended, with more memory if it was memory that ended others."""
        queue, drivers = _queue(), [array for array in self.launch.arrays() if array.driver]
        jobs = [array.job for array in drivers]
        if any(job != self.holder and job in queue and queue[job].active for job in jobs):
            return
        killed = sum(out_of_memory(self.launch.folder / "jobs", job, _state(job, queue)) for job in jobs)
        lately = sum(array.time > time.time() - HOUR for array in drivers)
        options = after(self.holder)
        if lately > OFTEN:  # something ends them all
            options["begin"] = f"now+{lately}minutes"
        try:
            array = submit_driver(self.launch, drive, self.since, options, memory=2.0 ** (killed + 1))
            say(f"driver {array.job} will go on if this one ends early")
            self.followed = True
        except Exception as error:  # this one can work without
            say(f"no successor: {error}; asked again")
            self.followed = False

    # --- the loop ---

    def run(self) -> None:
        """Submit, look and repeat until no stage can start, then end the launch. Returns early if it has to stop."""
        dispatcher: Dispatcher | None = None
        refusing, excused = time.monotonic(), 0.0
        with beating(self.launch.folder):
            while not self.stop() and not self.launch.ended():
                try:
                    queue = _queue()
                    self.launch.store.require()  # in an empty place no job is noted, and all stages are blocked
                    if dispatcher is None:
                        dispatcher = Dispatcher(self.launch, self.since, excused)
                        self._cancel_strangers(queue)
                    if not self.followed:
                        self.arrange_successor()
                    for line in dispatcher.look(queue):
                        say(line)
                    if submitted := dispatcher.submit():
                        say(summary(submitted))
                    (self.launch.folder / "alive").write_text(dispatcher.refused)  # which `status` shows
                    if dispatcher.refused:
                        say(f"Slurm refuses: {dispatcher.refused}; asked again")
                    if dispatcher.going_on or not dispatcher.refused:
                        refusing = time.monotonic()
                    if not dispatcher.going_on and not (dispatcher.refused and time.monotonic() - refusing < REFUSING):
                        self._end(dispatcher)
                        return
                except OSError as error:  # the store is away, or full: it may come back
                    say(f"waits for the store: {error}")
                    dispatcher, excused = None, time.time() + EXCUSED
                _pause(LOOK, self.stop)

    def _cancel_strangers(self, queue: dict[str, QueuedJob]) -> None:
        """Cancel jobs of this launch that an earlier driver submitted without having noted them."""
        noted = {job.partition("_")[0] for job in (array.job for array in self.launch.arrays())}
        self.launch.store.require()
        unknown = {job for job in active_jobs_of(self.launch, queue) if job.partition("_")[0] not in noted}
        if unknown := unknown - {self.holder}:
            say(f"cancels jobs that were not noted: {' '.join(sorted(unknown))}")
            scheduler.cancel(unknown)

    def _end(self, dispatcher: Dispatcher) -> None:
        """Write the report and end the launch, also if stages have no records."""
        attempts = attempts_since(self.launch.store, self.since)
        left = [*dispatcher.schedule.failed, *(stage.identity for stage in dispatcher.schedule.blocked)]
        failed = [identity for identity in left if attempts[identity].failure]
        blocked = [identity for identity in left if not attempts[identity].failure]
        release_all(self.launch)
        wrong = ""
        try:
            report(self.launch)
        except Exception as error:
            self.launch.store.require()  # whatever it was, a store that is not there explains it
            if isinstance(error, OSError) and error.errno in WAITED_FOR:
                raise
            traceback.print_exc()
            wrong = f"its report failed: {traceback.format_exc().splitlines()[-1]}"
        state = "incomplete" if failed or blocked or wrong else "complete"
        self.launch.end(state, failed, blocked, dispatcher.refused or wrong)
        say(f"{state}: {counted(len(failed), 'stage')} failed, {len(blocked)} blocked")
        notify(self.launch, state, self.holder)
        drivers = {array.job for array in self.launch.arrays() if array.driver} - {self.holder}
        try:
            scheduler.cancel(drivers)
        except UserError as error:
            say(str(error))
        release(*self._claims, self.holder)


def report(launch: Launch) -> None:
    """Write the report of the suite as it was submitted."""
    origin = {**launch.about["provenance"], "launch": launch.name}
    write_suite_report(*open_launched(launch), launch.store, origin)


def notify(launch: Launch, state: str, holder: str) -> None:
    """Tell the user that a launch has ended, as its site says: by a mail through Slurm, or by a command."""
    how = launch.about["site"].get("notify")
    try:
        if how and "@" in how and " " not in how:
            if holder.startswith("{"):
                raise UserError("Slurm sends mails at the end of jobs, and this driver is none")
            scheduler.mail_at_end(holder, how)
        elif how:
            about = {"VTB_LAUNCH": launch.name, "VTB_SUITE": launch.about["suite"], "VTB_STATE": state}
            subprocess.run(how, shell=True, check=True, timeout=60, env={**os.environ, **about})
    except (UserError, OSError, subprocess.SubprocessError) as error:
        say(f"nobody was notified: {error}")


def _queue() -> dict[str, QueuedJob]:
    """The jobs in the queue; asked again for as long as Slurm gives no answer."""
    pauses = iter(scheduler.PAUSES)
    while True:
        try:
            return scheduler.jobs()
        except UserError as error:
            say(f"{error}; asked again")
            time.sleep(next(pauses, scheduler.PAUSES[-1]))


def _state(holder: str, queue: dict[str, QueuedJob]) -> str:
    return queue[holder].state if holder in queue else ""


def _pause(seconds: float, stop: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not stop() and time.monotonic() < deadline:
        time.sleep(0.2)


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)
