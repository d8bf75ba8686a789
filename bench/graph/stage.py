"""A stage: a unit of work with an identity, as planning and launchers see it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

from bench.core.identity import source_fingerprint

ALONE = ("profile",)  # measure time: each gets a process of its own, and nothing runs beside it that can be avoided

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


def identify(stage: Stage, hashes: Mapping[int, str] = MappingProxyType({})) -> str:
    """Hash of kind, settings, source and inputs. Parts that many stages share have hashes already, by their id."""
    parts = sorted((name, hashes.get(id(value)) or value) for name, value in stage.spec.items())
    inputs = sorted((name, other.identity) for name, other in stage.inputs.items())
    text = repr((stage.kind, parts, source_fingerprint(*stage.modules), inputs))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
