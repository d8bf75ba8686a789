"""Ranks: the processes of one training, and how they exchange gradients.

Gradients are summed over the ranks after the backward pass. DistributedDataParallel with `find_unused_parameters=True`
would also leave parameters that no rank has used without a gradient, and would equal one process if each rank's loss
were weighted by its share of the batch times the number of ranks. Two things speak against it: a rank whose share is
empty would still have to run a backward pass, and calls outside `forward`, such as `loss`, would need a wrapper module.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.core.errors import StageError

Value = TypeVar("Value")

SILENCE = timedelta(minutes=10)  # how long a rank waits for the others before it gives up


class LostRank(StageError):
    """Another rank is gone or silent. The reason is told by that rank's own failure."""

    final = False


@dataclass(frozen=True)
class RankInfo:
    """The place of a process among those of a training. `local` counts on its machine, and picks its device."""

    rank: int = 0
    size: int = 1
    local: int = 0
    init_method: str = "env://"  # as torch.distributed takes it

    @classmethod
    def of_environment(cls) -> RankInfo | None:
        """The rank that a launcher gave this process, by torchrun's names; None if there is none."""
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        if not all(name in os.environ for name in names):
            return None
        rank = int(os.environ["RANK"])
        return cls(rank, int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", rank)))

    def device(self, device: str) -> str:
        """The device of this rank, for a stage's `device`. Raises StageError if there is not one for each."""
        if self.size == 1 or not device.startswith("cuda"):
            return device
        if device != "cuda" or self.local >= torch.cuda.device_count():
            raise StageError(
                f"{self.size} processes need a CUDA device each, but the device is '{device}' "
                f"and {torch.cuda.device_count()} are here; set recipe.processes, or recipe.accumulate in its place"
            )
        return f"cuda:{self.local}"


# --- exchange between ranks ---------------------------------------------------------------------------------------


class Ranks:
    """Exchange with all ranks of a training, from the view of one. Raises LostRank if another one does not answer."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _others_expected():
            dist.all_gather_object(values, value)
        return values

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum gradients over the ranks. One that some ranks lack counts as zero there; one that all lack stays None."""
        if self.size == 1:
            return
        found = self.gather([parameter.grad is not None for parameter in parameters])
        used = [parameter for parameter, ranks in zip(parameters, zip(*found, strict=True), strict=True) if any(ranks)]
        with _others_expected():
            sums = [dist.all_reduce(_gradient(parameter), async_op=True) for parameter in used]
            for each in sums:
                each.wait()


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


@contextmanager
def _others_expected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostRank(f"another rank is gone or silent: {str(error).splitlines()[0]}") from error


@contextmanager
def process_group(info: RankInfo, device: str) -> Iterator[Ranks]:
    """Connects the ranks for the time of the block. `device` is this rank's own."""
    if info.size == 1:
        yield Ranks()
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    with _others_expected():
        dist.init_process_group(
            backend, init_method=info.init_method, rank=info.rank, world_size=info.size, timeout=SILENCE
        )
    yield Ranks(info.rank, info.size)
    dist.destroy_process_group()  # not after an error: it could wait for a rank that is gone
