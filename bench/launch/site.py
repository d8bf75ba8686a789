"""What jobs ask of Slurm: a site's profile, and resources said by the site, by a suite, by a row.

The profile is one YAML file of the user. A suite may say what its stages need on top of it, and a row what its own
need: `resources: {train: {gpus: 1, time: 2:00:00}}`. None of it enters an identity.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from platformdirs import user_config_path
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)

from bench.core.errors import UserError
from bench.suite.named_protocols import merged
from bench.suite.resources import Count, JobResources, Line, Minutes, Resources
from bench.suite.yaml_lines import KeyPath, load_yaml, validate

# A stage that is told to stop saves and goes on in another job, so a short limit costs a wait, never the work; and a
# scheduler fits short jobs into gaps. Two CPUs: one for the stage, one for its decoder.
MINUTES, CPUS = 60, 2
DEFAULTS = Resources(time=MINUTES, cpus=CPUS)


class Site(BaseModel):
    """A cluster as its user sees it: how to start Python there, what jobs ask for, how they are cut and repeated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    python: Line | None = Field(default=None, description="shell words that start Python on the nodes; none: this one")
    setup: list[Line] = Field(default=[], description="shell lines before each job")
    max_array: Count | None = Field(default=None, description="jobs in an array; none: Slurm is asked")
    parallel: Count | None = Field(default=256, description="jobs of an array that run at once; none: no limit")
    pack: Minutes = Field(default=10, description="small stages share a job of about this long; 0: none share")
    pack_most: Count = Field(default=100, description="stages in a job")
    signal: Annotated[int, Ge(10)] = Field(
        default=120, description="seconds before the end of its time at which a job is told to save"
    )
    attempts: Count = Field(
        default=3, description="of a stage; one that got further than the one before is not counted"
    )
    resources: JobResources = Field(default={}, description="of `all`, of a kind of stage, of the closing `report`")


def load_site(path: Path | None) -> Site:
    """The profile in a file, else in $VTB_SITE, else in the user's folder of settings; defaults without any.

    Raises UserError with file and line.
    """
    chosen = os.environ.get("VTB_SITE")
    if path is None and chosen:
        path = Path(chosen).expanduser()
    if path is None:
        path = user_config_path("video-transfer-bench") / "site.yaml"
        if not path.exists():
            return Site()
    if not path.is_file():
        raise UserError("no such site file", where=str(path))
    data, lines = load_yaml(path)

    def where(key: KeyPath) -> str:
        known = next((lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in lines), 1)
        return f"{path}:{known}: {'.'.join(map(str, key))}"

    return validate(Site, data, where)


def resources_for(
    kind: str, site: Site, suite: Mapping[str, Resources], row: Mapping[str, Resources] | None = None
) -> Resources:
    """What a job of this kind asks for: the row before the suite before the site, of each the kind before `all`."""
    said = DEFAULTS.model_dump(exclude_none=True)
    for layer in (site.resources, suite, row or {}):
        for key in ("all", kind):
            if key in layer:
                said = merged(said, layer[key].model_dump(exclude_none=True))
    return Resources(**said)


def submitit_parameters(resources: Resources, tasks: int, name: str, site: Site) -> dict[str, Any]:
    """What submitit's SlurmExecutor.update_parameters gets; every key is there, so nothing of other jobs stays.

    Raises UserError for what no job could do.
    """
    nodes = resources.nodes or 1
    if tasks % nodes:
        raise UserError(
            f"{tasks} {'task' if tasks == 1 else 'tasks'} cannot be divided evenly over {nodes} nodes",
            where=f"resources of {name}: nodes",
            hint="tasks are recipe.processes for a training and 1 for all else; say `nodes` under `train` alone",
        )
    time = resources.time or MINUTES
    if time * 60 <= site.signal:
        raise UserError(
            f"a job of {time * 60} seconds is told to save {site.signal} seconds before its end, so at its start",
            where=f"resources of {name}: time",
            hint="give it more time (1:30 is a minute and a half, 1:30:00 an hour and a half), or lower the "
            "site's `signal`",
        )
    tasks_per_node = tasks // nodes
    cpus = resources.cpus or CPUS
    extra = {option: value for option, value in resources.extra.items() if value is not False}
    reservation = {"reservation": resources.reservation} if resources.reservation else {}
    return {
        "job_name": name,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "exclude": resources.exclude,
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
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}"],
        "additional_parameters": {"requeue": True, **reservation, **extra},
        "stderr_to_stdout": False,
    }
