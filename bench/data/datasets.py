"""Datasets: their classes, lists of videos and folders; shipped, declared by a suite, or embedded.

Does not import torch. `content` enters identities, locations do not. A mistake in a file is a UserError with file and
line.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from glob import escape
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import yaml
from annotated_types import MinLen
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from bench.core.errors import UserError, unknown
from bench.core.files import ASSETS, expanded, not_found, read_json
from bench.core.identity import digest, setting
from bench.data.class_files import Classes, read_classes
from bench.data.features import Features, implied_lists
from bench.data.lists import Entry, Listing, Split, read_list, read_names
from bench.data.manifest import FileProgress, Manifest
from bench.data.places import ABSENT, OUTSIDE, UNREADABLE, Fault, Places, below, refuse_pattern
from bench.video.source import Source, frame_numbers

if TYPE_CHECKING:
    from bench.data.feature_files import Stored

EMBEDDED = {"glyphs-": "bench.glyphs.datasets"}  # prefix of the names of embedded datasets -> module with `datasets()`
SHIPPED_PREFIX = "shipped:"
FRAMES = re.compile(r"[^{}/\0]*\{0?(:(0[1-9]\d?)?d?)?\}[^{}/\0]*")  # names of frame files
FOLDERS = 3  # folders of frame files whose numbers are compared with the declaration before anything runs
PREPARED = "prepared.json"  # in a root of re-encoded videos: the settings of the encoding


class Dataset(BaseModel):
    """Videos, lists and classes. Paths are relative to the declaring file's folder and may contain $VARIABLES and ~."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    buildable: ClassVar[bool] = False  # `build` can make missing videos

    name: str = Field(description="name of the dataset; the suite fills it in")
    folder: str = setting("", "folder of the declaring file; the suite fills it in")
    like: str = setting("", "shipped dataset whose settings are the defaults")
    root: str = Field(description="folder of the videos, or of their features")
    lists: str = setting("", "folder of the lists and classes, before the declaring file's")
    links: tuple[str, ...] = setting(
        (), "`{follow: FOLDERS}`: folders outside the root that links in it may lead into; by default they may not"
    )
    classes: str = Field(description="file of class names: CSV, one name a line, or JSON (docs/add_a_dataset.md)")
    variants: dict[str, str] = setting({}, "label variant -> CSV with other spellings of the classes")
    splits: Annotated[dict[str, Split], MinLen(1)] = Field(description="split name -> list file, or how it is read")
    known_bad: tuple[str, ...] = setting((), "undecodable videos, as in the lists, or a file of them")
    frames: str = setting("", "videos are folders of frames with such names, e.g. img_{:05d}.jpg")
    first: int = setting(1, "number of the first frame file", ge=0, le=10**9)
    features: Features | None = setting(None, "frame features from elsewhere in the place of videos")
    places: tuple[str, ...] = setting(("{path}",), "where a listed video may lie", min_length=1)
    groups: str = setting(
        "", "pattern of the names of videos whose one bracket is the group, such as the source (docs/statistics.md)"
    )
    ranking: str = setting("", "split whose frequencies rank classes into base and novel, or train")
    disjoint: tuple[tuple[str, str], ...] = setting((), "splits that must not share videos")

    _names: dict[str, Classes] = PrivateAttr(default_factory=dict)
    _listings: dict[str, Listing] = PrivateAttr(default_factory=dict)
    _finders: dict[object, Places] = PrivateAttr(default_factory=dict)
    _faults: dict[tuple[str, str, int], Fault] = PrivateAttr(default_factory=dict)  # split, path, class id -> fault

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if cls is Dataset and name.startswith(tuple(EMBEDDED)):
            raise ValueError(f"names that start with '{' or '.join(EMBEDDED)}' are reserved for embedded datasets")
        if not re.fullmatch(r"[^/\0]{1,100}", name):
            raise ValueError("a name has 1 to 100 characters and no /")
        return name

    @field_validator("like")
    @classmethod
    def _is_shipped(cls, like: str) -> str:
        if like and like not in _shipped():
            raise ValueError(f"no shipped dataset '{like}'; allowed: {', '.join(_shipped())}")
        return like

    @field_validator("links", mode="before")
    @classmethod
    def _to_follow(cls, links: Any) -> Any:
        """Folders of `{follow: FOLDERS}`, or as they stand in a record."""
        if isinstance(links, Mapping) and set(links) == {"follow"}:
            links = links["follow"]
            return (links,) if isinstance(links, str) else links
        if isinstance(links, list | tuple):
            return links
        raise ValueError("say which folders links may lead into, such as links: {follow: [FOLDER]}")

    @field_validator("known_bad")
    @classmethod
    def _as_listed(cls, known_bad: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return tuple(_below(info.data, path) for path in known_bad)

    @field_validator("places")
    @classmethod
    def _are_patterns(cls, places: tuple[str, ...]) -> tuple[str, ...]:
        for place in places:
            refuse_pattern(place)
        return places

    @field_validator("groups")
    @classmethod
    def _has_one_group(cls, groups: str) -> str:
        try:
            found = re.compile(groups).groups
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        if groups and found != 1:
            raise ValueError(f"needs one bracket around the group, such as (.*)_, not {found}; (?:...) is no group")
        return groups

    @field_validator("frames")
    @classmethod
    def _is_template(cls, frames: str) -> str:
        if frames and not FRAMES.fullmatch(frames):
            meant = re.sub(r"%(0\d)?d", r"{:\1d}", frames)
            meant = meant if FRAMES.fullmatch(meant) else "img_{:05d}.jpg"
            raise ValueError(
                f"needs one field for the frame's number, of at most 99 digits, such as {{:05d}} in {meant}"
            )
        return frames

    @model_validator(mode="after")
    def _names_splits(self) -> Dataset:
        for split in (*filter(None, [self.ranking]), *(split for pair in self.disjoint for split in pair)):
            if split not in self.splits:
                raise ValueError(f"unknown split '{split}' in ranking or disjoint; allowed: {', '.join(self.splits)}")
        return self

    # --- classes and lists --------------------------------------------------------------------------------------------

    def class_names(self, variant: str = "") -> tuple[str, ...]:
        """Class names in id order, in the spelling of a label variant. Raises UserError."""
        return self._classes(variant).names

    def _classes(self, variant: str = "") -> Classes:
        """The classes in the spelling of a label variant; a file is read once."""
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

    def notes(self, split: str, claims: bool = True) -> list[str]:
        """Notes about entries of a split's list that are left out, differences from known copies, and `claims`."""
        if self._absent(split):
            return []
        try:
            listing, classes = self._listing(split), len(self.class_names())
        except UserError as error:
            return [f"{self.name}/{split}: {error}"]
        known, per_class = self.splits[split], Counter(entry.label for entry in listing.entries)
        found = [*(self.claims(split) if claims else ()), *listing.read_as, *listing.left_out]
        if known.videos and len(listing.entries) not in known.videos:
            found.append(f"{len(listing.entries):,} videos; known copies have {_choice(known.videos)}")
        if len(per_class) < classes:
            found.append(f"no videos of {classes - len(per_class)} of the {classes} classes")
        least, most = min(per_class.values()), max(per_class.values())
        if self.groups and (odd := [own.name for own in listing.entries if not _group(self.groups, own.name)]):
            found.append(f"`groups` does not fit {len(odd):,} names, such as '{odd[0]}', each a group of its own")
        if known.per_class and (least < known.per_class[0] or most > known.per_class[1]):
            copies = _range(*known.per_class)
            found.append(f"videos per class: {_range(least, most)}; known copies have {copies}")
        classes_read_as = [f"{self.name}: classes read as {how}"] if (how := self._classes().read_as) else []
        return [*classes_read_as, *(f"{self.name}/{split}: {note}" for note in found)]

    def grouping(self) -> str | dict[str, str]:
        """What tells a video's group: the pattern, or the column of the lists that were read; empty if nothing."""
        told = (entry for listing in self._listings.values() for entry in listing.entries if entry.group)
        return self.groups or {entry.name: entry.group for entry in told}

    def claims(self, split: str) -> list[str]:
        """What is said of the features of a split; nothing of videos."""
        claimed = self.features if self.features and split in self.features.splits else None
        return [f"{claimed.claim(split)}, not computed here"] if claimed else []

    # --- videos -------------------------------------------------------------------------------------------------------

    def location(self) -> Path:
        """The folder of the videos, whether or not it exists."""
        return Path(self.folder, expanded(self.root))

    def missing(self, split: str | None = None) -> str | None:
        """Reason why the videos (of a split) cannot be used, None if they can. Single videos are not checked."""
        reason = not_found(f"root of dataset '{self.name}'", self.location(), os.path.isdir)
        for link, folder in zip(self.links, self._link_folders(), strict=True):
            reason = reason or not_found(f"'{link}' in links of dataset '{self.name}'", folder, os.path.isdir)
        return reason or (None if split is None else self._absent(split))

    def file(self, entry: Entry) -> Path:
        """The file or folder of a listed video. Raises UserError if a link leads out of the root."""
        path, fault = self._places().find(entry.path, entry.class_id)
        if fault and fault.kind == OUTSIDE:
            raise UserError(
                f"path '{path}' leads out of the dataset's root through a symbolic link, {fault.detail}",
                where=f"dataset '{self.name}'",
                hint=fault.advice(self.name),
            )
        return self.location() / path

    def content(self, entries: Sequence[Entry], progress: FileProgress | None = None, split: str = "") -> str:
        """Hash of entries and the bytes of their videos (None for one that cannot be read), without class names.

        Of a `split` with features it is that of their files, whose headers are compared with what is declared.

        A video is read again only if its size or modification time has changed; `progress(done, total)` counts the
        videos that have to be read. Links are followed before anything is read, and only regular files are.
        """
        places, root = self._places(), self.location()
        manifest = Manifest(self.name, root)
        if self.features:
            return self._content_of_features(entries, split, manifest, progress)
        videos = {(entry.path, entry.class_id): places.find(entry.path, entry.class_id) for entry in entries}
        there = [path for path, fault in videos.values() if not fault]
        folders = {path: self._folder_fault(path, manifest) for path in there if self.frames}
        outside = {path for path, fault in folders.items() if fault and fault.kind == OUTSIDE}
        hashes = manifest.hashes([path for path in there if path not in outside], progress)
        for video, (path, fault) in videos.items():
            if fault := fault or folders.get(path) or (None if hashes[path] else Fault(UNREADABLE, f"{root / path}")):
                self._faults["", *video] = fault
        content = [[*entry[:3], hashes.get(videos[entry.path, entry.class_id][0])] for entry in entries]
        frames = [self.frames, self.first] if self.frames else None
        return digest([content, frames, _preparation(root)])

    def faults(self, entries: Sequence[Entry], split: str = "") -> dict[str, Fault]:
        """Videos that `content` could not read, by name, and why; without those that `known_bad` declares."""
        own = split if self.features else ""
        found = {entry.name: self._faults.get((own, entry.path, entry.class_id)) for entry in entries}
        declared = set(self.known_bad)
        return {name: own for name, own in found.items() if own and (own.kind == OUTSIDE or name not in declared)}

    def stored(self, split: str) -> Stored:
        """The features of a split that has some. Raises UserError for files that cannot be read."""
        from bench.data.feature_files import Stored  # with numpy, which lists do without

        assert self.features is not None
        files = [self.location() / file for file in self._feature_files(split)]
        return Stored(files, self.features.shape(split))

    def _feature_files(self, split: str) -> list[str]:
        """Files of features below the root. Raises UserError for one that leads out of it."""
        if self.features is None or split not in self.features.splits:
            return []
        where, root = f"dataset '{self.name}': features.splits.{split}", self.location()
        places, found = Places(root, ("{path}",), self._link_folders(), self.class_names, False), list[str]()
        for file in self.features.splits[split].files:
            path, fault = places.find(below(root, str(expanded(file)), where), 0)
            if fault and fault.kind == OUTSIDE:
                raise UserError(f"'{file}' leads out of the root, {fault.detail}", where=where)
            found.append(path)
        return found

    def _content_of_features(
        self, entries: Sequence[Entry], split: str, manifest: Manifest, progress: FileProgress | None
    ) -> str:
        files, stored = self._feature_files(split), self.stored(split)
        names = ", ".join(files)
        places = {entry: stored.place(entry.name, entry.path) for entry in entries}
        sound = digest([stored.shape, [entry.name for entry in entries]])  # headers of many arrays take seconds
        if not all(sound in (manifest.facts(file) or {}) for file in files):
            wrong = {entry: stored.wrong(place) for entry, place in places.items() if place}
            faults = {entry: Fault(UNREADABLE, reason) for entry, reason in wrong.items() if reason}
            faults |= {entry: Fault(ABSENT, f"looked for in {names}") for entry, own in places.items() if own is None}
            self._faults |= {(split, entry.path, entry.class_id): fault for entry, fault in faults.items()}
            for file in files if not faults else ():
                manifest.learn(file, **{sound: True})
        hashes = manifest.hashes(files, progress)
        return digest([[entry[:3] for entry in entries], [hashes[file] for file in files]])

    def _folder_fault(self, path: str, manifest: Manifest) -> Fault | None:
        """Why a folder of frames cannot be read. One without faults and links is looked at once."""
        if (manifest.facts(path) or {}).get("sound") == (declared := [self.frames, self.first]):
            return None
        links, fault = self._places().links_in(path)
        if fault:
            return fault
        if reason := _numbering_fault(Source(self.location() / path, None, self.frames, self.first)):
            return Fault(UNREADABLE, reason)
        if not links:
            manifest.learn(path, sound=declared)
        return None

    def _places(self) -> Places:
        key = self.location(), self.places, self.links, self.frames
        if key not in self._finders:
            self._finders[key] = Places(key[0], self.places, self._link_folders(), self.class_names, bool(self.frames))
        return self._finders[key]

    def _link_folders(self) -> list[Path]:
        return [Path(self.folder, expanded(link)) for link in self.links]

    def require_numbering(self, entries: Iterable[Entry]) -> None:
        """Raises UserError if the first folders of frame files all contradict `frames` or `first` in the same way."""
        if not self.frames:
            return
        found = (self._places().find(entry.path, entry.class_id) for entry in entries)
        there = list(islice((name for name, fault in found if not fault), FOLDERS))
        sources = (Source(self.location() / name, None, self.frames, self.first) for name in there)
        faults = [_numbering_fault(source) for source in sources]
        if there and faults[0] and len(set(faults)) == 1:
            raise UserError(faults[0], where=f"dataset '{self.name}': {there[0]}")

    # --- files --------------------------------------------------------------------------------------------------------

    def _files(self, text: str) -> list[Path]:
        return _files(text, self.lists, self.folder)

    def _absent(self, split: str) -> str | None:
        """Reason why a split's list or the classes cannot be read, None if the files exist."""
        if self.features and split in self.splits and split not in self.features.splits:
            return f"no features of split '{split}' of dataset '{self.name}' are declared"
        files = {file: self.location() / file for file in self._feature_files(split)}
        files |= {text: self._files(text)[0] for text in (self.classes, *self._split(split).list)}
        reasons = (not_found(f"'{text}' of dataset '{self.name}'", file) for text, file in files.items())
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

    def _read_names(self, variant: str) -> Classes:
        file = self._files(self.variants[variant] if variant else self.classes)[0]
        found = read_classes(file)
        if variant and len(found.names) != len(self.class_names()):
            raise UserError(
                f"has {len(found.names)} classes, but dataset '{self.name}' has {len(self.class_names())}",
                where=str(file),
            )
        return found

    def _read_listing(self, split: str, chosen: Split) -> Listing:
        files = [file for text in chosen.list for file in self._files(text)]
        return read_list(chosen, files, self._classes(), self.location())


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
    if implied := implied_lists(fields.get("features"), str(fields.get("root", ""))):
        own = fields.get("splits", {})
        fields["splits"] = {**implied, **own} if isinstance(own, Mapping) else own
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


def group_names(how: str | Mapping[str, str], videos: Iterable[str]) -> list[str]:
    """The group of each video by `Dataset.grouping`; one that none is declared for is a group of its own."""
    if isinstance(how, str) and how:
        return [_group(how, video) or video for video in videos]
    return [(how or {}).get(video, video) for video in videos]


def _group(pattern: str, video: str) -> str:
    """What the bracket of a pattern of `groups` matches; empty if nothing."""
    found = re.search(pattern, video)
    return (found[1] or "") if found else ""


def _files(text: str, lists: str, folder: str) -> list[Path]:
    """Files of a name or pattern: shipped, in the folder `lists`, or in that of the declaring file.

    If there is none, the path in the first of these folders.
    """
    if text.startswith(SHIPPED_PREFIX):
        return [ASSETS / "classes" / text.removeprefix(SHIPPED_PREFIX)]
    relative, places = expanded(text), [Path(folder, expanded(lists)), Path(folder)]
    for place in places:
        file = place / relative
        pattern = re.sub(r"(\[\*\])+", "*", escape(file.name))  # `*` alone is special, and `**` means no more
        found = sorted(file.parent.glob(pattern)) if "*" in file.name else [file]
        if found and os.path.isfile(found[0]):
            return found
    return [places[0] / relative]


def _below(fields: Mapping[str, Any], path: str) -> str:
    """A path of `known_bad` as it is named in lists; unchanged if it leads out of the root."""
    try:
        return below(Path(fields.get("folder", ""), expanded(fields.get("root", ""))), path, "")
    except UserError:
        return path


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
