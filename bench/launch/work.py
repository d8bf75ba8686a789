"""Orders (stages in plain values that can be sent to another process), and their execution under any launcher."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.core.errors import Interrupted, StageError, fault_of_machine
from bench.core.identity import source_hashes
from bench.graph.stage import CARRIERS, Stage, as_json, stage_source
from bench.models.weights import tagged
from bench.stages.work import Compute, Work, never
from bench.store.provenance import Provenance
from bench.store.records import RecordData, Store


@dataclass(frozen=True)
class Order:
    """A stage to carry out, in plain values that can be sent to another process."""

    kind: str
    identity: str
    title: str
    spec: dict[str, Any]
    context: dict[str, Any]
    inputs: dict[str, tuple[str, str]]  # name -> (kind, identity)
    flops: float
    modules: tuple[str, ...]
    source: str  # fingerprint of the modules, which is part of the identity

    @classmethod
    def of(cls, stage: Stage) -> Order:
        inputs = {name: other.key for name, other in stage.inputs.items()}
        spec, context, source = as_json(stage.spec), as_json(stage.context), stage_source(stage.kind, stage.modules)
        return cls(*(*stage.key, stage.title, spec, context, inputs, stage.flops, stage.modules, source))

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.identity


def execute(
    order: Order, store: Store, compute: Compute, origin: Provenance, stopping: Callable[[], bool] = never
) -> str | None:
    """Carry out a stage and write its record. Returns None for success, else the error.

    A stage with a record is not repeated. Success and failure go to the log of attempts; only success leaves a record.
    `origin` is the provenance that all stages of the launch share. Raises Interrupted if `stopping` returned True and
    the stage has saved its state.
    """
    if store.sound(*order.key):
        return None
    started = time.time()
    where: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid()}
    where |= {name: origin.get(name) for name in ("job", "launch")}
    store.log("start", *order.key, title=order.title, **where)
    try:
        store.mend(*order.key)  # a damaged record would be in the way of the new one
        _carry_out(order, store, compute, origin, stopping, started)
    except Interrupted as early:
        store.log("interrupted", *order.key, title=order.title, reason=str(early), done=early.done)
        raise
    except Exception as error:
        if store.done(*order.key):  # by another process that finished first, and removed the checkpoint
            return None
        final = getattr(error, "final", False)
        reason = str(error) if final else fault_of_machine(error) or traceback.format_exc()
        with suppress(OSError):  # the store may be what is full
            store.log("failure", *order.key, title=order.title, reason=reason, final=final)
        return reason
    finally:
        store.report_progress(*order.key, None)
    store.log("end", *order.key, seconds=time.time() - started)
    return None


def assist(order: Order, store: Store, compute: Compute, stopping: Callable[[], bool]) -> None:
    """Take part in a stage as a rank other than 0, which keeps the log and writes the record."""
    with TemporaryDirectory() as folder:
        _run(order, store, compute, Path(folder), _quiet, stopping)


def _quiet(done: int, total: int, unit: str) -> None:
    """Report nothing: rank 0 reports the progress of all ranks."""


def _run(
    order: Order,
    store: Store,
    compute: Compute,
    out: Path,
    progress: Callable[[int, int, str], None],
    stopping: Callable[[], bool],
) -> dict[str, Any]:
    """Run the stage function. Returns its result; its files are in `out`."""
    import torch

    if stage_source(order.kind, order.modules) != order.source:
        raise StageError("the code has changed since the launch, so the stage has another identity; launch it again")
    torch.set_num_threads(compute.threads)
    compute = replace(compute, device=_device(compute))
    inputs = {name: _verified(store, *key) for name, key in order.inputs.items()}
    checkpoint, note = store.checkpoint(*order.key), partial(_note, order, store)
    work = Work(order.spec, order.context, inputs, out, checkpoint, compute, progress, note, stopping)
    result: dict[str, Any] = import_module(f"bench.stages.{order.kind}").run(work)
    return result


def _verified(store: Store, kind: str, identity: str) -> Path:
    """The folder of an input, all of whose files are as they were written. Raises StageError if there is no such."""
    if store.mend(kind, identity):
        raise StageError(f"its input {kind} {identity} has no sound record; the next run makes it again")
    return store.folder(kind, identity)


def _carry_out(
    order: Order, store: Store, compute: Compute, origin: Provenance, stopping: Callable[[], bool], started: float
) -> None:
    context = {**order.context, "pretrained": tagged(order.context["pretrained"])[0]}  # the tag without its file
    record: RecordData = {
        "title": order.title,
        "spec": order.spec,
        "context": context,
        "inputs": order.inputs,
        "source": source_hashes(*order.modules, without=CARRIERS[order.kind]),
    }
    with store.writing(*order.key, record) as out:
        record["result"] = _run(order, store, compute, out, _Reporter(order, store), stopping)
        seconds = time.time() - started
        record["cost"] = {"seconds": seconds, "flops": order.flops}
        record["provenance"] = {
            **origin,
            "host": socket.gethostname(),
            "device": _device_name(_device(compute)),
            "threads": compute.threads,
            "started": started,
            "seconds": seconds,
        }


def _note(order: Order, store: Store, text: str) -> None:
    store.log("note", *order.key, title=order.title, text=text)


class _Reporter:
    """Reports progress to the store, at most twice a second. It is pickled for trainings of several processes."""

    def __init__(self, order: Order, store: Store) -> None:
        self.order, self.store = order, store
        self.about = {"title": order.title, "started": time.time(), "pid": os.getpid(), "host": socket.gethostname()}
        self.last = 0.0

    def __call__(self, done: int, total: int, unit: str) -> None:
        if time.time() - self.last > 0.5:
            self.last = time.time()
            self.store.report_progress(*self.order.key, {**self.about, "done": done, "total": total, "unit": unit})


def _device(compute: Compute) -> str:
    """The device to use; `auto` is the first CUDA device if there is one, else the CPU."""
    import torch

    return compute.device if compute.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _device_name(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device} ({torch.backends.cpu.get_cpu_capability()})"
