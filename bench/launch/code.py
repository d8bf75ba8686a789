"""The code of launches: copies that a launch runs, so that an edit of the checkout changes nothing of it.

    code/<hash>/bench/ methods/ reports/ suites/ run_suite.py   the project
                <package>/ <module>.py                          methods and decoders of others that the suite uses

The hash is that of all names and bytes, so equal launches share a copy. Processes of a launch import from it:
`environment` says so to children, jobs and commands, `adopt` to the process that has planned the launch.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.files import open_regular, sync
from bench.core.identity import digest, read_sources_again, source_hashes
from bench.core.words import counted
from bench.graph.stage import CARRIERS, Stage, stage_source
from bench.launch.launches import Launch, LaunchData
from bench.store.records import KINDS, Store
from bench.suite.resolve import SUITES
from methods.registry import plugins

OWN = ("bench", "methods", "reports", "run_suite")  # packages and modules of the project
AGAIN = "run the suite again, with the code that is there now"

Places = Mapping[str, Iterable[Path]]  # package or module -> its folders or its file
Sources = dict[tuple[str, tuple[str, ...]], dict[str, str]]  # kind and modules of stages -> hash of each source module


@contextmanager
def frozen(store: Store, stages: Iterable[Stage]) -> Iterator[LaunchData]:
    """Keep the code of planned stages, and run it within the block. Gives what their launch has to say of it.

    Raises UserError if the source of a stage has changed since its identity was computed.
    """
    planned = sources(stages)
    modules = [*plugins(), *(module for _, each in planned for module in each)]
    where = {name: [*map(str, own)] for name, own in places(modules).items()}
    name = freeze(store, modules)
    with adopt(store.code(name)):
        refuse_changed(planned, store.code(name))
        yield {
            "code": name,
            "places": where,
            "sources": [[kind, [*own], digest(parts)] for (kind, own), parts in planned.items()],
        }


# --- keeping ----------------------------------------------------------------------------------------------------------


def freeze(store: Store, modules: Iterable[str] = ()) -> str:
    """Copy the code as it is now to the store, with the packages of these modules of others. Returns its hash.

    An equal copy is used again. Its files are compared first: a damaged copy is moved to `damaged/` and made anew.
    """
    files = _files(places(modules))
    name = _hash(files)
    folder = store.code(name)
    if is_intact(folder):
        os.utime(folder)  # `gc` leaves alone what was used lately
        return name
    new = store.inside("writing") / f"{name}-{uuid.uuid4().hex[:8]}"
    try:
        for path, content in files.items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).write_bytes(content)
        with ThreadPoolExecutor(16) as pool:  # a disk takes many files at once as fast as one
            list(pool.map(sync, map(new.joinpath, files)))
        _place(store, new, name)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    sync(folder.parent)
    return name


def _place(store: Store, new: Path, name: str) -> None:
    """Move a new copy into its place. If another launch was faster, its copy is in use and stays where it is."""
    folder = store.inside("code") / name
    try:
        os.rename(new, folder)
    except OSError:
        if is_intact(folder):
            return
        if not folder.exists():
            raise
        os.rename(folder, store.inside("damaged") / f"code-{new.name}")
        os.rename(new, folder)


def fingerprint() -> str:
    """The hash of the project's code as it is now."""
    return _hash(_files(places()))


def is_intact(folder: Path) -> bool:
    """True if a copy of code is there, with the names and bytes that it was made of."""
    return folder.is_dir() and _hash(_files(_copied(folder))) == folder.name


def places(modules: Iterable[str] = ()) -> dict[str, list[Path]]:
    """Where the packages of the project and of these modules lie, as Python finds them; a module has a file."""
    found = {"suites": [SUITES]}
    for name in (*OWN, *(module.partition(".")[0] for module in modules)):
        if name not in found and (spec := find_spec(name)):
            origin = [spec.origin] if spec.has_location and spec.origin else []
            found[name] = [*map(Path, spec.submodule_search_locations or origin)]
    return found


def changed_files(launch: Launch) -> list[str]:
    """Files that differ between a launch's code and the places that it was copied from, except suites.

    Empty if nothing differs or can be compared: places that are gone, perhaps on another machine, are left out.
    """
    if launch.code is None or not launch.code.is_dir():
        return []
    now = {name: [*map(Path, own)] for name, own in launch.about.get("places", {}).items() if name != "suites"}
    now = {name: own for name, own in now.items() if any(map(Path.exists, own))}
    ours = _files({name: own for name, own in _copied(launch.code).items() if name in now})
    theirs = _files(now)
    return sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))


def _copied(folder: Path) -> dict[str, list[Path]]:
    """The places of all that a copy holds."""
    return {entry.name.partition(".")[0]: [entry] for entry in folder.iterdir() if _counts(entry.name)}


def _files(places: Places) -> dict[str, bytes]:
    """Path within a copy -> content, of all files except hidden ones and compiled code."""
    found: dict[str, bytes] = {}
    for name, locations in places.items():
        for location in locations:
            for path, inner in _walk(location, Path(location.name if location.is_file() else name)):
                try:
                    with open_regular(path) as file:
                        found.setdefault(inner.as_posix(), file.read())
                except FileNotFoundError:  # an editor's temporary file, or a link that leads nowhere
                    continue
    return found


