"""What a training leaves about its course: a table of its epochs, and event files for TensorBoard on demand."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import StageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from bench.work import Work


def write_history(path: Path, epochs: list[dict[str, float]], rates: list[float]) -> None:
    """One line an epoch: its number from 1 on, the base rate at its end, mean loss terms, accuracy where measured."""
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch))
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, ["epoch", "lr", *names], lineterminator="\n")
        table.writeheader()
        for number, (rate, epoch) in enumerate(zip(rates, epochs, strict=True), start=1):
            table.writerow({"epoch": number, "lr": rate, **epoch})


class Events:
    """Event files below compute.tensorboard, if that is set, by rank 0. Raises StageError without the package."""

    def __init__(self, work: Work, first: bool) -> None:
        self.writer: SummaryWriter | None = None
        if not (work.compute.tensorboard and first):
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise StageError("event files need the package tensorboard: pip install tensorboard") from error
        name = f"{work.spec['method']}-seed{work.spec['seed']}-{work.checkpoint.name[:8]}"
        self.writer = SummaryWriter(Path(work.compute.tensorboard) / name)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Values after a step. A step that is repeated after an interruption has the same ones."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
