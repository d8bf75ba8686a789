"""A profile of a cluster as a first draft, from what Slurm says of its partitions (docs/slurm.md)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from math import inf
from typing import NamedTuple

import yaml

from bench.core.errors import UserError
from bench.launch import scheduler
from bench.launch.site import Site
from bench.suite.resources import in_clock, minutes

COLUMNS = "%P|%a|%l|%D|%c|%m|%G"  # name (a star marks the default), state, longest job, nodes, CPUs, megabytes, GPUs
ON_GPUS = ("encode", "train", "evaluate", "probe", "maps", "profile")  # kinds of stages that use one if there is one
TIMES = {"all": 60, "train": 12 * 60, "driver": 24 * 60}  # minutes, as far as the partition allows
PER_CPU = 8192  # most megabytes that jobs without a GPU get for a CPU, however few of them a node has


class Partition(NamedTuple):
    """Alike nodes of a partition. `longest` is a job's limit in minutes, None without one; `memory` in megabytes."""

    name: str
    default: bool
    longest: int | None
    nodes: int
    cpus: int
    memory: int
    gpus: int
    gpu: str

    def time(self, kind: str) -> str:
        return in_clock(min(TIMES[kind], self.longest or TIMES[kind]))


def partitions(text: str) -> list[Partition]:
    """The partitions that are up, as sinfo prints them in COLUMNS; nodes of another kind have a line of their own."""
    found = []
    for line in text.splitlines():
        name, state, limit, *counts, generic = (part.strip() for part in line.split("|"))
        if state == "up":
            gpus = re.findall(r"gpu:(?:([^:,(]+):)?(\d+)", generic)
            longest = None if limit in ("infinite", "n/a") else minutes(limit)
            nodes, cpus, memory = (int(count.rstrip("+")) for count in counts)
            kinds = ", ".join(dict.fromkeys(kind for kind, _ in gpus if kind))
            total = sum(int(count) for _, count in gpus)
            found.append(Partition(name.rstrip("*"), name.endswith("*"), longest, nodes, cpus, memory, total, kinds))
    return found


def profile(known: Iterable[Partition], max_array: int) -> str:
    """A profile as YAML, below a comment that shows the partitions. Raises UserError if there are none."""
    known = list(known)
    if not known:
        raise UserError("no partition takes jobs", where="sinfo")
    plain = [own for own in known if not own.gpus] or known
    usual = next((own for own in plain if own.default), plain[0])
    cpus = min(2, usual.cpus)  # of a job
    common = {"partition": usual.name, "time": usual.time("all"), "cpus": cpus}
    resources: dict[str, dict[str, object]] = {"all": {**common, **_memory(usual, usual.cpus // cpus, PER_CPU * cpus)}}
    if with_gpus := [own for own in known if own.gpus]:
        own = next(
            (each for each in with_gpus if each.default), max(with_gpus, key=lambda each: each.nodes * each.gpus)
        )
        one = {"partition": own.name, "gpus": 1, "cpus": max(1, own.cpus // own.gpus), **_memory(own, own.gpus)}
        resources |= {kind: dict(one) for kind in ON_GPUS}
        resources["train"]["time"] = own.time("train")
    resources["driver"] = {"partition": usual.name, "time": usual.time("driver")}
    site = Site.model_validate({"max_array": max_array, "resources": resources})
    return "\n".join([*_comment(known), as_yaml(site, exclude_unset=True)])


def as_yaml(site: Site, exclude_unset: bool = False) -> str:
    """A profile as the text of its file."""
    given = site.model_dump(mode="json", exclude_unset=exclude_unset, exclude_none=True)
    given |= {"resources": {kind: own.written() for kind, own in site.resources.items()}} if site.resources else {}
    return str(yaml.safe_dump(given, sort_keys=False, default_flow_style=None)).rstrip()


def _memory(own: Partition, jobs: int, most: float = inf) -> dict[str, object]:
    """Memory for one of so many jobs on a node, but for the system's tenth; none where Slurm does not count it."""
    return {"memory": f"{int(min(most, own.memory * 0.9 / jobs))}M"} if own.memory > 1 else {}


def _comment(known: Iterable[Partition]) -> Iterator[str]:
    yield "# A first draft, from sinfo and scontrol; docs/slurm.md explains the keys. Partitions that are up:"
    for own in known:
        gpus = f", {own.gpus} GPUs" + (f" ({own.gpu})" if own.gpu else "") if own.gpus else ""
        longest = f"up to {in_clock(own.longest)}" if own.longest else "without limit"
        memory = f", {own.memory / 1024:,.0f} GB" if own.memory > 1 else ""
        star = ", the default" if own.default else ""
        yield f"#   {own.name}: {own.nodes} × {own.cpus} CPUs{memory}{gpus}; jobs {longest}{star}"


def discovered() -> str:
    """The profile of the cluster that this machine submits to. Raises UserError without Slurm."""
    return profile(partitions(scheduler.partitions(COLUMNS)), scheduler.max_array())
