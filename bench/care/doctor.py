"""Examination of a dataset before it is used: broken files, wrong lists, and videos shared by training and test.

Every file is checked once, even if several lists name it, in a supervised worker pool. Results are kept in the
dataset's manifest by size and modification time, so a repeated or resumed examination checks only new and changed
files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.core.errors import UserError
from bench.core.files import file_sha256
from bench.data.datasets import Dataset
from bench.data.feature_files import Stored, are_normalised
from bench.data.lists import Entry
from bench.data.manifest import Manifest
from bench.data.places import plain_name
from bench.data.videos import source_of
from bench.video.decoders import known_decoder
from bench.video.pool import Finished, Pool, Result, Task, WorkerLost
from bench.video.reader import Video
from bench.video.source import Source, VideoError

if TYPE_CHECKING:
    import numpy as np

# Kinds of findings. A finding of a file means that the video cannot be used; only these can be declared in
# `known_bad`, but for links out of the root.
OUTSIDE_ROOT = "outside the root"
FILES = ("missing", OUTSIDE_ROOT, "empty", "audio only", "no frames", "truncated", "undecodable", "stuck")
LISTS = ("class mismatch", "span outside", "leak by path", "leak by content", "normalised")
WARNINGS = ("duplicate", "count", "needless known_bad")

MEASURED = ("frames", "width", "height", "fps", "seconds", "codec")  # fields of FileCheck that doctor.csv has

PLACES = 5  # frames that are decoded without `full`, including the first and the last
CHUNK_BYTES = 16 << 20  # largest size of decoded frames in memory
VERSION = 2  # version of `examine`; after a change, every file is checked again

CheckProgress = Callable[[int, int, int], None]  # (done, total, faulty)
Listed = dict[str, list[tuple[str, Entry]]]  # file below the root -> its entries, each with the split that names it


class Finding(NamedTuple):
    """A problem or warning about a listed file or, if `path` is empty, about a list."""

    kind: str
    path: str
    reason: str
    known: bool = False  # declared in `known_bad`

    @property
    def is_problem(self) -> bool:
        return self.kind not in WARNINGS and not self.known


class FileCheck(NamedTuple):
    """Result of the examination of one file. The manifest stores it as a list."""

    version: int = VERSION
    decoder: str = ""
    full: bool = False
    problem: str = ""  # one of FILES; empty for a sound file
    reason: str = ""
    frames: int = 0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    seconds: float = 0.0
    codec: str = ""

    def serves(self, decoder: str, full: bool) -> bool:
        """True if this result also answers an examination with these settings."""
        return (self.version, self.decoder) == (VERSION, decoder) and self.full >= full


# --- one file, in a worker --------------------------------------------------------------------------------------------


class _Fault(Exception):
    """A problem of a file; its arguments are the kind (one of FILES) and a one-line reason."""


class _CheckTask(NamedTuple):
    path: str
    source: Source
    decoder: str
    full: bool


def _run_check(task: _CheckTask) -> tuple[FileCheck, str | None]:
    return examine(task.source, task.decoder, task.full)


def _load_readers() -> None:
    """Import the readers, so that the time limit of the first video does not include the imports."""
    import av  # noqa: F401


def run_on_videos(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int, seconds: float
) -> Iterator[Finished[Task, Result]]:
    """Results of a function of videos in a worker pool, as they finish. The caller reports lost workers."""
    return Pool(workers, seconds, note=lambda line: None).run(function, tasks, ordered=False, prepare=_load_readers)


def examine(source: Source, decoder: str, full: bool) -> tuple[FileCheck, str | None]:
    """Properties and problems of a file, and the SHA-256 of its bytes (None for a folder of frames)."""
    facts: dict[str, Any] = {}
    sha256 = None
    try:
        if not source.frames:
            sha256 = file_sha256(source.path)
            _check_container(source.path, facts)
        _decode(source, decoder, full, facts)
    except _Fault as fault:
        facts["problem"], facts["reason"] = fault.args
    except OSError as error:
        facts |= {"problem": "undecodable", "reason": error.strerror or type(error).__name__}
    return FileCheck(decoder=decoder, full=full, **facts), sha256


def _check_container(path: Path, facts: dict[str, Any]) -> None:
    """Properties of the container, without decoding. Raises _Fault if it cannot be read; `_decode` judges the rest."""
    import av

    try:
        # The header also counts frames that an edit list hides, as in videos cut without encoding.
        with av.open(str(path), options={"ignore_editlist": "1"}, metadata_errors="ignore") as container:
            stream: Any = container.streams.best("video")
            if stream is None:
                raise _Fault("audio only" if container.streams.audio else "undecodable", "no video stream")
            codec, rate = stream.codec_context, float(stream.average_rate or 0)
            count, ticks = _packets(container.demux(stream))
            seconds = float(ticks * (stream.time_base or 0)) or (count / rate if rate else 0.0)
            facts |= {"codec": codec.name, "width": codec.width, "height": codec.height}
            facts |= {"frames": count, "fps": round(rate, 3), "seconds": round(seconds, 3)}
    except (av.FFmpegError, AttributeError, ValueError) as error:  # an unknown codec has no context
        if _ends_inside_a_box(path):
            raise _Fault("truncated", "cut file: it ends before its index") from error
        raise _Fault("undecodable", getattr(error, "strerror", None) or str(error)) from error


def _ends_inside_a_box(path: Path) -> bool:
    """True if a file is the beginning of an MP4 file (ISO 14496-12, 4.2), as after an interrupted download."""
    at, size = 0, path.stat().st_size
    with open(path, "rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(16)
            if at == 0 and head[4:8] != b"ftyp":
                return False
            length = int.from_bytes(head[8:16] if head[:4] == b"\0\0\0\1" else head[:4], "big")
            at += length or size  # 0 means to the end of the file
    return at > size


def _packets(packets: Iterator[Any]) -> tuple[int, int]:
    """(number of packets, ticks from the start of the first to the end of the last)."""
    count, start, end = 0, None, 0
    for packet in packets:
        count += packet.size > 0
        if packet.size and packet.pts is not None:
            start = packet.pts if start is None else min(start, packet.pts)
            end = max(end, packet.pts + (packet.duration or 0))
    return count, end - (start or 0)


def _decode(source: Source, decoder: str, full: bool, facts: dict[str, Any]) -> None:
    """Decode a few frames, if `full` all of them, with the reader of training and test. Raises _Fault."""
    import numpy as np

    try:
        video = Video(source, decoder)
        first = video.frames(np.array([0]))
    except VideoError as error:
        raise _Fault(_kind(error.reason), error.reason) from error
    facts |= {"frames": len(video), "height": first.shape[1], "width": first.shape[2]}
    if source.frames:
        facts |= {"codec": "frame files", "fps": video.rate, "seconds": round(len(video) / video.rate, 3)}
    last = len(video) - 1
    for place in np.linspace(0, last, PLACES).astype(int)[1:]:
        try:
            video.frames(np.array([place]))
        except VideoError as error:
            kind = "truncated" if place == last else "undecodable"
            raise _Fault(kind, f"frame {place} of {last + 1}: {error.reason}") from error
    if full:
        try:
            for _ in all_frames(video):
                pass
        except VideoError as error:
            raise _Fault("undecodable", error.reason) from error


def all_frames(video: Video) -> Iterator[np.ndarray]:
    """All frames in order, in chunks [N,H,W,3]. Raises VideoError."""
    import numpy as np

    chunk = max(1, CHUNK_BYTES // video.frames(np.array([0])).nbytes)
    for start in range(0, len(video), chunk):
        yield video.frames(np.arange(start, min(start + chunk, len(video))))


def _kind(reason: str) -> str:
    """Kind of the finding for a reader's error on opening a file."""
    starts = {"cut file": "truncated", "empty file": "empty", "no frames": "no frames"}
    return next((kind for start, kind in starts.items() if reason.startswith(start)), "undecodable")


