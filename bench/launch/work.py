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
from bench.graph.stage import ALONE, CARRIERS, Stage, as_json, stage_source
from bench.launch.meter import Meter, memory_asked
from bench.models.weights import tagged
from bench.stages.work import Compute, Work, never
from bench.store.attempts import attempts_from
from bench.store.provenance import Provenance
from bench.store.records import MissingStore, RecordData, Store


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
    order: Order,
    store: Store,
    compute: Compute,
    origin: Provenance,
    stopping: Callable[[], bool] = never,
    *,
    submitted: float | None = None,
    started: float | None = None,
) -> str | None:
    """Carry out a stage and write its record. Returns None for success, else the error.

    A stage with a record is not repeated. Success and failure go to the log of attempts; only success leaves a record.
    `origin` is the provenance that all stages of the launch share; `submitted` and `started` are the times at which a
    job was that was made for this stage. Raises Interrupted if `stopping` returned True and the stage has saved its
    state.
    """
    if store.sound(*order.key):
        return None
    meter = Meter(order.kind in ALONE, submitted, started)
    try:
        try:
            _log_start(order, store, origin, meter)
            store.mend(*order.key)  # a damaged record would be in the way of the new one
            store.inside("checkpoints", order.kind)  # in which stages make folders of their own
            _carry_out(order, store, compute, origin, stopping, meter)
        except Exception:
            store.require()  # whatever it was, a store that is not there explains it
            raise
    except Interrupted as early:
        details = {"reason": str(early), "done": early.done, **meter.reading()}
        store.log("interrupted", *order.key, title=order.title, **details)
        raise
    except Exception as error:
        if store.done(*order.key):  # by another process that finished first, and removed the checkpoint
            return None
        final = getattr(error, "final", False)
        reason = str(error) if final else fault_of_machine(error) or traceback.format_exc()
        details = {"reason": reason, "final": final, **meter.reading()}
        details |= {"machine": True} if isinstance(error, MissingStore) else {}
        with suppress(OSError):  # the store may be what is full, or missing
            store.log("failure", *order.key, title=order.title, **details)
        return reason
    finally:
        store.report_progress(*order.key, None)
    reading = meter.reading()
    store.log("end", *order.key, seconds=reading["compute"], **reading)
    return None


def _log_start(order: Order, store: Store, origin: Provenance, meter: Meter) -> None:
    where: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid()}
    where |= {name: origin.get(name) for name in ("job", "launch")}
    where |= {"waiting": meter.waiting, "memory_asked": memory_asked()} if origin.get("job") else {}
    store.log("start", *order.key, title=order.title, **{name: own for name, own in where.items() if own})


def assist(order: Order, store: Store, compute: Compute, stopping: Callable[[], bool]) -> None:
    """Take part in a stage as a rank other than 0, which keeps the log and writes the record."""
    with TemporaryDirectory() as folder:
        _run(order, store, compute, Path(folder), _quiet, stopping, Meter(alone=True))


def _quiet(done: int, total: int, unit: str) -> None:
    """Report nothing: rank 0 reports the progress of all ranks."""


def _run(
    order: Order,
    store: Store,
    compute: Compute,
    out: Path,
    progress: Callable[[int, int, str], None],
    stopping: Callable[[], bool],
    meter: Meter,
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
    for module in order.modules:  # those of its method, which it would import as it goes
        import_module(module)
    run = import_module(order.modules[0]).run
    with meter.computing():
        result: dict[str, Any] = run(work)
    return result


def _verified(store: Store, kind: str, identity: str) -> Path:
    """The folder of an input, all of whose files are as they were written. Raises StageError if there is no such."""
    if store.mend(kind, identity):
        raise StageError(f"its input {kind} {identity} has no sound record; the next run makes it again")
    return store.folder(kind, identity)


def _carry_out(
    order: Order, store: Store, compute: Compute, origin: Provenance, stopping: Callable[[], bool], meter: Meter
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
        record["result"] = _run(order, store, compute, out, _Reporter(order, store), stopping, meter)
        record["cost"] = _cost(order, store, meter)
        record["provenance"] = {
            **origin,
            "host": socket.gethostname(),
            "device": _device_name(_device(compute)),
            "threads": compute.threads,
            "started": meter.begun,
            "seconds": time.time() - meter.begun,
        }


def _cost(order: Order, store: Store, meter: Meter) -> dict[str, Any]:
    """What the stage cost: this attempt (bench/launch/meter.py), their number, and the sums over all that say.

    `seconds` are those of computing, as estimates and reports take them; `waiting` those from the submission of the job
    until its process started, 0 without a job, or for the later stages of one.
    """
    events = (event for event in store.events(order.identity) if event["time"] < meter.begun)
    before = attempts_from(events)[order.identity]
    reading = meter.reading()
    return {
        **{"seconds": reading["compute"], "flops": order.flops, "waiting": meter.waiting, **reading},
        "attempts": before.started + 1,
        "all_attempts": {name: getattr(before, name) + reading[name] for name in ("startup", "compute")},
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
