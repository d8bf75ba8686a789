"""What jobs ask of Slurm: a site's profile, and resources said by the site, by a suite, by a row.

The profile is one YAML file of the user. A suite may say what its stages need on top of it, and a row what its own
need: `resources: {train: {gpus: 1, time: 2:00:00}}`. None of it enters an identity.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from platformdirs import user_config_path
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    PlainValidator,
    StringConstraints,
)
from pydantic_core import core_schema

from bench.core.errors import UserError
from bench.graph.stage import KINDS
from bench.suite.named_protocols import merged
from bench.suite.yaml_lines import KeyPath, load_yaml, validate

# Options that the launcher sets itself, or that would keep it from learning the job's number.
LAUNCHERS = frozenset(
    (
        *("array", "dependency", "job-name", "ntasks", "ntasks-per-node", "signal", "requeue", "no-requeue"),
        *("output", "error", "open-mode", "chdir", "wrap", "export-file"),
        *("clusters", "parsable", "quiet", "wait", "test-only", "help", "usage", "version"),
    )
)
# Options with a key of their own. Said twice, Slurm would silently follow one of the two.
OWN_KEYS = {
    "account": "account",
    "constraint": "constraint",
    "cpus-per-task": "cpus",
    "exclude": "exclude",
    "gpus": "gpus",
    "gpus-per-node": "gpus",
    "gpus-per-task": "gpus",
    "mem": "memory",
    "nodes": "nodes",
    "partition": "partition",
    "qos": "qos",
    "reservation": "reservation",
    "time": "time",
}

_CLOCK = re.compile(r"(?:(\d+)-)?(\d+)(?::([0-5]?\d))?(?::([0-5]?\d))?")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)([KMGT])B?", re.IGNORECASE)
_IN_MEGABYTES = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}


def _minutes(value: object) -> int:
    """A time as Slurm writes it, in whole minutes, rounded up; a number is minutes."""
    if _is_number(value):
        return math.ceil(float(str(value)))
    match = _CLOCK.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"'{value}' is not a time: H:MM:SS, D-HH:MM:SS, D-HH, MM:SS, or a number of minutes")
    days, first, second, third = (int(part or 0) for part in match.groups())
    if match[1] or match[4]:
        return math.ceil((days * 24 + first) * 60 + second + third / 60)
    return math.ceil(first + second / 60)  # MM or MM:SS, as in Slurm


def _megabytes(value: object) -> int:
    """An amount of memory as Slurm writes it, in units of 1024 x 1024 bytes, rounded up; so is a number."""
    if _is_number(value):
        return math.ceil(float(str(value)))
    match = _MEMORY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"'{value}' is not an amount of memory: such as 512M, 16G, 1.5T, or a number of megabytes")
    return math.ceil(float(match[1]) * _IN_MEGABYTES[match[2].upper()])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _option(name: str) -> str:
    """The name of an sbatch option that is the user's to say."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ValueError(f"'{name}' is not the long name of an sbatch option, without its dashes: such as mail-type")
    if name in LAUNCHERS:
        raise ValueError(f"the launcher decides on --{name} itself")
    if name in OWN_KEYS:
        raise ValueError(f"--{name} has a key of its own: {OWN_KEYS[name]}, beside `extra`")
    return name


def _option_value(value: object) -> str | int | bool:
    if not isinstance(value, str | int) or (isinstance(value, str) and not value.isprintable()):
        raise ValueError(f"{value!r} is not text of one line, a whole number, true (no value) or false (leave it out)")
    return value


def _sorted(options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    return dict(sorted(options.items()))


def _one_of(*names: str) -> GetPydanticSchema:
    return GetPydanticSchema(lambda source, handler: core_schema.literal_schema(list(names)))


Word = Annotated[str, StringConstraints(pattern=r"^\S+$")]
Line = Annotated[str, StringConstraints(pattern=r"^[^\r\n]+$")]
Count = Annotated[int, Ge(1)]
Minutes = Annotated[int, BeforeValidator(_minutes), Ge(0)]
Megabytes = Annotated[int, BeforeValidator(_megabytes), Ge(1)]
Option = Annotated[str, AfterValidator(_option)]
OptionValue = Annotated[str | int | bool, PlainValidator(_option_value)]


class Resources(BaseModel):
    """What a job asks for. None: not said here, so another layer says it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    partition: Word | None = Field(default=None, description="partition (queue) of the job")
    account: Word | None = Field(default=None, description="account that the job is charged to")
    qos: Word | None = Field(default=None, description="quality of service")
    constraint: Word | None = Field(default=None, description="features that a node must have: a100|h100")
    gpus: Annotated[int, Ge(0)] | None = Field(
        default=None, description="GPUs of a task; a training has recipe.processes tasks, all else one"
    )
    cpus: Count | None = Field(default=None, description="CPUs of a task")
    memory: Megabytes | None = Field(
        default=None, description="memory of a node: 512M, 16G, 1.5T, or a number of megabytes"
    )
    time: Annotated[Minutes, Ge(1)] | None = Field(
        default=None, description="limit of a job: H:MM:SS, D-HH:MM:SS, D-HH, MM:SS, or a number of minutes"
    )
    nodes: Count | None = Field(default=None, description="nodes over which the tasks of a job are divided evenly")
    exclude: Word | None = Field(default=None, description="nodes to stay away from: node[1-3]")
    reservation: Word | None = Field(default=None, description="reservation that the job runs in")
    extra: Annotated[dict[Option, OptionValue], AfterValidator(_sorted)] = Field(
        default={}, description="other options of sbatch by their long names; true: without value, false: left out"
    )

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # `extra` is sorted, so what is equal hashes alike


StageResources = dict[Annotated[str, _one_of("all", *KINDS)], Resources]
JobResources = dict[Annotated[str, _one_of("all", *KINDS, "report")], Resources]  # report: the job that closes a launch

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
        default=3, description="attempts of a stage; one that got further than the one before is not counted"
    )
    resources: JobResources = Field(
        default={}, description="what jobs ask for: `all`, a kind of stage, or the closing `report`"
    )


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
