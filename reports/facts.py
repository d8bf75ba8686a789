"""Facts about rows besides accuracies: each kind holds the `Subject` that it is known of. E experts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.measure.statistics import Floats


@dataclass(frozen=True)
class Subject:
    """A row at a point, and the identity of the record that says something of it; seed 0 if the seed is irrelevant."""

    row: str
    label: str
    point: str
    identity: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Label and point, e.g. "MoTE, layers 4"."""
        return ", ".join(filter(None, [self.label, self.point]))


@dataclass(frozen=True)
class Fact:
    """Something known of a subject."""

    subject: Subject

    @property
    def setting(self) -> tuple[str, str]:
        """Row and point: what the seeds of an experiment share."""
        return self.subject.row, self.subject.point


@dataclass(frozen=True)
class Probe(Fact):
    """Cosine similarity [E+1,E+1] between the features of E experts and their merge, averaged over `videos`."""

    protocol: str
    feature: str
    names: tuple[str, ...]
    similarity: Floats
    videos: int


@dataclass(frozen=True)
class Shares(Fact):
    """Each expert's share [E] of the answer, 1 in sum: `mean` and `std` (population form) over so many `videos`."""

    protocol: str
    mean: Floats
    std: Floats
    videos: int


class MappedClip(NamedTuple):
    """One clip: `pixels` uint8 [T,3,S,S], `cosines` [E,T,G,G] of its patches, its class, and the class by choice."""

    video: str
    shown: str
    predicted: tuple[str, ...]
    pixels: NDArray[np.uint8]
    cosines: NDArray[np.float32]


@dataclass(frozen=True)
class Maps(Fact):
    """Clips with the patches that E choices of experts respond to."""

    protocol: str
    feature: str
    names: tuple[str, ...]
    clips: tuple[MappedClip, ...]


@dataclass(frozen=True)
class Distances(Fact):
    """Relative L2 distance and cosine [G,E,E] between the parameters of experts; the first group is all layers.

    `parameters` [G]: how many of them one expert has. A distance is relative to the root mean square of both lengths.
    """

    groups: tuple[str, ...]
    parameters: tuple[int, ...]
    distance: Floats
    cosine: Floats


@dataclass(frozen=True)
class Routing(Fact):
    """Draws [L,E] of E experts in L layers during one training; `odds` [E] are nominal, empty if there are none.

    `pool` names the kind of experts, where a layer has several.
    """

    pool: str
    counts: NDArray[np.int64]
    odds: tuple[float, ...]


@dataclass(frozen=True)
class Cost(Fact):
    """The profile of a row at a point: `result` and `machine` of a record of the kind `profile`."""

    result: dict[str, Any]
    machine: dict[str, Any]

    def latency(self, part: str = "video") -> dict[str, Any] | None:
        """The plainest measurement of a part: the smallest batch, without reduced precision if there is one."""
        measured = [entry for entry in self.result["latency"] if entry["part"] == part]
        return min(measured, key=lambda entry: (entry["precision"] != "fp32", entry["batch"]), default=None)


@dataclass(frozen=True)
class TrainingCost(Fact):
    """One training: `seconds` of computing on so many devices of a kind, interruptions left out.

    `sharing`: ids of the other rows that use it, which differ in inference alone. `memory`: bytes at the host's peak.
    """

    seconds: float
    devices: int
    device: str
    sharing: tuple[str, ...] = ()
    memory: float | None = None

    @property
    def device_hours(self) -> float:
        return self.devices * self.seconds / 3600


class Estimate(NamedTuple):
    """Finished stages of a kind: their number, and their device-seconds as priced before and as measured."""

    kind: str
    stages: int
    estimated: float
    measured: float


@dataclass(frozen=True)
class FailedStage:
    """A stage that failed `failures` times in `attempts`; `reason`: the last line of the last failure's message.

    `done`: whether a later attempt left its record.
    """

    title: str
    attempts: int
    failures: int
    reason: str
    done: bool


Known = TypeVar("Known", bound=Fact)


def by_setting(found: Iterable[Known], *names: str) -> list[list[Known]]:
    """Facts that agree on row, point and the named fields together: one of each seed."""
    settings: dict[tuple[object, ...], list[Known]] = {}
    for own in found:
        settings.setdefault((*own.setting, *(getattr(own, name) for name in names)), []).append(own)
    return list(settings.values())
