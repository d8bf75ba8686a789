"""Paths as users write them, shipped assets, the cache folder, hashes of files, and writing without torn files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from os.path import expanduser, expandvars
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from bench.core.errors import UserError

ASSETS = Path(__file__).parents[1] / "assets"
MOST_TEXT = 1 << 30  # bytes of a text file; the largest published lists have a tenth of it
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks that a text in UTF-16 begins with


def cache_dir() -> Path:
    """Folder of everything that can be made again: $VTB_CACHE, else the user's cache folder."""
    chosen = os.environ.get("VTB_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("video-transfer-bench")


def expanded(text: str) -> Path:
    """A path as users write it, with ~ and $VARIABLES replaced."""
    return Path(expanduser(expandvars(text)))


def not_found(what: str, path: Path, exists: Callable[[Path], bool] = os.path.isfile) -> str | None:
    """Reason why an expanded path cannot be used, None if it exists. Names a variable that is not set."""
    if exists(path):
        return None
    if os.path.exists(path):
        return f"{what} is {kind_of_file(path.stat().st_mode)}: {path}"
    unset = re.search(r"\$(\w+|\{\w+\})", str(path))
    return f"{what}: environment variable {unset[0]} is not set" if unset else f"{what} not found: {path}"


def kind_of_file(mode: int) -> str:
    """What a file is by its mode, in words."""
    kinds = {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def open_regular(path: Path) -> BufferedReader:
    """A regular file, opened for reading. Raises OSError, also for pipes and devices, whose reading may never end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise OSError(0, f"{kind_of_file(mode)}, expected a regular file", str(path))
    return open(path, "rb")


def regular_text(path: Path) -> str:
    """Text of a regular file in UTF-8, or in UTF-16 with a byte order mark, every line end as a line feed.

    Raises UserError: also for pipes, devices and folders, without waiting for them, and for files beyond `MOST_TEXT`.
    """
    try:
        with open_regular(path) as file:
            data = file.read(MOST_TEXT + 1)
        if len(data) > MOST_TEXT:
            raise OSError(0, f"it has more than {MOST_TEXT >> 20} MB")
        text = data.decode("utf-16" if data.startswith(UTF_16) else "utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", where=str(path), hint=f"first wrong byte at {error.start}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(file:line, text without surrounding space) of every line of a text file that is not blank. Raises UserError."""
    for number, text in enumerate(regular_text(path).split("\n"), start=1):
        if text := text.strip():
            yield f"{path}:{number}", text


def read_json(path: Path, kind: type, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Content of a JSON file of this kind, list or dict; `pairs` makes its objects. Raises UserError."""
    try:
        data = json.loads(regular_text(path), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        place = f"{path}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else str(path)
        raise UserError(f"not valid JSON: {getattr(error, 'msg', error)}", where=place) from error
    if not isinstance(data, kind):
        raise UserError(f"expected a JSON {'list' if kind is list else 'object'}", where=str(path))
    return data


def file_sha256(path: Path) -> str:
    """SHA-256 of a regular file's bytes in hex digits. Raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append_json(path: Path, value: object) -> None:
    """Append a JSON value as one line in one write, so that several processes can share the file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        # The line break comes first: after a line that a killed process left incomplete, this one is still readable.
        os.write(descriptor, f"\n{json.dumps(value)}".encode())
    finally:
        os.close(descriptor)


def appended_json(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines, without incomplete lines; none if the file does not exist."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk, where the file system can tell."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a name to write to. When the block ends, the file takes its place: readers find the old or the new content,
    also after a crash, and never a part of it."""
    # The name is random because processes on two machines that share the folder can have the same process id.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file so that readers find the old or the new content, also after a crash, and never a part of it."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(data)
