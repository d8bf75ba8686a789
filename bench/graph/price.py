"""Prices: what stages take on a type of device, whether their data are there or not (docs/pricing.md).

A stage takes the overhead of its kind and its FLOPs over the speed of the device: peak x utilisation of the kind, less
for towers narrower than ViT-B's. If decoding its videos takes longer, it takes that. Records of like size correct both:
those on the same type of device that by the table take up to ten times more or less than the stage count in full, and
from there to a hundred times less and less.
"""

from __future__ import annotations

import json
import re
from bisect import bisect
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from heapq import heappop, heappush, nlargest
from math import exp, log, log10
from pathlib import Path
from typing import Any, NamedTuple

from bench.core.errors import unknown
from bench.core.files import ASSETS
from bench.graph.stage import ALONE, Stage
from bench.models.backbones import backbone
from bench.store.records import KINDS, RecordData, Store

NEAREST = 9  # records that correct the price of a stage
MOST_RECORDS = 1000  # of a kind that are read
KEPT_FRAMES = 1e10  # bytes, the default of --frame-cache: so many frames are decoded once
CHECKPOINTS = {"encode": 1, "train": 3}  # bytes over those of the record; a training saves two moments beside weights
DRIVER = Path("/proc/driver/nvidia/gpus")  # names the GPUs of this machine


@cache
def _table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ASSETS / "devices.json").read_text(encoding="utf-8"))
    return found


def known_device(name: str, where: str = "--device-type") -> str:
    """A type of device of the table, in any case of letters. Raises UserError with the closest name."""
    if name.lower() not in _table()["devices"]:
        raise unknown("device type", name, _table()["devices"], where=where)
    return name.lower()


def device_type(name: str) -> str | None:
    """The type of a device as a record names it ("NVIDIA H100 80GB HBM3"); None if the table lacks it."""
    types = _table()["devices"].items()
    return next((own for own, row in types if re.search(rf"\b{row['match']}", name)), None)


class Measured(NamedTuple):
    """A record on a type of device that the table has, and the seconds of its work, without the process's start-up."""

    record: RecordData
    device: str
    seconds: float


def measurements(store: Store) -> list[Measured]:
    """Records that stages can be priced by, at most `MOST_RECORDS` of each kind."""
    keys = [(kind, own) for kind in KINDS for own in sorted(store.known(kind))[:MOST_RECORDS]]
    records = [record for key in keys if (record := store.find(*key)) and "imported" not in record["spec"]]
    typed = ((record, device_type(str(record["provenance"].get("device")))) for record in records)
    return [Measured(record, device, work_seconds(record["cost"])) for record, device in typed if device]


def work_seconds(cost: Mapping[str, float]) -> float:
    """The seconds that a stage worked; older records do not tell start-up apart."""
    return cost.get("compute", cost["seconds"])


def usual_device(known: Iterable[Measured], device: str = "auto") -> str:
    """The type of device of most records, else of this machine's GPU, else cpu. `device`: that of a launch."""
    on_cpu = device in ("cpu", "mps")
    used = Counter(own.device for own in known if device == "auto" or (own.device == "cpu") == on_cpu)
    if used or on_cpu:
        return used.most_common(1)[0][0] if used else "cpu"
    here = (device_type(path.read_text(encoding="utf-8")) for path in sorted(DRIVER.glob("*/information")))
    return next(filter(None, here), "cpu")


