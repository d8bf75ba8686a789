"""Descriptions of classes: spatial (appearance) and temporal (motion) sentences from files or of the embedded world.

A source is `glyphs` (the embedded world), or `FOLDER`, `FOLDER#N` or `FOLDER#N,hmdb_label_bug`: a folder of JSON files
as published by MSTA (arXiv 2411.11223, github.com/chenhaoxing/ETL4Video), of which the files with N sentences per class
are read (default 2). The path may contain ~ and $VARIABLES. The files are not part of this project.

A file `{N}_{s|t}_description_{dataset}.json` maps "0", "1", ... in the order of the class list to lists of sentences.
Lists may have any length except 0, because some published ones are longer or shorter than N. Files for half of the
classes are not read: the full file holds the same sentences. HMDB-51's files follow a class list in which kick and kick
ball, and sword and sword exercise, are swapped; this is corrected unless `hmdb_label_bug` is given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from bench.core.errors import UserError, unknown
from bench.core.files import expanded, not_found, read_json

GLYPHS = "glyphs"  # sentences of bench.glyphs.descriptions, which is imported only when they are needed
KINDS = {"spatial": "s", "temporal": "t"}
FILES = {  # dataset -> its name in file names, where the two differ
    "hmdb51": "hmdb",
    "ucf101": "ucf_101",
    "kinetics-400": "k400",
    "kinetics-600": "k600",
}
SWAPPED = (("kick", "kick ball"), ("sword", "sword exercise"))
BUG = "hmdb_label_bug"
PLACE = "recipe.descriptions"


def descriptions(source: str, kind: str, dataset: str, class_names: Sequence[str]) -> list[list[str]]:
    """Sentences of one kind about each class of a dataset's full class list, [C][any number].

    Raises UserError for a source or file that cannot be read or does not describe these classes.
    """
    if kind not in KINDS:
        raise unknown("kind of descriptions", kind, KINDS, where=PLACE)
    if source == GLYPHS:
        return [import_module("bench.glyphs.descriptions").sentences(kind, name) for name in class_names]
    found = _read(_file(source, kind, dataset), len(class_names))
    return found if dataset != "hmdb51" or _parsed(source).label_bug else _swapped_back(found, class_names)


def missing(source: str, kind: str, dataset: str) -> str | None:
    """Reason why a source cannot be read, None if it can. Planning goes on without it."""
    return None if source == GLYPHS else not_found("descriptions", _file(source, kind, dataset))


def irregular(source: str, kind: str, dataset: str) -> str:
    """A warning about classes whose number of sentences differs from the file's name; "" if there are none."""
    if source == GLYPHS:
        return ""
    file, count = _file(source, kind, dataset), _parsed(source).sentences
    odd = [key for key, own in read_json(file, dict).items() if not isinstance(own, list) or len(own) != count]
    return f"{file.name}: {len(odd)} classes do not have {count} sentences, such as '{odd[0]}'" if odd else ""


# --- files ------------------------------------------------------------------------------------------------------------


class _DescriptionFolder(NamedTuple):
    folder: str
    sentences: int  # per class, as in the file names
    label_bug: bool  # keep HMDB-51's swapped classes


def _parsed(source: str) -> _DescriptionFolder:
    match = re.fullmatch(rf"([^#]+?)(?:#(\d+))?(,{BUG})?", source)
    if match is None:
        form = f"FOLDER, FOLDER#N or FOLDER#N,{BUG} with N sentences per class"
        raise UserError(f"'{source}' is not a source of descriptions", where=PLACE, allowed=[GLYPHS, form])
    return _DescriptionFolder(match[1], int(match[2] or 2), bool(match[3]))


def _file(source: str, kind: str, dataset: str) -> Path:
    folder, sentences, _ = _parsed(source)
    name = FILES.get(re.sub(r"-split\d$", "", dataset), dataset)
    return expanded(folder) / f"{sentences}_{KINDS[kind]}_description_{name}.json"


def _read(file: Path, classes: int) -> list[list[str]]:
    if not file.is_file():
        present = sorted(path.name for path in file.parent.glob("*_description_*.json"))
        hint = f"the folder has {', '.join(present)}" if present else "the folder has no description files"
        raise UserError("the description file does not exist", where=str(file), hint=hint)
    found = read_json(file, dict)
    if len(found) != classes:
        raise UserError(f"describes {len(found)} classes, but the class list has {classes}", where=str(file))
    keys = [str(index) for index in range(classes)]
    if absent := [key for key in keys if key not in found]:
        raise UserError(f"has no key '{absent[0]}'", where=str(file), hint=f"keys are '0' to '{classes - 1}'")
    return [_sentences(found[key], f"{file}: key '{key}'") for key in keys]


def _sentences(own: object, where: str) -> list[str]:
    sentences = [own] if isinstance(own, str) else own
    if not isinstance(sentences, list) or not all(isinstance(text, str) and text.strip() for text in sentences):
        raise UserError("expected a list of sentences", where=where)
    if not sentences:
        raise UserError("has no sentence", where=where)
    return sentences


def _swapped_back(sentences: list[list[str]], class_names: Sequence[str]) -> list[list[str]]:
    """Sentences with the classes corrected that HMDB-51's published list swaps."""
    ids = {name: label for label, name in enumerate(class_names)}
    corrected = list(sentences)
    for one, other in SWAPPED:
        if one in ids and other in ids:
            a, b = ids[one], ids[other]
            corrected[a], corrected[b] = sentences[b], sentences[a]
    return corrected
