"""Torch files, read without running anything that they name.

torch's restricted reader (weights_only) does the reading. It refuses a file for every class that it does not know, such
as that of a config beside the weights. Here a stand-in without behaviour takes the place of such a class, so nothing
that a file names is imported or called. NumPy's scalars become plain numbers, without NumPy's own functions, which
trust a file's description of their memory.
"""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import numpy as np
import torch

from bench.core.errors import UserError

UNKNOWN = 100  # most classes in a file that get stand-ins; each is looked up at every step of the reader
NUMBER = re.compile(r"b1|[iuf][1248]|c8|c16")  # NumPy's code of a plain number


class StandIn:
    """An object of a class, or the result of a function, that a file names; what it is given is dropped."""

    def __init__(self, *given: object) -> None:
        """Takes anything."""

    def __setstate__(self, state: object) -> None:
        """Takes anything."""


class _NumberType(StandIn):
    """NumPy's dtype, as the code of a plain number; "" for any other."""

    def __init__(self, code: object = "", *flags: object) -> None:
        self.code = code if isinstance(code, str) and NUMBER.fullmatch(code) else ""

    def __setstate__(self, state: Any) -> None:
        self.code = f">{self.code}" if self.code and ">" in state else self.code


def _number(kind: Any, data: Any) -> object:
    """The number of a NumPy scalar; a stand-in for other scalars."""
    return np.frombuffer(data, kind.code)[0].item() if kind.code else StandIn()


SCALARS = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]  # of NumPy 1 and 2
NUMPY: dict[str, Callable[..., object]] = {"numpy.dtype": _NumberType, **dict.fromkeys(SCALARS, _number)}


def read_torch(file: Path) -> Any:
    """Content of a torch file, memory-mapped on the CPU; of a dictionary, what has a name. Raises UserError."""
    try:
        archived = _pickles(file)
        with BytesIO(archived) if archived else file.open("rb") as stream:
            names = set(_names(stream))
        if len(names) > UNKNOWN:
            raise UserError(f"it names {len(names)} classes and functions", hint="save only tensors in the file")
        content = _read(file, {name: NUMPY.get(name) or _stand_in(name) for name in names}, bool(archived))
        refuse_stand_ins({"it": content})
        return named(content) if isinstance(content, dict) else content
    except Exception as error:  # arbitrary bytes can raise anything
        what, hint = _reason(file, error)
        raise UserError(f"the weights cannot be read: {what}", where=str(file), hint=hint) from error


def named(content: dict[Any, Any]) -> dict[str, Any]:
    """A dictionary of a file as a plain one: a file can give its own attributes, such as `items`, and odd keys."""
    return {name: own for name, own in dict.items(content) if isinstance(name, str)}


def refuse_stand_ins(content: Mapping[str, object], where: str = "") -> None:
    """Raises UserError if one of these, which are to hold weights, is an object of an unknown class."""
    for name, own in content.items():
        if isinstance(own, StandIn):
            maker = ascii(f"{type(own).__module__}.{type(own).__qualname__}")[1:-1]
            what = f"{ascii(name)[1:-1]} is a {maker}, which cannot be restored without running its code"
            raise UserError(f"the weights cannot be read: {what}", where=where, hint="save only tensors in the file")


def _read(file: Path, made: dict[str, Callable[..., object]], mapped: bool) -> Any:
    """Content of the file, with `made` in the place of what it names and torch does not know.

    torch fills real dictionaries and lists only. A stand-in that it refuses to fill becomes one, and the file is read
    again.
    """
    while True:
        stand_ins = torch.serialization.safe_globals([(own, name) for name, own in made.items()])
        try:
            with stand_ins, warnings.catch_warnings(action="ignore"):
                return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
        except UnpicklingError as error:
            filled = re.search(r"Can only (SETITEM|append|extend).* got <class '(.+?)'>", str(error))
            if filled is None or filled[2] not in made:
                raise
            made[filled[2]] = _stand_in(filled[2], OrderedDict if filled[1] == "SETITEM" else list)


def _stand_in(name: str, filled: Callable[[], object] | None = None) -> type:
    """A class for objects of an unknown one; what it makes is a StandIn, or what `filled` makes."""
    module, _, own = name.rpartition(".")
    made = {} if filled is None else {"__new__": lambda cls, *given: filled()}
    return type(own, (StandIn,), {"__module__": module, **made})


def _pickles(file: Path) -> bytes:
    """The data of an archive, torch's format since 1.6; nothing for a file of another form.

    Raises UserError for an archive that would have to be unpacked, or is of another kind.
    """
    if not zipfile.is_zipfile(file):
        return b""
    with zipfile.ZipFile(file) as archive:
        parts = {Path(part.filename).name: part for part in archive.infolist()}
        if "constants.pkl" in parts:
            raise UserError("it is a TorchScript archive", hint="load it with torch.jit.load and save its state_dict()")
        if any(part.compress_type for part in archive.filelist) or (
            sum(part.file_size for part in archive.filelist) > file.stat().st_size
        ):
            raise UserError("its parts are compressed or overlap", hint="unpack it, or save it again with torch.save")
        return archive.read(parts["data.pkl"])


def _names(stream: IO[bytes]) -> Iterator[str]:
    """Classes and functions in a file's pickles, as torch spells them, up to the first byte that is no pickle."""
    with suppress(ValueError):
        while True:
            for operation, pair, _ in pickletools.genops(stream):
                if operation.name == "GLOBAL":
                    module, _, name = str(pair).partition(" ")
                    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
                    yield f"{module}.{name}"


def _reason(file: Path, error: Exception) -> tuple[str, str]:
    """(problem, hint). torch's own message advises to load the file unsafely."""
    if isinstance(error, UserError):
        return error.what.removeprefix("the weights cannot be read: "), error.hint
    try:
        with file.open("rb") as stream:
            start = stream.read(2)
    except OSError as unreadable:
        return str(unreadable), ""
    text = str(error)
    if named := re.search(r"GLOBAL (\S+)|function <(?:class '|function )?([\w.]+)", text):
        what = f"it holds a {named[1] or named[2]}, which cannot be restored without running its code"
        return what, "save only tensors in the file"
    if not start or (start == b"PK" and not zipfile.is_zipfile(file)):
        return "it is truncated", "compare its size with the published one and download it again"
    refusal = re.search(r"WeightsUnpickler error:\s*(.+)|(legacy \.tar format)", text)
    if refusal and (refusal[2] or start[:1] in b"\x80P"):
        what = ascii(refusal[1] or refusal[2])[1:-1]
        return f"torch's safe reader refuses it: {what}", "save only its tensors, with a current torch"
    return "it is not a torch file, or a damaged one", "expected safetensors, or a torch file of tensors"
