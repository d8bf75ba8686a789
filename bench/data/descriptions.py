"""Descriptions of classes, of three kinds: spatial (appearance), temporal (motion), and a description as such.

A source is `glyphs` (the embedded world, all kinds) or one of the following. Paths may contain ~, $VARIABLES and
`{dataset}`, which stands for the dataset's name. The files are not part of this project.

    FOLDER, FOLDER#N          spatial and temporal sentences as published by MSTA (arXiv 2411.11223,
    FOLDER#N,hmdb_label_bug   github.com/chenhaoxing/ETL4Video) or OST (arXiv 2312.00096): the files with N sentences
                              a class; without N MSTA's with 2 or, where these are not there, OST's with 4
    FILE                      descriptions: a text or a list of texts for each class (FROSTER, TACO)

Files of a folder are `{N}_{s|t}_description_{dataset}.json` (MSTA), `{dataset}/{spatio|temporal}_descriptors/
{N}_descriptors.json` or `k600/split{i}/{spatio|temporal}_{N}_descriptors.json` (OST). They map "0", "1", ... in the
order of the class list to lists of sentences, which may have any length except 0, because some published ones are
longer or shorter than N. Files for half of the classes are not read: the full file holds the same sentences. HMDB-51's
files follow a class list in which kick and kick ball, and sword and sword exercise, are swapped; this is corrected
unless `hmdb_label_bug` is given.

A FILE is a JSON list in the order of the class list; a JSON object with the keys "0", "1", ..., or with the names of
these classes and maybe others; or a class file whose names are the texts (bench/data/class_files.py). If each of its
texts has exactly one colon, they are `Name: sentence`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from bench.core.errors import UserError, unknown
from bench.core.files import expanded, not_found, read_json
from bench.data.class_files import read_classes
from bench.data.places import plain_name
from bench.models.prompts import KINDS

GLYPHS = "glyphs"  # sentences of bench.glyphs.descriptions, which is imported only when they are needed
MSTA_KINDS = {"spatial": "s", "temporal": "t"}
OST_KINDS = {"spatial": "spatio", "temporal": "temporal"}
MSTA_NAMES = {  # dataset -> its name in file names, where the two differ
    "hmdb51": "hmdb",
    "ucf101": "ucf_101",
    "kinetics-400": "k400",
    "kinetics-600": "k600",
}
OST_NAMES = {"hmdb51": "hmdb", "ucf101": "ucf", "kinetics-400": "k400", "ssv2": "sth"}
SWAPPED = (("kick", "kick ball"), ("sword", "sword exercise"))
BUG = "hmdb_label_bug"
PLACE = "descriptions"


def descriptions(source: str, kind: str, dataset: str, class_names: Sequence[str]) -> list[list[str]]:
    """Sentences of one kind about each class of a dataset's full class list, [C][any number].

    Raises UserError for a source or file that cannot be read or does not describe these classes.
    """
    if kind not in KINDS:
        raise unknown("kind of descriptions", kind, KINDS, where=PLACE)
    if source == GLYPHS:
        return [import_module("bench.glyphs.descriptions").sentences(kind, name) for name in class_names]
    file = _file(source, kind, dataset).path
    if kind == "description":
        return _texts(file, class_names)
    found = _read(file, len(class_names))
    return found if dataset != "hmdb51" or _parsed(source).label_bug else _swapped_back(found, class_names)


def missing(source: str, kind: str, dataset: str) -> str | None:
    """Reason why a source cannot be read, None if it can. Planning goes on without it."""
    return None if source == GLYPHS else not_found("descriptions", _file(source, kind, dataset).path)


def irregular(source: str, kind: str, dataset: str) -> str:
    """A warning about classes whose number of sentences differs from the file's name; "" if there are none."""
    if source == GLYPHS or kind == "description":
        return ""
    file, count = _file(source, kind, dataset)
    odd = [key for key, own in read_json(file, dict).items() if not isinstance(own, list) or len(own) != count]
    return f"{file.name}: {len(odd)} classes do not have {count} sentences, such as '{odd[0]}'" if odd else ""


def refuse_source(source: str) -> None:
    """Raises UserError for what is not written as a source of descriptions."""
    if source != GLYPHS:
        _parsed(source)


