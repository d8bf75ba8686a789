"""Facts about the files of a dataset, kept in the cache folder: SHA-256 of their bytes and results of checks.

A fact holds as long as size and modification time of its file stay the same, so a file is read once. A manifest is a
file of JSON lines to which several processes may append at once. (Over NFS, appends of two machines can overwrite each
other; the fact is then computed again.)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.core.files import append_json, appended_json, cache_dir, file_sha256
from bench.core.identity import digest

THREADS = 4  # files hashed at once: enough to hide a network disk's latency, few enough for a spinning disk

FileProgress = Callable[[int, int], None]  # (done, total)


class Manifest:
    """Facts about the files below a root, by their path relative to it.

    A folder of extracted frames counts as one file. Its stamp is that of the folder, which changes when files are added
    or removed, not when a frame is overwritten in place.
    """

    def __init__(self, name: str, root: Path) -> None:
        self.root = root
        self.file = cache_dir() / "content" / f"{name}-{digest(str(root.resolve()))[:8]}.jsonl"
        self._known: dict[str, tuple[list[int], dict[str, Any]]] = {}  # path -> (stamp, facts)
        for line in appended_json(self.file):
            if line.keys() >= {"path", "stamp", "facts"}:
                self._remember(line["path"], line["stamp"], line["facts"])

    def facts(self, relative: str) -> dict[str, Any] | None:
        """Facts about the file in its present state; None if there are none or the file does not exist."""
        kept, facts = self._known.get(relative, ([], {}))
        return dict(facts) if kept and kept == self._stamp(relative) else None

    def learn(self, relative: str, **facts: Any) -> None:
        """Add facts (JSON values) about the file in its present state; nothing if it does not exist."""
        stamp = self._stamp(relative)
        if stamp is not None:
            self._keep(relative, stamp, facts)

    def sha256(self, relative: str) -> str | None:
        """Hash of a file's bytes, or of a folder's file names and bytes; None if it cannot be read."""
        known = (self.facts(relative) or {}).get("sha256")
        return str(known) if known else self._hashed(relative)

    def hashes(self, relatives: Sequence[str], progress: FileProgress | None = None) -> dict[str, str | None]:
        """Hashes of many files. Threads compute the unknown ones, which `progress(done, total)` counts.

        Each hash is stored as soon as it is known, so nothing is lost on an interruption.
        """
        found: dict[str, str | None] = {name: (self.facts(name) or {}).get("sha256") for name in relatives}
        todo = [name for name, known in found.items() if known is None]
        pool = ThreadPoolExecutor(THREADS)
        try:
            for done, (name, known) in enumerate(zip(todo, pool.map(self._hashed, todo), strict=True), start=1):
                found[name] = known
                if progress:
                    progress(done, len(todo))
        finally:
            pool.shutdown(cancel_futures=True)
        return found

    def _hashed(self, relative: str) -> str | None:
        stamp = self._stamp(relative)  # before reading: a file that changes meanwhile is read again next time
        try:
            known = _sha256(self.root / relative)
        except OSError:
            return None
        if stamp is not None:
            self._keep(relative, stamp, {"sha256": known})
        return known

    def _stamp(self, relative: str) -> list[int] | None:
        try:
            status = os.stat(os.path.join(self.root, relative))
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns]

    def _keep(self, relative: str, stamp: list[int], facts: dict[str, Any]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        append_json(self.file, {"path": relative, "stamp": stamp, "facts": facts})
        self._remember(relative, stamp, facts)

    def _remember(self, relative: str, stamp: list[int], facts: dict[str, Any]) -> None:
        kept, earlier = self._known.get(relative, (None, {}))
        self._known[relative] = (stamp, {**earlier, **facts} if kept == stamp else facts)


def _sha256(path: Path) -> str:
    """Hash of a file's bytes; of a folder: over the names and hashes of its files. Raises OSError."""
    if not path.is_dir():
        return file_sha256(path)
    whole = hashlib.sha256()
    for frame in sorted(path.iterdir()):
        if frame.is_file():
            whole.update(f"{frame.name}\0{file_sha256(frame)}\n".encode())
    return whole.hexdigest()
