"""Lists of videos and class names: the files that datasets are published with.

    labelled              `path label`, `path frames label` or `path,label`; ids count from 0
    ucf                   UCF-101's trainlist0N.txt (`Class/v.avi 1`) and testlist0N.txt (`Class/v.avi`)
    hmdb                  HMDB-51's <class>_test_splitN.txt (`name.avi 0|1|2`: unused, train, test)
    kinetics              CSV with the columns label, youtube_id, time_start, time_end and sometimes split
    ssv2                  Something-Something V2's JSON lists, and `id;label` lines as its test answers have them
    activitynet           the JSON of ActivityNet 1.3: whole videos with the label of their first instance
    activitynet-instances the same file: one entry per annotated instance, with its seconds

Classes are found by name in all but the first, whatever the case, spaces and punctuation. A mistake is a UserError
with file and line. Nothing here looks at videos.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bench.core.errors import UserError
from bench.video.source import refuse_escape

KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


class Entry(NamedTuple):
    """A video of a list: its path below the dataset's root, its class id and, for a part of it, seconds from and to."""

    path: str
    label: int
    span: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        """What lists of failures call the video; unique in a split."""
        return self.path if self.span is None else f"{self.path}@{self.span[0]:g}-{self.span[1]:g}"


class Split(BaseModel):
    """How the list of a split is read, and what is known about it. A plain string is a `labelled` list."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    list: tuple[str, ...] = Field(min_length=1, description="list files; `*` stands for any characters")
    format: Literal["labelled", "ucf", "hmdb", "kinetics", "ssv2", "activitynet", "activitynet-instances"] = Field(
        default="labelled", description="format of the list files (docs/add_a_dataset.md)"
    )
    select: str = Field(
        default="", description="rows to keep: hmdb 1, 2 or 12, kinetics' split column, activitynet's subset"
    )
    subset: bool = Field(default=False, description="entries of classes that are not among the dataset's are left out")
    min_frames: int = Field(default=0, description="entries whose list gives fewer frames are left out")
    videos: tuple[int, ...] = Field(default=(), description="numbers of videos in known copies")
    per_class: tuple[int, int] | None = Field(
        default=None, description="fewest and most videos of a class in known copies"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        return {"list": data} if isinstance(data, str) else data

    @field_validator("list", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Listing(NamedTuple):
    """The videos of a split in the list's order, and sentences about what was left out."""

    entries: tuple[Entry, ...]
    left_out: tuple[str, ...]


def read_list(split: Split, files: Sequence[Path], names: Sequence[str]) -> Listing:
    """The videos that list files name; `names` are the classes in id order. Raises UserError."""
    reading = _Reading(names, split)
    entries: dict[str, Entry] = {}
    places: dict[str, str] = {}
    for row in (row for file in files for row in _READERS[split.format](file, reading)):
        if row.frames is not None and row.frames < max(1, split.min_frames):
            fewer = f"of fewer than {split.min_frames} frames" if row.frames else "of 0 frames"
            reading.left_out[f"entries {fewer}"] += 1
            continue
        entry = Entry(row.path, row.label, row.span)
        if entry.name in entries:
            raise _twice(f"video '{entry.name}'", row.where, places[entry.name])
        refuse_escape(row.path, row.where)
        entries[entry.name], places[entry.name] = entry, row.where
    if not entries:
        raise UserError("lists no videos" + (" of the dataset's classes" if split.subset else ""), where=str(files[0]))
    return Listing(tuple(entries.values()), tuple(f"{what} left out: {n:,}" for what, n in reading.left_out.items()))


class _Row(NamedTuple):
    path: str
    label: int
    where: str
    frames: int | None = None  # as the list declares
    span: tuple[float, float] | None = None


@dataclass
class _Reading:
    """What readers share: the classes, which rows are wanted, and a count of what is left out, by reason."""

    names: Sequence[str]
    split: Split
    left_out: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.exact = {name: label for label, name in enumerate(self.names)}
        often = Counter(map(_plain, self.names))
        self.loose = {_plain(name): label for name, label in self.exact.items() if often[_plain(name)] == 1}

    def label(self, name: str, where: str) -> int | None:
        """The id of a class; None for another class of a list of which a subset is wanted. Raises UserError."""
        label = self.exact.get(name, self.loose.get(_plain(name)))
        if label is None and not self.split.subset:
            close = get_close_matches(name, self.names, n=1, cutoff=0.5)
            hint = f"did you mean '{close[0]}'?" if close else f"the dataset has {len(self.names)} classes"
            raise UserError(f"unknown class '{name}'", where=where, hint=hint)
        return label


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))


def _twice(what: str, where: str, first: str) -> UserError:
    file, _, line = first.rpartition(":")
    same = where.rpartition(":")[0] == file
    return UserError(f"{what} appears twice", where=where, hint=f"the first is in {f'line {line}' if same else first}")


