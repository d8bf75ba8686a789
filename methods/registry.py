"""Methods by name. A name maps to two targets, `config` without torch and `model`; nothing is imported until asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from bench.errors import unknown
from methods.settings import Config, Inference

if TYPE_CHECKING:
    from methods.contract import Model

ENTRY_POINTS = "video_transfer_bench.methods"  # other packages: name = "package.of.the.method"


@dataclass(frozen=True)
class Method:
    """A registered method: a package that holds `config.py` (Config, Inference) and `model.py` (Model)."""

    name: str
    package: str

    @property
    def modules(self) -> tuple[str, str]:
        """The modules whose source decides what the method does."""
        return f"{self.package}.config", f"{self.package}.model"

    @property
    def config(self) -> type[Config]:
        return import_module(self.modules[0]).Config  # type: ignore[no-any-return]

    @property
    def inference(self) -> type[Inference]:
        return import_module(self.modules[0]).Inference  # type: ignore[no-any-return]

    @property
    def model(self) -> type[Model]:
        return import_module(self.modules[1]).Model  # type: ignore[no-any-return]

    @property
    def summary(self) -> str:
        """First line of the method's description."""
        return (import_module(self.modules[0]).__doc__ or "").strip().splitlines()[0]


BUILT_IN = {name: f"methods.{name}" for name in ("clip_mean", "text4vis", "dense_temporal", "mote")}


@lru_cache(maxsize=1)
def methods() -> dict[str, Method]:
    """All registered methods, the built-in ones first. A third-party name cannot replace a built-in one."""
    third_party = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
    return {name: Method(name, package) for name, package in {**third_party, **BUILT_IN}.items()}


def method(name: str, *, where: str = "") -> Method:
    """The method called `name`. Raises UserError with the closest name."""
    if name not in methods():
        raise unknown("method", name, methods(), where=where)
    return methods()[name]
