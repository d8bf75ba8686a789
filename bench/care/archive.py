"""Archives: the records of a suite in one zip file that travels, and what in such a file contradicts itself.

    entries.json                       the suite, and size and SHA-256 of every other entry; its own is the root hash
    records/<kind>/<identity>/<file>   records as they lie in a store; weights may be left out
    launches/<id>/launch.json          the suite's launches, of which reports show estimates and use
    attempts.jsonl                     what began, ended and failed of its stages

Entries are sorted, not compressed and without dates, so the same records give the same bytes. Nothing in an archive is
believed: names have the form above, sizes are those of the list, and a record is merged whole and verified, or refused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from bench.core.errors import UserError, refuse_all
from bench.core.files import file_sha256, replacing, write_atomically
from bench.store.records import FIELDS, KINDS, LEFT_OUT, RecordData, Store, event_in, parse_record

LIST, LOG, RECORD = "entries.json", "attempts.jsonl", "record.json"
NAME = (
    rf"^(records/({'|'.join(KINDS)})/[0-9A-Za-z_]{{1,64}}/[0-9A-Za-z][0-9A-Za-z._-]{{0,99}}"
    r"|launches/[0-9]{8}-[0-9]{6}-[^/\\\x00-\x1f]{1,200}/launch\.json|attempts\.jsonl)$"
)
DATE = (1980, 1, 1, 0, 0, 0)  # of every entry, the earliest that a zip file can hold
MOST_LIST = 1 << 28  # bytes of a list of entries; one takes about 200
BLOCK = 1 << 20

Key = tuple[str, str]  # kind and identity of a record
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class EntryList(BaseModel):
    """The content of `entries.json`: of every other entry its size in bytes and its SHA-256."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1]
    suite: str
    entries: dict[Annotated[str, StringConstraints(pattern=NAME)], tuple[Annotated[int, Field(ge=0)], Sha256]]

    @property
    def text(self) -> bytes:
        """The one form of this list: the root hash is its SHA-256."""
        return json.dumps(self.model_dump(), indent=1, sort_keys=True).encode()


class Contradiction(NamedTuple):
    """What of an entry is not as the archive itself, or the user, says that it is."""

    entry: str
    what: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.entry}: {self.what}: expected {self.expected}, found {self.found}"


def is_weights(kind: str, file: str) -> bool:
    """Tell files of tensors that only stages read: trained weights and encoded features. `counts` are for reports."""
    return kind in ("train", "encode") and file.endswith(".safetensors") and file != "counts.safetensors"


# --- packing ----------------------------------------------------------------------------------------------------------


def pack(
    target: Path, suite: str, store: Store, keys: Iterable[Key], launches: Iterable[Path], weights: bool
) -> Archive:
    """Write the records of these stages that there are, and the files of launches, into an archive.

    Raises DamagedRecord for a record that is not as it was written, UserError if there is none.
    """
    keys, files = sorted(keys), dict[str, Path]()
    sums = dict[str, tuple[int, str]]()
    for kind, identity in keys:
        try:
            record, left_out = store.read(kind, identity), {*store.left_out(kind, identity)}
        except FileNotFoundError:
            continue
        kept = [name for name in record["bytes"] if name not in left_out and (weights or not is_weights(kind, name))]
        store.read(kind, identity, kept)
        for name in (RECORD, *kept):
            files[f"records/{kind}/{identity}/{name}"] = store.folder(kind, identity) / name
        sums |= {f"records/{kind}/{identity}/{name}": (record["bytes"][name], record["sha256"][name]) for name in kept}
    if not files:
        raise UserError("none of its stages has a record", where=suite, hint=f"is {store.root} the right --store?")
    files |= {f"launches/{folder.name}/launch.json": folder / "launch.json" for folder in launches}
    sums |= {name: (path.stat().st_size, file_sha256(path)) for name, path in files.items() if name not in sums}
    wanted = {identity for _, identity in keys}
    events = [event for event in store.events() if event.get("identity") in wanted]
    texts = {LOG: "".join(json.dumps(event) + "\n" for event in events).encode()}
    sums |= {name: (len(text), hashlib.sha256(text).hexdigest()) for name, text in texts.items()}
    listed = EntryList(version=1, suite=suite, entries=dict(sorted(sums.items())))
    write_zip(target, {**files, **texts, LIST: listed.text})
    return Archive(target, listed)


