"""Checkpoints that are damaged are set aside, and the stage starts anew; what is no damage stays."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import pytest
import torch

from bench.core.errors import Interrupted
from bench.stages import checkpoint, encode
from bench.stages.checkpoint import DamagedCheckpoint, OtherVersions
from bench.stages.train import Trainer, run
from bench.stages.training.ranks import Ranks
from bench.stages.work import Work
from bench.store import provenance
from tests.stages.trainings import again, files, training

pytestmark = pytest.mark.usefixtures("one_thread")


def flipped(file: Path) -> None:
    """Change one byte of a weight; size and structure stay."""
    content = bytearray(file.read_bytes())
    with ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    lengths = struct.unpack("<HH", content[largest.header_offset + 26 : largest.header_offset + 30])
    content[largest.header_offset + 30 + sum(lengths) + largest.file_size // 2] ^= 255
    file.write_bytes(content)


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def other_shapes(file: Path) -> None:
    """What was saved, with the weights of a narrower model."""
    saved = torch.load(file)
    model = saved["state"].get("model", saved["state"])
    model |= {name: torch.zeros(1) for name in model}
    torch.save(saved, file)


def other_stage(file: Path) -> None:
    saved = torch.load(file)
    torch.save({**saved, "file": "train/another/training.pt"}, file)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut off": lambda file: os.truncate(file, file.stat().st_size // 2),
    "empty": lambda file: os.truncate(file, 0),
    "garbage": lambda file: file.write_bytes(os.urandom(1000)),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "text": lambda file: file.write_text("{}"),
    "flipped": flipped,
    "a folder": as_folder,
    "a pipe": pipe,
    "other shapes": other_shapes,
    "another stage's": other_stage,
}


@pytest.fixture(scope="module")
def whole(folder: Path) -> Work:
    """A training that went through."""
    work = training(folder, "undamaged", keep="best", validation="test")
    run(work)
    return work


@pytest.mark.parametrize("damage", ["cut off", "flipped", "other shapes"])
def test_a_training_starts_anew(whole: Work, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    name, notes = damage.replace(" ", "-"), list[str]()
    cut = again(replace(whole, out=whole.out.with_name(name), checkpoint=whole.checkpoint.with_name(f"{name}-saved")))
    cut = replace(cut, note=notes.append)
    asked = iter([False] * 4 + [True])  # in the second epoch
    with pytest.raises(Interrupted):
        run(replace(cut, stopping=lambda: next(asked)))
    DAMAGES[damage](cut.checkpoint / "training.pt")
    run(cut)
    assert files(cut) == files(whole)
    (note,) = notes
    assert str(cut.checkpoint / "training.pt") in note and note in caplog.text
    assert len(list(cut.checkpoint.glob("training.pt.damaged-*"))) == 1


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_training_that_lost_its_best_weights_starts_anew(whole: Work, damage: str) -> None:
    name, notes = f"best-{damage}".replace(" ", "-"), list[str]()
    cut = again(replace(whole, out=whole.out.with_name(name), checkpoint=whole.checkpoint.with_name(f"{name}-saved")))
    asked = iter([False] * 4 + [True])
    with pytest.raises(Interrupted):
        run(replace(cut, stopping=lambda: next(asked)))
    (best,) = cut.checkpoint.glob("best-*.pt")
    best.unlink() if damage == "missing" else DAMAGES[damage](best)
    run(replace(cut, note=notes.append))
    assert files(cut) == files(whole) and best.name in notes[0]


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "denied"),
        OSError(errno.EIO, "input/output error"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_errors_of_the_machine_discard_nothing(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "training.pt"
    checkpoint.save(file, {"step": 1})

    def failing(*_arguments: object, **_named: object) -> object:
        raise error

    monkeypatch.setattr(torch, "load", failing)
    with pytest.raises(type(error)) as caught:
        checkpoint.load(file, dict)
    assert caught.value is error and not isinstance(error, DamagedCheckpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["training.pt"]


def test_ranks_agree_on_damage_that_one_of_them_sees(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here another rank says that it could not load what this one could."""
    work = training(folder, "seen elsewhere")
    trainer = Trainer(work, Ranks())
    trainer.save()

    class Others(Ranks):
        def gather(self, value: Any) -> list[Any]:
            return [value, "training.pt: it is damaged" if isinstance(value, str) else value]

    monkeypatch.setattr(trainer, "ranks", Others())
    assert not trainer.resume()
    assert not (work.checkpoint / "training.pt").exists()