# --- all files --------------------------------------------------------------------------------------------------------


def listed(dataset: Dataset, splits: Sequence[str]) -> Listed:
    """Files of some splits by their path below the root, each once, in the lists' order. Raises UserError."""
    root, found = dataset.location(), Listed()
    for split in splits:
        for entry in dataset.entries(split):
            try:
                file = entry.path if dataset.features else dataset.file(entry).relative_to(root).as_posix()
            except UserError:  # the path leads out of the root, which the examination reports
                file = entry.path
            found.setdefault(file, []).append((split, entry))
    return found


def whole_file(dataset: Dataset, entries: Sequence[tuple[str, Entry]]) -> Source:
    """Source of the file that some entries, or parts of it, name. Raises UserError if it leads out of the root."""
    return source_of(dataset, entries[0][1])._replace(span=None)


def declared_bad(dataset: Dataset, files: Listed) -> set[str]:
    """Files with all their entries in `known_bad`."""
    declared = set(dataset.known_bad)
    return {path for path, entries in files.items() if all(entry.name in declared for _, entry in entries)}


class Examination:
    """Examination of a dataset's files: `run` checks them, `findings` and `rows` return the results.

    Raises UserError for an unknown decoder, and if frame files are numbered otherwise than declared.
    """

    def __init__(self, dataset: Dataset, files: Listed, decoder: str, full: bool) -> None:
        self.dataset, self.files, self.decoder, self.full = dataset, files, known_decoder(decoder), full
        dataset.require_numbering(entries[0][1] for entries in files.values())
        self.manifest = Manifest(dataset.name, dataset.location())
        # Not stored in the manifest: missing files, and failures that may be those of the machine.
        self.unsaved: dict[str, FileCheck] = {}
        self.faulty = 0  # faulty files in the last run

    def check(self, path: str) -> FileCheck | None:
        """Result for a file in its present state, None if it has to be checked."""
        if path in self.unsaved:
            return self.unsaved[path]
        kept = (self.manifest.facts(path) or {}).get("check")
        check = FileCheck(*kept) if kept and kept[0] == VERSION else None
        return check if check and check.serves(self.decoder, self.full) else None

    def run(self, workers: int, seconds: float, progress: CheckProgress) -> int:
        """Check the files without a result and return their number. `progress` counts them.

        Results are stored file by file, so nothing is lost on an interruption.
        """
        todo = [path for path in self.files if self.check(path) is None and not self._is_absent(path)]
        tasks = (_CheckTask(path, self._source(path), self.decoder, self.full) for path in todo)
        progress(0, len(todo), 0)
        for done, (task, result) in enumerate(run_on_videos(_run_check, tasks, workers, seconds), start=1):
            if isinstance(result, WorkerLost):
                check = self.unsaved[task.path] = self._fault("stuck", result.reason)
            else:
                check, sha256 = result
                self.manifest.learn(task.path, check=check, **({"sha256": sha256} if sha256 else {}))
            self.faulty += bool(check.problem)
            progress(done, len(todo), self.faulty)
        return len(todo)

    def _is_absent(self, path: str) -> bool:
        """True if there is nothing to decode: the file is missing, empty or outside the root."""
        try:
            file = self._source(path).path
            if not file.exists():
                self.unsaved[path] = self._fault("missing", "no such file")
            elif file.stat().st_size == 0:
                self.unsaved[path] = self._fault("empty", "0 bytes")
        except UserError as error:
            self.unsaved[path] = self._fault(OUTSIDE_ROOT, error.what)
        except OSError as error:
            self.unsaved[path] = self._fault("missing", error.strerror or type(error).__name__)
        return path in self.unsaved

    def _source(self, path: str) -> Source:
        return whole_file(self.dataset, self.files[path])

    def _fault(self, kind: str, reason: str) -> FileCheck:
        return FileCheck(decoder=self.decoder, full=self.full, problem=kind, reason=reason)

    def findings(self, progress: CheckProgress) -> list[Finding]:
        """Findings of the files, then of the lists. `progress` counts the files that are hashed. Raises UserError."""
        same = _groups(self._hashes(progress))
        pairs = disjoint_pairs(self.dataset, self._splits())
        return [
            *self._of_files(),
            *_class_mismatches(self.files, self.dataset.class_names()),
            *_leaks_by_path(self.files, pairs),
            *_leaks_by_content(self.files, same, pairs),
            *_duplicates(same),
            *(
                Finding("count", "", note)
                for split in self._splits()
                for note in self.dataset.notes(split, claims=False)
            ),
        ]

    def _hashes(self, progress: CheckProgress) -> Mapping[str, str | None]:
        present = [path for path in self.files if path not in self.unsaved]
        return self.manifest.hashes(present, lambda done, total: progress(done, total, self.faulty))

    def _splits(self) -> list[str]:
        return list(dict.fromkeys(split for entries in self.files.values() for split, _ in entries))

    def _of_files(self) -> Iterator[Finding]:
        bad, names = declared_bad(self.dataset, self.files), set(self.dataset.known_bad)
        for path, entries in self.files.items():
            check = self.check(path)
            if check is None:
                yield Finding("undecodable", path, "changed during the examination")
            elif check.problem:
                yield Finding(check.problem, path, check.reason, path in bad)
            else:
                yield from _spans_outside(path, entries, check.seconds, names)
                if path in bad:
                    yield Finding("needless known_bad", path, "is declared as undecodable but can be decoded")

    def rows(self, findings: Sequence[Finding]) -> Iterator[dict[str, object]]:
        """A row of `doctor.csv` for every file."""
        found: dict[str, list[Finding]] = {}
        for finding in findings:
            found.setdefault(finding.path, []).append(finding)
        for path, entries in self.files.items():
            check, own = self.check(path) or FileCheck(), found.get(path, [])
            yield {
                "path": _joined(entry.path for _, entry in entries),
                "label": _joined(str(entry.label) for _, entry in entries),
                "splits": _joined(split for split, _ in entries),
                "problem": _joined(finding.kind for finding in own),
                "reason": _joined(finding.reason for finding in own),
                **{name: getattr(check, name) or "" for name in MEASURED},
                "sha256": (self.manifest.facts(path) or {}).get("sha256", ""),
            }


