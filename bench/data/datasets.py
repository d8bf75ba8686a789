"""Datasets: their classes, lists of videos and folders; shipped, declared by a suite, or embedded.

Does not import torch. `content` enters identities, locations do not. A mistake in a file is a UserError with file and
line.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml
from annotated_types import MinLen
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from bench.core.errors import UserError, unknown
from bench.core.files import ASSETS, expanded, not_found
from bench.core.identity import digest, setting
from bench.data.lists import Entry, Listing, Split, read_classes, read_json, read_list, read_names
from bench.data.manifest import FileProgress, Manifest
from bench.video.source import Source, frame_numbers, inside

EMBEDDED = {"glyphs-": "bench.glyphs.datasets"}  # prefix of the names of embedded datasets -> module with `datasets()`
SHIPPED_PREFIX = "shipped:"
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi")  # tried for `.*` in a place
FOLDERS = 3  # folders of frame files whose numbers are compared with the declaration before anything runs
PREPARED = "prepared.json"  # in a root of re-encoded videos: the settings of the encoding


class Dataset(BaseModel):
    """Videos, lists and classes. Paths are relative to the declaring file's folder and may contain $VARIABLES and ~."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    buildable: ClassVar[bool] = False  # `build` can make missing videos

    name: str = Field(description="name of the dataset; the suite fills it in")
    folder: str = setting("", "folder of the declaring file; the suite fills it in")
    like: str = setting("", "shipped dataset whose settings are the defaults")
    root: str = Field(description="folder of the videos")
    lists: str = setting("", "folder of the lists and classes, before the declaring file's")
    classes: str = Field(description="CSV file with the header id,name, or the JSON of SSv2 or ActivityNet")
    variants: dict[str, str] = setting({}, "label variant -> CSV with other spellings of the classes")
    splits: Annotated[dict[str, Split], MinLen(1)] = Field(description="split name -> list file, or how it is read")
    known_bad: tuple[str, ...] = setting((), "undecodable videos, as in the lists, or a file of them")
    frames: str = setting("", "videos are folders of frames with such names, e.g. img_{:05d}.jpg")
    first: int = setting(1, "number of the first frame file")
    places: tuple[str, ...] = setting(("{path}",), "where a listed video may lie", min_length=1)
    ranking: str = setting("", "split whose frequencies rank classes into base and novel, or train")
    disjoint: tuple[tuple[str, str], ...] = setting((), "splits that must not share videos")

    _names: dict[str, tuple[str, ...]] = PrivateAttr(default_factory=dict)
    _listings: dict[str, Listing] = PrivateAttr(default_factory=dict)
    _last: str = PrivateAttr(default="")  # the place where the last video was found, tried first for the next one
    _folders: dict[str, dict[str, str]] = PrivateAttr(default_factory=dict)  # folder -> case-folded name -> name

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if cls is Dataset and name.startswith(tuple(EMBEDDED)):
            raise ValueError(f"names that start with '{' or '.join(EMBEDDED)}' are reserved for embedded datasets")
        return name

    @field_validator("like")
    @classmethod
    def _is_shipped(cls, like: str) -> str:
        if like and like not in _shipped():
            raise ValueError(f"no shipped dataset '{like}'; allowed: {', '.join(_shipped())}")
        return like

    @field_validator("places")
    @classmethod
    def _are_patterns(cls, places: tuple[str, ...]) -> tuple[str, ...]:
        for place in places:
            try:
                place.format(**_parts("folder/video.mp4"))
            except (KeyError, ValueError, IndexError) as error:
                raise ValueError(f"'{place}' may contain {', '.join(f'{{{part}}}' for part in _parts(''))}") from error
        return places

    @field_validator("frames")
    @classmethod
    def _is_template(cls, frames: str) -> str:
        try:
            if frames and frames.format(1) == frames.format(2):
                raise ValueError
        except (KeyError, ValueError, IndexError) as error:
            raise ValueError("has no field for the frame's number, such as {:05d} in img_{:05d}.jpg") from error
        return frames

    @model_validator(mode="after")
    def _names_splits(self) -> Dataset:
        for split in (*filter(None, [self.ranking]), *(split for pair in self.disjoint for split in pair)):
            if split not in self.splits:
                raise ValueError(f"unknown split '{split}' in ranking or disjoint; allowed: {', '.join(self.splits)}")
        return self

    # --- classes and lists --------------------------------------------------------------------------------------------

    def class_names(self, variant: str = "") -> tuple[str, ...]:
        """Class names in id order, in the spelling of a label variant; a file is read once. Raises UserError."""
        if variant and variant not in self.variants:
            raise unknown(f"label variant of dataset '{self.name}'", variant, self.variants)
        if variant not in self._names:
            self._names[variant] = self._read_names(variant)
        return self._names[variant]

    def entries(self, split: str) -> tuple[Entry, ...]:
        """Videos of a split in the list's order; the files are read once. Raises UserError."""
        return self._listing(split).entries

    def ranked_by(self) -> str:
        """The split whose class frequencies define base and novel classes. Raises UserError if there is none."""
        split = self.ranking or "train"
        if split not in self.splits:
            raise UserError(
                f"dataset '{self.name}' has no split that ranks its classes into base and novel",
                allowed=self.splits,
                hint="name one under `ranking`",
            )
        return split

    def count(self, split: str) -> int:
        """Number of videos of a split; if its list does not exist, the number in known copies, or 0."""
        if self._absent(split):
            return next(iter(self.splits[split].videos), 0)
        return len(self.entries(split))

    def notes(self, split: str) -> list[str]:
        """Notes about entries of a split's list that are left out and differences from known copies."""
        if self._absent(split):
            return []
        try:
            listing, classes = self._listing(split), len(self.class_names())
        except UserError as error:
            return [f"{self.name}/{split}: {error}"]
        known, per_class = self.splits[split], Counter(entry.label for entry in listing.entries)
        found = [*listing.left_out]
        if known.videos and len(listing.entries) not in known.videos:
            found.append(f"{len(listing.entries):,} videos; known copies have {_choice(known.videos)}")
        if len(per_class) < classes:
            found.append(f"no videos of {classes - len(per_class)} of the {classes} classes")
        least, most = min(per_class.values()), max(per_class.values())
        if known.per_class and (least < known.per_class[0] or most > known.per_class[1]):
            copies = _range(*known.per_class)
            found.append(f"videos per class: {_range(least, most)}; known copies have {copies}")
        return [f"{self.name}/{split}: {note}" for note in found]

    # --- videos -------------------------------------------------------------------------------------------------------

    def location(self) -> Path:
        """The folder of the videos, whether or not it exists."""
        return Path(self.folder, expanded(self.root))

    def missing(self, split: str | None = None) -> str | None:
        """Reason why the videos (of a split) cannot be used, None if they can. Single videos are not checked."""
        reason = not_found(f"root of dataset '{self.name}'", self.location(), Path.is_dir)
        return reason or (None if split is None else self._absent(split))

    def file(self, entry: Entry) -> Path:
        """The file or folder of a listed video. Raises UserError if its path leads out of the root."""
        return inside(self.location(), self._found(self.location(), entry.path), f"dataset '{self.name}'")

    def content(self, entries: Sequence[Entry], progress: FileProgress | None = None) -> str:
        """Hash of entries and the bytes of their videos (None for a missing one), without class names.

        A video is read again only if its size or modification time has changed; `progress(done, total)` counts the
        videos that have to be read.
        """
        root = self.location()
        found = {path: self._found(root, path) for path in {entry.path: None for entry in entries}}
        hashes = Manifest(self.name, root).hashes(list(found.values()), progress)
        videos = [[*entry, hashes[found[entry.path]]] for entry in entries]
        frames = [self.frames, self.first] if self.frames else None
        return digest([videos, frames, _preparation(root)])

    def require_numbering(self, entries: Iterable[Entry]) -> None:
        """Raises UserError if the first folders of frame files all contradict `frames` or `first` in the same way."""
        if not self.frames:
            return
        names = (self._found(self.location(), entry.path) for entry in entries)
        there = list(islice((name for name in names if (self.location() / name).is_dir()), FOLDERS))
        sources = (Source(self.location() / name, None, self.frames, self.first) for name in there)
        faults = [_numbering_fault(source) for source in sources]
        if there and faults[0] and len(set(faults)) == 1:
            raise UserError(faults[0], where=f"dataset '{self.name}': {there[0]}")

    # --- files --------------------------------------------------------------------------------------------------------

    def _files(self, text: str) -> list[Path]:
        return _files(text, self.lists, self.folder)

    def _absent(self, split: str) -> str | None:
        """Reason why a split's list or the classes cannot be read, None if the files exist."""
        texts = (self.classes, *self._split(split).list)
        reasons = (not_found(f"'{text}' of dataset '{self.name}'", self._files(text)[0]) for text in texts)
        return next(filter(None, reasons), None)

    def _split(self, split: str) -> Split:
        if split not in self.splits:
            raise unknown(f"split of dataset '{self.name}'", split, self.splits)
        return self.splits[split]

    def _listing(self, split: str) -> Listing:
        chosen = self._split(split)
        if split not in self._listings:
            self._listings[split] = self._read_listing(split, chosen)
        return self._listings[split]

    def _read_names(self, variant: str) -> tuple[str, ...]:
        file = self._files(self.variants[variant] if variant else self.classes)[0]
        names = read_classes(file)
        if variant and len(names) != len(self.class_names()):
            raise UserError(
                f"has {len(names)} classes, but dataset '{self.name}' has {len(self.class_names())}", where=str(file)
            )
        return names

    def _read_listing(self, split: str, chosen: Split) -> Listing:
        return read_list(chosen, [file for text in chosen.list for file in self._files(text)], self.class_names())

    def _found(self, root: Path, path: str) -> str:
        """Path of a listed video below the root: the first of `places` where it exists, else as listed."""
        is_there = os.path.isdir if self.frames else os.path.isfile
        parts = _parts(path)
        for place in chain(filter(None, [self._last]), self._places()):
            candidate = place.removeprefix("(?i)").format(**parts).lstrip("/")
            if place.startswith("(?i)"):
                candidate = self._as_written(root, candidate)
            if candidate and is_there(os.path.join(root, candidate)):
                self._last = place
                return candidate
        return path

    def _places(self) -> Iterator[str]:
        """The places, with `.*` replaced by each suffix, or by none for a folder of frames."""
        for place in self.places:
            stem = place.removesuffix(".*")
            yield from [place] if stem == place else [stem] if self.frames else [stem + suffix for suffix in SUFFIXES]

    def _as_written(self, root: Path, relative: str) -> str:
        """The path in the upper and lower case of the file system; "" if it does not exist."""
        found = ""
        for part in relative.split("/"):
            folder = os.path.join(root, found)
            if folder not in self._folders:
                names = os.listdir(folder) if os.path.isdir(folder) else []
                self._folders[folder] = {name.casefold(): name for name in names}
            if part.casefold() not in self._folders[folder]:
                return ""
            found = os.path.join(found, self._folders[folder][part.casefold()])
        return found


