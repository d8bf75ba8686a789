"""Input of a stage function: settings, files of its inputs, a folder to write to, and compute settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.video.pool import Decoding


def never() -> bool:
    """Never asks a stage to stop: for launchers that do not interrupt stages."""
    return False


@dataclass(frozen=True)
class Work:
    """Input of a stage function."""

    spec: dict[str, Any]  # settings, as JSON values
    context: dict[str, Any]  # where data and weights lie
    inputs: dict[str, Path]  # name of the input -> folder of its record
    out: Path  # files written here become the record's
    checkpoint: Path  # survives an interruption; created by the stage when it needs it
    compute: Compute
    progress: Callable[[int, int, str], None]  # done, total, unit
    note: Callable[[str], None]  # a line for the attempts' log
    stopping: Callable[[], bool] = never  # whether the stage should save what it has done and raise Interrupted

    @property
    def decoding(self) -> Decoding:
        """Decoding settings; the frame cache is used where the plan switched it on."""
        from bench.video.pool import Decoding

        compute = self.compute
        cache = int(compute.frame_cache_gb * 1e9) if self.context.get("frame_cache") else 0
        return Decoding(
            compute.loader_workers,
            compute.decode_seconds,
            cache_bytes=cache,
            content=self.spec["content"],
            note=self.note,
        )


@dataclass(frozen=True)
class Compute:
    """Compute settings; never part of an identity. The stage sets the thread count, alike under every launcher."""

    device: str = "auto"  # auto: the first CUDA device if there is one, else the CPU
    threads: int = 1
    loader_workers: int = 1  # decoding processes; 0: videos are decoded in the stage's own process
    decode_seconds: float = 60.0  # of one video, after which its decoder is killed
    frame_cache_gb: float = 10.0
    checkpoint_seconds: float = 60.0
    tensorboard: str = ""  # folder for event files of trainings; none are written without it
    wandb: str = ""  # project of Weights & Biases that trainings are logged to; none are without it
