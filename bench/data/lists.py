"""Lists of videos and class names in the formats in which datasets are published.

    labelled              `path label`, `path frames label` or `path,label`; ids count from 0
    ucf                   UCF-101's trainlist0N.txt (`Class/v.avi 1`) and testlist0N.txt (`Class/v.avi`)
    hmdb                  HMDB-51's <class>_test_splitN.txt (`name.avi 0|1|2`: unused, train, test)
    kinetics              CSV with the columns label, youtube_id, time_start, time_end and optionally split
    ssv2                  Something-Something V2's JSON lists, and the `id;label` lines of its test answers
    activitynet           the JSON of ActivityNet 1.3: whole videos with the label of their first instance
    activitynet-instances the same file: one entry per annotated instance, with its seconds

All formats but the first name classes; case, spaces and punctuation of names are ignored. A mistake is a UserError with
file and line. Videos are not opened.
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
from bench.core.identity import setting
from bench.video.source import refuse_escape

KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


class Entry(NamedTuple):
    """A video of a list: path below the dataset's root, class id and, for a part of a video, first and last second."""

    path: str
    label: int
    span: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        """Name of the video in lists of failures; unique in a split."""
        return self.path if self.span is None else f"{self.path}@{self.span[0]:g}-{self.span[1]:g}"


class Split(BaseModel):
    """Format of a split's list and facts about known copies. A plain string is a `labelled` list."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    list: tuple[str, ...] = Field(min_length=1, description="list files; `*` stands for any characters")
    format: Literal["labelled", "ucf", "hmdb", "kinetics", "ssv2", "activitynet", "activitynet-instances"] = setting(
        "labelled", "format of the list files (docs/add_a_dataset.md)"
    )
    select: str = setting("", "rows to keep: hmdb 1, 2 or 12, kinetics' split column, activitynet's subset")
    subset: bool = setting(False, "entries of classes that are not among the dataset's are left out")
    min_frames: int = setting(0, "entries whose list gives fewer frames are left out")
    videos: tuple[int, ...] = setting((), "numbers of videos in known copies")
    per_class: tuple[int, int] | None = setting(None, "fewest and most videos of a class in known copies")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        return {"list": data} if isinstance(data, str) else data

    @field_validator("list", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Listing(NamedTuple):
    """Videos of a split in the list's order, and notes about entries that were left out."""

    entries: tuple[Entry, ...]
    left_out: tuple[str, ...]


def read_list(split: Split, files: Sequence[Path], names: Sequence[str]) -> Listing:
    """Videos named by list files; `names` are the classes in id order. Raises UserError."""
    parser = _Parser(names, split)
    entries: dict[str, Entry] = {}
    places: dict[str, str] = {}
    for line in (line for file in files for line in _FORMATS[split.format](file, parser)):
        if line.frames is not None and line.frames < max(1, split.min_frames):
            fewer = f"of fewer than {split.min_frames} frames" if line.frames else "of 0 frames"
            parser.left_out[f"entries {fewer}"] += 1
            continue
        entry = Entry(line.path, line.label, line.span)
        if entry.name in entries:
            raise _twice(f"video '{entry.name}'", line.where, places[entry.name])
        refuse_escape(line.path, line.where)
        entries[entry.name], places[entry.name] = entry, line.where
    if not entries:
        raise UserError("lists no videos" + (" of the dataset's classes" if split.subset else ""), where=str(files[0]))
    return Listing(tuple(entries.values()), tuple(f"{what} left out: {n:,}" for what, n in parser.left_out.items()))


class _ListLine(NamedTuple):
    path: str
    label: int
    where: str
    frames: int | None = None  # as declared by the list
    span: tuple[float, float] | None = None