def write_zip(target: Path, entries: Mapping[str, Path | bytes]) -> None:
    """Write files and texts into a zip file, in one rename: the same bytes from the same entries."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary, ZipFile(temporary, "w", ZIP_STORED) as archive:
        for name, source in sorted(entries.items()):
            info = ZipInfo(name, DATE)
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            info.file_size = source.stat().st_size if isinstance(source, Path) else len(source)
            with (
                source.open("rb") if isinstance(source, Path) else BytesIO(source) as own,
                archive.open(info, "w") as out,
            ):
                shutil.copyfileobj(own, out, BLOCK)


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Archive:
    """An archive and its list of entries, which `contradictions` compares with what is in it."""

    path: Path
    listed: EntryList

    @classmethod
    def of(cls, path: Path) -> Archive:
        """Raises UserError if the file holds no archive, or one whose list of entries cannot be used."""
        try:
            with ZipFile(path) as archive:
                info = archive.getinfo(LIST)
                if info.compress_type != ZIP_STORED or info.file_size > MOST_LIST:
                    raise ValueError("it is compressed, or too large")
                listed = EntryList.model_validate_json(content := archive.read(info))
            if content != listed.text:
                raise ValueError("it is not in the form in which `pack` writes it")
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from error
        except ValidationError as error:
            place, what = ".".join(map(str, error.errors()[0]["loc"])), error.errors()[0]["msg"]
            raise UserError(f"{place}: {what}", where=f"{path}: {LIST}", hint="fetch the archive again") from None
        except (BadZipFile, KeyError, ValueError, NotImplementedError, EOFError, RuntimeError) as error:
            what = f"holds no archive of records: {error}"
            raise UserError(what, where=f"{path}: {LIST}", hint="`pack` writes archives") from None
        return cls(path, listed)

    @property
    def root(self) -> str:
        return hashlib.sha256(self.listed.text).hexdigest()

    @property
    def size(self) -> int:
        return sum(size for size, _ in self.listed.entries.values())

    @cached_property
    def keys(self) -> list[Key]:
        """The records, inputs before the stages that read them."""
        found = {(parts[1], parts[2]) for name in self.listed.entries if len(parts := name.split("/")) == 4}
        return sorted(found, key=lambda key: (KINDS.index(key[0]), key[1]))

    @cached_property
    def _zip(self) -> ZipFile:
        """Open as long as the archive is used."""
        return ZipFile(self.path)

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        """The files of each record."""
        found = dict[str, list[str]]()
        for name in self.listed.entries:
            folder, _, file = name.rpartition("/")
            found.setdefault(folder, []).append(file)
        return found

    def content(self, *parts: str) -> bytes:
        """The bytes of an entry, of no more than the list says."""
        name = "/".join(parts)
        with self._zip.open(name) as entry:
            return entry.read(self.listed.entries[name][0])

    def copy(self, name: str, target: Path) -> None:
        """Write an entry's bytes to a file."""
        with self._zip.open(name) as entry, target.open("wb") as out:
            shutil.copyfileobj(entry, out, BLOCK)

    def record(self, kind: str, identity: str) -> RecordData:
        """The record.json of a record. Raises ValueError or UserError if it is none."""
        record = parse_record(self.content("records", kind, identity, RECORD))
        tables = {"bytes": int, "sha256": str, "inputs": list}
        if wrong := [name for name, own in FIELDS.items() if not isinstance(record.get(name), own)]:
            raise ValueError(f"holds no record: it lacks {', '.join(wrong)}")
        if wrong := [
            name for name, own in tables.items() if any(type(each) is not own for each in record[name].values())
        ]:
            raise ValueError(f"holds no record: {', '.join(wrong)} are of another form")
        return record

    def files(self, kind: str, identity: str) -> list[str]:
        """The files of a record that are in the archive."""
        return self._files.get(f"records/{kind}/{identity}", [])

    def left_out(self, kind: str, identity: str) -> list[str]:
        """The files of a record that are not in the archive."""
        return sorted(self.record(kind, identity)["bytes"].keys() - self.files(kind, identity))

    def contradictions(self) -> list[Contradiction]:
        """All that is not as the list of entries, and each record, says."""
        try:
            return [*self._layout()] or [*self._hashes()] or [own for key in self.keys for own in self._in_record(*key)]
        except (BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            return [Contradiction(self.path.name, "the zip file", "one that can be read", str(error))]

    def _layout(self) -> Iterator[Contradiction]:
        """Entries that the list has in another way or not at all, and links, folders and compressed entries."""
        entries = self.listed.entries
        infos = self._zip.infolist()
        for name, count in Counter(info.orig_filename for info in infos).items():
            if count > 1:
                yield Contradiction(name, "entries of this name", "1", str(count))
            if name not in entries and name != LIST:
                yield Contradiction(name, "name", "one of the list of entries", "another")
        for name in sorted(entries.keys() - {info.orig_filename for info in infos}):
            yield Contradiction(name, "entry", "there, as the list says", "missing")
        alike = Counter(name.casefold() for name in entries)
        yield from (Contradiction(name, "name", "one", "several") for name in entries if alike[name.casefold()] > 1)
        for info in infos:
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG) or info.is_dir():
                yield Contradiction(info.orig_filename, "kind", "a file", "a link, a folder or a device")
            if info.compress_type != ZIP_STORED or info.flag_bits & 1:
                yield Contradiction(info.orig_filename, "storage", "as it is", "compressed or encrypted")
            if info.orig_filename in entries and info.file_size != (size := entries[info.orig_filename][0]):
                yield Contradiction(info.orig_filename, "bytes", str(size), str(info.file_size))
        if self.size > (whole := self.path.stat().st_size):
            yield Contradiction(LIST, "bytes of all entries", f"at most {whole}", str(self.size))

    def _hashes(self) -> Iterator[Contradiction]:
        for name, (_, expected) in self.listed.entries.items():
            try:
                with self._zip.open(name) as entry:
                    found = hashlib.file_digest(entry, "sha256").hexdigest()  # type: ignore[arg-type]
            except BadZipFile as error:
                found = str(error)
            if found != expected:
                yield Contradiction(name, "SHA-256", expected, found)
        if LOG in self.listed.entries and any(event_in(line) is None for line in self.content(LOG).splitlines()):
            yield Contradiction(LOG, "lines", "events", "something else")

    def _in_record(self, kind: str, identity: str) -> Iterator[Contradiction]:
        """What in a record is not as its record.json says."""
        prefix = f"records/{kind}/{identity}"
        if f"{prefix}/{RECORD}" not in self.listed.entries:
            yield Contradiction(f"{prefix}/{RECORD}", "entry", "there, as of every record", "missing")
            return
        try:
            record = self.record(kind, identity)
        except (ValueError, UserError) as error:
            what = error.what if isinstance(error, UserError) else str(error)
            yield Contradiction(f"{prefix}/{RECORD}", "record", "as it was written", what)
            return
        if (record["kind"], record["identity"]) != (kind, identity):
            yield Contradiction(
                f"{prefix}/{RECORD}", "record", f"{kind} {identity}", f"{record['kind']} {record['identity']}"
            )
        for name in {*record["bytes"]} ^ {*self.files(kind, identity)} - {RECORD}:
            if name not in record["bytes"]:
                yield Contradiction(f"{prefix}/{name}", "name", "one of the record's files", "another")
            elif not is_weights(kind, name):
                yield Contradiction(f"{prefix}/{name}", "entry", "there, as the record says", "missing")
        for name in record["bytes"].keys() & self.files(kind, identity):
            own, listed = (record["bytes"][name], record["sha256"].get(name)), self.listed.entries[f"{prefix}/{name}"]
            if own != listed or name in (RECORD, LEFT_OUT):
                yield Contradiction(f"{prefix}/{name}", "SHA-256 in the record", str(own[1]), listed[1])