# --- a stage ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speed:
    """Seconds of stages on one type of device by the table.

    `threads` count on a CPU; `workers` decode the videos of a process.
    """

    device: str
    threads: int = 1
    workers: int = 1

    @property
    def _type(self) -> dict[str, Any]:
        found: dict[str, Any] = _table()["types"]["cpu" if self.device == "cpu" else "gpu"]
        return found

    @property
    def startup(self) -> float:
        """Seconds until a process begins with its first stage."""
        return float(self._type["startup"])

    def computing(self, kind: str, flops: float, work: Mapping[str, Any]) -> float:
        """Seconds of a stage but for decoding. `work`: its `spec`, `inputs`, `context`, as planned or in a record."""
        row = self._type["kinds"]["train on features" if kind == "train" and "features" in work["inputs"] else kind]
        recipe, table = work["spec"].get("recipe"), _table()
        precision = recipe["precision"] if isinstance(recipe, dict) else getattr(recipe, "precision", "fp32")
        peak = "fp32" if precision == "fp32" else "half"
        width = backbone(work["spec"]["backbone"]).vision_width if "backbone" in work["spec"] else table["width"]
        speed = 1e12 * table["devices"][self.device][peak] * row[peak] * min(1.0, width / table["width"])
        cores = self.threads if self.device == "cpu" else 1
        return float(row["overhead"] + flops / (speed * cores * devices(work["context"])))

    def decoding(self, stage: Stage) -> float:
        """Seconds in which the videos of a stage are decoded: those that the frame cache keeps once."""
        if not stage.frames:
            return 0.0
        again = 1 - min(1.0, KEPT_FRAMES / (stage.frames.size or 1))  # share that is decoded in each pass
        passes = min(1.0, stage.frames.passes) + again * max(0.0, stage.frames.passes - 1)
        rate = _table()["decoding"] * max(1, self.workers) * devices(stage.context)
        return float(passes * stage.frames.decoded / rate)


def devices(context: Mapping[str, Any]) -> int:
    """Devices that share the work of a stage: one for each process of a training."""
    return int(context["execution"].get("processes", 1)) if "execution" in context else 1


class Speeds:
    """Seconds of stages by the table, corrected by records."""

    def __init__(self, known: Iterable[Measured], speed: Speed) -> None:
        self.speed = speed
        self.used = set[tuple[str, float, float]]()  # corrections that seconds rested on
        self._found: dict[Hashable, tuple[float, bool]] = {}  # of stages that are alike
        self.corrections: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        for record, device, seconds in known:  # log10 of seconds by the table, log of measured over these
            if device == speed.device:
                own = Speed(device, record["provenance"].get("threads") or 1)
                table = own.computing(record["kind"], record["cost"]["flops"], record)
                self.corrections[record["kind"]].append((log10(table), log(max(seconds, 1e-3) / table)))
        for corrections in self.corrections.values():
            corrections.sort()

    def seconds(self, stage: Stage) -> tuple[float, bool]:
        """Seconds of a stage, without its process's start-up, and whether records of like size are behind them."""
        recipe, shape = stage.spec.get("recipe"), stage.spec.get("backbone")
        sized = stage.kind, stage.flops, stage.frames, "features" in stage.inputs, devices(stage.context)
        if (found := self._found.get(key := (recipe, shape, sized))) is None:
            found = self._found[key] = self._seconds(stage)
        return found

    def _seconds(self, stage: Stage) -> tuple[float, bool]:
        table = self.speed.computing(stage.kind, stage.flops, vars(stage))
        size, known = log10(table), self.corrections[stage.kind]
        place = bisect(known, (size, 0.0))
        near = sorted(known[max(0, place - NEAREST) : place + NEAREST], key=lambda own: abs(own[0] - size))[:NEAREST]
        weighed = [(weight, ratio) for own, ratio in near if (weight := min(1.0, 2 - abs(own - size))) > 0]
        self.used |= {(stage.kind, *own) for own in near[: len(weighed)]}
        trust = max((weight for weight, _ in weighed), default=0.0)
        ratio = sum(weight * ratio for weight, ratio in weighed) / (sum(weight for weight, _ in weighed) or 1.0)
        guess = max(table, self.speed.decoding(stage))
        return table**trust * exp(trust * ratio) * guess ** (1 - trust), bool(weighed)