@dataclass
class _Parser:
    """State that the formats share: class names, settings of the split, and counts of left-out entries by reason."""

    names: Sequence[str]
    split: Split
    left_out: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.exact = {name: label for label, name in enumerate(self.names)}
        often = Counter(map(plain_name, self.names))
        self.loose = {plain_name(name): label for name, label in self.exact.items() if often[plain_name(name)] == 1}

    def label(self, name: str, where: str) -> int | None:
        """The id of a class; None for an unknown class if the split has `subset: true`, else a UserError."""
        label = self.exact.get(name, self.loose.get(plain_name(name)))
        if label is None and not self.split.subset:
            close = get_close_matches(name, self.names, n=1, cutoff=0.5)
            hint = f"did you mean '{close[0]}'?" if close else f"the dataset has {len(self.names)} classes"
            raise UserError(f"unknown class '{name}'", where=where, hint=hint)
        return label


def plain_name(name: str) -> str:
    """A class name without case, spaces and punctuation: HandStandPushups and Handstand Pushups are the same class."""
    return "".join(filter(str.isalnum, name.casefold()))


def _twice(what: str, where: str, first: str) -> UserError:
    file, _, line = first.rpartition(":")
    same = where.rpartition(":")[0] == file
    return UserError(f"{what} appears twice", where=where, hint=f"the first is in {f'line {line}' if same else first}")


# --- formats of lists -------------------------------------------------------------------------------------------------


def _labelled(file: Path, parser: _Parser) -> Iterator[_ListLine]:
    """The second number from the right is a number of frames only if every line has one (MoTE, Text4Vis, BIKE)."""
    lines = list(_lines(file))
    counted = all(re.fullmatch(r".+ \d+ \d+", text) for _, text in lines)
    for where, text in lines:
        path, frames = text, None
        if counted:
            path, frames, label = text.rsplit(" ", 2)
        else:
            path, label = _path_and_label(text, where)
        if not 0 <= int(label) < len(parser.names):
            raise UserError(
                f"class id {label} out of range 0..{len(parser.names) - 1}",
                where=where,
                hint=f"the class file has {len(parser.names)} classes, counted from 0",
            )
        yield _ListLine(path, int(label), where, None if frames is None else int(frames))


def _path_and_label(text: str, where: str) -> tuple[str, str]:
    """Split `path label`, or `path,label` if no integer follows the last space; paths may contain both separators."""
    for separator in (" ", ","):
        path, _, label = text.rpartition(separator)
        if path and re.fullmatch(r"-?\d+", label):
            return path, label
    raise UserError(
        f"label '{text.rpartition(' ')[2]}' is not an integer",
        where=where,
        hint="a line is `path label` or `path,label`",
    )


def _ucf(file: Path, parser: _Parser) -> Iterator[_ListLine]:
    """The class is the name of the folder. The class number in the list, which counts from 1, must agree."""
    for where, text in _lines(file):
        path, number = re.fullmatch(r"(.*?)(?: (\d+))?", text).groups()  # type: ignore[union-attr]
        folder = PurePosixPath(path).parent.name
        if not folder:
            raise UserError(f"'{path}' has no class folder", where=where, hint="a line is `Class/video.avi`")
        label = parser.label(folder, where)
        if label is None:
            continue
        if number is not None and int(number) != label + 1 and not parser.split.subset:
            raise UserError(
                f"class number {number}, but '{folder}' is class {label + 1}",
                where=where,
                hint="official lists count from 1; declare a list that counts from 0 as `format: labelled`",
            )
        yield _ListLine(path, label, where)


def _hmdb(file: Path, parser: _Parser) -> Iterator[_ListLine]:
    """The class is the file's name before `_test_split`; its videos are in a folder of that name."""
    folder, marker, _ = file.name.rpartition("_test_split")
    if not marker:
        raise UserError(
            "the file's name does not contain its class", where=str(file), allowed=["<class>_test_split<N>.txt"]
        )
    label = parser.label(folder, str(file))
    for where, text in _lines(file) if label is not None else ():
        name, _, use = text.rpartition(" ")
        if not name or use not in ("0", "1", "2"):
            raise UserError(
                f"'{text}' does not end with its use", where=where, allowed=["0 (unused)", "1 (train)", "2 (test)"]
            )
        if use in (parser.split.select or "012"):
            yield _ListLine(f"{folder}/{name}", label, where)  # type: ignore[arg-type]