@cache
def _shipped() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((ASSETS / "datasets.yaml").read_text(encoding="utf-8"))
    return found


def declared_fields(name: str, folder: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a dataset: its settings override those of the shipped dataset named by `like` or of the same name.

    Splits and label variants are merged by name. If `known_bad` is a file, it is read. Raises UserError.
    """
    like = settings.get("like") or (name if name in _shipped() else "")
    base = _shipped().get(str(like), {})
    fields = {**base, **settings, "name": name, "folder": folder, "like": like}
    for key in ("splits", "variants"):
        if key in base and isinstance(settings.get(key, {}), Mapping):
            fields[key] = {**base[key], **settings.get(key, {})}
    if isinstance(fields.get("splits"), Mapping):
        known = base.get("splits", {})
        fields["splits"] = {split: _merged(known.get(split, {}), own) for split, own in fields["splits"].items()}
    if isinstance(bad := fields.get("known_bad"), str):
        fields["known_bad"] = read_names(_files(bad, str(fields.get("lists", "")), folder)[0])
    return fields


def _merged(shipped: dict[str, Any], own: Any) -> Any:
    """A split's settings, which override the shipped ones; a plain string is a labelled list of the same videos."""
    if isinstance(own, str):
        return {**shipped, "list": own, "format": "labelled", "select": ""}
    return {**shipped, **own} if isinstance(own, Mapping) else own


def shipped() -> dict[str, Dataset]:
    """Shipped datasets by name; their folders are below $VTB_DATA."""
    return {name: Dataset.model_validate(declared_fields(name, "", {})) for name in _shipped()}


@cache
def embedded() -> dict[str, Dataset]:
    """Embedded datasets by name. Their modules are imported only by this call."""
    return {name: own for module in EMBEDDED.values() for name, own in import_module(module).datasets().items()}


def datasets(declared: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """All datasets by name: embedded, shipped, and declared by a suite."""
    return {**embedded(), **shipped(), **declared}


def dataset(name: str, declared: Mapping[str, Dataset], *, where: str = "") -> Dataset:
    """A dataset by name. Raises UserError with the closest name for an unknown one."""
    if name in declared:
        return declared[name]
    if name.startswith(tuple(EMBEDDED)) and name in embedded():
        return embedded()[name]
    if name in _shipped():
        return Dataset.model_validate(declared_fields(name, "", {}))
    raise unknown("dataset", name, datasets(declared), where=where)


def _files(text: str, lists: str, folder: str) -> list[Path]:
    """Files of a name or pattern: shipped, in the folder `lists`, or in that of the declaring file.

    If there is none, the path in the first of these folders.
    """
    if text.startswith(SHIPPED_PREFIX):
        return [ASSETS / "classes" / text.removeprefix(SHIPPED_PREFIX)]
    relative, places = expanded(text), [Path(folder, expanded(lists)), Path(folder)]
    for place in places:
        file = place / relative
        found = sorted(file.parent.glob(file.name.replace("[", "[[]"))) if "*" in file.name else [file]
        if found and found[0].is_file():
            return found
    return [places[0] / relative]


def _parts(path: str) -> dict[str, str]:
    """Fields of the patterns in `places`, for a listed path."""
    folder, name = os.path.split(path)
    return {"path": path, "folder": folder, "under": folder.replace(" ", "_"), "stem": os.path.splitext(name)[0]}


def _numbering_fault(folder: Source) -> str:
    try:
        frame_numbers(folder)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def _choice(counts: Sequence[int]) -> str:
    *others, last = (f"{count:,}" for count in counts)
    return f"{', '.join(others)} or {last}" if others else last


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


def _preparation(root: Path) -> Any:
    """Settings with which a root's videos were re-encoded, None if they are as published."""
    return read_json(root / PREPARED, dict) if (root / PREPARED).is_file() else None