# --- merging ----------------------------------------------------------------------------------------------------------


def refuse_contradictions(archive: Archive) -> None:
    """Raise a UserError that names the file and the entries if the archive contradicts itself."""
    refuse_all(
        UserError(f"{own.what}: expected {own.expected}, found {own.found}", where=f"{archive.path}: {own.entry}")
        for own in archive.contradictions()
    )


def merge(archive: Archive, store: Store) -> Counter[str]:
    """Add the records of an archive that the store lacks, each in one rename, inputs first.

    A sound record stays as it is; one without weights gets those of the same record. Counts what was "added", what was
    "completed" and what was "there". Raises UserError before anything is written if the archive contradicts itself.
    """
    refuse_contradictions(archive)
    done = Counter[str](unpack(archive, store, key) for key in archive.keys)
    for name in archive.listed.entries:
        if name.startswith("launches/"):
            write_atomically(store.inside("merged", name.split("/")[1]) / "launch.json", archive.content(name))
    lines = archive.content(LOG).splitlines(keepends=True) if LOG in archive.listed.entries else []
    now = time.time()  # later events would count as attempts of launches to come
    past = [line for line in lines if (event := event_in(line)) and event["time"] <= now]
    if past:
        write_atomically(store.inside("attempts") / f"archive-{archive.root[:16]}.jsonl", b"".join(past))
    return done


def unpack(archive: Archive, store: Store, key: Key) -> str:
    """Put a verified record of an archive into a store. Returns what became of it."""
    files, lacking = archive.files(*key), archive.left_out(*key)
    if store.sound(*key):
        place, missing = store.folder(*key), store.left_out(*key)
        if not {*missing} & {*files} or (place / RECORD).read_bytes() != archive.content("records", *key, RECORD):
            return "there"
        for name in {*missing} & {*files}:
            with replacing(place / name) as target:
                archive.copy("/".join(("records", *key, name)), target)
        _say_left_out(place, sorted({*missing} - {*files}))
        return "completed"
    store.mend(*key)  # what is damaged would be in the way
    with store.placing(*key) as folder:
        for name in files:
            archive.copy("/".join(("records", *key, name)), folder / name)
        _say_left_out(folder, lacking)
    return "added"


def _say_left_out(folder: Path, names: list[str]) -> None:
    if names:
        write_atomically(folder / LEFT_OUT, json.dumps(names).encode())
    else:
        (folder / LEFT_OUT).unlink(missing_ok=True)
