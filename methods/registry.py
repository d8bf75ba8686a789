"""Methods by name. A name maps to two modules, `config` without torch and `model`, imported at first use.

Methods of other packages come by entry point, once they are installed, or by PLUGINS: packages named in the environment
(`--plugin`), which the processes of a run and the jobs of a launch inherit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from traceback import extract_tb
from types import ModuleType
from typing import TYPE_CHECKING

from bench.core.errors import UserError, unknown
from methods.settings import Config, Inference

if TYPE_CHECKING:
    from bench.models.backbones import Backbone
    from methods.contract import Model

ENTRY_POINTS = "video_transfer_bench.methods"  # other packages: name = "package.of.the.method"
PLUGINS = "VTB_PLUGINS"  # packages of methods, separated by commas; the last part of each is the method's name


@dataclass(frozen=True)
class Method:
    """A registered method: a package that holds `config.py` (Config, Inference) and `model.py` (Model)."""

    name: str
    package: str

    @property
    def modules(self) -> tuple[str, str]:
        """Modules whose source defines the method."""
        return f"{self.package}.config", f"{self.package}.model"

    @property
    def declared(self) -> ModuleType:
        """The module `config`. Raises UserError if that of another package cannot be imported or declares no method."""
        if self.package in BUILT_IN.values():
            return import_module(self.modules[0])
        try:
            module = import_module(self.modules[0])
        except (Exception, SystemExit) as error:
            raise _not_imported(self.package, error) from error
        for name, base in (("Config", Config), ("Inference", Inference)):
            if not (isinstance(own := getattr(module, name, None), type) and issubclass(own, base)):
                raise UserError(f"has no class {name} that extends methods.settings.{name}", where=str(module.__file__))
        return module

    @property
    def config(self) -> type[Config]:
        return self.declared.Config  # type: ignore[no-any-return]

    @property
    def inference(self) -> type[Inference]:
        return self.declared.Inference  # type: ignore[no-any-return]

    @property
    def model(self) -> type[Model]:
        return import_module(self.modules[1]).Model  # type: ignore[no-any-return]

    @property
    def summary(self) -> str:
        """First line of the method's description."""
        return (self.declared.__doc__ or "").strip().partition("\n")[0]


NAMES = (
    *("clip_mean", "text4vis", "dense_temporal", "mote", "msta", "vidprism"),
    *("vificlip", "actionclip", "open_vclip", "froster", "taco"),
    *("st_adapter", "adaptformer", "aim", "ost", "bike", "xclip", "vita_clip", "tc_clip"),
)
BUILT_IN = {name: f"methods.{name}" for name in NAMES}


@lru_cache(maxsize=1)
def methods() -> dict[str, Method]:
    """All registered methods by name. A third-party name cannot replace a built-in one."""
    third_party = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
    for package in plugins():
        third_party[package.rpartition(".")[2]] = _importable(package)
    return {name: Method(name, package) for name, package in {**third_party, **BUILT_IN}.items()}


def plugins() -> list[str]:
    """The packages that were added to the methods of this process."""
    return [package for package in os.environ.get(PLUGINS, "").split(",") if package]


def refuse_video(name: str, config: Config, tower: Backbone) -> None:
    """Raises UserError, naming what is allowed, for a video tower under a method that needs features of frames."""
    if tower.video and config.needs_frames:
        enough = {each.name: each.config.without_frames for each in methods().values()}
        allowed = {
            own: " and ".join(f"{field}: {value}" for field, value in fields.items())
            for own, fields in enough.items()
            if fields is not None
        }
        raise UserError(
            f"method '{name}' works on features of single frames; backbone '{tower.name}' gives one feature a clip",
            allowed=[f"{own} with {fields}" if fields else own for own, fields in allowed.items()],
        )


def use_plugins(packages: Iterable[str]) -> None:
    """Add packages to the methods of this process and of its child processes."""
    os.environ[PLUGINS] = ",".join([*plugins(), *packages])
    methods.cache_clear()


def _importable(package: str) -> str:
    """Return the package. Raises UserError unless it exists and has the modules of a method."""
    for module in (package, f"{package}.config", f"{package}.model"):
        try:
            found = find_spec(module) if all(map(str.isidentifier, module.split("."))) else None
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):  # it is there, and imports what is not
                raise _not_imported(package, error) from error
            found = None
        except (Exception, SystemExit) as error:  # the code of the packages around it has run
            raise _not_imported(package, error) from error
        if found is None:
            raise UserError(
                f"there is no module {module}",
                where=f"plugin {package}",
                hint="a method is a package with config.py and model.py that Python can import: docs/add_a_method.md",
            )
    return package


def _not_imported(package: str, error: BaseException) -> UserError:
    """The error for a package whose code raises or exits, at the line of its own code that did."""
    part = os.sep + package.partition(".")[0]
    own = [f"{frame.filename}:{frame.lineno}" for frame in extract_tb(error.__traceback__) if part in frame.filename]
    if isinstance(error, SyntaxError):
        own.append(f"{error.filename}:{error.lineno}")
    reason = f"{type(error).__name__}: {error}".removesuffix(": ")
    return UserError(f"cannot be imported: {reason}", where=": ".join([f"plugin {package}", *own[-1:]]))


def method(name: str, *, where: str = "") -> Method:
    """Method of a name. Raises UserError with the closest name."""
    if name not in methods():
        raise unknown("method", name, methods(), where=where)
    return methods()[name]
