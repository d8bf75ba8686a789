"""A stage at work: what it is given, and how it is carried out under any launcher."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import StageError
from bench.records import Store
from bench.stage import Stage

if TYPE_CHECKING:
    from bench.data.loader import Decoding

Part = dict[str, Any]


def never() -> bool:
    """For a launcher that doesn't interrupt its stages."""
    return False


@dataclass(frozen=True)
class Work:
    """What a stage function gets: settings, where its inputs' files lie, where to write, how to say how far it is."""

    spec: Part
    context: Part
    inputs: dict[str, Path]  # name of the input -> folder of its record
    out: Path  # files written here become the record's
    checkpoint: Path  # survives an interruption; created by the stage when it needs it
    compute: Compute
    progress: Callable[[int, int, str], None]  # done, total, unit
    note: Callable[[str], None]  # a line for the attempts' log
    stopping: Callable[[], bool] = never  # whether the stage should save what it has done and raise Interrupted

    @property
    def decoding(self) -> Decoding:
        """How videos are decoded; the frame cache is used where the plan says that it pays."""
        from bench.data.loader import Decoding

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
    """How to compute; never part of an identity. The thread count is set by the stage, alike under every launcher."""

    device: str = "auto"  # auto: the first CUDA device if there is one, else the CPU
    threads: int = 1
    loader_workers: int = 1  # decoding processes; 0: videos are decoded in the stage's own process
    decode_seconds: float = 60.0  # of one video, after which its decoder is killed
    frame_cache_gb: float = 10.0
    checkpoint_seconds: float = 60.0
    tensorboard: str = ""  # folder for event files of trainings; none are written without it


@dataclass(frozen=True)
class Order:
    """A stage to carry out, in plain values that can be sent to another process."""

    kind: str
    identity: str
    title: str
    spec: Part
    context: Part
    inputs: dict[str, tuple[str, str]]  # name -> (kind, identity)
    flops: float

    @classmethod
    def of(cls, stage: Stage) -> Order:
        inputs = {name: (other.kind, other.identity) for name, other in stage.inputs.items()}
        return cls(stage.kind, stage.identity, stage.title, stage.spec, stage.context, inputs, stage.flops)


def execute(order: Order, store: Store, compute: Compute, launch: Part) -> str | None:
    """Carry out a stage and leave its record; None if all went well, else what went wrong.

    A stage whose record exists is not repeated. Success and failure go to the attempts' log; only success leaves a
    record.
    """
    if store.done(order.kind, order.identity):
        return None
    started = time.time()
    store.log("start", order.kind, order.identity, title=order.title, host=socket.gethostname(), pid=os.getpid())
    try:
        _carry_out(order, store, compute, launch, started)
    except Exception as error:
        reason = str(error) if isinstance(error, StageError) else traceback.format_exc()
        store.log("failure", order.kind, order.identity, title=order.title, reason=reason)
        return reason
    finally:
        store.report_progress(order.kind, order.identity, None)
    store.log("end", order.kind, order.identity, seconds=time.time() - started)
    return None


def _carry_out(order: Order, store: Store, compute: Compute, launch: Part, started: float) -> None:
    import torch

    if compute.device == "auto":
        compute = replace(compute, device="cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(compute.threads)
    run = import_module(f"bench.stages.{order.kind}").run
    record: Part = {"title": order.title, "spec": order.spec, "context": order.context, "inputs": order.inputs}
    with store.writing(order.kind, order.identity, record) as out:
        inputs = {name: store.folder(kind, identity) for name, (kind, identity) in order.inputs.items()}
        work = Work(
            order.spec,
            order.context,
            inputs,
            out,
            store.checkpoint(order.kind, order.identity),
            compute,
            _Reporter(order, store),
            partial(_note, order, store),
        )
        record["result"] = run(work)
        seconds = time.time() - started
        record["cost"] = {"seconds": seconds, "flops": order.flops}
        record["provenance"] = {
            **launch,
            "host": socket.gethostname(),
            "device": _device_name(compute.device),
            "threads": compute.threads,
            "started": started,
            "seconds": seconds,
        }


def _note(order: Order, store: Store, text: str) -> None:
    store.log("note", order.kind, order.identity, title=order.title, text=text)


class _Reporter:
    """Passes progress on at most twice a second."""

    def __init__(self, order: Order, store: Store) -> None:
        self.order = order
        self.store = store
        self.started = time.time()
        self.last = 0.0

    def __call__(self, done: int, total: int, unit: str) -> None:
        if time.time() - self.last > 0.5:
            self.last = time.time()
            self.store.report_progress(
                self.order.kind,
                self.order.identity,
                {
                    "title": self.order.title,
                    "done": done,
                    "total": total,
                    "unit": unit,
                    "started": self.started,
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                },
            )


def _device_name(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device} ({torch.backends.cpu.get_cpu_capability()})"
