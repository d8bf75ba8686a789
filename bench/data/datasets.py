"""Datasets: classes, lists of videos and where they lie; declared ones from files, and the embedded glyph world.

Torch-free. `content` takes part in identities, places do not. A mistake in a file is a UserError with file and line.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os.path import expanduser, expandvars
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from annotated_types import MinLen
from platformdirs import user_cache_path
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from bench.data import glyphs
from bench.data.video import inside, refuse_escape
from bench.errors import StageError, UserError, unknown
from bench.files import write_atomically
from bench.identity import digest

EMBEDDED_PREFIX = "glyphs-"


class Entry(NamedTuple):
    """A video of a list: its path below the dataset's root and its class id."""

    path: str
    label: int


class Dataset(BaseModel):
    """Videos declared in a suite file. Relative paths start at the declaring file's folder; $VARIABLES and ~ work."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    buildable: ClassVar[bool] = False  # whether `build` can make videos that are missing

    name: str
    folder: str = Field(default="", description="folder of the declaring file; the suite fills it in")
    root: str = Field(description="folder of the videos")
    classes: str = Field(description="CSV file with the header id,name")
    splits: Annotated[dict[str, str], MinLen(1)] = Field(description="split name -> list file of `path label` lines")
    known_bad: tuple[str, ...] = Field(default=(), description="undecodable videos, written as in the lists")

    _names: dict[str, tuple[str, ...]] = PrivateAttr(default_factory=dict)
    _entries: dict[str, tuple[Entry, ...]] = PrivateAttr(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if cls is Dataset and name.startswith(EMBEDDED_PREFIX):
            raise ValueError(f"names that begin with '{EMBEDDED_PREFIX}' belong to the embedded world")
        return name

    def class_names(self) -> tuple[str, ...]:
        """Class names in id order; the file is read once. Raises UserError."""
        if self.classes not in self._names:
            self._names[self.classes] = self._read_names()
        return self._names[self.classes]

    def entries(self, split: str) -> tuple[Entry, ...]:
        """The videos of a split in the list's order; the file is read once. Raises UserError."""
        if split not in self.splits:
            raise unknown(f"split of dataset '{self.name}'", split, self.splits)
        if split not in self._entries:
            self._entries[split] = self._read_entries(split)
        return self._entries[split]

    def location(self) -> Path:
        """The folder of the videos, whether or not it exists."""
        return self._resolved(self.root)

    def path(self, relative: str) -> Path:
        """The file of a listed video. Raises UserError if it leads out of the root."""
        return inside(self.location(), relative, f"dataset '{self.name}'")

    def missing(self) -> str | None:
        """Why the videos cannot be used, None if they can. Single files are not looked at."""
        if unset := re.search(r"\$(\w+|\{\w+\})", expandvars(self.root)):
            return f"root of dataset '{self.name}': environment variable {unset[0]} is not set"
        return None if self.location().is_dir() else f"root of dataset '{self.name}' is not there: {self.location()}"

    def content(self, split: str) -> str:
        """Hash of a split's list and of every video's bytes, an absent video counting as absent; without class names.

        A video is read once for as long as its size and modification time stay the same.
        """
        with _hashing(self.name, self.location()) as hash_of:
            return digest([[*entry, hash_of(entry.path)] for entry in self.entries(split)])

    def _resolved(self, text: str) -> Path:
        return Path(self.folder, expanduser(expandvars(text)))

    def _read_names(self) -> tuple[str, ...]:
        return _read_classes(self._resolved(self.classes))

    def _read_entries(self, split: str) -> tuple[Entry, ...]:
        return tuple(_read_list(self._resolved(self.splits[split]), len(self.class_names())))


class Glyphs(Dataset):
    """A set of the embedded glyph world, built into the cache folder."""

    buildable = True

    root: str = ""
    classes: str = ""
    world: str
    subset: str

    def location(self) -> Path:
        return glyphs.folder(self.world, cache_dir())

    def missing(self) -> str | None:
        return None if glyphs.is_built(self.world, cache_dir()) else f"the videos of '{self.name}' are not built yet"

    def content(self, split: str) -> str:
        """Hash of the list and of the recipe that renders it, so that plans need no videos."""
        return digest([glyphs.recipe_digest(self.world), self.entries(split)])

    def build(self, progress: Callable[[int, int], None], workers: int) -> Path:
        """Render all videos of the world, which its sets share; `progress(done, total)` counts videos."""
        return glyphs.build(self.world, cache_dir(), progress, workers)

    def _read_names(self) -> tuple[str, ...]:
        return glyphs.class_names(self.world, self.subset)

    def _read_entries(self, split: str) -> tuple[Entry, ...]:
        return tuple(Entry(*entry) for entry in glyphs.entries(self.world, self.subset, split))


def _embedded() -> Iterator[Glyphs]:
    for world in glyphs.WORLDS:
        for subset, splits in glyphs.SPLITS.items():
            name = f"{EMBEDDED_PREFIX}{world}" if subset == "source" else f"{EMBEDDED_PREFIX}{world}-{subset}"
            yield Glyphs(name=name, splits=dict.fromkeys(splits, ""), world=world, subset=subset)


