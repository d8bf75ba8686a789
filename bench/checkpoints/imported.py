"""Trainings that official checkpoints replace: how a file is named, and how its record is found.

Planning reads this module, so it imports no torch; reading and writing checkpoints is `bench.checkpoints.official`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.core.errors import UserError
from bench.core.files import file_sha256
from bench.core.words import typed
from bench.graph.stage import Stage, as_json
from bench.store.records import RecordData, Store

IMPORTABLE = (  # methods with an official layout
    *("mote", "text4vis", "dense_temporal", "vidprism"),
    *("taco", "vificlip", "actionclip", "open_vclip", "froster"),
    *("st_adapter", "aim", "ost", "bike", "xclip", "vita_clip", "tc_clip"),
)


def file_digest(file: Path) -> str:
    """The first 16 hex digits of a file's SHA-256, by which a recipe names an imported checkpoint."""
    return file_sha256(file)[:16]


def unimported(stages: Iterable[Stage], store: Store) -> Iterator[UserError]:
    """The errors for stages whose checkpoint was not imported, or as something else, or came without weights."""
    for stage in stages:
        if "imported" in stage.spec and (not store.done(*stage.key) or store.left_out(*stage.key)):
            yield UserError(
                f"it is not in the store {store.root} as {_described(as_json(stage.spec))}"
                + "".join(f"\n  there is: {other}" for other in _others(store, stage.spec["imported"])),
                where=f"imported checkpoint {stage.spec['imported']}",
                hint=typed(
                    *("import", "FILE", "--method", stage.spec["method"], "--backbone", stage.spec["backbone"]),
                    *("--pretrained", stage.context["pretrained"], "--store", store.root),
                ),
            )


def _others(store: Store, digest: str) -> list[str]:
    records = (record for identity in sorted(store.known("train")) if (record := store.find("train", identity)))
    return [_described(record["spec"]) for record in records if record["spec"].get("imported") == digest]


def _described(spec: RecordData) -> str:
    choices = ", ".join(f"{name}: {value}" for name, value in spec["config"].items())
    return f"{spec['method']} {{{choices}}} on {spec['backbone']} from {spec['weights']}"


def find_trained(store: Store, key: str) -> tuple[str, RecordData]:
    """(identity, record) of the training that `key` names: the start of an identity or of an imported digest, the
    folder of a record, or a training's name as `plan --stages` shows it.

    Raises UserError where there is none, or more than one.
    """
    found = {identity: store.find("train", identity) for identity in sorted(store.known("train"))}
    records = {identity: record for identity, record in found.items() if record}
    named = {
        identity: record
        for identity, record in records.items()
        if key in (record["title"], record["title"].partition(" ")[2], str(store.folder("train", identity)))
        or (len(key) >= 4 and (identity.startswith(key) or record["spec"].get("imported", "").startswith(key)))
    }
    if len(named) == 1:
        return next(iter(named.items()))
    what = f"'{key}' names {len(named)} trainings" if named else f"no training is called '{key}'"
    shown = [f"{identity} ({record['title']})" for identity, record in (named or records).items()]
    raise UserError(what, where=str(store.root), allowed=shown)
