"""The protocols of a suite side by side: where its columns differ, what they share, what to know of their data."""

from __future__ import annotations

from dataclasses import dataclass

from reports.results import Results, value_text


@dataclass(frozen=True)
class ProtocolTable:
    """Fields as rows, protocols as columns; `notes` maps a sentence to the protocols that it is about."""

    names: tuple[str, ...]
    hashes: tuple[str, ...]
    differing: dict[str, list[str]]
    shared: dict[str, str]
    notes: dict[str, list[str]]
    axes: tuple[str, ...]  # whose values change fields, which are shown as at the first value


def protocol_table(results: Results) -> ProtocolTable:
    """The protocols of a suite in the order of its columns; of a single one, nothing is shared."""
    protocols = {name: results.protocols[name] for name in results.roles}
    rows = {
        "starts from": [protocol["use"] for protocol in protocols.values()],
        "with the changes": [protocol["changes"] for protocol in protocols.values()],
    }
    rows = {name: row for name, row in rows.items() if any(row)}
    fields = dict.fromkeys(field for protocol in protocols.values() for field in protocol["fields"])
    rows |= {field: [_text(own["fields"].get(field)) for own in protocols.values()] for field in fields}
    same = {field for field in fields if len(set(rows[field])) == 1 < len(protocols)}
    notes: dict[str, list[str]] = {}
    for name, protocol in protocols.items():
        for note in dict.fromkeys(protocol["notes"]):
            notes.setdefault(note, []).append(name)
    return ProtocolTable(
        tuple(protocols),
        tuple(protocol["hash"] for protocol in protocols.values()),
        {name: row for name, row in rows.items() if name not in same},
        {name: row[0] for name, row in rows.items() if name in same},
        notes,
        tuple(results.axes[axis] for axis in results.protocol_axes),
    )


def _text(value: object) -> str:
    """A field in print; parts by what they change, e.g. "test1, test2, test3"."""
    if isinstance(value, dict):
        return "/".join(filter(None, map(_text, value.values())))
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return value_text(value)
