"""Division of batches among processes and parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.stages.train import Trainer, run
from bench.stages.training.ranks import Ranks
from tests.stages.trainings import ROUTED, VIDEOS, close, files, training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("tuned", [False, True])
def test_parts_of_a_batch_add_up_to_it(folder: Path, tuned: bool) -> None:
    """Of three parts, one of the epoch's last batch is empty; the draws are those of the whole batch."""
    whole, parts = (
        training(folder, f"{tuned}-{count}-parts", ROUTED, tuned=tuned, accumulate=count) for count in (1, 3)
    )
    assert run(whole).keys() == run(parts).keys()
    close(whole, parts, 2e-5)
    assert files(whole)["counts.safetensors"] == files(parts)["counts.safetensors"]
    one, other = (json.loads(files(work)["history.json"]) for work in (whole, parts))
    for first, second in zip(one, other, strict=True):
        assert first == pytest.approx(second, abs=1e-5)


def test_every_video_is_in_one_part(folder: Path) -> None:
    trainers = [Trainer(training(folder, f"rank {rank}", processes=2), Ranks(rank, 2)) for rank in range(2)]
    alone = Trainer(training(folder, "alone"), Ranks())
    for both, whole in zip(
        zip(*(trainer.source.batches(0, 0, 0) for trainer in trainers), strict=True),
        alone.source.batches(0, 0, 0),
        strict=True,
    ):
        torch.testing.assert_close(torch.cat([batch.frames_b for batch in both]), whole.frames_b, rtol=0, atol=0)
        assert {batch.videos for batch in both} == {len(whole.labels_b)}
    assert len(alone.source) == VIDEOS


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [5, 5, 2]), (True, [5, 5])])
def test_an_incomplete_batch_is_left_out_on_request(folder: Path, drop_last: bool, sizes: list[int]) -> None:
    trainer = Trainer(training(folder, f"dropped {drop_last}", drop_last=drop_last), Ranks())
    assert [len(batch.labels_b) for batch in trainer.source.batches(0, 0, 0)] == sizes
    assert [len(batch.labels_b) for batch in trainer.source.batches(1, 1, 0)] == sizes[1:]
    assert trainer.steps == 2 * len(sizes)
