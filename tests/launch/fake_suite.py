"""A launch of stages that only wait: python -m tests.launch.fake_suite STORE JOBS SECONDS [NAME ...].

It knows neither torch nor videos, so it starts at once. Each stage `train NAME` writes its process id, waits, and saves
when it is asked to stop; each `probe NAME` needs that training, and looks at nothing. With `deaf` among the names,
trainings do not look either, and with `hasty`, the launch waits half a second only. Slots import this module too.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.core.errors import Interrupted
from bench.core.processes import Stopped
from bench.graph.stage import Stage
from bench.launch import local
from bench.launch.launches import PlannedStage, create
from bench.launch.work import Order
from bench.stages.work import Compute, never
from bench.store.provenance import Provenance
from bench.store.records import Store

LIMIT = 60.0  # seconds that a launch waits for stages that save


def waiting(
    order: Order, store: Store, compute: Compute, origin: Provenance, stopping: Callable[[], bool] = never, **more: Any
) -> str | None:
    """In the place of `bench.launch.work.execute`."""
    if store.done(*order.key):
        return None
    store.log("start", *order.key, title=order.title, launch=origin["launch"], pid=os.getpid())
    deadline = time.monotonic() + float(sys.argv[3])
    while time.monotonic() < deadline:
        if order.kind == "train" and stopping() and "deaf" not in sys.argv:
            raise Interrupted(f"{order.title} saved", 1)
        time.sleep(0.01)
    if order.title.endswith("broken"):
        store.log("failure", *order.key, title=order.title)
        return "it is broken"
    with store.writing(*order.key, {}):
        pass
    store.log("end", *order.key, title=order.title, launch=origin["launch"])
    return None


if __name__ in ("__main__", "__mp_main__"):  # here and in the slots, but not in a test that imports this module
    local.execute = waiting
    local.PATIENCE = 0.5 if "hasty" in sys.argv else LIMIT


def stages(names: list[str]) -> list[Stage]:
    trainings = [Stage("train", {"name": name}, {}, (), {}, f"train {name}", 1.0) for name in names]
    return trainings + [Stage("probe", {}, {"of": own}, (), {}, f"probe {own.spec['name']}", 1.0) for own in trainings]


def main(store: Store, jobs: int, names: list[str]) -> int:
    wanted = stages(names)
    launch = create(store, {"suite": "fake", "on": "local"}, [PlannedStage.of(stage, 1.0) for stage in wanted])
    run = local.run_local(wanted, store, Compute(), jobs, {"launch": launch.name}, lambda run: None)
    launch.end("cancelled" if run.stopped else "incomplete" if run.failed else "complete")
    print(sorted(run.saved.values()), sorted(stage.title for stage in run.running.values()), flush=True)
    if run.stopped:
        raise Stopped(run.stopped)
    return len(run.failed)


if __name__ == "__main__":
    sys.exit(main(Store.create(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[4:]))