# --- a plan -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Price:
    """What stages take, `slots` of them at once."""

    speed: Speed
    stages: list[Stage]
    seconds: dict[str, float]  # by identity, of each from its start to its end
    measured: list[Stage]  # priced by records of like size
    records: int  # how many these are
    slots: int

    @cached_property
    def device_seconds(self) -> dict[str, float]:
        """Device-seconds of each stage, by identity, without start-up."""
        return {stage.identity: devices(stage.context) * self.seconds[stage.identity] for stage in self.stages}

    @property
    def device_hours(self) -> float:
        """Of all stages, with the start-up of a process for each slot."""
        startup = min(self.slots, len(self.stages)) * self.speed.startup
        return (sum(self.device_seconds.values()) + startup) / 3600

    def share(self, stages: Iterable[Stage]) -> float:
        """Part of the device-seconds that these stages take."""
        return sum(self.device_seconds[own.identity] for own in stages) / (sum(self.device_seconds.values()) or 1.0)

    def dominating(self) -> list[tuple[str, float]]:
        """Titles and shares of the three stages that take most."""
        first = nlargest(3, self.stages, key=lambda stage: self.device_seconds[stage.identity])
        return [(stage.title, self.share([stage])) for stage in first]

    @cached_property
    def wall(self) -> float:
        """Seconds until all are done: a slot takes the longest stage that is ready; those that run alone come last."""
        seconds, todo = self.seconds, [stage for stage in self.stages if stage.kind not in ALONE]
        there, after = {stage.identity for stage in todo}, dict[str, list[int]]()
        sharing, left = dict[int, list[str]](), dict[int, int]()  # stages of the same inputs, and how many these lack
        for stage in todo:
            if (key := id(stage.inputs)) not in sharing:
                needed = {other.identity for other in stage.inputs.values()} & there
                sharing[key], left[key] = [], len(needed)
                for other in needed:
                    after.setdefault(other, []).append(key)
            sharing[key].append(stage.identity)
        ready, longest = dict[float, list[str]](), list[float]()  # by seconds
        running, now = list[tuple[float, str]](), self.speed.startup if self.stages else 0.0
        new = [key for key, count in left.items() if not count]
        while new or longest or running:
            for own in (own for key in new for own in sharing[key]):
                if not (alike := ready.setdefault(seconds[own], [])):
                    heappush(longest, -seconds[own])
                alike.append(own)
            while longest and len(running) < self.slots:
                alike = ready[-longest[0]]
                heappush(running, (now - longest[0], alike.pop()))
                if not alike:
                    heappop(longest)
            now, ended = heappop(running)
            for key in (new := after.get(ended, [])):
                left[key] -= 1
            new = [key for key in new if not left[key]]
        return now + sum(seconds[own.identity] for own in self.stages if own.kind in ALONE)

    @property
    def decoding(self) -> list[Stage]:
        """Stages whose videos take longer to decode than all else, by the table."""
        table, reading = self.speed, [own for own in self.stages if own.frames]
        return [own for own in reading if table.decoding(own) > table.computing(own.kind, own.flops, vars(own))]

    @property
    def unsized(self) -> int:
        """Stages that are priced too low, because nobody knows how many videos they have."""
        return sum(bool(own.missing) and not own.flops for own in self.stages if own.kind in CHECKPOINTS)

    @property
    def disk(self) -> dict[str, float]:
        """Bytes of features, of other records, and of checkpoints, at most at once."""
        features = sum(stage.disk for stage in self.stages if stage.kind == "encode")
        saving = sorted(CHECKPOINTS.get(stage.kind, 0) * stage.disk for stage in self.stages)
        records = sum(stage.disk for stage in self.stages) - features
        return {"features": features, "records": records, "checkpoints": sum(saving[-self.slots :])}


def price(stages: list[Stage], known: Iterable[Measured], speed: Speed, slots: int) -> Price:
    """Price stages by the table and by known records."""
    speeds, seconds, measured = Speeds(known, speed), dict[str, float](), list[Stage]()
    for stage in stages:
        seconds[stage.identity], by_records = speeds.seconds(stage)
        if by_records:
            measured.append(stage)
    return Price(speed, stages, seconds, measured, len(speeds.used), max(1, slots))
