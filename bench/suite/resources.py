"""Resources that jobs ask Slurm for, as a site, a suite and a row state them. None of it enters an identity."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetPydanticSchema,
    PlainValidator,
    StringConstraints,
)
from pydantic_core import core_schema

from bench.core.identity import Count, setting
from bench.store.records import KINDS

# Options that the launcher sets itself, or that would keep it from learning the job's number.
LAUNCHERS = frozenset(
    (
        *("array", "dependency", "job-name", "ntasks", "ntasks-per-node", "signal", "requeue", "no-requeue"),
        *("output", "error", "open-mode", "chdir", "wrap", "export-file", "comment"),
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
ROUND = (5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720, 1440)  # minutes
_IN_MEGABYTES = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}


def minutes(value: object) -> int:
    """A time as Slurm writes it, in whole minutes, rounded up; a number is minutes. Less than one is a slip."""
    if _is_number(value):
        found = float(str(value))
    elif isinstance(value, str) and (match := _CLOCK.fullmatch(value.strip())):
        days, first, second, third = (int(part or 0) for part in match.groups())
        found = first + second / 60  # MM or MM:SS, as in Slurm
        if match[1] or match[4]:
            found = (days * 24 + first) * 60 + second + third / 60
    else:
        raise ValueError(f"'{value}' is not a time: H:MM:SS, D-HH:MM:SS, D-HH, MM:SS, or a number of minutes")
    if 0 < found < 1:
        raise ValueError(f"'{value}' is less than a minute: five minutes are 5, 5:00 or 0:05:00")
    return math.ceil(found)


def _megabytes(value: object) -> int:
    """An amount of memory as Slurm writes it, in units of 1024 x 1024 bytes, rounded up; so is a number."""
    if _is_number(value):
        return math.ceil(float(str(value)))
    match = _MEMORY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"'{value}' is not an amount of memory: such as 512M, 16G, 1.5T, or a number of megabytes")
    return math.ceil(float(match[1]) * _IN_MEGABYTES[match[2].upper()])


def in_clock(minutes: int) -> str:
    """A time as resources are written: 1:30:00."""
    return f"{minutes // 60}:{minutes % 60:02d}:00"


def round_minutes(minutes: float) -> int:
    """The next round time that is no shorter: of minutes, then hours, then days."""
    return next((each for each in ROUND if each >= minutes), math.ceil(minutes / 1440) * 1440)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _option(name: str) -> str:
    """Check the name of an sbatch option that users may set."""
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
Minutes = Annotated[int, BeforeValidator(minutes, json_schema_input_type=str | int), Ge(0)]
Megabytes = Annotated[int, BeforeValidator(_megabytes, json_schema_input_type=str | int), Ge(1)]
Option = Annotated[str, AfterValidator(_option)]
OptionValue = Annotated[str | int | bool, PlainValidator(_option_value)]


class Resources(BaseModel):
    """Resources that a job asks for. None: another layer decides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    partition: Word | None = setting(None, "partition (queue) of the job")
    account: Word | None = setting(None, "account that the job is charged to")
    qos: Word | None = setting(None, "quality of service")
    constraint: Word | None = setting(None, "features that a node must have: a100|h100")
    gpus: Annotated[int, Ge(0), Le(1000)] | None = setting(
        None, "GPUs of a task; a training has recipe.processes tasks, all else one"
    )
    slots: Count | None = setting(
        None, "stages side by side on each GPU of a job, or in a job without; they share its CPUs and memory"
    )
    cpus: Count | None = setting(None, "CPUs of a task")
    memory: Megabytes | None = setting(None, "memory of a node: 512M, 16G, 1.5T, or a number of megabytes")
    memory_limit: Megabytes | None = setting(
        None, "most memory that a stage may ask for when it is tried again, because memory ran out"
    )
    time: Annotated[Minutes, Ge(1)] | None = setting(
        None, "limit of a job: H:MM:SS, D-HH:MM:SS, D-HH, MM:SS, or a number of minutes"
    )
    nodes: Count | None = setting(None, "nodes over which the tasks of a job are divided evenly")
    exclude: Word | None = setting(None, "nodes to stay away from: node[1-3]")
    reservation: Word | None = setting(None, "reservation that the job runs in")
    extra: Annotated[dict[Option, OptionValue], AfterValidator(_sorted)] = setting(
        {}, "other options of sbatch by their long names; true: without value, false: left out"
    )

    @property
    def side_by_side(self) -> int:
        """How many stages of one task a job carries out at once; 1 unless `slots` are named."""
        return self.slots * max(1, self.gpus or 0) if self.slots else 1

    def written(self) -> dict[str, Any]:
        """The keys that are set, as a file could say them."""
        found = self.model_dump(mode="json", exclude_none=True)
        found |= {"time": in_clock(self.time)} if self.time else {}
        found |= {name: f"{found[name]}M" for name in ("memory", "memory_limit") if name in found}
        return {name: own for name, own in found.items() if own != {}}

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # `extra` is sorted, so what is equal hashes alike


StageResources = dict[Annotated[str, _one_of("all", *KINDS)], Resources]
JobResources = dict[Annotated[str, _one_of("all", *KINDS, "driver")], Resources]  # driver: the job that submits others
