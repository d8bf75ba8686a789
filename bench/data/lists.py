"""Lists of videos in the formats in which datasets are published.

    labelled              `path label`, `path frames label`, `path,label` or other columns (bench/data/columns.py)
    ucf                   UCF-101's trainlist0N.txt (`Class/v.avi 1`) and testlist0N.txt (`Class/v.avi`)
    hmdb                  HMDB-51's <class>_test_splitN.txt (`name.avi 0|1|2`: unused, train, test)
    kinetics              CSV with the columns label, youtube_id, time_start, time_end and optionally split
    ssv2                  Something-Something V2's JSON lists, and the `id;label` lines of its test answers
    activitynet           the JSON of ActivityNet 1.3: whole videos with the label of their first instance
    activitynet-instances the same file: one entry per annotated instance, with its seconds
    features              the `names` and `labels` of a file of frame features (bench/data/feature_files.py)

All formats but the first name classes; case, spaces and punctuation of names are ignored. A mistake is a UserError with
file and line. Videos are not opened.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bench.core.errors import UserError
from bench.core.files import read_json, regular_text, text_lines
from bench.core.identity import setting
from bench.data.class_files import Classes, database
from bench.data.columns import INTEGER, ONE_LABEL, PLAIN, SEVERAL, ends, shortened, table, twice
from bench.data.places import below, plain_name

KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


class Entry(NamedTuple):
    """A video of a list: path below the dataset's root, class id and, for a part of a video, first and last second.

    Where `label` counts within a selection of classes, `whole` is the id among all classes of the dataset. `group`: the
    list's name of what the video comes from; it does not enter identities.
    """

    path: str
    label: int
    span: tuple[float, float] | None = None
    whole: int | None = None
    group: str = ""

    @property
    def name(self) -> str:
        """Name of the video in lists of failures; unique in a split."""
        return self.path if self.span is None else f"{self.path}@{self.span[0]:g}-{self.span[1]:g}"

    @property
    def class_id(self) -> int:
        """The id among all classes of the dataset."""
        return self.label if self.whole is None else self.whole


class Split(BaseModel):
    """Format of a split's list and facts about known copies. A plain string is a `labelled` list."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    list: tuple[str, ...] = Field(min_length=1, description="list files; `*` stands for any characters")
    format: Literal[
        "labelled", "ucf", "hmdb", "kinetics", "ssv2", "activitynet", "activitynet-instances", "features"
    ] = setting("labelled", "format of the list files (docs/add_a_dataset.md)")
    columns: tuple[Literal["path", "label", "frames", "group", "other"], ...] = setting(
        (), "labelled: order of the columns, where it cannot be told"
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

    @model_validator(mode="after")
    def _reads_columns(self) -> Split:
        if self.columns and self.format != "labelled":
            raise ValueError(f"columns are for `format: labelled`, not for {self.format}")
        if self.columns and (self.columns.count("path"), self.columns.count("label")) != (1, 1):
            raise ValueError("columns have one path and one label, and perhaps frames, group and other")
        return self

    @field_validator("list", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Listing(NamedTuple):
    """Videos of a split in the list's order, notes about entries that were left out, and how columns were read."""

    entries: tuple[Entry, ...]
    left_out: tuple[str, ...]
    read_as: tuple[str, ...] = ()


def read_list(split: Split, files: Sequence[Path], classes: Classes, root: Path | None = None) -> Listing:
    """Videos named by list files; paths may be absolute inside the root. Raises UserError."""
    parser = _Parser(classes.names, split, classes.first)
    entries: dict[str, Entry] = {}
    places: dict[str, str] = {}
    for line in (line for file in files for line in _FORMATS[split.format](file, parser)):
        if line.frames is not None and line.frames < max(1, split.min_frames):
            fewer = f"of fewer than {split.min_frames} frames" if line.frames else "of 0 frames"
            parser.left_out[f"entries {fewer}"] += 1
            continue
        entry = Entry(below(root, line.path, line.where), line.label, line.span, group=line.group)
        if entry.name in entries:
            raise twice(f"video '{entry.name}'", line.where, places[entry.name])
        entries[entry.name], places[entry.name] = entry, line.where
    if not entries:
        raise UserError("lists no videos" + (" of the dataset's classes" if split.subset else ""), where=str(files[0]))
    left_out = tuple(f"{what} left out: {n:,}" for what, n in parser.left_out.items())
    return Listing(tuple(entries.values()), left_out, tuple(parser.read_as))


class _ListLine(NamedTuple):
    path: str
    label: int
    where: str
    frames: int | None = None  # as declared by the list
    span: tuple[float, float] | None = None
    group: str = ""


@dataclass
class _Parser:
    """State that the formats share: class names, settings of the split, and counts of left-out entries by reason."""

    names: Sequence[str]
    split: Split
    first: int = 0  # id of the first class in the class file
    left_out: Counter[str] = field(default_factory=Counter)
    read_as: dict[str, None] = field(default_factory=dict)  # what is said of columns, in order and once

    def __post_init__(self) -> None:
        self.exact = {name: label for label, name in enumerate(self.names)}
        often = Counter(map(plain_name, self.names))
        self.loose = {plain_name(name): label for name, label in self.exact.items() if often[plain_name(name)] == 1}

    def label(self, name: str, where: str) -> int | None:
        """The id of a class; None for an unknown class if the split has `subset: true`, else a UserError."""
        label = self.known(name)
        if label is None and not self.split.subset:
            close = get_close_matches(name, self.names, n=1, cutoff=0.5)
            hint = f"did you mean '{close[0]}'?" if close else f"the dataset has {len(self.names)} classes"
            hint = ONE_LABEL if SEVERAL.search(name) else hint
            raise UserError(f"unknown class '{shortened(name)}'", where=where, hint=hint)
        return label

    def class_of(self, path: str) -> int | None:
        """The id of the class that a video's folder is named like."""
        return self.known(path.rpartition("/")[0].rpartition("/")[2])

    def known(self, name: str) -> int | None:
        label = self.exact.get(name)
        return self.loose.get(plain_name(name)) if label is None else label


# --- formats of lists -------------------------------------------------------------------------------------------------


def _labelled(file: Path, parser: _Parser) -> Iterator[_ListLine]:
    lines, classes = list(text_lines(file)), len(parser.names)
    if lines and not parser.split.columns:
        _refuse_other_format(file, lines[0], parser)
    found = table(lines, parser.split.columns, classes, parser.class_of)
    if found.columns != PLAIN and not parser.split.columns:
        parser.read_as[f"read as {', '.join(found.columns)}"] = None
    first = _first_label(file, found.rows, parser)
    for where, row in found.rows:
        number = INTEGER.fullmatch(row["label"])  # a column that is called the label may have names of classes
        label = int(row["label"]) - first if number else parser.label(row["label"], where)
        if label is None:
            continue
        if not 0 <= label < classes:
            hint = f"the class file has {classes} classes, counted from 0"
            raise UserError(f"class id {label} out of range 0..{classes - 1}", where=where, hint=hint)
        if not INTEGER.fullmatch(row.get("frames", "0")):
            raise UserError(f"number of frames '{shortened(row['frames'])}' is not an integer", where=where)
        frames = int(row["frames"]) if "frames" in row else None
        yield _ListLine(row["path"], label, where, frames, group=row.get("group", ""))


def _first_label(file: Path, rows: Sequence[tuple[str, dict[str, str]]], parser: _Parser) -> int:
    """0 or 1, from which the labels count; folders named like classes tell it. Raises UserError."""
    numbered = [(row["path"], int(row["label"])) for _, row in rows if INTEGER.fullmatch(row["label"])]
    folders = [(label, parser.class_of(path)) for path, label in numbered]
    told, labels = {label - own for label, own in folders if own is not None}, {label for _, label in numbered}
    if parser.first == 0 and told == {1} and 0 not in labels:
        hint = "say `format: ucf`, if the list is UCF-101's"
        raise UserError("labels count from 1, as the folders of the videos tell", where=str(file), hint=hint)
    if parser.first == 0 or 0 in labels or told == {0} or not labels:
        return 0
    if len(parser.names) not in labels and told != {1}:
        what = f"labels may count from 0 or 1: the class file counts from 1, and no label is 0 or {len(parser.names)}"
        raise UserError(what, where=str(file), hint="write the class file with the header id,name and ids from 0")
    parser.read_as["labels count from 1, as the class file"] = None
    return 1


def _refuse_other_format(file: Path, line: tuple[str, str], parser: _Parser) -> None:
    """Raises UserError for a list in another format that is declared as `labelled`, such as by a plain string."""
    where, text = line
    video, _, template = text.partition(";")
    in_answers = video.isdecimal() and parser.known(re.sub(r"[][]", "", template)) is not None
    looks = {
        "kinetics": re.search(r"youtube_id\W.*time_start|^[^/]+,[\w-]{11},\d+,\d+(,|$)", text),
        "ssv2": in_answers or re.match(r"\[\s*(\{|$)", text),
        "activitynet": re.match(r'\{\s*("|$)', text),
        "hmdb": "_test_split" in file.name and parser.known(file.name.partition("_test_split")[0]) is not None,
        "ucf": not any(ends(text)[::2]) and parser.class_of(text) is not None,
    }
    for name in (name for name, fits in looks.items() if fits):
        raise UserError(f"looks like {name}, not `path label`", where=where, hint=f"say `format: {name}` in the split")


def _ucf(file: Path, parser: _Parser) -> Iterator[_ListLine]:
    """The class is the name of the folder. The class number in the list, which counts from 1, must agree."""
    for where, text in text_lines(file):
        path, number = re.fullmatch(r"(.*?)(?:[\s,]+([0-9]{1,9}))?", text).groups()  # type: ignore[union-attr]
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
    for where, text in text_lines(file) if label is not None else ():
        line = re.fullmatch(r"(.+?)[\s,]+([012])", text)
        if line is None:
            allowed = ["0 (unused)", "1 (train)", "2 (test)"]
            raise UserError(f"'{shortened(text)}' does not end with its use", where=where, allowed=allowed)
        if line[2] in (parser.split.select or "012"):
            yield _ListLine(f"{folder}/{line[1]}", label, where)  # type: ignore[arg-type]


def _kinetics(file: Path, parser: _Parser) -> Iterator[_ListLine]:
    text = regular_text(file)
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    rows = csv.DictReader(text.split("\n"), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for column in (*KINETICS_COLUMNS, *(["split"] if parser.split.select else [])):
            if column not in (rows.fieldnames or ()):
                hint = "use a list with labels: this one is for a server that scores predictions" * (column == "label")
                raise UserError(f"has no column '{column}'", where=f"{file}:1", allowed=KINETICS_COLUMNS, hint=hint)
        for row in rows:
            if not parser.split.select or row["split"] == parser.split.select:
                yield from _kinetics_row(row, f"{file}:{rows.line_num}", parser)
    except csv.Error as error:
        raise UserError(f"not a CSV file: {error}", where=f"{file}:{rows.line_num}") from error


def _kinetics_row(row: dict[str, str], where: str, parser: _Parser) -> Iterator[_ListLine]:
    name, video, *seconds = (row[column] for column in KINETICS_COLUMNS)
    if not name:
        raise UserError(f"video '{video}' has no label", where=where, hint="use a list with labels")
    try:
        start, end = (int(float(second)) for second in seconds)
    except (TypeError, ValueError, OverflowError) as error:
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
    for where, text in text_lines(file):
        video, semicolon, template = text.partition(";")
        if not semicolon:
            raise UserError(f"'{shortened(text)}' is not `id;label`", where=where)
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
    for video, facts in database(file).items():
        where = f"{file}: video '{video}'"
        try:
            subset = facts["subset"]
            found = [(one["label"], one["segment"]) for one in facts["annotations"]]
            instances = [(str(label), float(start), float(end)) for label, (start, end) in found]
            if not all(math.isfinite(end - start) for _, start, end in instances):
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError("expected subset and annotations with segment and label", where=where) from error
        if instances and parser.split.select in ("", subset):
            yield where, video, instances


def _features(file: Path, parser: _Parser) -> Iterator[_ListLine]:
    from bench.data.feature_files import contents  # with numpy

    found = contents(file)
    if found.labels is None:
        hint = "name a list of them under `splits`, or give the file `labels` [N] beside its `names` [N]"
        raise UserError("has no labels", where=str(file), hint=hint)
    for number, (name, own) in enumerate(zip(found.names, found.labels, strict=True)):
        where = f"{file}: video {number}"
        label = own if type(own) is int else parser.label(str(own), where)
        if label is not None and not 0 <= label < len(parser.names):
            raise UserError(f"class id {label} out of range 0..{len(parser.names) - 1}", where=where)
        if label is not None:
            yield _ListLine(name, label, where)


_FORMATS: dict[str, Callable[[Path, _Parser], Iterator[_ListLine]]] = {
    "labelled": _labelled,
    "ucf": _ucf,
    "hmdb": _hmdb,
    "kinetics": _kinetics,
    "ssv2": _ssv2,
    "activitynet": _activitynet,
    "activitynet-instances": _activitynet_instances,
    "features": _features,
}


def read_names(file: Path) -> tuple[str, ...]:
    """Lines of a text file that are not blank. Raises UserError."""
    return tuple(text for _, text in text_lines(file))
