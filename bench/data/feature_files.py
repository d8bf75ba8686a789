"""Files of frame features that were extracted elsewhere: .safetensors, .npz, .parquet.

A file has `features` [N, T, D] or [N, V, T, D], `names` [N] and perhaps `labels` [N], as arrays or columns; in
safetensors, which hold no text, names and labels may be JSON lists in the metadata. Or it has an array [T, D] or
[V, T, D] for each video, under its name. Legend: N videos, V views, T frames, D joint CLIP width.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile, is_zipfile

import numpy as np

from bench.core.errors import UserError
from bench.core.files import open_regular

DTYPES = ("float16", "float32")
SAFETENSORS = {"F16": "float16", "F32": "float32"}
MARGIN = 1e-2  # by which lengths of normalised features in fp16 differ from 1, at most


class Header(NamedTuple):
    """What is known of an array before it is read."""

    shape: tuple[int, ...]
    dtype: str


class Contents(NamedTuple):
    """The videos of a file by their number; nothing but names, labels and headers has been read."""

    names: list[str]
    header: Callable[[int], Header | None]  # None: only reading tells
    read: Callable[[int], np.ndarray]
    labels: list[Any] | None


def contents(path: Path) -> Contents:
    """The videos of a file. Raises UserError."""
    try:
        with open_regular(path):
            found = _READERS[path.suffix](path)
        if twice := [name for name, count in Counter(found.names).items() if count > 1]:
            raise ValueError(f"{len(twice)} of {len(found.names)} names appear twice, such as '{twice[0]}'")
        if found.labels is not None and len(found.labels) != len(found.names):
            raise ValueError(f"has {len(found.labels)} labels of {len(found.names)} videos")
    except UserError as error:
        raise error.at(str(path)) from error
    except Exception as error:  # libraries raise errors of their own for damaged files
        raise UserError(f"cannot be read: {reason_of(error)}", where=str(path)) from error
    return found


def reason_of(error: Exception) -> str:
    """The first line of what a library says of a damaged file."""
    return getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__


def _arrays(
    keys: Sequence[str],
    header: Callable[[str], Header],
    read: Callable[[str], np.ndarray],
    row: Callable[[str, int], np.ndarray],
    told: Callable[[str], list[Any] | None],
) -> Contents:
    """A file of arrays: one of all videos, or one of each."""
    if "features" not in keys:
        return Contents(list(keys), lambda n: header(keys[n]), lambda n: read(keys[n]), None)
    names, whole = told("names"), header("features")
    if names is None:
        raise UserError("has `features` of many videos, and no `names` of them")
    if not whole.shape or whole.shape[0] != len(names):
        raise UserError(f"'features' has shape {[*whole.shape]}, and there are {len(names)} names")
    one = Header(whole.shape[1:], whole.dtype)
    texts = [own.decode() if isinstance(own, bytes) else str(own) for own in names]
    return Contents(texts, lambda n: one, lambda n: row("features", n), told("labels"))


def _safetensors(path: Path) -> Contents:
    from safetensors import safe_open

    file = safe_open(path, "numpy")
    keys, about = [*file.keys()], file.metadata() or {}

    def header(key: str) -> Header:
        own = file.get_slice(key)
        return Header(tuple(own.get_shape()), SAFETENSORS.get(own.get_dtype(), own.get_dtype()))

    def told(key: str) -> list[Any] | None:
        found = json.loads(about[key]) if key in about else file.get_tensor(key).tolist() if key in keys else None
        if not isinstance(found, list | None):
            raise ValueError(f"'{key}' in the metadata is no JSON list")
        return found

    return _arrays(keys, header, file.get_tensor, lambda key, n: file.get_slice(key)[n], told)


def _npz(path: Path) -> Contents:
    if not is_zipfile(path):
        raise BadZipFile("it is no archive of arrays, as numpy.savez writes it")
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile) or archive.zip is None:
        raise BadZipFile("it is no archive of arrays, as numpy.savez writes it")

    members = archive.zip

    def header(key: str) -> Header:
        with members.open(f"{key}.npy") as file:
            version = np.lib.format.read_magic(file)
            parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = parse(file)
        return Header(shape, dtype.name)

    whole = cache(archive.__getitem__)  # an array of an archive is read from its beginning
    told = lambda key: archive[key].tolist() if key in archive.files else None  # noqa: E731
    return _arrays(archive.files, header, archive.__getitem__, lambda key, n: whole(key)[n], told)


def _parquet(path: Path) -> Contents:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    schema = file.schema_arrow
    if absent := {"names", "features"} - set(schema.names):
        raise UserError(f"has no column '{min(absent)}'", allowed=["names", "features", "labels"])
    column = lambda name: file.read([name]).column(name)  # noqa: E731
    whole, inner = cache(column), schema.field("features").type
    while hasattr(inner, "value_type"):
        inner = inner.value_type
    dtype = {"halffloat": "float16", "float": "float32"}.get(str(inner), str(inner))
    if dtype not in DTYPES:
        raise UserError(f"'features' are lists of {dtype}", allowed=DTYPES)
    read = lambda n: np.array(whole("features")[n].as_py(), dtype)  # noqa: E731
    labels = column("labels").to_pylist() if "labels" in schema.names else None
    return Contents([*map(str, column("names").to_pylist())], lambda n: None, read, labels)


_READERS: dict[str, Callable[[Path], Contents]] = {".safetensors": _safetensors, ".npz": _npz, ".parquet": _parquet}


# --- the files of a split ---------------------------------------------------------------------------------------------


class Stored:
    """The features of a split's videos, [V, T, D] each.

    A listed video is found under its name as listed, without its suffix, or without its folders.
    """

    def __init__(self, files: Iterable[Path], shape: tuple[int, int, int]) -> None:
        self.shape, self.contents = shape, {file: contents(file) for file in files}
        self._places: dict[str, tuple[Path, int]] = {}
        self._taken: dict[tuple[Path, int], str] = {}
        for file, own in self.contents.items():
            for number, name in enumerate(own.names):
                first, _ = self._places.setdefault(os.path.normpath(name), (file, number))
                if first != file:
                    raise UserError(f"'{name}' is also in {first}", where=str(file))

    def place(self, name: str, path: str) -> tuple[Path, int] | None:
        """File and number of a listed video, if it is there. Raises UserError for two videos in one place."""
        stem = os.path.splitext(path)[0]
        names = dict.fromkeys([name, *([path, stem, os.path.basename(path), os.path.basename(stem)] * (name == path))])
        place = next((self._places[own] for own in names if own in self._places), None)
        if place and (other := self._taken.setdefault(place, name)) != name:
            what = f"'{self.contents[place[0]].names[place[1]]}' may be '{other}' or '{name}'"
            raise UserError(what, where=str(place[0]), hint="name the features as the videos are listed")
        return place

    def wrong(self, place: tuple[Path, int]) -> str:
        """What the header of a video's features says against them; "" for nothing."""
        header = self.contents[place[0]].header(place[1])
        reason = self._unlike(header) if header else ""
        return reason and f"{self._named(place)} {reason}"

    def read(self, place: tuple[Path, int]) -> np.ndarray:
        """The features of a video [V, T, D] in fp32. Raises ValueError with file and entry."""
        try:
            found = self.contents[place[0]].read(place[1])
        except Exception as error:  # libraries raise errors of their own for damaged files
            raise ValueError(f"{self._named(place)} cannot be read: {reason_of(error)}") from error
        if reason := self._unlike(Header(found.shape, found.dtype.name)):
            raise ValueError(f"{self._named(place)} {reason}")
        if not np.isfinite(found).all():
            raise ValueError(f"{self._named(place)} has numbers that are not finite")
        return found.astype(np.float32).reshape(self.shape)

    def _named(self, place: tuple[Path, int]) -> str:
        return f"{place[0].name}: '{self.contents[place[0]].names[place[1]]}'"

    def _unlike(self, header: Header) -> str:
        wanted = self.shape[header.shape == self.shape[1:] and self.shape[0] == 1 :]
        if header.shape != wanted:
            return f"has shape {[*header.shape]}, and {[*self.shape[self.shape[0] == 1 :]]} is declared"
        return "" if header.dtype in DTYPES else f"is {header.dtype}; allowed: {', '.join(DTYPES)}"


def are_normalised(features: np.ndarray) -> bool:
    """True if all features [..., D] have length 1 that are not zero, as those of videos without any are."""
    lengths = np.linalg.norm(features.reshape(-1, features.shape[-1]), axis=1)
    lengths = lengths[lengths > 0]
    return bool(len(lengths)) and bool((np.abs(lengths - 1) < MARGIN).all())
