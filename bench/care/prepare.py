"""Copy of a dataset that decodes fast: short side 256, a key frame every 8 frames, H.264 without B-frames or sound.

Frames are read with the readers of training and test, so frame k of a copy is frame k of its source, also for variable
frame rates and rotated pictures. Every copy is decoded and compared before it gets its name. Lists stay valid, because
paths and suffixes do not change.

    TARGET/prepared.json    settings of all videos in the folder; other settings are refused
    TARGET/prepared.jsonl   a line per finished video, with size and modification time of its source
    TARGET/.partial/        videos being written; removed at the end
    TARGET/.lock            held by the running process
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import asdict, dataclass
from errno import ENOSPC
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from bench.care.doctor import CheckProgress, Listed, all_frames, run_on_videos, whole_file
from bench.core.errors import UserError
from bench.core.files import append_json, appended_json, expanded, write_atomically
from bench.data.datasets import PREPARED, Dataset
from bench.video.pool import WorkerLost
from bench.video.reader import Video
from bench.video.source import Source, VideoError

if TYPE_CHECKING:
    import av
    import numpy as np

PARTIAL, LOCK = ".partial", ".lock"
COMPARED = 4  # frames of a copy that are compared, including the first and the last


@dataclass(frozen=True)
class Preparation:
    """Settings of the encoding. `crf` is x264's quality: 0 is lossless, 18 hardly visible, 51 worst."""

    short_side: int = 256
    gop: int = 8
    crf: int = 18

    @property
    def tolerance(self) -> float:
        """Largest accepted mean difference of 8-bit RGB values between a copy and the encoded frames.

        Coloured noise, the worst case, differs by 7 at CRF 18 and by twice as much with every 6; natural video by less
        than 3.
        """
        return 12.0 * 2 ** ((self.crf - 18) / 6)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a copy: never enlarged, and even because chroma has half the resolution."""
        scale = min(1.0, self.short_side / min(height, width))
        return _even(height, scale), _even(width, scale)


def _even(length: int, scale: float) -> int:
    return max(2, min(2 * round(length * scale / 2), length // 2 * 2))


# --- one video, in a worker -------------------------------------------------------------------------------------------


class _PrepareTask(NamedTuple):
    file: str
    source: Source
    copy: Path
    writing: Path
    how: Preparation


def _run_prepare(task: _PrepareTask) -> dict[str, Any] | VideoError:
    try:
        return prepare_video(task.source, task.copy, task.writing, task.how)
    except VideoError as error:
        return error


class _Expected(NamedTuple):
    """Properties and frames that a copy must have."""

    frames: int
    size: tuple[int, int]
    pixels: dict[int, np.ndarray]  # RGB [H,W,3] by frame index


def prepare_video(source: Source, copy: Path, writing: Path, how: Preparation) -> dict[str, Any]:
    """Encode a video to `copy` by way of the file `writing`; returns its frames, height, width and bytes.

    Raises VideoError, and leaves no file, if the source cannot be decoded or the copy's frames differ.
    """
    writing.parent.mkdir(parents=True, exist_ok=True)
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        expected = _encode(source, writing, how)
        _verify(writing, expected, how)
        written = writing.stat().st_size
        os.replace(writing, copy)
    finally:
        writing.unlink(missing_ok=True)
    return {"frames": expected.frames, "height": expected.size[0], "width": expected.size[1], "bytes": written}


def _encode(source: Source, writing: Path, how: Preparation) -> _Expected:
    import av
    import numpy as np
    from av.video.reformatter import Colorspace

    video = Video(source)
    height, width = how.size(*video.frames(np.array([0])).shape[1:3])
    compared = set(np.linspace(0, len(video) - 1, COMPARED).astype(int).tolist())
    expected = _Expected(len(video), (height, width), {})
    try:
        # Always MP4: decoders detect the container by its content, and AVI does not store presentation times.
        with av.open(str(writing), "w", format="mp4", options={"movflags": "faststart"}) as container:
            options = {"crf": str(how.crf), "g": str(how.gop), "bf": "0", "tune": "fastdecode", "threads": "1"}
            stream = container.add_stream("libx264", Fraction(video.rate).limit_denominator(1001), options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.colorspace = Colorspace.ITU601  # the default of the conversion to YUV
            for index, frame_HW3 in enumerate(frame for chunk in all_frames(video) for frame in chunk):
                frame = _resized(frame_HW3, height, width)
                container.mux(stream.encode(frame))
                if index in compared:
                    expected.pixels[index] = frame.to_ndarray(format="rgb24")
            container.mux(stream.encode())
    except (av.FFmpegError, ValueError) as error:
        if getattr(error, "errno", None) == ENOSPC:
            hint = "free some space and repeat the command, which resumes"
            raise UserError("the disk is full", where=str(writing), hint=hint) from error
        raise VideoError(source.path, f"cannot be encoded: {error}") from error
    return expected


def _resized(frame_HW3: np.ndarray, height: int, width: int) -> av.VideoFrame:
    """The frame to encode: resized bicubically with antialiasing, chroma at half resolution."""
    import av
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(frame_HW3)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    frame: av.VideoFrame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24").reformat(format="yuv420p")
    return frame


def _verify(writing: Path, expected: _Expected, how: Preparation) -> None:
    import numpy as np

    copy = Video(Source(writing))
    if len(copy) != expected.frames:
        raise VideoError(writing, f"the copy has {len(copy)} frames instead of {expected.frames}")
    indices = sorted(expected.pixels)
    frames = copy.frames(np.array(indices))
    if frames.shape[1:3] != expected.size:
        raise VideoError(writing, f"the copy has the size {frames.shape[1:3]} instead of {expected.size}")
    for index, frame_HW3 in zip(indices, frames, strict=True):
        difference = float(np.abs(frame_HW3.astype(np.int16) - expected.pixels[index]).mean())
        if difference > how.tolerance:
            raise VideoError(writing, f"frame {index} of the copy differs by {difference:.1f} of 255 on average")


# --- a dataset --------------------------------------------------------------------------------------------------------


def refuse(dataset: Dataset, target: Path) -> None:
    """Raises UserError for datasets that need no copy, and for targets inside or around the folder of the originals."""
    where = f"dataset '{dataset.name}'"
    if dataset.buildable:
        raise UserError("its videos are rendered small and need no copy", where=where)
    if dataset.frames:
        raise UserError("its frame files need no copy", where=where)
    if dataset.features:
        raise UserError("it has features in the place of videos, and needs no copy", where=where)
    root, folder = dataset.location().resolve(), target.resolve()
    if folder.is_relative_to(root) or root.is_relative_to(folder):
        hint = f"the originals are in {root}"
        raise UserError("the copy would mix with the originals", where=str(target), hint=hint)


class PreparedFolder:
    """A folder of prepared videos; inside a `with` statement, only this process can write to it.

    Entering raises UserError if the folder is in use, holds other files, or was prepared with other settings.
    """

    def __init__(self, folder: Path, how: Preparation) -> None:
        self.folder, self.how = folder, how
        self.log = folder / "prepared.jsonl"
        self.stamps: dict[str, list[int]] = {}  # size and modification time of the sources
        self.finished: dict[str, dict[str, Any]] = {}  # lines of the log by file

    def __enter__(self) -> PreparedFolder:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / LOCK, "w")  # held until the process ends, however it ends
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError("another process is preparing videos here", where=str(self.folder)) from error
        except OSError as error:
            raise UserError(f"cannot be written: {error.strerror}", where=str(self.folder)) from error
        self._check_settings()
        self.finished = {line["file"]: line for line in appended_json(self.log)}
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder / PARTIAL, ignore_errors=True)
        self._lock.close()

    def _check_settings(self) -> None:
        """Write the settings to a new folder, or compare them with those of an existing one."""
        description, wanted = self.folder / PREPARED, asdict(self.how)
        if description.exists():
            written = json.loads(description.read_text())
            found = {name: written.get(name) for name in wanted}
            if found != wanted:
                raise UserError(
                    f"was prepared with {_words(found)}, not with {_words(wanted)}",
                    where=str(description),
                    hint="choose another folder or the same settings",
                )
        elif any(path.name != LOCK for path in self.folder.iterdir()):
            raise UserError("is not empty and not a prepared copy", where=str(self.folder), hint="choose a new folder")
        else:
            write_atomically(description, json.dumps(wanted | _libraries(), indent=1).encode())

    def todo(self, dataset: Dataset, files: Listed) -> tuple[dict[str, Source], dict[str, str]]:
        """(sources without an up-to-date copy, reasons why other files cannot be read), by file."""
        sources, failed = {}, {}
        for file, entries in files.items():
            try:
                source = whole_file(dataset, entries)
                status = source.path.stat()
            except (UserError, OSError) as error:
                failed[file] = error.what if isinstance(error, UserError) else error.strerror or type(error).__name__
                continue
            self.stamps[file] = [status.st_size, status.st_mtime_ns]
            if not self._holds(file):
                sources[file] = source
        return sources, failed

    def _holds(self, file: str) -> bool:
        line, copy = self.finished.get(file), self.folder / file
        return line is not None and (line["source"], line["bytes"]) == (self.stamps[file], _bytes(copy))

    def make(self, sources: dict[str, Source], workers: int, seconds: float, progress: CheckProgress) -> dict[str, str]:
        """Encode the sources; returns the reasons of those that failed. `progress` counts videos."""
        failed: dict[str, str] = {}
        tasks = (
            _PrepareTask(file, source, self.folder / file, self.folder / PARTIAL / file, self.how)
            for file, source in sources.items()
        )
        progress(0, len(sources), 0)
        for done, (task, result) in enumerate(run_on_videos(_run_prepare, tasks, workers, seconds), start=1):
            if isinstance(result, WorkerLost | VideoError):
                failed[task.file] = result.reason
            else:
                append_json(self.log, {"file": task.file, "source": self.stamps[task.file], **result})
            progress(done, len(sources), len(failed))
        return failed

    def space_warning(self, sources: dict[str, Source]) -> str | None:
        """A warning if the disk may be too small, from the ratio of finished copies to their originals, or 1."""
        originals = sum(line["source"][0] for line in self.finished.values())
        ratio = sum(line["bytes"] for line in self.finished.values()) / originals if originals else 1.0
        needed, free = ratio * sum(self.stamps[file][0] for file in sources), shutil.disk_usage(self.folder).free
        if needed < free:
            return None
        return f"about {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free in {self.folder}"


def _bytes(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _libraries() -> dict[str, Any]:
    import av

    versions = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    return {"codec": "libx264", "pixels": "yuv420p", "versions": {"av": av.__version__, **versions}}


def declaration(dataset: Dataset, target: Path) -> str:
    """The line with which a suite uses the copy, next to its other settings of the dataset."""
    keys = {"root": str(target.resolve())}
    if dataset.lists:
        keys["lists"] = str(Path(dataset.folder, expanded(dataset.lists)).resolve())
    return yaml.safe_dump({"datasets": {dataset.name: keys}}, default_flow_style=True, width=10_000).strip()[1:-1]
