"""The profile of a cluster, and the resources of a job, merged from profile, suite and row.

The profile is one YAML file of the user. A suite may add resources for its stages, and a row for its own:
`resources: {train: {gpus: 1, time: 2:00:00}}`. None of it enters an identity.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from platformdirs import user_config_path
from pydantic import BaseModel, ConfigDict

from bench.core.errors import UserError
from bench.core.identity import Count, setting
from bench.core.words import counted
from bench.store.attempts import Attempts
from bench.suite.named_protocols import merged
from bench.suite.resources import JobResources, Line, Minutes, Resources
from bench.suite.yaml_lines import KeyPath, Where, load_yaml, validate

# A stage that is told to stop saves and goes on in another job, so a short limit costs a wait, but no work; and a
# scheduler fits short jobs into gaps. Two CPUs: one for the stage, one for its decoder.
MINUTES, CPUS = 60, 2
GROWTH, BLIND_GROWTH = 1.5, 2  # of memory after an attempt that ran out of it; blind: no attempt's peak is known
MARGIN = 1.2  # memory of the next attempt over the highest known peak, at least
DEFAULTS = Resources(time=MINUTES, cpus=CPUS)
DRIVER = Resources(cpus=1, memory=2048, gpus=0, slots=1)  # it looks at files and the queue, and draws the report


class Site(BaseModel):
    """The profile of a cluster: how Python starts there, the resources of jobs, and their number, size and attempts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    python: Line | None = setting(None, "command that starts Python on the nodes; none: this Python")
    setup: list[Line] = setting([], "shell lines before each job")
    max_array: Count | None = setting(None, "most tasks of an array; none: Slurm is asked")
    parallel: Count | None = setting(256, "jobs of a launch in the queue at once, the driver apart; none: no limit")
    pack: Minutes = setting(10, "small stages share a job of about this length; 0: no sharing")
    pack_most: Count = setting(100, "most stages in a job")
    signal: Annotated[int, Ge(10)] = setting(120, "seconds before its time limit at which a job is told to save")
    attempts: Count = setting(
        3, "most attempts at a stage; an interrupted one that got further, and was not mostly start-up, does not count"
    )
    resources: JobResources = setting({}, "for `all`, a kind of stage, or the `driver` of a launch")
    notify: Line | None = setting(None, "told the end of a launch, once: a mail address, or a shell command")


def load_site(path: Path | None) -> tuple[Site, Where]:
    """Read the profile: the given file, else $VTB_SITE, else the user's settings; without any of them, defaults.

    Returns it with the place of each key. Raises UserError with file and line.
    """
    chosen = os.environ.get("VTB_SITE")
    if path is None and chosen:
        path = Path(chosen).expanduser()
    if path is None:
        path = user_config_path("video-transfer-bench") / "site.yaml"
        if not path.exists():
            return Site(), lambda key: ".".join(map(str, key))
    if not path.exists():
        raise UserError("no such site file", where=str(path))
    data, lines = load_yaml(path, empty=True)

    def where(key: KeyPath) -> str:
        known = next((lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in lines), 1)
        return f"{path}:{known}: {'.'.join(map(str, key))}"

    return validate(Site, data, where), where


def resources_for(
    kind: str, site: Site, suite: Mapping[str, Resources], row: Mapping[str, Resources] | None = None
) -> Resources:
    """Resources of a job: those of the row, else the suite, else the site; within each, of the kind, else `all`."""
    found = DEFAULTS.model_dump(exclude_none=True)
    for layer in (site.resources, suite, row or {}):
        for key in ("all", kind):
            if key in layer:
                found = merged(found, layer[key].model_dump(exclude_none=True))
    if found.get("memory_limit", sys.maxsize) < found.get("memory", 0):
        what = f"{found['memory_limit']}M is less than memory: {found['memory']}M"
        raise UserError(what, where=f"resources.{kind or 'all'}.memory_limit")
    return Resources(**found)