# --- formats of lists -------------------------------------------------------------------------------------------------


def _labelled(file: Path, reading: _Reading) -> Iterator[_Row]:
    """The second number from the right is a count of frames only if every line has one (MoTE, Text4Vis, BIKE)."""
    lines = list(_lines(file))
    counted = all(re.fullmatch(r".+ \d+ \d+", text) for _, text in lines)
    for where, text in lines:
        path, frames = text, None
        if counted:
            path, frames, label = text.rsplit(" ", 2)
        else:
            path, label = _path_and_label(text, where)
        if not 0 <= int(label) < len(reading.names):
            raise UserError(
                f"class id {label} out of range 0..{len(reading.names) - 1}",
                where=where,
                hint=f"the class file has {len(reading.names)} classes, counted from 0",
            )
        yield _Row(path, int(label), where, None if frames is None else int(frames))


def _path_and_label(text: str, where: str) -> tuple[str, str]:
    """`path label`, or `path,label` if the last field between spaces is no integer; paths may hold both characters."""
    for separator in (" ", ","):
        path, _, label = text.rpartition(separator)
        if path and re.fullmatch(r"-?\d+", label):
            return path, label
    raise UserError(
        f"label '{text.rpartition(' ')[2]}' is not an integer",
        where=where,
        hint="a line is `path label` or `path,label`",
    )


def _ucf(file: Path, reading: _Reading) -> Iterator[_Row]:
    """The class is the folder's name; the number behind it, which counts from 1, has to agree."""
    for where, text in _lines(file):
        path, number = re.fullmatch(r"(.*?)(?: (\d+))?", text).groups()  # type: ignore[union-attr]
        folder = PurePosixPath(path).parent.name
        if not folder:
            raise UserError(f"'{path}' has no class folder", where=where, hint="a line is `Class/video.avi`")
        label = reading.label(folder, where)
        if label is None:
            continue
        if number is not None and int(number) != label + 1 and not reading.split.subset:
            raise UserError(
                f"class number {number} where '{folder}' is class {label + 1}",
                where=where,
                hint="official lists count from 1; declare a list that counts from 0 as `format: labelled`",
            )
        yield _Row(path, label, where)


def _hmdb(file: Path, reading: _Reading) -> Iterator[_Row]:
    """The class is the file's name up to `_test_split`; videos lie in a folder of that name."""
    folder, marker, _ = file.name.rpartition("_test_split")
    if not marker:
        raise UserError(
            "the file's name does not say its class", where=str(file), allowed=["<class>_test_split<N>.txt"]
        )
    label = reading.label(folder, str(file))
    for where, text in _lines(file) if label is not None else ():
        name, _, use = text.rpartition(" ")
        if not name or use not in ("0", "1", "2"):
            raise UserError(
                f"'{text}' does not end with its use", where=where, allowed=["0 (unused)", "1 (train)", "2 (test)"]
            )
        if use in (reading.split.select or "012"):
            yield _Row(f"{folder}/{name}", label, where)  # type: ignore[arg-type]


def _kinetics(file: Path, reading: _Reading) -> Iterator[_Row]:
    rows = csv.DictReader(_text(file).splitlines())
    for column in (*KINETICS_COLUMNS, *(["split"] if reading.split.select else [])):
        if column not in (rows.fieldnames or ()):
            hint = (
                "name a list with labels: this one is for a server that scores predictions" if column == "label" else ""
            )
            raise UserError(f"has no column '{column}'", where=f"{file}:1", allowed=KINETICS_COLUMNS, hint=hint)
    for row in rows:
        where = f"{file}:{rows.line_num}"
        if reading.split.select and row["split"] != reading.split.select:
            continue
        name, video, *seconds = (row[column] for column in KINETICS_COLUMNS)
        if not name:
            raise UserError(f"video '{video}' has no label", where=where, hint="name a list with labels")
        try:
            start, end = (int(float(second)) for second in seconds)
        except (TypeError, ValueError) as error:
            raise UserError(f"expected {','.join(KINETICS_COLUMNS)}", where=where) from error
        label = reading.label(name, where)
        if label is not None:
            yield _Row(f"{name}/{video}_{start:06d}_{end:06d}.mp4", label, where)


def _ssv2(file: Path, reading: _Reading) -> Iterator[_Row]:
    pairs = _ssv2_answers(file) if file.suffix == ".csv" else _ssv2_json(file)
    for where, video, template in pairs:
        label = reading.label(template.replace("[", "").replace("]", ""), where)
        if label is not None:
            yield _Row(f"{video}.webm", label, where)


def _ssv2_answers(file: Path) -> Iterator[tuple[str, str, str]]:
    for where, text in _lines(file):
        video, semicolon, template = text.partition(";")
        if not semicolon:
            raise UserError(f"'{text}' is not `id;label`", where=where)
        yield where, video, template


