"""Columns of a list without a format of its own: where path, label, number of frames and group stand in its lines.

Cells are separated by commas, semicolons, tabs or other white space, and may be quoted as csv.writer does it. A path
that is not quoted may contain separators, since the cells before and after it are counted. Columns come from the key
`columns`, from a header, or from what all lines have in common; what could mean two things is refused.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from bench.core.errors import UserError
from bench.data.places import SUFFIXES

Line = tuple[str, str]  # (file:line, text without surrounding space)
ClassOf = Callable[[str], int | None]  # path -> id of the class that its folder is named like

PLAIN = ("path", "label")
WORDS = {  # what headers call a column, the most telling names first
    "path": "path video_path clip_path file_path filepath relative_path file filename file_name video video_name clip"
    " clip_name",
    "label": "label_id class_id label_idx class_idx class_index label_index target label class",
    "frames": "frames num_frames n_frames nframes frame_count total_frames",
    "group": "group group_id",
}
DELIMITERS = (",", ";", "\t", None)  # None: any white space
INTEGER = re.compile(r"-?[0-9]{1,18}")
SEVERAL = re.compile(r"\d[^\w.]+\d+[^\w.]*$")  # the end of a text with several integers
# A path and numbers behind it
NUMBERED = re.compile(rf"({'|'.join(map(re.escape, SUFFIXES))})[\s,;](\d|[^\w/.])*$", re.IGNORECASE)
ONE_LABEL = "a video with several labels cannot be scored: keep one"
LINE = "a line is `path label` or `path,label`, or a header names its columns path, label and frames"
DECLARE = "declare the order in the split, such as `columns: [path, frames, label]` (`other`: not read)"


class Table(NamedTuple):
    """Lines of a list in columns."""

    columns: tuple[str, ...]
    rows: list[tuple[str, dict[str, str]]]  # file:line, and column -> cell
    named: bool  # by a header or a declaration, so that labels may be names


def table(lines: Sequence[Line], declared: Sequence[str], classes: int, class_of: ClassOf) -> Table:
    """The lines in their columns; `classes` is the number of classes, which folders may tell. Raises UserError."""
    header, delimiter = _header(lines[0][1]) if lines else ((), None)
    lines = lines[1:] if header else lines
    if not (named := bool(declared or header)):
        lines = [(where, text.rstrip(",; \t")) for where, text in lines]
    columns = tuple(declared) or header or _recognised(lines, classes, class_of)
    rows = []
    for where, text in lines:
        cells = _row(text, columns, [delimiter] if header else _delimiters(text), named)
        if cells is None or (cells["path"].startswith('"') and cells["path"].count('"') % 2):
            raise UserError(f"'{shortened(text)}' is not {', '.join(columns)}", where=where, hint=DECLARE)
        if NUMBERED.search(cells["path"]):
            raise _several_numbers(where, text)
        rows.append((where, cells))
    return Table(columns, rows, named)


def shortened(text: str) -> str:
    """Text for a message: the beginning of a long one."""
    return text if len(text) <= 80 else f"{text[:77]}..."


def twice(what: str, where: str, first: str) -> UserError:
    """The error for what stands at two places, file:line each."""
    file, _, line = first.rpartition(":")
    same = where.rpartition(":")[0] == file
    return UserError(f"{what} appears twice", where=where, hint=f"the first is in {f'line {line}' if same else first}")


def split(text: str, before: int, after: int, delimiter: str | None) -> list[str] | None:
    """Cells of a line: `before`, one that may contain the delimiter, and `after`. None if there are fewer."""
    cells = _quoted(text, delimiter)
    if cells:
        last = len(cells) - after
        cells = [*cells[:before], (delimiter or " ").join(cells[before:last]), *cells[last:]]
    else:
        cells = text.split(delimiter, before)
        cells += cells.pop().rsplit(delimiter, after) if len(cells) > before else []
    return [cell.strip() for cell in cells] if len(cells) == before + 1 + after and cells[before].strip() else None


def ends(text: str) -> tuple[list[str], str, list[str]]:
    """Integers at the beginning of a line, what lies between, and integers at its end."""
    choices = [(delimiter, cells_of(text, delimiter)) for delimiter in _delimiters(text)]
    for place in (-1, 0):
        found = []
        for delimiter, cells in choices:
            if len(cells) > 1 and INTEGER.fullmatch(cells[place]):
                tail = _integers(cells[:0:-1])
                head = _integers(cells[: len(cells) - 1 - tail])
                if middle := split(text, head, tail, delimiter):
                    found.append((cells[:head], middle[head], cells[len(cells) - tail :]))
        if found:
            return next((each for each in found if is_video(each[1])), found[0])
    return [], text, []


def _delimiters(text: str) -> list[str | None]:
    """The delimiters that a line may have."""
    return [delimiter for delimiter in DELIMITERS if delimiter is None or delimiter in text]


def _integers(cells: Sequence[str]) -> int:
    """Number of integers at the beginning."""
    return next((place for place, cell in enumerate(cells) if not INTEGER.fullmatch(cell)), len(cells))


def _quoted(text: str, delimiter: str | None) -> list[str]:
    """Cells of a line with quotes; none if it has no quotes, or its quotes mean something else."""
    if '"' not in text:
        return []
    try:
        return next(csv.reader([text], delimiter=delimiter or " ", skipinitialspace=True, strict=True))
    except csv.Error:
        return []


def cells_of(text: str, delimiter: str | None) -> list[str]:
    """Cells of a line, without surrounding space and quotes."""
    return [cell.strip() for cell in _quoted(text, delimiter) or text.split(delimiter) or [""]]


def _row(text: str, columns: Sequence[str], delimiters: Iterable[str | None], named: bool) -> dict[str, str] | None:
    """Cells of a line by their columns, with integers for label and frames, or in named columns with any cells."""
    before = columns.index("path")
    splits = [split(text, before, len(columns) - 1 - before, delimiter) for delimiter in delimiters]
    found = [dict(zip(columns, cells, strict=True)) for cells in splits if cells]
    exact = (row for row in found if all(INTEGER.fullmatch(row.get(name, "0")) for name in ("label", "frames")))
    return next(exact, found[0] if found and named else None)


def _header(text: str) -> tuple[tuple[str, ...], str | None]:
    """Columns that a first line names, and its delimiter; no columns if it is no header."""
    for delimiter in DELIMITERS:
        words = [re.sub(r"[\s-]", "_", cell.casefold()) for cell in cells_of(text, delimiter)]
        known = {column: next((word for word in own.split() if word in words), None) for column, own in WORDS.items()}
        if known["path"] and known["label"]:
            places = {words.index(word): column for column, word in known.items() if word}
            return tuple(places.get(place, "other") for place in range(len(words))), delimiter
    return (), None


def _recognised(lines: Sequence[Line], classes: int, class_of: ClassOf) -> tuple[str, ...]:
    """Columns that all lines of a list without a header have in common. Raises UserError."""
    found = [ends(text) for _, text in lines]
    fewest = min((len(tail) for _, _, tail in found), default=1)
    heads = all(len(head) == 1 for head, _, _ in found)
    any_video = any(is_video(path) for _, path, _ in found)
    for (where, text), (_, path, tail) in zip(lines, found, strict=True):
        if not tail and not (heads and fewest == 0):
            raise UserError(
                f"label '{shortened(cells_of(text, None)[-1])}' is not an integer",
                where=where,
                hint=ONE_LABEL if SEVERAL.search(text) else LINE,
            )
        if fewest > 2 or (len(tail) > max(1, fewest) and (is_video(path) or not any_video)):
            raise _several_numbers(where, text)
    if fewest == 0:
        return ("label", "path")
    fits = [all(int(tail[-place]) < classes for _, _, tail in found) for place in range(1, fewest + 1)]
    own = [class_of(path) for _, path, _ in found]
    if fewest == 1:
        first = heads and not fits[0] and all(0 <= int(head[0]) < classes for head, _, _ in found)
        told = _told(own, [[tail[-1] for _, _, tail in found], [head[0] for head, _, _ in found]] if heads else [])
        return ("label", "path", "frames") if first or told == 1 else PLAIN
    told = _told(own, [[tail[-1] for _, _, tail in found], [tail[-2] for _, _, tail in found]])
    if told == 1 or (told is None and fits == [False, True]):
        return ("path", "label", "frames")
    if told == 0 or not fits[1] or not (any_video or any(label is not None for label in own)):
        return ("path", "frames", "label")
    what = f"the numbers in '{shortened(lines[0][1])}' may be frames and label, or two labels"
    raise UserError(what, where=lines[0][0], hint=f"{ONE_LABEL}; else {DECLARE}")


def _several_numbers(where: str, text: str) -> UserError:
    what = f"several numbers follow the path in '{shortened(text)}'"
    return UserError(what, where=where, hint=f"{ONE_LABEL}; else {DECLARE}")


def _told(own: Sequence[int | None], columns: Sequence[Sequence[str]]) -> int | None:
    """The first column of those that differ least from the classes of folders, by 0 or by 1; None if none does."""
    found = [{int(cell) - id for id, cell in zip(own, cells, strict=True) if id is not None} for cells in columns]
    return next((found.index({first}) for first in (0, 1) if {first} in found), None)


def is_video(path: str) -> bool:
    """True for a path that ends like a video file."""
    return path.casefold().endswith(SUFFIXES)