def driver_resources(site: Site, suite: Mapping[str, Resources]) -> Resources:
    """Resources of the driver: of `all` only where it runs and how long, and its own ones."""
    found = resources_for("", site, suite).model_dump(exclude_none=True) | DRIVER.model_dump(exclude_none=True)
    for layer in (site.resources, suite):
        found = merged(found, layer["driver"].model_dump(exclude_none=True)) if "driver" in layer else found
    return Resources(**found)


def enlarged(resources: Resources, attempts: Attempts, kind: str = "all") -> Resources:
    """Resources for another attempt: more memory for each that ran out of it, and more than any is known to have used.

    Where `resources` name no memory, it grows from what Slurm gave. Raises UserError if the last attempt had the most
    that it may ask for; a retry may try that once more.
    """
    asked, peak = resources.memory or attempts.memory_asked, attempts.megabytes()
    most = max(resources.memory_limit or sys.maxsize, asked)

    def memory(count: int) -> int:
        """Megabytes after so many attempts that ran out of it."""
        grown = asked * (GROWTH if peak else BLIND_GROWTH) ** count
        return min(most, ceil(max(grown, peak * MARGIN))) if count else asked

    count = max(0, attempts.out_of_memory - (resources.side_by_side > 1))  # the first attempt after others runs alone
    if count and attempts.out_of_memory > attempts.forgiven and memory(count - 1) == most:
        raise UserError(
            f"memory ran out {counted(count, 'time')}, at last with {most}M, the most that it may ask for",
            where=f"resources.{kind}.memory_limit",
            hint="raise it, or let the stage need less: fewer --workers, recipe.accumulate, recipe.checkpointing",
        )
    return resources.model_copy(update={"memory": memory(count)}) if memory(count) else resources


def submitit_parameters(resources: Resources, tasks: int, name: str, site: Site) -> dict[str, Any]:
    """Options for submitit's SlurmExecutor.update_parameters. All keys are set, so none of an earlier job stays.

    Raises UserError for resources that no job can have.
    """
    nodes = resources.nodes or 1
    if tasks % nodes:
        raise UserError(
            f"{tasks} {'task' if tasks == 1 else 'tasks'} cannot be divided evenly over {nodes} nodes",
            where=f"resources.{name}.nodes",
            hint="a training has recipe.processes tasks, other stages 1; set `nodes` under `train` only",
        )
    time = resources.time or MINUTES
    if time * 60 <= site.signal:
        raise UserError(
            f"a job of {time * 60} seconds is told to save {site.signal} seconds before its end, so when it starts",
            where=f"resources.{name}.time",
            hint="raise its time (1:30 is a minute and a half, 1:30:00 an hour and a half), or lower `signal` of the "
            "site",
        )
    tasks_per_node, cpus = tasks // nodes, resources.cpus or CPUS
    if tasks == 1 and cpus < resources.side_by_side:
        raise UserError(
            f"{counted(cpus, 'CPU')} for {resources.side_by_side} stages side by side, so some have none",
            where=f"resources.{name}.slots",
            hint="raise `cpus`, which they share, or lower `slots`, of which there are so many on each GPU",
        )
    extra = {option: value for option, value in resources.extra.items() if value is not False}
    reservation = {"reservation": resources.reservation} if resources.reservation else {}
    return {
        **resources.model_dump(include={"partition", "account", "qos", "constraint", "exclude"}),
        "job_name": name,
        "time": time,
        "nodes": nodes,
        "ntasks_per_node": tasks_per_node,
        "cpus_per_task": cpus,
        "gpus_per_node": (resources.gpus or 0) * tasks_per_node or None,
        "mem": f"{resources.memory}M" if resources.memory else None,
        "signal_delay_s": site.signal,
        "array_parallelism": site.parallel or sys.maxsize,
        "setup": list(site.setup),
        # Since 22.05 srun no longer takes the CPUs of a task from sbatch, and would bind each task to one.
        "wckey": None,  # submitit's own, which a cluster may refuse
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}"],
        "additional_parameters": {"requeue": True, **reservation, **extra},
        "stderr_to_stdout": False,
    }
