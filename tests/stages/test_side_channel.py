"""What a method hands on besides frames, and classes by prompt, from encoding and training to scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.core.errors import Interrupted
from bench.graph.build import build_graph
from bench.graph.stage import Stage
from bench.launch.work import Order, execute
from bench.stages.train import run
from bench.stages.work import Compute
from bench.store.records import Store
from bench.suite.resolve import load_suite
from methods.contract import Model
from tests.errors import refused
from tests.stages.trainings import again, files, training, weights
from tests.videos import write_tiny_dataset

SUITE = """\
title: Side channel
datasets: {tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}}
recipe:
  source: tiny
  split: train
  templates: ["a {}", "the {}", "one {}"]
  views: {frames: 3, copies: 0}
  epochs: 1
  batch: 6
  lr: 1.0e-3
  warmup_epochs: 0
protocol: {templates: ["a {}", "the {}"], views: {frames: 3, clips: 2}, fusion: softmax_sum}
protocols: {closed-set: {role: closed-set, dataset: tiny}}
rows:
  plain: {method: clip_mean}
  tuned: {method: every_prompt, config: {tower: tuned}}
  nothing_left: {method: every_prompt, config: {tower: tuned}, inference: {clip_alpha: 0}}
  keeps: {method: every_prompt, config: {keeps: true}, init_from: tuned}
  labels: {method: every_prompt, config: {texts: labels}}
  columns: {method: every_prompt, config: {texts: columns}}
"""


def planned(folder: Path, text: str = SUITE) -> list[Stage]:
    (folder / "suite.yaml").write_text(text)
    return list(build_graph(load_suite(folder / "suite.yaml")).stages.values())


@pytest.mark.slow
def test_from_training_to_scores(tmp_path: Path, stand_ins: None) -> None:
    write_tiny_dataset(tmp_path, train=6, test=4)
    store, stages = Store.create(tmp_path / "store"), planned(tmp_path)
    for stage in stages:
        assert execute(Order.of(stage), store, Compute("cpu", loader_workers=0), {}) is None
    own = [stage for stage in stages if stage.kind == "encode" and "method" in stage.spec]
    for stage in own:
        tensors = load_file(store.folder(*stage.key) / "features.safetensors")
        assert {name: tensor.shape for name, tensor in tensors.items()} == {
            **{"features": (4, 2, 3, 128), "features.changes": (4, 2, 2, 128)}
        }
        torch.testing.assert_close(tensors["features.changes"], tensors["features"].diff(dim=2))
        assert stage.disk == 4 * sum(tensor.numel() for tensor in tensors.values())
    (plain,) = (stage for stage in stages if stage.kind == "encode" and "method" not in stage.spec)
    frames = features_of(store, plain)
    same = {stage.title.split(" with ")[1].split()[0]: torch.equal(features_of(store, stage), frames) for stage in own}
    # A frozen tower makes the changes as well, so nobody shares plain CLIP's frames; the tower that is kept was tuned.
    assert same == {"tuned": False, "nothing_left": True, "keeps": False, "labels": True, "columns": True}
    trained = {stage.title.split()[1]: weights_of(store, stage) for stage in stages if stage.kind == "train"}
    visual = "clip.visual.proj"
    assert torch.equal(trained["keeps"][visual], trained["tuned"][visual]) and visual not in trained["labels"]
    assert "clip.text_projection" in trained["columns"] and "clip.token_embedding.weight" not in trained["columns"]


def features_of(store: Store, stage: Stage) -> Tensor:
    frames: Tensor = load_file(store.folder(*stage.key) / "features.safetensors")["features"]
    return frames


def weights_of(store: Store, stage: Stage) -> Any:
    return load_file(store.folder(*stage.key) / "weights.safetensors")


def test_texts_of_every_prompt_are_another_stage(tmp_path: Path, stand_ins: None) -> None:
    write_tiny_dataset(tmp_path, train=6, test=4)
    forms = [stage.spec.get("form") for stage in planned(tmp_path) if stage.kind == "texts"]
    assert sorted(forms, key=str) == [None, None, "prompts", "prompts"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("fusion: softmax_sum", "fusion: feature_mean"), "row 'tuned' cannot be fused by feature_mean"),
        (("templates: [\"a {}\", \"the {}\"]", "templates: {star rising: [a, b], star falling: [c], moon rising: [d]}"),
         "class 'star falling' has not as many prompts as 'star rising'"),
        (("method: every_prompt, config: {keeps: true}", "method: every_prompt, config: {texts: labels}"),
         "cannot start from the training of row 'tuned'"),
        (("batch: 6", "batch: 6\n  class_features: own.npz"), "row 'tuned' uses every prompt of a class"),
    ],
)  # fmt: skip
def test_what_a_method_cannot_serve_is_refused(
    change: tuple[str, str], message: str, tmp_path: Path, stand_ins: None
) -> None:
    write_tiny_dataset(tmp_path, train=6, test=4)
    assert change[0] in SUITE
    with refused(message):
        planned(tmp_path, SUITE.replace(*change))


# --- texts of a training step -----------------------------------------------------------------------------------------


@pytest.fixture
def prompted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of classes of each embedding of texts, in its order."""
    embedded: list[int] = []
    embed = Model.embed_classes

    def counted(model: Model, prompts: list[list[str]]) -> Any:
        embedded.append(len(prompts))
        return embed(model, prompts)

    monkeypatch.setattr(Model, "embed_classes", counted)
    return embedded


@pytest.mark.slow
def test_texts_are_embedded_once_a_step_for_all_parts(folder: Path, stand_ins: None, prompted: list[int]) -> None:
    """With the gradient of the whole batch."""
    whole, parts = (
        training(folder, f"once-{n}", {}, "both_towers", tuned=True, accumulate=n, epochs=1) for n in (1, 3)
    )
    run(whole)
    steps = len(prompted)
    run(parts)
    assert prompted == [3] * 2 * steps
    torch.testing.assert_close(weights(parts), weights(whole), atol=2e-5, rtol=0)


@pytest.mark.slow
def test_texts_of_labels_are_those_of_each_part(folder: Path, stand_ins: None, prompted: list[int]) -> None:
    run(training(folder, "labels", {"texts": "labels"}, "every_prompt", tuned=True, accumulate=2, epochs=1))
    assert prompted == [3, 2, 3, 2, 1, 1]  # batches of five, five and two


@pytest.mark.slow
def test_a_resumed_training_draws_the_same(folder: Path, stand_ins: None, prompted: list[int]) -> None:
    whole = training(folder, "draws", {"texts": "columns"}, "every_prompt", tuned=True)
    run(whole)
    cut = again(whole)
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        run(replace(cut, stopping=asked.__next__))
    run(cut)
    assert files(cut) == files(whole)
