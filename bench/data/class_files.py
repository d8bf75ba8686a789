"""Class names in id order, from the files in which they are published.

    CSV               the columns id and name in either order, with or without a header; other columns are not read
    1 ApplyEyeMakeup  UCF-101's classInd.txt, which counts from 1
    one name a line   mmaction2's label maps
    JSON              name -> id (SSv2), id -> name, a list of names, or ActivityNet's, in alphabetical order

Ids count from 0 without gaps. Only a file without a header may count from 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from bench.core.errors import UserError
from bench.core.files import read_json, regular_text, text_lines
from bench.data.columns import DELIMITERS, INTEGER, Line, cells_of, shortened, split, twice

IDS = ("id", "class_id", "label_id", "class_index", "label_index", "index", "idx", "label")
NAMES = ("name", "class_name", "label_name", "display_name", "class", "label", "category", "action")
NAMES_ALONE = (*NAMES, "names", "classes", "labels", "categories", "actions")
FORMS = ("id,name", "name,id", "1 Name", "one name a line")
GAPS = "ids count from 0 without gaps; only a file without a header may count from 1, such as UCF-101's classInd.txt"


class Classes(NamedTuple):
    """Class names in id order, the id of the first, and how the file was read unless in its usual form."""

    names: tuple[str, ...]
    first: int = 0
    read_as: str = ""


class _Class(NamedTuple):
    id: int
    name: str
    where: str


def read_classes(file: Path) -> Classes:
    """The classes of a file. Raises UserError."""
    found = _from_json(file) if regular_text(file).lstrip()[:1] in ("{", "[") else _from_text(file)
    if not found.names:
        raise UserError("lists no classes", where=str(file))
    return found


def database(file: Path) -> dict[str, Any]:
    """The videos of ActivityNet's JSON file. Raises UserError."""
    found = read_json(file, dict).get("database")
    if not isinstance(found, dict):
        raise UserError("has no 'database'", where=str(file), hint="expected the JSON file of ActivityNet 1.3")
    return found


def _in_order(classes: Sequence[_Class], read_as: str, first: int = 0) -> Classes:
    """The classes by their ids, which are checked, and so are the names. Raises UserError."""
    names: dict[str, str] = {}
    for expected, (number, name, where) in zip(count(first), sorted(classes)):
        if number != expected:
            what = " appears twice" if number < expected else f", expected {expected}"
            raise UserError(f"class id '{number}'{what}", where=where, hint=GAPS)
        if name in names:
            raise twice(f"class '{name}'", where, names[name])
        names[name] = where
    return Classes(tuple(names), first, read_as)


# --- JSON -------------------------------------------------------------------------------------------------------------


def _from_json(file: Path) -> Classes:
    where = str(file)
    data = read_json(file, object, partial(_unique, where))
    if isinstance(data, dict) and "database" in data:
        try:
            labels = {str(one["label"]) for facts in database(file).values() for one in facts["annotations"]}
        except (KeyError, TypeError) as error:
            raise UserError("expected videos with annotations, each with a label", where=where) from error
        return Classes(tuple(sorted(labels)))
    pairs = list(data.items() if isinstance(data, dict) else ((name, number) for number, name in enumerate(data)))
    by_id = isinstance(data, dict) and all(INTEGER.fullmatch(key) for key, _ in pairs)
    classes = []
    for name, number in ((value, key) if by_id else (key, value) for key, value in pairs):
        numbered = not isinstance(number, bool) and INTEGER.fullmatch(str(number))
        if not numbered or not isinstance(name, str) or not name.strip(' "') or (by_id and INTEGER.fullmatch(name)):
            what = f"{shortened(repr(name))} and {shortened(repr(number))} are not the name and the id of a class"
            raise UserError(what, where=where, allowed=['{"name": id}', '{"id": "name"}', '["name"]'])
        classes.append(_Class(int(number), name[1:-1] if name[0] == name[-1] == '"' else name, where))
    return _in_order(classes, "id, name" if by_id else "" if isinstance(data, dict) else "names in order")


def _unique(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise UserError("a key appears twice in an object", where=where)
    return found


# --- text -------------------------------------------------------------------------------------------------------------


def _from_text(file: Path) -> Classes:
    lines = list(text_lines(file))
    for delimiter in DELIMITERS if lines else ():
        words = [word.casefold() for word in cells_of(lines[0][1], delimiter)]
        number = next((word for word in IDS if word in words), "")
        name = next((word for word in NAMES if word in words and word != number), "")
        if number and name:
            read_as = "id, name" if words.index(number) < words.index(name) else "name, id"
            classes = [_below_header(line, delimiter, words, number, name) for line in lines[1:]]
            return _in_order(classes, "" if words == ["id", "name"] else read_as)
    if lines and lines[0][1].casefold() in NAMES_ALONE:
        return _names(lines[1:])
    numbered = {order: [_numbered(line, order) for line in lines] for order in ("id, name", "name, id")}
    most = max(numbered, key=lambda order: sum(each is not None for each in numbered[order]))
    classes = [each for each in numbered[most] if each]
    if 2 * len(classes) <= len(lines) and not any(re.search(r"^\d+\s*[,;\t]|[,;\t]\s*\d+$", text) for _, text in lines):
        return _names(lines)
    for line, each in zip(lines, numbered[most], strict=True):
        if each is None:
            raise UserError(f"'{shortened(line[1])}' is not {most}", where=line[0], allowed=FORMS)
    first = min(int(min(classes).id == 1), len(classes))
    return _in_order(classes, f"{most}, from {first}", first)


def _below_header(line: Line, delimiter: str | None, words: list[str], number: str, name: str) -> _Class:
    """The class in a line below a header. Raises UserError."""
    where, text = line
    cells = cells_of(text, delimiter)
    if delimiter is None and len(words) == 2:  # the name may contain spaces
        cells = split(text, int(words[0] == number), int(words[1] == number), None) or []
    row = dict(zip(words, cells, strict=False)) if len(cells) == len(words) else {}
    if not row or not INTEGER.fullmatch(row[number]) or not row[name]:
        hint = 'a name with a comma is quoted: 3,"pulling something, slowly"'
        what = f"expected {(delimiter or ' ').join(words)} but found '{shortened(text)}'"
        raise UserError(what, where=where, hint=hint)
    return _Class(int(row[number]), row[name], where)


def _numbered(line: Line, order: str) -> _Class | None:
    """The class in a line of a file without a header; None if no id stands in its place."""
    before = int(order == "id, name")
    for delimiter in DELIMITERS:
        cells = split(line[1], before, 1 - before, delimiter)
        if cells and INTEGER.fullmatch(cells[1 - before]):
            return _Class(int(cells[1 - before]), cells[before], line[0])
    return None


def _names(lines: Sequence[Line]) -> Classes:
    classes = [_Class(place, cells_of(text, "\0")[0], where) for place, (where, text) in enumerate(lines)]
    return _in_order(classes, "one name a line, ids from 0")