def test_a_save_that_fails_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "training.pt"
    checkpoint.save(file, {"step": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(os, "fsync", full)
        checkpoint.save(file, {"step": 2})
    assert checkpoint.load(file, dict) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["training.pt"]


@pytest.mark.parametrize(
    ("then", "now", "refused"),
    [("2.9.0", "2.10.0", True), ("2.9.0+cu128", "2.9.0+cpu", False), ("2.9.0", None, True), (None, "2.9.0", False)],
)
def test_another_release_of_torch_does_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str | None, now: str | None, refused: bool
) -> None:
    """Builds of one release may go on, and so may checkpoints that do not say what they were saved by."""
    file = tmp_path / "training.pt"
    monkeypatch.setattr(provenance, "_version", lambda package: then if package == "torch" else "3.2.0")
    checkpoint.save(file, {"step": 1})
    monkeypatch.setattr(provenance, "_version", lambda package: now if package == "torch" else "3.2.0")
    if not refused:
        assert checkpoint.load(file, dict) == {"step": 1}
        return
    with pytest.raises(OtherVersions, match=f"torch 2.9.0 then, {now or 'not installed'} now") as raised:
        checkpoint.load(file, dict)
    assert raised.value.final and "delete the folder of the checkpoint" in str(raised.value)
    assert file.exists()


def test_a_checkpoint_of_an_older_version_is_resumed(tmp_path: Path) -> None:
    file = tmp_path / "training.pt"
    checkpoint.save(file, {"step": 1})
    saved = torch.load(file)
    del saved["versions"]
    torch.save(saved, file)
    assert checkpoint.load(file, dict) == {"step": 1}


class Listed(list[SimpleNamespace]):
    """Listed videos."""

    @property
    def entries(self) -> Listed:
        return self


@pytest.mark.parametrize("damage", [None, *(name for name in DAMAGES if name != "other shapes")])
def test_a_damaged_shard_is_encoded_again(tmp_path: Path, damage: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shard of two videos is there; it is used as it is unless it is damaged."""
    notes, encoded = list[str](), list[int]()
    spec, place = {"backbone": "tiny"}, tmp_path / "abc"
    compute = SimpleNamespace(device="cpu")
    work: Any = SimpleNamespace(spec=spec, checkpoint=place, note=notes.append, compute=compute)
    videos: Any = Listed([SimpleNamespace(name="a.mp4"), SimpleNamespace(name="b.mp4")])
    features_NVTD = torch.arange(8.0).reshape(2, 1, 2, 2)
    file = work.checkpoint / "shard-00000000.pt"
    checkpoint.save(file, ({"features": features_NVTD}, {1: "no video"}))
    if damage:
        DAMAGES[damage](file)

    def batches(*_arguments: object) -> list[Any]:
        encoded.append(1)
        return [([0, 1], torch.zeros(2, 1, 2, 3, 4, 4), [(1, "no video")])]

    monkeypatch.setattr(encode, "_batches", batches)
    work.progress, work.stopping = (lambda *told: None), (lambda: False)
    shard = encode._shard(work, videos, lambda pixels: features_NVTD[:, 0], 0)
    assert shard.failures == {1: "no video"} and shard.features["features"].shape == (2, 1, 2, 2)
    assert (len(encoded), len(notes)) == ((1, 1) if damage else (0, 0))
    assert checkpoint.load(file, tuple) is not None