def _ssv2_json(file: Path) -> Iterator[tuple[str, str, str]]:
    for number, video in enumerate(read_json(file, list)):
        where = f"{file}: entry {number}"
        if not isinstance(video, dict) or "id" not in video:
            raise UserError("has no 'id'", where=where)
        if "template" not in video:
            raise UserError(
                f"video '{video['id']}' has no 'template', its label",
                where=where,
                hint="the labels of the test videos are published as `id;label` lines: name that .csv file",
            )
        yield where, str(video["id"]), str(video["template"])


def _activitynet(file: Path, reading: _Reading) -> Iterator[_Row]:
    for where, video, instances in _annotated(file, reading):
        label = reading.label(instances[0][0], where)
        if label is not None:
            yield _Row(f"v_{video}.mp4", label, where)


def _activitynet_instances(file: Path, reading: _Reading) -> Iterator[_Row]:
    for where, video, instances in _annotated(file, reading):
        for name, start, end in dict.fromkeys(instances):
            if start >= end:
                reading.left_out["instances without duration"] += 1
            elif (label := reading.label(name, where)) is not None:
                yield _Row(f"v_{video}.mp4", label, where, span=(start, end))


def _annotated(file: Path, reading: _Reading) -> Iterator[tuple[str, str, list[tuple[str, float, float]]]]:
    """(place, video id, [(label, start, end)]) of the annotated videos of a subset; test videos are not annotated."""
    for video, facts in _database(file).items():
        where = f"{file}: video '{video}'"
        try:
            subset = facts["subset"]
            found = [(one["label"], one["segment"]) for one in facts["annotations"]]
            instances = [(str(label), float(start), float(end)) for label, (start, end) in found]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError("expected subset and annotations with segment and label", where=where) from error
        if instances and reading.split.select in ("", subset):
            yield where, video, instances


def _database(file: Path) -> dict[str, Any]:
    database = read_json(file, dict).get("database")
    if not isinstance(database, dict):
        raise UserError("has no 'database'", where=str(file), hint="expected the JSON file of ActivityNet 1.3")
    return database


_READERS: dict[str, Callable[[Path, _Reading], Iterator[_Row]]] = {
    "labelled": _labelled,
    "ucf": _ucf,
    "hmdb": _hmdb,
    "kinetics": _kinetics,
    "ssv2": _ssv2,
    "activitynet": _activitynet,
    "activitynet-instances": _activitynet_instances,
}


# --- class names ------------------------------------------------------------------------------------------------------


def read_classes(file: Path) -> tuple[str, ...]:
    """Class names in id order, of a CSV file with the header id,name, or of SSv2's or ActivityNet's JSON file.

    Raises UserError.
    """
    names = tuple(_json_classes(file) if file.suffix == ".json" else _csv_classes(file))
    if not names:
        raise UserError("lists no classes", where=str(file))
    return names


def _csv_classes(file: Path) -> Iterable[str]:
    rows = csv.reader(_text(file).splitlines())
    header = next(rows, [])
    if header != ["id", "name"]:
        raise UserError(f"header is '{','.join(header)}'", where=f"{file}:1", allowed=["id,name"])
    lines: dict[str, str] = {}
    for row in filter(None, rows):
        where = f"{file}:{rows.line_num}"
        name = _class_name(row, len(lines), where)
        if name in lines:
            raise _twice(f"class '{name}'", where, lines[name])
        lines[name] = where
    return lines


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


def _json_classes(file: Path) -> Iterable[str]:
    data = read_json(file, dict)
    if "database" in data:
        videos = _database(file).values()
        return sorted({str(one["label"]) for facts in videos for one in facts.get("annotations", ())})
    names = {str(label): name for name, label in data.items()}
    if set(names) != set(map(str, range(len(data)))):
        raise UserError("ids do not count from 0 without gaps", where=str(file), hint='expected {"name": "id", ...}')
    return [names[str(label)] for label in range(len(names))]


# --- files ------------------------------------------------------------------------------------------------------------


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """(file:line, text without surrounding space) of every line that is not blank."""
    for number, text in enumerate(_text(file).splitlines(), start=1):
        if text.strip():
            yield f"{file}:{number}", text.strip()


def read_names(file: Path) -> tuple[str, ...]:
    """The lines of a text file that are not blank. Raises UserError."""
    return tuple(text for _, text in _lines(file))


def read_json(file: Path, kind: type) -> Any:
    """What a JSON file holds: a list or a dict. Raises UserError."""
    try:
        data = json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise UserError(f"not valid JSON: {error.msg}", where=f"{file}:{error.lineno}") from error
    if not isinstance(data, kind):
        raise UserError(f"expected a JSON {'list' if kind is list else 'object'}", where=str(file))
    return data


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(file)) from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", where=str(file), hint=f"first wrong byte at {error.start}") from error