EMBEDDED: dict[str, Dataset] = {embedded.name: embedded for embedded in _embedded()}


def datasets(declared: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """All datasets by name: the embedded ones and a suite's own."""
    return {**EMBEDDED, **declared}


def dataset(name: str, declared: Mapping[str, Dataset], *, where: str = "") -> Dataset:
    """A dataset by name. Raises UserError with the closest name."""
    found = declared.get(name) or EMBEDDED.get(name)
    if found is None:
        raise unknown("dataset", name, datasets(declared), where=where)
    return found


def opened(context: Mapping[str, Any]) -> Dataset:
    """The dataset that a stage's context names (`dataset`, `declared`). Raises StageError if its videos are missing."""
    declared = {name: Dataset.model_validate(fields) for name, fields in context["declared"].items()}
    found = dataset(context["dataset"], declared)
    if reason := found.missing():
        raise StageError(reason)
    return found


def cache_dir() -> Path:
    """Folder of everything that can be made again: $VTB_CACHE, else the user's cache folder."""
    chosen = os.environ.get("VTB_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("video-transfer-bench")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(file)) from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", where=str(file), hint=f"first wrong byte at {error.start}") from error


def _read_classes(file: Path) -> tuple[str, ...]:
    rows = csv.reader(_text(file).splitlines())
    header = next(rows, [])
    if header != ["id", "name"]:
        raise UserError(f"header is '{','.join(header)}'", where=f"{file}:1", allowed=["id,name"])
    lines: dict[str, int] = {}
    for row in filter(None, rows):
        where = f"{file}:{rows.line_num}"
        name = _class_name(row, len(lines), where)
        if name in lines:
            raise UserError(f"class '{name}' appears twice", where=where, hint=f"the first is in line {lines[name]}")
        lines[name] = rows.line_num
    if not lines:
        raise UserError("lists no classes", where=str(file))
    return tuple(lines)


def _class_name(row: list[str], expected: int, where: str) -> str:
    if len(row) != 2 or not row[1].strip():
        raise UserError(
            f"expected id,name but found '{','.join(row)}'",
            where=where,
            hint='a name with a comma is quoted: 3,"pulling something, slowly"',
        )
    if row[0].strip() != str(expected):
        raise UserError(
            f"class id '{row[0]}' where {expected} was expected", where=where, hint="ids count from 0 without gaps"
        )
    return row[1]


def _read_list(file: Path, classes: int) -> Iterator[Entry]:
    lines: dict[str, int] = {}
    for line, text in enumerate(_text(file).splitlines(), start=1):
        if text.strip():
            entry = _entry(text.strip(), classes, f"{file}:{line}")
            if entry.path in lines:
                raise UserError(
                    f"video '{entry.path}' appears twice",
                    where=f"{file}:{line}",
                    hint=f"the first is in line {lines[entry.path]}",
                )
            lines[entry.path] = line
            yield entry
    if not lines:
        raise UserError("lists no videos", where=str(file))


def _entry(text: str, classes: int, where: str) -> Entry:
    """`path label`, or `path,label` if the last field between spaces is no integer; paths may hold both characters."""
    for separator in (" ", ","):
        path, _, label = text.rpartition(separator)
        if path and re.fullmatch(r"-?\d+", label):
            break
    else:
        raise UserError(
            f"label '{text.rpartition(' ')[2]}' is not an integer",
            where=where,
            hint="a line is `path label` or `path,label`",
        )
    if not 0 <= int(label) < classes:
        raise UserError(
            f"class id {label} out of range 0..{classes - 1}",
            where=where,
            hint=f"the class file has {classes} classes, counted from 0",
        )
    refuse_escape(path, where)
    return Entry(path, int(label))


@contextmanager
def _hashing(name: str, root: Path) -> Iterator[Callable[[str], str | None]]:
    """A function from a listed path to the SHA-256 of its file, None without one.

    Hashes are kept in the cache folder when the block ends, also by an interruption: hashing a large set takes hours.
    """
    file = cache_dir() / "content" / f"{name}-{digest(str(root.resolve()))[:8]}.json"
    known = _kept(file)
    learnt: dict[str, list[Any]] = {}

    def hash_of(relative: str) -> str | None:
        try:
            status = os.stat(root / relative)
            stamp = [status.st_size, status.st_mtime_ns]
            if known.get(relative, [])[:2] != stamp:
                with open(root / relative, "rb") as video:
                    known[relative] = learnt[relative] = [*stamp, hashlib.file_digest(video, "sha256").hexdigest()]
        except OSError:
            return None
        return str(known[relative][2])

    try:
        yield hash_of
    finally:
        if learnt:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(_kept(file) | learnt).encode())


def _kept(file: Path) -> dict[str, list[Any]]:
    try:
        known: dict[str, list[Any]] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return known
