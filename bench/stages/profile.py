"""Profile: costs of a method. Parameters, FLOPs by counter and in closed form, seconds and memory on this device.

Costs do not depend on what was learnt: weights, pixels and class features are random (`bench.measure.costs`).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

from bench.core.errors import Interrupted
from bench.measure.costs import MethodCosts, timed
from bench.measure.timing import Clock, machine

if TYPE_CHECKING:
    from bench.stages.work import Work


def run(work: Work) -> dict[str, Any]:
    """Writes no files: everything is in the result, in FLOPs, seconds and bytes.

    `backbone`, `frames` of a view, `views` of a video, `classes`.
    `parameters`: total, towers {visual, text}, head, bound, trainable, active (what the answer to a video needs: visual
        tower and deployed head), expert (of a single one; 0 without experts).
    `flops` {counted, closed} of a view, a video, a class text; {counted} of a video in a training step, forward and
        backward, with the tower where the step runs it.
    `modules` [name, counted, closed] of one view as deployed; they add up to the view.
    `experts` [name, parameters, training: expected FLOPs of a step and video that go through it].
    `choices` [name, parameters, flops {counted, closed} and latency {p50, p95} of the head for one view]: the row's own
        inference, then other ways to use the experts.
    `latency` [part, precision, batch in videos, p50, p95, runs, throughput in videos per second, memory: peak bytes
        above those held before]. Without batches it is empty, and that of choices None.
    `machine`: what was measured on.
    A latency that other work disturbed, also when it was measured again, has `disturbed`: by what, in words.
    """
    spec, compute = work.spec, work.compute
    subject = MethodCosts(spec, work.context["pretrained"], compute.device, compute.threads)
    clock, ended = Clock(subject.device, spec["measurement"]["seconds"]), count(1)

    def measure(call: Callable[[], object], total: int) -> dict[str, Any]:
        if work.stopping():
            raise Interrupted("a profile is measured in one go", 0)
        found = clock.measure(call)
        work.progress(min(next(ended), total), total, "measurements")  # some are repeated
        return found

    counted, latency = subject.counted(), list[dict[str, Any]]()
    if spec["measurement"]["batches"]:
        choices, latency = timed(subject, measure)
        for choice, found in zip(counted["choices"], choices, strict=True):
            choice["latency"] = {name: found[name] for name in ("p50", "p95", "disturbed") if name in found}
    return {**counted, "latency": latency, "machine": machine(subject.device, subject.threads)}