def _walk(location: Path, inner: Path) -> Iterator[tuple[Path, Path]]:
    """(file, its path within a copy) of a file, or of all files below a folder."""
    if location.is_file():
        yield location, inner
    for folder, folders, names in os.walk(location, followlinks=True):
        own = Path(folder).resolve()  # a link to a folder that contains it leads in a circle
        folders[:] = [name for name in folders if _counts(name) and not own.is_relative_to((own / name).resolve())]
        for name in filter(_counts, names):
            if (path := Path(folder, name)).is_file():
                yield path, inner / path.relative_to(location)


def _counts(name: str) -> bool:
    return not name.startswith(".") and name != "__pycache__"


def _hash(files: Mapping[str, bytes]) -> str:
    return digest({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})


# --- running ----------------------------------------------------------------------------------------------------------


def environment(folder: Path) -> dict[str, str]:
    """Variables with which Python, started anywhere, imports from a copy and neither from there nor a checkout."""
    others = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place not in ("", str(folder))]
    return {"PYTHONPATH": os.pathsep.join([str(folder), *others]), "PYTHONSAFEPATH": "1"}


@contextmanager
def adopt(folder: Path) -> Iterator[None]:
    """Within the block, this process and its children import from a copy what they import from now on.

    Files beside modules that are loaded, which they find by their paths, come from there too.
    """
    here, there = places(_copied(folder)), _copied(folder)
    moves = [(old, there[name][0]) for name, own in here.items() for old in own]
    path, before = sys.path[:], {name: os.environ.get(name) for name in environment(folder)}
    sys.path.insert(0, str(folder))
    os.environ.update(environment(folder))
    _move(here, moves)
    try:
        yield
    finally:
        sys.path[:] = path
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        _move(here, [(new, old) for old, new in moves])


def _move(names: Iterable[str], moves: list[tuple[Path, Path]]) -> None:
    """Let the loaded modules of these packages, and the main one, find submodules and files at other places."""

    def moved(path: str | Path) -> Path:
        path = Path(path)
        return next((new / path.relative_to(old) for old, new in moves if path.is_relative_to(old)), path)

    for name, module in [*sys.modules.items()]:
        if name.partition(".")[0] not in {*names, "__main__"}:
            continue
        own: dict[str, Any] = vars(module)
        own |= {key: moved(value) for key, value in own.items() if isinstance(value, Path)}
        if isinstance(own.get("__file__"), str):
            own["__file__"] = str(moved(own["__file__"]))  # by which multiprocessing finds the main module
        if isinstance(own.get("__path__"), list):
            own["__path__"][:] = [str(moved(each)) for each in own["__path__"]]
        if (spec := own.get("__spec__")) and spec.has_location:
            spec.origin = str(moved(spec.origin))
    invalidate_caches()
    read_sources_again()


def run_under(launch: Launch, arguments: Iterable[str]) -> None:
    """Run this command under a launch's code and variables, in the place of this process; return if it does already.

    Raises UserError if the code is gone or was changed.
    """
    folder = launch.code
    if folder is None or not folder.is_dir():
        raise UserError("its code is not in the store", where=launch.name, hint=f"{AGAIN}: {launch.command}")
    if os.environ.get("PYTHONPATH", "").partition(os.pathsep)[0] == str(folder):
        return
    if not is_intact(folder):
        raise UserError("the copy of its code was changed", where=str(folder), hint=f"{AGAIN}: {launch.command}")
    own = {name: value for name, value in launch.about.get("environment", {}).items() if name != "VTB_STORE"}
    sys.stdout.flush()
    command = [sys.executable, str(folder / "run_suite.py"), *arguments]
    os.execve(sys.executable, command, {**os.environ, **own, **environment(folder)})


# --- comparing --------------------------------------------------------------------------------------------------------


def moved_on(launch: Launch) -> str:
    """How the checkout differs from the code of a launch, in a few words; empty if it does not."""
    files = changed_files(launch)
    return f"{counted(len(files), 'file')}, e.g. {files[0]}" if files else ""


def changed_kinds(launch: Launch) -> list[str]:
    """Kinds of its stages that have other identities under the code of this process, by their source or an input's."""
    known = launch.about.get("sources", ())
    found = {kind for kind, modules, source in known if stage_source(kind, tuple(modules)) != source}
    for stage in launch.stages:  # inputs come first
        found |= {stage.kind for kind, _ in stage.inputs if kind in found}
    return [kind for kind in KINDS if kind in found]


def sources(stages: Iterable[Stage]) -> Sources:
    """The source behind each kind of stage and its modules, as it was when identities were computed."""
    kinds = dict.fromkeys((stage.kind, stage.modules) for stage in stages)
    return {(kind, modules): source_hashes(*modules, without=CARRIERS[kind]) for kind, modules in kinds}


def refuse_changed(planned: Sources, folder: Path) -> None:
    """Raise UserError unless the copy that this process has adopted has the source that was planned."""
    changed = ""
    for (kind, modules), before in planned.items():
        try:
            after = source_hashes(*modules, without=CARRIERS[kind])
        except UserError as error:  # a file was half saved when it was copied
            changed = error.where.removeprefix(f"{folder}/")
            break
        if others := sorted(name for name in before | after if before.get(name) != after.get(name)):
            changed = f"{others[0].replace('.', '/')}.py"
    if changed:
        raise UserError("the code changed while the suite was planned; start it again", where=changed)
