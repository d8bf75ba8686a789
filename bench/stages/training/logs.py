"""Logs of a training: a table of its epochs, and on demand live logs for TensorBoard and W&B."""

from __future__ import annotations

import csv
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import StageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from bench.stages.work import Work


def write_history(path: Path, epochs: list[dict[str, float]], rates: list[float]) -> None:
    """One line an epoch: its number from 1 on, the base rate at its end, mean loss terms, accuracy where measured."""
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch))
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, ["epoch", "lr", *names], lineterminator="\n")
        table.writeheader()
        for number, (rate, epoch) in enumerate(zip(rates, epochs, strict=True), start=1):
            table.writerow({"epoch": number, "lr": rate, **epoch})


class Events:
    """Live logs of a training by rank 0: event files below compute.tensorboard, a run of the W&B project compute.wandb.

    Neither is kept unless its setting is given. Raises StageError without the package, or if W&B refuses the run.
    """

    def __init__(self, work: Work, first: bool) -> None:
        self.writer: SummaryWriter | None = None
        self.run: Any = None
        if first and work.compute.tensorboard:
            self.writer = _writer(work)
        if first and work.compute.wandb:
            self.run = _wandb_run(work)

    def add(self, step: int, values: dict[str, float], part: str = "train") -> None:
        """Values after a step. A step that is repeated after an interruption has the same ones."""
        named = {f"{part}/{name}": value for name, value in values.items()}
        if self.writer is not None:
            for name, value in named.items():
                self.writer.add_scalar(name, value, step)
        if self.run is not None:
            self.run.log(named, step=step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        if self.run is not None:
            self.run.finish()


def _writer(work: Work) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise StageError("event files need the package tensorboard: pip install tensorboard") from error
    return SummaryWriter(Path(work.compute.tensorboard) / _name(work))


def _wandb_run(work: Work) -> Any:
    """A run under the training's identity, with which an interrupted one goes on. WANDB_MODE=offline keeps it here."""
    try:
        wandb = import_module("wandb")
    except ImportError as error:
        raise StageError("logging to W&B needs the package wandb: pip install wandb") from error
    spec = {name: work.spec[name] for name in ("method", "config", "backbone", "recipe", "seed")}
    # A process that trains again after a failure still has the former run open.
    given: dict[str, Any] = {"id": work.checkpoint.name, "resume": "allow", "reinit": "finish_previous"}
    try:
        return wandb.init(project=work.compute.wandb, name=_name(work), config=spec, **given)
    except wandb.Error as error:
        raise StageError(f"W&B refuses the run ({error}); with WANDB_MODE=offline it stays on this machine") from error


def _name(work: Work) -> str:
    return f"{work.spec['method']}-seed{work.spec['seed']}-{work.checkpoint.name[:8]}"