class FeatureExamination(Examination):
    """Examination of features from elsewhere: each is read, compared with the declaration, and hashed."""

    def __init__(self, dataset: Dataset, files: Listed) -> None:
        super().__init__(dataset, files, "decord", full=True)
        self.hashes: dict[str, str | None] = {}
        self.unit: dict[str, bool] = {}  # split -> whether all its features have length 1

    def run(self, workers: int, seconds: float, progress: CheckProgress) -> int:
        """Read all features, in this process."""
        held = {split: self.dataset.stored(split) for split in self._splits()}
        for done, (path, entries) in enumerate(self.files.items(), start=1):
            self.unsaved[path] = FileCheck(decoder=self.decoder, full=True)
            for split, entry in entries:
                self._read(held[split], split, path, entry)
            self.faulty += bool(self.unsaved[path].problem)
            progress(done, len(self.files), self.faulty)
        return len(self.files)

    def _read(self, held: Stored, split: str, path: str, entry: Entry) -> None:
        place = held.place(entry.name, entry.path)
        if place is None:
            where = ", ".join(file.name for file in held.contents)
            self.unsaved[path] = self._fault("missing", f"'{entry.name}' is not in {where}")
            return
        try:
            features = held.read(place)
        except ValueError as error:
            self.unsaved[path] = self._fault("undecodable", str(error))
            return
        self.hashes[path] = hashlib.sha256(features.tobytes()).hexdigest()
        self.unit[split] = self.unit.get(split, True) and are_normalised(features)

    def findings(self, progress: CheckProgress) -> list[Finding]:
        unit = [split for split, all_are in self.unit.items() if all_are]
        reason = "all features of '{}' have length 1; methods need those before normalisation"
        return [*super().findings(progress), *(Finding("normalised", "", reason.format(split)) for split in unit)]

    def _hashes(self, progress: CheckProgress) -> Mapping[str, str | None]:
        return self.hashes