def are_named(told: Mapping[str, Sequence[str]]) -> bool:
    """True if each text of each class is `Name: sentence`, so that prompts take the name from there (FROSTER)."""
    return all(text.count(":") == 1 for own in told.values() for text in own)


def renamed(told: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Class -> its name in `named` descriptions, where these are different words; FROSTER's K400 has five."""
    pairs = ((name, own[0].partition(":")[0]) for name, own in told.items()) if are_named(told) else ()
    return {name: other for name, other in pairs if plain_name(name) != plain_name(other)}


# --- files ------------------------------------------------------------------------------------------------------------


class _Source(NamedTuple):
    path: str
    sentences: int | None  # per class, as in the file names
    label_bug: bool  # keep HMDB-51's swapped classes


class _File(NamedTuple):
    path: Path
    sentences: int


def _parsed(source: str) -> _Source:
    match = re.fullmatch(rf"([^#]+?)(?:#(\d+))?(,{BUG})?", source)
    if match is None:
        form = f"FOLDER, FOLDER#N or FOLDER#N,{BUG} with N sentences per class"
        raise UserError(f"'{source}' is not a source of descriptions", where=PLACE, allowed=[GLYPHS, form, "FILE"])
    return _Source(match[1], int(match[2]) if match[2] else None, bool(match[3]))


def _file(source: str, kind: str, dataset: str) -> _File:
    """The file of a source; MSTA's, where neither is there. Raises UserError for a source of other kinds."""
    own = _parsed(source)
    path = expanded(own.path.replace("{dataset}", dataset))
    if kind == "description":
        if path.is_dir():
            what = "is a folder, of spatial and temporal sentences; {description} needs a file of a text for each class"
            raise UserError(what, where=str(path))
        return _File(path, 1)
    if path.is_file():
        raise UserError(f"is one file, of {{description}}; {{{kind}}} sentences are in a folder", where=str(path))
    split = re.search(r"^kinetics-600-(split\d)$", dataset)
    name = MSTA_NAMES.get(re.sub(r"-split\d$", "", dataset), dataset)
    msta = _File(path / f"{own.sentences or 2}_{MSTA_KINDS[kind]}_description_{name}.json", own.sentences or 2)
    count, word = own.sentences or 4, OST_KINDS[kind]
    inner = f"k600/{split[1]}/{word}" if split else f"{OST_NAMES.get(dataset, dataset)}/{word}_descriptors/"
    ost = _File(path / f"{inner}{'_' if split else ''}{count}_descriptors.json", count)
    return ost if ost.path.parent.is_dir() and not msta.path.is_file() else msta


def _texts(file: Path, class_names: Sequence[str]) -> list[list[str]]:
    """The texts of each class from a file with one text, or a list of texts, for each."""
    found = read_json(file, object) if file.suffix.lower() == ".json" else list(read_classes(file).names)
    if isinstance(found, list):
        found = {str(place): own for place, own in enumerate(found)}
    if not isinstance(found, dict):
        raise UserError("expected a JSON list or object of texts", where=str(file))
    if all(map(str.isdecimal, found)):
        return _in_order(found, len(class_names), file)
    keys = {plain_name(key): key for key in found}
    if len(keys) < len(found):
        raise UserError("describes a class twice, under names that differ in case or punctuation only", where=str(file))
    if absent := [name for name in class_names if plain_name(name) not in keys]:
        close = get_close_matches(absent[0], found, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'?" if close else ""
        raise UserError(f"describes {len(absent)} classes not, such as '{absent[0]}'", where=str(file), hint=hint)
    return [_sentences(found[key], f"{file}: key '{key}'") for key in (keys[plain_name(name)] for name in class_names)]


def _read(file: Path, classes: int) -> list[list[str]]:
    if not file.is_file():
        present = sorted(path.name for path in file.parent.glob("*_descript*.json"))
        hint = f"the folder has {', '.join(present)}" if present else "the folder has no description files"
        raise UserError("the description file does not exist", where=str(file), hint=hint)
    return _in_order(read_json(file, dict), classes, file)


def _in_order(found: Mapping[str, object], classes: int, file: Path) -> list[list[str]]:
    """Sentences under the keys "0", "1", ... of the class list."""
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
