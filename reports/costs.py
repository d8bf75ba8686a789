"""What methods cost: profiles of rows, and what their trainings took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cost:
    """The profile of a row at a point, whatever the seed: `result` and `machine` of a record of the kind `profile`."""

    row: str
    label: str
    point: str
    result: dict[str, Any]
    machine: dict[str, Any]
    identity: str


@dataclass(frozen=True)
class Training:
    """One training: `seconds` it computed, on so many devices of a kind, interruptions left out."""

    row: str
    label: str
    point: str
    seed: int
    seconds: float
    devices: int
    device: str
    identity: str