# --- lists ------------------------------------------------------------------------------------------------------------


def disjoint_pairs(dataset: Dataset, splits: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of splits that must not share a video: the declared ones, else training and test lists.

    By default, each split named train... is paired with every other split, unless both names end with different
    numbers: train1 and test1, train and val, but not train1 and test2.
    """
    pairs = dataset.disjoint or [
        pair
        for pair in product(splits, splits)
        if pair[0].startswith("train") > pair[1].startswith("train") and len(_numbers(pair)) < 2
    ]
    return [(one, other) for one, other in pairs if one in splits and other in splits]


def _numbers(splits: Sequence[str]) -> set[str]:
    return {found[0] for split in splits if (found := re.search(r"\d+$", split))}


def _class_mismatches(files: Listed, names: Sequence[str]) -> Iterator[Finding]:
    """Files whose labels contradict their paths or each other."""
    ids = {plain_name(name): label for label, name in enumerate(names)}
    for path, entries in files.items():
        labels = sorted({entry.label for _, entry in entries})
        by_path = _class_in_path(path, ids)
        if by_path is not None and by_path not in labels:
            reason = f"label {labels[0]} is '{names[labels[0]]}', but the path says '{names[by_path]}'"
            yield Finding("class mismatch", path, reason)
        elif len(labels) > 1 and not any(entry.span for _, entry in entries):
            yield Finding("class mismatch", path, f"has the labels {', '.join(map(str, labels))}")


def _class_in_path(path: str, ids: Mapping[str, int]) -> int | None:
    """The class in a path: from UCF-101's v_CLASS_g01_c01, else the nearest folder with the name of a class."""
    *folders, file = PurePosixPath(path).parts
    ucf = re.match(r"v_(.+)_g\d+_c\d+", file)
    candidates = [ucf[1] if ucf else "", *reversed(folders)]
    return next((ids[plain] for plain in map(plain_name, candidates) if plain and plain in ids), None)


def _leaks_by_path(files: Listed, pairs: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    for path, entries in files.items():
        splits = {split for split, _ in entries}
        for one, other in pairs:
            if one in splits and other in splits:
                yield Finding("leak by path", path, f"is in {one} and in {other}")


def _groups(hashes: Mapping[str, str | None]) -> list[list[str]]:
    """Groups of two or more paths whose files have the same bytes."""
    first: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    for path, sha256 in hashes.items():
        if sha256 is not None and (original := first.setdefault(sha256, path)) != path:
            groups.setdefault(original, [original]).append(path)
    return list(groups.values())


def _duplicates(same: Sequence[Sequence[str]]) -> Iterator[Finding]:
    for original, *copies in same:
        yield from (Finding("duplicate", path, f"the same bytes as {original}") for path in copies)


def _leaks_by_content(
    files: Listed, same: Sequence[Sequence[str]], pairs: Sequence[tuple[str, str]]
) -> Iterator[Finding]:
    """Copies in splits that must not share a video, once for every copy and pair of splits."""
    for paths in same:
        splits = {path: {split for split, _ in files[path]} for path in paths}
        for one, other in pairs:
            for path in (path for path in paths if other in splits[path]):
                twin = next((twin for twin in paths if twin != path and one in splits[twin]), None)
                if twin is not None:
                    yield Finding("leak by content", path, f"in {other}, has the same bytes as {twin} in {one}")


def _spans_outside(
    path: str, entries: Sequence[tuple[str, Entry]], seconds: float, declared: set[str]
) -> Iterator[Finding]:
    for entry in dict.fromkeys(entry for _, entry in entries):
        if entry.span and seconds and entry.span[0] >= seconds:
            reason = f"{entry.name} starts after the end at {seconds:g} s"
            yield Finding("span outside", path, reason, entry.name in declared)


# --- output -----------------------------------------------------------------------------------------------------------


def known_bad(files: Listed, findings: Sequence[Finding]) -> list[str]:
    """Names for a declaration's `known_bad`, in the lists' order, without repetition; links it does not excuse."""
    bad = {finding.path for finding in findings if finding.kind in FILES and finding.kind != OUTSIDE_ROOT}
    return list(dict.fromkeys(entry.name for path in files if path in bad for _, entry in files[path]))


def _joined(texts: Iterator[str]) -> str:
    return "; ".join(dict.fromkeys(texts))
