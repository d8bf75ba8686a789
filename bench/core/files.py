"""Paths as users write them, the cache folder, and files that are written whole."""

from __future__ import annotations

import os
import re
import uuid
from os.path import expandvars
from pathlib import Path

from platformdirs import user_cache_path


def cache_dir() -> Path:
    """Folder of everything that can be made again: $VTB_CACHE, else the user's cache folder."""
    chosen = os.environ.get("VTB_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("video-transfer-bench")


def unset_variable(text: str) -> str:
    """The first environment variable in a path that is not set, as written; "" if all are."""
    unset = re.search(r"\$(\w+|\{\w+\})", expandvars(text))
    return unset[0] if unset else ""


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file so that a reader, or a crash, meets the old content or the new one and nothing between."""
    # A random name: processes of two machines that share the folder can have the same number.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
