"""A training on several processes: the same result as on one, and an end with a reason when one of them fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.core.errors import Interrupted, StageError
from bench.graph.build import build_graph
from bench.launch.local import run_local
from bench.stages.train import Trainer, run
from bench.stages.training.processes import start
from bench.stages.training.ranks import RankInfo, Ranks, process_group
from bench.stages.work import Compute, Work
from bench.store.records import Store
from bench.suite.resolve import load_suite
from tests.errors import refused
from tests.stages.trainings import LDA, MOTE, ROUTED, again, files, training, weights

ROOT = Path(__file__).parents[3]


pytestmark = pytest.mark.usefixtures("one_thread")


CASES: dict[str, dict[str, Any]] = {
    "routed": {"config": ROUTED, "tuned": True},
    "merged, clipped": {"config": MOTE, "tuned": True, "clip_grad": 0.1, "validation": "test"},
    "per process": {"config": {**ROUTED, "routing_scope": "process"}},
    "discriminant": {"method": "text4vis", "config": LDA},
    "blends": {"tuned": True, "smoothing": 0.1, "mix": {"group": 2}},
    "taught, averaged": {"method": "taught", "config": {}, "tuned": True, "average": {"start": True}},
    "tuned texts": {"method": "both_towers", "config": {}, "tuned": True},
    "drawn texts": {"method": "every_prompt", "config": {"texts": "labels"}, "tuned": True},
}
ON_THEIR_OWN = ("per process", "blends", "drawn texts")


def together(work: Work, info: RankInfo) -> None:
    """Every case under one connection, which saves starting processes for each."""
    torch.set_num_threads(1)
    with process_group(info, "cpu") as ranks:
        for name, settings in CASES.items():
            one = training(work.out.parent, f"{name}, rank {ranks.rank}", processes=2, **settings)
            trainer = Trainer(replace(one, out=work.out.parent / name), ranks)
            trainer.fit()
            if ranks.rank == 0:
                one.out.mkdir(exist_ok=True)
                trainer.write(one.out)


def test_two_processes_equal_one(folder: Path, stand_ins: None) -> None:
    """With the same batches; where processes draw for themselves, with two parts that are worked on in turn."""
    start(together, training(folder, "both"), 2)
    for name, settings in CASES.items():
        alone = training(folder, f"{name}, alone", accumulate=2 if name in ON_THEIR_OWN else 1, **settings)
        run(alone)
        pair = replace(alone, out=folder / f"{name}, rank 0")
        torch.testing.assert_close(weights(pair), weights(alone), atol=2e-5, rtol=0)
        assert files(pair).get("counts.safetensors") == files(alone).get("counts.safetensors")
        if name == "discriminant":
            assert torch.equal(weights(pair)["classifier.rows_CD"], weights(alone)["classifier.rows_CD"])
        for epochs in zip(*(json.loads(files(work)["history.json"]) for work in (pair, alone)), strict=True):
            assert epochs[0] == pytest.approx(epochs[1], abs=1e-4)


SUITE = """\
title: Two
datasets: {tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}}
recipe: {source: tiny, templates: glyphs, pretrained: "random:0", batch: 5, epochs: 1, warmup_epochs: 0, processes: 2,
         views: {frames: 2}}
