"""The protocols of a suite side by side: differing fields, shared fields, and notes on their data."""

from __future__ import annotations

from collections.abc import Iterator

from reports.results import Results, value_text
from reports.table import Table, cells, columns

CHANGES = {"starts from": "use", "with the changes": "changes"}  # row -> what of a protocol is in it


def protocol_tables(results: Results) -> Iterator[Table]:
    """Fields as rows, the suite's protocols as columns, notes on their data below."""
    shared = shared_fields(results)
    rows = [cells("hash", *(results.protocols[name]["hash"] for name in results.roles))]
    for field, row in _fields(results).items():
        if field not in shared:
            rows.append(cells(field, *(value or "–" for value in row)))
    which = "the fields that differ" if shared else "all fields"
    axes = " or ".join(results.axes[axis] for axis in results.protocol_axes)
    first = f" Fields that {axes} changes are shown as at its first value." if axes else ""
    caption = f"How each column is measured: {which}. “–”: none.{first}"
    heads = columns(dict.fromkeys(("Field", *results.roles), False))
    yield Table("protocols", "protocols", caption, heads, tuple(rows), tuple(_notes(results)))


def shared_fields(results: Results) -> dict[str, str]:
    """The fields that are alike under all protocols; none if there is only one."""
    if len(results.roles) == 1:
        return {}
    return {field: row[0] for field, row in _fields(results).items() if field not in CHANGES and len(set(row)) == 1}


def _fields(results: Results) -> dict[str, list[str]]:
    """Every field's value under each protocol, in the order of the columns."""
    protocols = [results.protocols[name] for name in results.roles]
    changes = {name: [protocol[key] for protocol in protocols] for name, key in CHANGES.items()}
    fields = dict.fromkeys(field for protocol in protocols for field in protocol["fields"])
    values = {field: [_text(protocol["fields"].get(field)) for protocol in protocols] for field in fields}
    return {name: row for name, row in changes.items() if any(row)} | values


def _notes(results: Results) -> list[str]:
    """Notes on the data, e.g. "UCF, HMDB: the list has 6,766 videos"."""
    notes: dict[str, list[str]] = {}
    for name in results.roles:
        for note in dict.fromkeys(results.protocols[name]["notes"]):
            notes.setdefault(note, []).append(name)
    return [f"{', '.join(names)}: {note}" for note, names in notes.items()]


def _text(value: object) -> str:
    """A field in print; a part is named by its changes, e.g. "test1, test2, test3"."""
    if isinstance(value, dict):
        return "/".join(filter(None, map(_text, value.values())))
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return value_text(value)
