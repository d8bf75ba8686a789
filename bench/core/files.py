"""Paths as users write them, shipped assets, the cache folder, hashes of files, and writing without torn files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os.path import expanduser, expandvars
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

ASSETS = Path(__file__).parents[1] / "assets"


def cache_dir() -> Path:
    """Folder of everything that can be made again: $VTB_CACHE, else the user's cache folder."""
    chosen = os.environ.get("VTB_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("video-transfer-bench")


def expanded(text: str) -> Path:
    """A path as users write it, with ~ and $VARIABLES replaced."""
    return Path(expanduser(expandvars(text)))


def not_found(what: str, path: Path, exists: Callable[[Path], bool] = Path.is_file) -> str | None:
    """Reason why an expanded path cannot be used, None if it exists. Names a variable that is not set."""
    if exists(path):
        return None
    unset = re.search(r"\$(\w+|\{\w+\})", str(path))
    return f"{what}: environment variable {unset[0]} is not set" if unset else f"{what} not found: {path}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes in hex digits. Raises OSError."""
    with open(path, "rb") as file:
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