protocol: {templates: glyphs, views: {frames: 2}}
protocols: {closed-set: {role: closed-set, dataset: tiny}}
rows: {tuned: {method: clip_mean, config: {tower: tuned}}}
"""


def test_a_suite_starts_them(folder: Path) -> None:
    (folder / "two.yaml").write_text(SUITE)
    stages = list(build_graph(load_suite(folder / "two.yaml")).stages.values())
    wanted = [stage for stage in stages if stage.kind in ("texts", "train")]
    store = Store.create(folder / "runs")
    outcome = run_local(wanted, store, Compute("cpu", loader_workers=0), 0, {}, lambda state: None)
    assert not outcome.failed
    (result,) = (store.read(*stage.key)["result"] for stage in wanted if stage.kind == "train")
    assert (result["steps"], result["processes"]) == (3, 2)


def test_resumed_or_started_by_a_launcher_they_give_the_same_bits(folder: Path) -> None:
    whole = training(folder, "whole", processes=2)
    result = run(whole)
    cut = again(whole)
    asked, ask = get_context("spawn").Pipe(duplex=False)
    ask.send(None)
    with pytest.raises(Interrupted, match="saved at step 1 of 6") as early:
        run(replace(cut, stopping=asked.poll))
    assert early.value.done == 1
    assert (cut.checkpoint / "training.pt").is_file() and not files(cut)
    assert run(cut)["steps"] == result["steps"] == 6 and result["processes"] == 2
    assert files(cut) == files(whole)
    launched = training(folder, "launched", processes=2)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert start(as_a_launcher_does, (launched, port), 2)["steps"] == 6
    assert files(launched) == files(whole)
    assert not active_children()


def asked_on_one_rank(work: Work, info: RankInfo) -> int:
    """Only rank 1 is told to stop, in its second step; the step at which this rank stops."""
    torch.set_num_threads(1)
    calls = count(1)
    try:
        with process_group(info, "cpu") as ranks:
            trainer = Trainer(replace(work, stopping=lambda: next(calls) == 2 and info.rank == 1), ranks)
            trainer.resume()
            trainer.fit()
    except Interrupted as early:
        return early.done
    return -1


def test_ranks_agree_on_the_step_at_which_they_stop(folder: Path) -> None:
    whole = training(folder, "unasked", processes=2)
    run(whole)
    cut = again(whole)
    assert start(asked_on_one_rank, cut, 2) == 2
    assert (cut.checkpoint / "training.pt").is_file()
    run(cut)
    assert files(cut) == files(whole)


def as_a_launcher_does(task: tuple[Work, int], info: RankInfo) -> dict[str, Any]:
    """The stage in every process, with torchrun's variables around it."""
    work, port = task
    os.environ |= {"RANK": str(info.rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return run(work)


def dying(work: Work, info: RankInfo) -> None:
    """Rank 1 is killed while rank 0 waits for it."""
    with process_group(info, "cpu") as ranks:
        ranks.gather(info.rank)
        if info.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        ranks.gather(info.rank)


def failing(work: Work, info: RankInfo) -> None:
    """Rank 1 fails while rank 0 does something else for a long time."""
    if info.rank == 1:
        raise StageError("the disk is full") if work.spec["seed"] == 0 else KeyError("unforeseen")
    time.sleep(300)


def test_a_rank_that_dies_is_named(folder: Path) -> None:
    began = time.monotonic()
    with refused("rank 1 of 2", "SIGKILL", kind=StageError):
        start(dying, training(folder, "dying"), 2)
    assert time.monotonic() - began < 60 and not active_children()


@pytest.mark.parametrize(("seed", "message"), [(0, "rank 1 of 2: the disk is full"), (1, "KeyError: 'unforeseen'")])
def test_a_rank_that_fails_says_why(folder: Path, seed: int, message: str) -> None:
    work = training(folder, f"failing {seed}")
    with pytest.raises(StageError, match=message):
        start(failing, replace(work, spec={**work.spec, "seed": seed}), 2)
    assert not active_children()


def test_ranks_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-m", "tests.stages.orphans", str(tmp_path)], cwd=ROOT)
    pids = [tmp_path / f"{rank}.pid" for rank in range(2)]
    _wait(lambda: all(path.is_file() and path.read_text() for path in pids))
    parent.kill()
    parent.wait()
    _wait(lambda: not any(_alive(int(path.read_text())) for path in pids))


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    """Whether a process runs; one that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---------------------------------------------------------------------------------------------------------------------
# Gradients


def summing(work: Work, info: RankInfo) -> list[list[float] | None]:
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    gradients: list[Tensor | None] = [torch.tensor([1.0, 2.0]) * (info.rank + 1), None, None]
    if info.rank == 1:
        gradients[1] = torch.tensor([5.0, 6.0])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    with process_group(info, "cpu") as ranks:
        ranks.sum_gradients(parameters)
    return [None if parameter.grad is None else parameter.grad.tolist() for parameter in parameters]


def test_a_gradient_that_nobody_has_stays_missing(folder: Path) -> None:
    assert start(summing, training(folder, "summing"), 2) == [[3, 6], [5, 6], None]


def test_a_single_rank_needs_nobody() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    Ranks().sum_gradients([parameter])
    assert parameter.grad is None and Ranks().gather("me") == ["me"]
