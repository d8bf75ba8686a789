"""A stage: a unit of work with an identity, as planning and launchers see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

KINDS = ("texts", "encode", "train", "evaluate", "probe", "maps", "weights")

Part = dict[str, Any]


class Frames(NamedTuple):
    """Decoded frames that a stage looks at, for the frame cache: which ones, how often, and their size in bytes."""

    key: str
    passes: float
    size: int


@dataclass(eq=False)
class Stage:
    """A unit of work. `spec` and `inputs` make its identity; `context` says where data lie and does not."""

    kind: str
    spec: Part
    inputs: dict[str, Stage]
    modules: tuple[str, ...]
    context: Part
    title: str
    flops: float
    missing: str | None = None  # why its data are not usable, if they are not
    frames: Frames | None = None  # what it decodes
    row: str = ""  # the first row that needs it, whose resources it gets
    identity: str = field(default="", init=False)

    @cached_property
    def key(self) -> tuple[str, str]:
        return self.kind, self.identity