def _kinetics(file: Path, parser: _Parser) -> Iterator[_ListLine]:
    rows = csv.DictReader(_text(file).splitlines())
    for column in (*KINETICS_COLUMNS, *(["split"] if parser.split.select else [])):
        if column not in (rows.fieldnames or ()):
            hint = "use a list with labels: this one is for a server that scores predictions" * (column == "label")
            raise UserError(f"has no column '{column}'", where=f"{file}:1", allowed=KINETICS_COLUMNS, hint=hint)
    for row in rows:
        where = f"{file}:{rows.line_num}"
        if parser.split.select and row["split"] != parser.split.select:
            continue
        name, video, *seconds = (row[column] for column in KINETICS_COLUMNS)
        if not name:
            raise UserError(f"video '{video}' has no label", where=where, hint="use a list with labels")
        try:
            start, end = (int(float(second)) for second in seconds)
        except (TypeError, ValueError) as error:
            raise UserError(f"expected {','.join(KINETICS_COLUMNS)}", where=where) from error
        label = parser.label(name, where)
        if label is not None:
            yield _ListLine(f"{name}/{video}_{start:06d}_{end:06d}.mp4", label, where)


def _ssv2(file: Path, parser: _Parser) -> Iterator[_ListLine]:
    pairs = _ssv2_answers(file) if file.suffix == ".csv" else _ssv2_json(file)
    for where, video, template in pairs:
        label = parser.label(template.replace("[", "").replace("]", ""), where)
        if label is not None:
            yield _ListLine(f"{video}.webm", label, where)


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
                hint="labels of the test videos are published as `id;label` lines: use that .csv file",
            )
        yield where, str(video["id"]), str(video["template"])


def _activitynet(file: Path, parser: _Parser) -> Iterator[_ListLine]:
    for where, video, instances in _annotated(file, parser):
        label = parser.label(instances[0][0], where)
        if label is not None:
            yield _ListLine(f"v_{video}.mp4", label, where)


def _activitynet_instances(file: Path, parser: _Parser) -> Iterator[_ListLine]:
    for where, video, instances in _annotated(file, parser):
        for name, start, end in dict.fromkeys(instances):
            if start >= end:
                parser.left_out["instances without duration"] += 1
            elif (label := parser.label(name, where)) is not None:
                yield _ListLine(f"v_{video}.mp4", label, where, span=(start, end))


def _annotated(file: Path, parser: _Parser) -> Iterator[tuple[str, str, list[tuple[str, float, float]]]]:
    """(place, video id, [(label, start, end)]) of a subset's annotated videos; test videos have no annotations."""
    for video, facts in _database(file).items():
        where = f"{file}: video '{video}'"
        try:
            subset = facts["subset"]
            found = [(one["label"], one["segment"]) for one in facts["annotations"]]
            instances = [(str(label), float(start), float(end)) for label, (start, end) in found]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError("expected subset and annotations with segment and label", where=where) from error
        if instances and parser.split.select in ("", subset):
            yield where, video, instances


def _database(file: Path) -> dict[str, Any]:
    database = read_json(file, dict).get("database")
    if not isinstance(database, dict):
        raise UserError("has no 'database'", where=str(file), hint="expected the JSON file of ActivityNet 1.3")
    return database


_FORMATS: dict[str, Callable[[Path, _Parser], Iterator[_ListLine]]] = {
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
    """Class names in id order from a CSV file with the header id,name or the JSON of SSv2 or ActivityNet.

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
        raise UserError(f"class id '{row[0]}', expected {expected}", where=where, hint="ids count from 0 without gaps")
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
    """Lines of a text file that are not blank. Raises UserError."""
    return tuple(text for _, text in _lines(file))


def read_json(file: Path, kind: type) -> Any:
    """Content of a JSON file of this kind, list or dict. Raises UserError."""
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
