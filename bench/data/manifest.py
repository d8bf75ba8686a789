"""What is known about the files of a dataset, kept in the cache folder: SHA-256 of their bytes and what a check found.

A fact holds for as long as size and modification time of its file stay the same, so a file is read once. A manifest is
a file of JSON lines that is only ever appended to: several processes may write at once, and a line that was cut by a
kill is skipped. (Over NFS, appends of two machines can overwrite each other; a fact is then computed again.)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.core.files import cache_dir
from bench.core.identity import digest

THREADS = 4  # files hashed at once: enough to wait for a network disk, few enough for a spinning one

Progress = Callable[[int, int], None]


class Manifest:
    """Facts about the files below a root, by their path relative to it.

    A folder of extracted frames counts as a file. Its stamp is the folder's own, which follows files that come and go,
    not a frame that is overwritten in place.
    """

    def __init__(self, name: str, root: Path) -> None:
        self.root = root
        self.file = cache_dir() / "content" / f"{name}-{digest(str(root.resolve()))[:8]}.jsonl"
        self._known: dict[str, tuple[list[int], dict[str, Any]]] = {}  # path -> (stamp, facts)
        self._read()

    def facts(self, relative: str) -> dict[str, Any] | None:
        """What is known about the file as it is now; None if nothing is, or if there is no such file."""
        kept, facts = self._known.get(relative, ([], {}))
        return dict(facts) if kept and kept == self._stamp(relative) else None

    def learn(self, relative: str, **facts: Any) -> None:
        """Keep facts (JSON values) about the file as it is now, beside those already known; nothing if it is absent."""
        stamp = self._stamp(relative)
        if stamp is not None:
            self._keep(relative, stamp, facts)

    def sha256(self, relative: str) -> str | None:
        """Hash of the file's bytes, of a folder's names and bytes; computed if unknown, None if it cannot be read."""
        known = (self.facts(relative) or {}).get("sha256")
        return str(known) if known else self._hashed(relative)

    def hashes(self, relatives: Sequence[str], progress: Progress | None = None) -> dict[str, str | None]:
        """Hashes of many files. Unknown ones are read by a few threads; `progress(done, total)` counts these alone.

        Each hash is kept as soon as it is known, so an interruption loses nothing.
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
        line = json.dumps({"path": relative, "stamp": stamp, "facts": facts})
        self.file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, f"\n{line}".encode())  # the line break leads, so a cut line spoils no other
        finally:
            os.close(descriptor)
        self._remember(relative, stamp, facts)

    def _remember(self, relative: str, stamp: list[int], facts: dict[str, Any]) -> None:
        kept, earlier = self._known.get(relative, (None, {}))
        self._known[relative] = (stamp, {**earlier, **facts} if kept == stamp else facts)

    def _read(self) -> None:
        try:
            lines = self.file.read_bytes().split(b"\n")
        except OSError:
            return
        for line in lines:
            try:
                row = json.loads(line)
                self._remember(row["path"], row["stamp"], row["facts"])
            except (ValueError, KeyError, TypeError):
                continue  # empty, or cut by a kill


def _sha256(path: Path) -> str:
    """Hash of a file's bytes; of a folder: over the names and hashes of its files. Raises OSError."""
    if not path.is_dir():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for frame in sorted(path.iterdir()):
        if frame.is_file():
            whole.update(f"{frame.name}\0{_sha256(frame)}\n".encode())
    return whole.hexdigest()
