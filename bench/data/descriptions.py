"""Sentences about classes, spatial (how it looks) and temporal (what happens): description files, or the glyphs' own.

A source is `glyphs`, for the embedded world, or `FOLDER`, `FOLDER#N` or `FOLDER#N,hmdb_label_bug`: a folder of JSON
files as MSTA published them (arXiv 2411.11223, github.com/chenhaoxing/ETL4Video), of which those with N sentences per
class are read, 2 unless stated. ~ and $VARIABLES work. The files are not part of this project.

A file `{N}_{s|t}_description_{dataset}.json` maps "0", "1", ... in the order of the class list to lists of sentences.
A list may have any length but 0: some published ones differ. Files of half of the classes are not needed, their
sentences are those of the full file. HMDB-51's files follow a list of names in which kick and kick ball, sword and
sword exercise are exchanged; they are put right unless `hmdb_label_bug` asks for what was published.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from os.path import expanduser, expandvars
from pathlib import Path
from typing import NamedTuple

from bench.core.errors import UserError, unknown
from bench.core.files import unset_variable
from bench.data.lists import read_json

GLYPHS = "glyphs"  # its sentences are those of bench.glyphs.descriptions, imported when they are asked for
KINDS = {"spatial": "s", "temporal": "t"}
FILES = {  # what the files call a dataset; any other by its own name
    "hmdb51": "hmdb",
    "ucf101": "ucf_101",
    "kinetics-400": "k400",
    "kinetics-600": "k600",
}
EXCHANGED = (("kick", "kick ball"), ("sword", "sword exercise"))
BUG = "hmdb_label_bug"
PLACE = "recipe.descriptions"


def descriptions(source: str, kind: str, dataset: str, class_names: Sequence[str]) -> list[list[str]]:
    """The sentences of a kind about each class of a dataset's full list, [C][any number].

    Raises UserError for a source or file that cannot be read and for one that is not about these classes.
    """
    if kind not in KINDS:
        raise unknown("kind of descriptions", kind, KINDS, where=PLACE)
    if source == GLYPHS:
        return [import_module("bench.glyphs.descriptions").sentences(kind, name) for name in class_names]
    told = _read(_file(source, kind, dataset), len(class_names))
    return told if dataset != "hmdb51" or _parsed(source).as_published else _put_right(told, class_names)


def missing(source: str, kind: str, dataset: str) -> str | None:
    """Why a source cannot be read, None if it is there: planning goes on without it."""
    if source == GLYPHS:
        return None
    folder = _parsed(source).folder
    if variable := unset_variable(folder):
        return f"descriptions: environment variable {variable} is not set"
    file = _file(source, kind, dataset)
    return None if file.is_file() else f"descriptions are not there: {file}"


def irregular(source: str, kind: str, dataset: str) -> str:
    """A sentence about the classes of a file that have not as many sentences as its name says, "" if none has."""
    if source == GLYPHS:
        return ""
    file, count = _file(source, kind, dataset), _parsed(source).sentences
    odd = [key for key, own in read_json(file, dict).items() if not isinstance(own, list) or len(own) != count]
    return f"{file.name}: {len(odd)} classes with other than {count} sentences, such as '{odd[0]}'" if odd else ""


# ---------------------------------------------------------------------------------------------------------------------
# Files


class _Source(NamedTuple):
    folder: str
    sentences: int  # per class, as in the files' names
    as_published: bool


def _parsed(source: str) -> _Source:
    match = re.fullmatch(rf"([^#]+?)(?:#(\d+))?(,{BUG})?", source)
    if match is None:
        form = f"FOLDER, FOLDER#N or FOLDER#N,{BUG} with N sentences per class"
        raise UserError(f"'{source}' is no source of descriptions", where=PLACE, allowed=[GLYPHS, form])
    return _Source(match[1], int(match[2] or 2), bool(match[3]))


def _file(source: str, kind: str, dataset: str) -> Path:
    folder, sentences, _ = _parsed(source)
    name = FILES.get(re.sub(r"-split\d$", "", dataset), dataset)
    return Path(expanduser(expandvars(folder))) / f"{sentences}_{KINDS[kind]}_description_{name}.json"


def _read(file: Path, classes: int) -> list[list[str]]:
    if not file.is_file():
        there = sorted(path.name for path in file.parent.glob("*_description_*.json"))
        hint = f"the folder has {', '.join(there)}" if there else "the folder has no description files"
        raise UserError("the description file is not there", where=str(file), hint=hint)
    told = read_json(file, dict)
    if len(told) != classes:
        raise UserError(f"describes {len(told)} classes where the list has {classes}", where=str(file))
    keys = [str(index) for index in range(classes)]
    if absent := [key for key in keys if key not in told]:
        raise UserError(f"has no key '{absent[0]}'", where=str(file), hint=f"keys are '0' to '{classes - 1}'")
    return [_sentences(told[key], f"{file}: key '{key}'") for key in keys]


def _sentences(own: object, where: str) -> list[str]:
    sentences = [own] if isinstance(own, str) else own
    if not isinstance(sentences, list) or not all(isinstance(text, str) and text.strip() for text in sentences):
        raise UserError("expected a list of sentences", where=where)
    if not sentences:
        raise UserError("has no sentence", where=where)
    return sentences


def _put_right(told: list[list[str]], class_names: Sequence[str]) -> list[list[str]]:
    """With the sentences of names that HMDB-51's published list exchanges given back to their classes."""
    places = {name: place for place, name in enumerate(class_names)}
    right = list(told)
    for one, other in EXCHANGED:
        if one in places and other in places:
            a, b = places[one], places[other]
            right[a], right[b] = told[b], told[a]
    return right
