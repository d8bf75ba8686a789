"""What methods cost: profiles of rows, and what their trainings took. FLOPs are 2 per multiply-add."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

GIGA, MEGA, MEBIBYTE = 1e9, 1e6, 2**20


@dataclass(frozen=True)
class Cost:
    """The profile of a row at a point, whatever the seed: `result` and `machine` of a record of the kind `profile`."""

    row: str
    label: str
    point: str
    result: dict[str, Any]
    machine: dict[str, Any]
    identity: str

    def latency(self, part: str = "video") -> dict[str, Any] | None:
        """The plainest measurement of a part: the smallest batch, without reduced precision if there is one."""
        measured = [entry for entry in self.result["latency"] if entry["part"] == part]
        return min(measured, key=lambda entry: (entry["precision"] != "fp32", entry["batch"]), default=None)


@dataclass(frozen=True)
class Training:
    """One training: `seconds` it computed, on so many devices of a kind, interruptions left out.

    `sharing`: ids of the other rows that use it, which differ in inference alone.
    """

    row: str
    label: str
    point: str
    seed: int
    seconds: float
    devices: int
    device: str
    identity: str
    sharing: tuple[str, ...] = ()

    @property
    def device_hours(self) -> float:
        return self.devices * self.seconds / 3600


def pareto_front(prices_N: ArrayLike, accuracies_N: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other one beats: none is as cheap and as accurate, and better in one of both. Equals all stay."""
    prices_N, accuracies_N = np.asarray(prices_N, dtype=float), np.asarray(accuracies_N, dtype=float)
    no_worse_NN = (prices_N[:, None] <= prices_N) & (accuracies_N[:, None] >= accuracies_N)
    better_NN = (prices_N[:, None] < prices_N) | (accuracies_N[:, None] > accuracies_N)
    return np.asarray(~(no_worse_NN & better_NN).any(axis=0))


def flop_unit(largest: float) -> tuple[float, str]:
    """What numbers up to `largest` are best told in."""
    return (GIGA, "GFLOPs") if largest >= GIGA else (MEGA, "MFLOPs")


def digits(value: float, like: float | None = None) -> str:
    """Three significant digits, at least one behind the point: "649.3", "98.8", "0.0123", "1,299.0"; "–" for nan.

    With `like`, as many digits behind the point as that number has.
    """
    if math.isnan(value):
        return "–"
    scale = value if like is None else like
    places = max(1, 2 - math.floor(math.log10(abs(scale)))) if scale else 0
    return f"{value:,.{places}f}"
