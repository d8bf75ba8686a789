"""A stage: a unit of work with an identity, as planning and launchers see it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from bench.core.identity import Identified, digest, identity_value, source_fingerprint
from bench.store.records import KINDS

ALONE = ("profile",)  # measure time: each gets a process of its own, and nothing runs beside it that can be avoided

PLAIN = (str, int, float, type(None))

Spec = dict[str, Any]  # setting -> JSON value, or settings that are identified by value; all of it is identity
Context = dict[str, Any]  # what a stage needs to find its data, weights and texts; none of it is identity

# Modules that only carry stages out. An edit of them changes no number, so it changes no identity.
_COMMON = (
    "bench.core.errors",  # texts of errors
    "bench.core.files",
    "bench.core.identity",
    "bench.models.weights",  # weights enter by their hash
    "methods.presets",  # presets enter as settings
    "methods.registry",  # finds a method by its name; its modules count
)
_READING = (
    "bench.data.class_files",
    "bench.data.columns",
    "bench.data.datasets",  # lists and videos enter by content
    "bench.data.lists",
    "bench.data.manifest",
    "bench.data.places",
    "bench.data.selection",
    "bench.video.pool",  # watches decoding processes
)
_RESUMING = ("bench.stages.checkpoint",)
_TEXTS = ("bench.models.class_features", "bench.models.prompts")  # texts and class features enter by content
CARRIERS: Mapping[str, frozenset[str]] = {
    "texts": frozenset({*_COMMON, *_TEXTS}),
    "encode": frozenset({*_COMMON, *_READING, *_TEXTS, *_RESUMING}),
    "train": frozenset(
        {*_COMMON, *_READING, *_TEXTS, *_RESUMING, "bench.stages.training.logs", "bench.stages.training.processes"}
    ),
    "evaluate": frozenset({*_COMMON, *_TEXTS}),
    "probe": frozenset({*_COMMON, *_TEXTS}),
    "maps": frozenset({*_COMMON, *_READING, *_TEXTS}),
    "weights": frozenset({*_COMMON, *_TEXTS}),
    "profile": frozenset({*_COMMON, *_TEXTS}),
}


def stage_source(kind: str, modules: tuple[str, ...]) -> str:
    """Hash of the source that decides the result of a stage of this kind with these modules."""
    return source_fingerprint(*modules, without=CARRIERS[kind])


class Frames(NamedTuple):
    """Frames that a stage reads, for the frame cache: a key, the number of passes, and their size in bytes.

    `decoded`: bytes of all frames that a pass decodes to show these."""

    key: str
    passes: float
    size: int
    decoded: float


@dataclass(eq=False)
class Stage:
    """A unit of work. `spec` and `inputs` make its identity; `context` says where data lie and does not."""

    kind: str
    spec: Spec
    inputs: dict[str, Stage]
    modules: tuple[str, ...]  # the first one has the function `run` that carries the stage out
    context: Context
    title: str
    flops: float
    missing: str | None = None  # why its data are not usable, if they are not
    frames: Frames | None = None  # what it decodes
    row: str = ""  # the first row that needs it, whose resources it gets
    disk: float = 0.0  # bytes of its record, about
    identity: str = ""  # as `identify` says, which is asked for it if it is not given

    def __post_init__(self) -> None:
        self.identity = self.identity or identify(self)

    @cached_property
    def key(self) -> tuple[str, str]:
        return self.kind, self.identity


def identify(stage: Stage) -> str:
    """Hash of kind, settings, source and inputs."""
    return identity_of(work_text(stage.kind, stage.spec, stage.modules), inputs_text(stage.inputs))


def work_text(kind: str, spec: Spec, modules: tuple[str, ...]) -> str:
    """The first part of what identities hash: what is done."""
    settings = sorted((name, _fingerprint(value)) for name, value in spec.items())
    return f"{kind!r}, {settings!r}, {stage_source(kind, modules)!r}"


def inputs_text(inputs: Mapping[str, Stage]) -> str:
    """The second part: to what it is done."""
    return repr(sorted((name, other.identity) for name, other in inputs.items()))


def identity_of(work: str, inputs: str) -> str:
    return hashlib.sha256(f"({work}, {inputs})".encode()).hexdigest()[:32]


def _fingerprint(value: object) -> object:
    if isinstance(value, Identified):
        return value.fingerprint
    return value if isinstance(value, PLAIN) else digest(identity_value(value))


def as_json(value: object) -> Any:
    """A spec, or a value in it, as JSON values with all fields, as records keep it and as processes are sent it."""
    if isinstance(value, Identified):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {name: as_json(own) for name, own in value.items()}
    return [as_json(own) for own in value] if isinstance(value, list | tuple) else value


assert set(CARRIERS) == set(KINDS)
