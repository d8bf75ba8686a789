"""Where the videos of a dataset lie below its root: patterns of places, links, and why a video cannot be opened."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from bench.core.errors import UserError
from bench.core.files import kind_of_file

FIELDS = ("path", "folder", "under", "stem", "class")
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts", ".ogv")
ANY_CASE, ANY_SUFFIX = "(?i)", ".*"

ABSENT, OUTSIDE, UNREADABLE = "are not there", "lead out of the root by a link", "cannot be read"


class Fault(NamedTuple):
    """Why listed videos cannot be opened: the kind, as the rest of a sentence about them, and of one of them more."""

    kind: str
    detail: str

    @property
    def folder(self) -> str:
        """The folder of a file or folder outside the root; "" if the link leads to nothing, a device or the like."""
        target = self.detail.removeprefix("to ")
        found = os.path.dirname(target) if self.kind == OUTSIDE else ""
        return found if found != "/" and (os.path.isfile(target) or os.path.isdir(target)) else ""

    def advice(self, dataset: str) -> str:
        """What helps against faults of this kind."""
        if self.kind == OUTSIDE and not self.folder:
            return "mend the links, or copy the videos to their place"
        if self.kind == OUTSIDE:
            follow = f"`links: {{follow: [{self.folder}]}}`"
            return f"declare the folders that links may lead into: {follow}, or copy the videos"
        first = "fetch them, mend root, list or places" if self.kind == ABSENT else "mend the files"
        return f"{first}, or name them in known_bad: they then count as wrong (`doctor {dataset}` lists them)"


def refuse_pattern(place: str) -> None:
    """Raises ValueError for a pattern of places with other fields."""
    if re.search(r"[{}\0]", re.sub(rf"\{{({'|'.join(FIELDS)})\}}", "", place)):
        raise ValueError(f"'{place}' may contain {', '.join(f'{{{field}}}' for field in FIELDS)}")


@lru_cache(1 << 14)
def plain_name(name: str) -> str:
    """A class name without case, spaces and punctuation: HandStandPushups and Handstand Pushups are the same class."""
    return "".join(filter(str.isalnum, name.casefold()))


def below(root: Path | None, path: str, where: str) -> str:
    """A listed path relative to the root, without `.` and doubled separators: it may be absolute inside the root.

    Raises UserError at `where` (list file and line) for a path that leads out of the root, or cannot be one.
    """
    plain = os.path.normpath(path)
    if "\0" in plain or plain != plain.encode(errors="ignore").decode():
        raise UserError(f"path {plain!r:.80} cannot be the name of a file", where=where)
    if not (os.path.isabs(plain) or plain.startswith("..")) and plain != ".":
        return plain
    if root is not None:
        whole = os.path.normpath(os.path.join(os.path.abspath(root), plain))
        folder, name = os.path.split(whole)
        for top, file in (os.path.abspath(root), whole), (os.path.realpath(root), f"{os.path.realpath(folder)}/{name}"):
            if _is_in(file, top) and (inside := os.path.relpath(file, top)) != ".":
                return inside
    raise UserError(
        f"path '{path}' leads out of the dataset's root",
        where=where,
        hint="paths are relative to the root, or absolute inside it" + (f"; the root is {root}" if root else ""),
    )


def _is_in(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


@dataclass
class Places:
    """Finds listed videos below a root by patterns, tried in order.

    Fields: {path} as listed, its {folder}, or {under} with _ for spaces, its name without suffix {stem}, and {class}, a
    folder named like its class, in the same spelling or in one that differs in case, spaces or punctuation alone. `.*`
    at the end stands for `SUFFIXES`, (?i) at the beginning for any case. Of several fitting names the same spelling
    is tried first, then the others in the order of suffixes and of the alphabet.
    """

    root: Path
    patterns: Sequence[str]
    links: Sequence[Path]  # folders that links may lead into, besides the root
    names: Callable[[], Sequence[str]]  # class names
    frames: bool  # videos are folders

    def __post_init__(self) -> None:
        self._tops = [os.path.realpath(folder) for folder in (self.root, *self.links)]
        self._indices: dict[tuple[str, Callable[[str], str], bool], dict[str, list[tuple[str, str]]]] = {}
        self._real: dict[str, str] = {}  # folder -> where it really is

    def find(self, path: str, class_id: int) -> tuple[str, Fault | None]:
        """Path of a video below the root, as listed if it is nowhere, and why it cannot be opened."""
        is_there = os.path.isdir if self.frames else os.path.isfile
        for candidate in self._candidates(path, class_id):
            if is_there(os.path.join(self.root, candidate)):
                return candidate, self._escape(candidate)
        return path, self._escape(path) or self._absence(path)

    def may_read(self, real: str) -> bool:
        """True for a resolved path below the root or a folder of `links`."""
        return any(_is_in(real, top) for top in self._tops)

    def links_in(self, relative: str) -> tuple[int, Fault | None]:
        """Number of links in a folder of frames, and the fault of the first that leads out."""
        try:
            entries = os.scandir(os.path.join(self.root, relative))
            links = sorted(os.path.realpath(entry) for entry in entries if entry.is_symlink())
        except OSError as error:
            return 0, Fault(UNREADABLE, f"{error.strerror}")
        outside = (Fault(OUTSIDE, f"to {real}") for real in links if not self.may_read(real))
        return len(links), next(outside, None)

    def _escape(self, relative: str) -> Fault | None:
        """The fault of a path that links lead out of the root and the folders of `links`."""
        file = os.path.join(self.root, relative)
        folder, name = os.path.split(file)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        real = os.path.realpath(file) if os.path.islink(file) else os.path.join(self._real[folder], name)
        return None if self.may_read(real) else Fault(OUTSIDE, f"to {real}")

    def _absence(self, relative: str) -> Fault:
        file = os.path.join(self.root, relative)
        try:
            mode = os.stat(file).st_mode
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            return Fault(ABSENT, f"looked for at {file}") if missing else Fault(UNREADABLE, f"{error.strerror}")
        return Fault(UNREADABLE, f"{kind_of_file(mode)}, expected a {'folder of frames' if self.frames else 'file'}")

    @cached_property
    def _often(self) -> Counter[str]:
        return Counter(map(plain_name, self.names()))

    # --- patterns -----------------------------------------------------------------------------------------------------

    def _candidates(self, path: str, class_id: int) -> Iterator[str]:
        folder, name = os.path.split(path)
        stem = os.path.splitext(name)[0]
        fields = {"path": path, "folder": folder, "under": folder.replace(" ", "_"), "stem": stem, "class": "\0"}
        for pattern in self.patterns:
            place = pattern.removeprefix(ANY_CASE)
            filled = re.sub(r"\{(\w+)\}", lambda field: fields[field[1]], place.removesuffix(ANY_SUFFIX))
            *folders, last = [part for part in filled.split("/") if part] or [""]
            found = [""]
            for part in (*folders, last):
                how = pattern != place, place.endswith(ANY_SUFFIX) and part is last and not self.frames
                found = [os.path.join(one, name) for one in found for name in self._named(one, part, class_id, *how)]
            yield from filter(None, found)

    def _named(self, folder: str, part: str, class_id: int, any_case: bool, any_suffix: bool) -> Iterable[str]:
        """Names in a folder below the root that fit a part of a pattern, the closest first."""
        of_class = "\0" in part
        if not (of_class or any_case or any_suffix):
            return [part]
        if of_class:
            name = self.names()[class_id]
            any_case = self._often[plain_name(name)] == 1  # else only its own spelling tells it from the other class
            part = part.replace("\0", name)
        key = plain_name if of_class else str.casefold
        found = self._index(folder, key, any_suffix).get(key(part), [])
        return (name for exact in (True, False)[: 1 + any_case] for own, name in found if (own == part) == exact)

    def _index(self, folder: str, key: Callable[[str], str], any_suffix: bool) -> dict[str, list[tuple[str, str]]]:
        """Key -> (the part of the name that counts, name) of a folder's entries, in the order of trials."""
        if (folder, key, any_suffix) not in self._indices:
            index: dict[str, list[tuple[str, str]]] = {}
            try:
                names = sorted(os.listdir(os.path.join(self.root, folder)))
            except OSError:
                names = []
            split = [(*os.path.splitext(name), name) if any_suffix else (name, ".mp4", name) for name in names]
            ranks = {suffix: rank for rank, suffix in enumerate(SUFFIXES)}
            known = [each for each in split if each[1].casefold() in ranks]
            for own, _, name in sorted(known, key=lambda each: ranks[each[1].casefold()]):
                index.setdefault(key(own), []).append((own, name))
            self._indices[folder, key, any_suffix] = index
        return self._indices[folder, key, any_suffix]
