"""Train: one method under one recipe with one seed, resumable at any step with the same bits.

Legend: N videos, V fixed copies of each, T frames, D joint CLIP width, B batch.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.clip import load_clip
from bench.data.loader import train_loader
from bench.data.selection import opened
from bench.data.transforms import normalise, statistics
from bench.errors import StageError
from bench.recipe import Recipe
from bench.schedule import lr_factor
from bench.seeds import seed_for
from methods.contract import Model, build_model
from methods.registry import method

if TYPE_CHECKING:
    from bench.work import Work


@dataclass
class Position:
    """Where a training is: optimiser steps done, mean loss terms of each epoch, videos replaced as undecodable."""

    step: int = 0
    epochs: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    resampled: int = 0


def run(work: Work) -> dict[str, Any]:
    """Writes `weights.safetensors` (what training changed) and `history.json` (mean loss terms of every epoch)."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    trainer = Trainer(work)
    trainer.resume()
    trainer.fit()
    save_file(trainer.model.trained_state(), work.out / "weights.safetensors")
    (work.out / "history.json").write_text(json.dumps(trainer.position.epochs))
    return {"steps": trainer.position.step, "resampled": trainer.position.resampled, **trainer.position.epochs[-1]}


class Trainer:
    """The training of one model. Random choices come from seeds named by trial seed, epoch and sample."""

    def __init__(self, work: Work) -> None:
        self.work, self.device = work, work.compute.device
        self.recipe = Recipe.model_validate({**work.spec["recipe"], "backbone": work.spec["backbone"]})
        self.seed: int = work.spec["seed"]
        self.position = Position()
        registered = method(work.spec["method"])
        clip = load_clip(work.spec["backbone"], work.context["pretrained"])
        config = registered.config.model_validate(work.spec["config"])
        self.model: Model = build_model(registered.model, config, clip, self.seed).to(self.device)
        self.classes_CD = load_file(work.inputs["source_texts"] / "classes.safetensors")["classes"].to(self.device)
        self.generator = torch.Generator().manual_seed(seed_for("routing", self.seed))
        self.optimizer = self._optimizer()
        self.videos = _Features(work, self.recipe) if "features" in work.inputs else _Clips(work, self.recipe)
        self.steps_per_epoch = math.ceil(len(self.videos) / self.recipe.batch)
        self.steps = max(1, round(self.recipe.epochs * self.steps_per_epoch))

    def _optimizer(self) -> torch.optim.AdamW:
        recipe = self.recipe
        ratio = {"tower": recipe.tower_lr_ratio, "head": 1.0}
        groups = [
            {"params": parameters, "base_lr": recipe.lr * ratio[name]}
            for name, parameters in self.model.parameter_groups().items()
        ]
        return torch.optim.AdamW(
            groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay
        )

    # --- the loop -------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """From the current position to the last step, with a checkpoint now and then."""
        self.model.train()
        saved = time.monotonic()
        while self.position.step < self.steps:
            epoch, iteration = divmod(self.position.step, self.steps_per_epoch)
            for _indices, frames_B, labels_B, resampled in self.videos.batches(epoch, iteration, self.seed):
                self._step(epoch, self.position.step % self.steps_per_epoch, frames_B, labels_B)
                self.position.resampled += resampled
                self.work.progress(self.position.step, self.steps, "steps")
                if self.position.step >= self.steps:
                    break
                if time.monotonic() - saved >= self.work.compute.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()

    def _step(self, epoch: int, iteration: int, frames_B: Tensor, labels_B: Tensor) -> None:
        factor = lr_factor(epoch, iteration, self.steps_per_epoch, self.recipe.epochs, self.recipe.warmup_epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            frames_BTD = self.videos.features(self.model, frames_B.to(self.device))
            terms = self.model.loss(frames_BTD, labels_B.to(self.device), self.classes_CD, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()
        self.optimizer.step()
        self.position.step += 1
        self._account({name: float(term.detach()) for name, term in terms.items()})

    def _account(self, terms: dict[str, float]) -> None:
        if not all(map(math.isfinite, terms.values())):
            raise StageError(f"the loss is not finite at step {self.position.step}: {terms}; try a lower recipe.lr")
        for name, value in terms.items():
            self.position.sums[name] = self.position.sums.get(name, 0.0) + value
        done = self.position.step % self.steps_per_epoch
        if done == 0 or self.position.step == self.steps:
            count = done or self.steps_per_epoch
            self.position.epochs.append({name: total / count for name, total in self.position.sums.items()})
            self.position.sums = {}

    # --- interruption ---------------------------------------------------------------------------------------------

    @property
    def _file(self) -> Path:
        return self.work.checkpoint / "training.pt"

    def save(self) -> None:
        """Everything the next step depends on, in one rename."""
        self.work.checkpoint.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".tmp")
        torch.save(
            {
                "model": self.model.trained_state(),
                "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(),
                "position": vars(self.position),
            },
            partial,
        )
        os.replace(partial, self._file)

    def resume(self) -> None:
        """Continue from the checkpoint of an earlier attempt, if there is one."""
        if self._file.is_file():
            saved = torch.load(self._file, map_location="cpu", weights_only=True)
            self.model.load_trained(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.generator.set_state(saved["generator"])
            self.position = Position(**saved["position"])


Batch = tuple[list[int], Tensor, Tensor, int]  # indices, frames, labels [B], videos replaced


def _order(count: int, seed: int, epoch: int) -> list[int]:
    """The epoch's permutation of all videos."""
    return np.random.default_rng(seed_for("order", seed, epoch)).permutation(count).tolist()  # type: ignore[no-any-return]


class _Features:
    """Fixed copies of every video, encoded once by the frozen tower."""

    def __init__(self, work: Work, recipe: Recipe) -> None:
        self.recipe = recipe
        self.features_NVTD = load_file(work.inputs["features"] / "features.safetensors")["features"]
        table = pd.read_parquet(work.inputs["features"] / "videos.parquet")
        self.labels_N = torch.tensor(table["label"].to_numpy())
        self.decoded = np.flatnonzero(table["failure"].isna())
        if not len(self.decoded):
            raise StageError("no video of the training list can be decoded")
        self.length = work.spec["length"] or len(self.features_NVTD)

    def __len__(self) -> int:
        return int(self.length)

    def batches(self, epoch: int, start: int, seed: int) -> Iterator[Batch]:
        """Batches of an epoch from batch `start` on; an undecodable video is replaced by another, alike every time.

        In a list that is repeated, each repeat of a video shows another of its copies.
        """
        order, batch = _order(len(self), seed, epoch), self.recipe.batch
        videos, copies = self.features_NVTD.shape[:2]
        good = set(self.decoded.tolist())
        for first in range(start * batch, len(order), batch):
            repeats, indices = zip(*(divmod(place, videos) for place in order[first : first + batch]), strict=True)
            shown = [(epoch + repeat) % copies for repeat in repeats]
            used = [index if index in good else self._replacement(seed, epoch, index) for index in indices]
            yield used, self.features_NVTD[used, shown], self.labels_N[used], sum(map(int.__ne__, indices, used))

    def _replacement(self, seed: int, epoch: int, index: int) -> int:
        return int(self.decoded[seed_for("replacement", seed, epoch, index) % len(self.decoded)])

    def features(self, model: Model, frames_BTD: Tensor) -> Tensor:
        return frames_BTD


class _Clips:
    """Clips decoded and encoded in every step, for towers that are tuned or views that are drawn afresh."""

    def __init__(self, work: Work, recipe: Recipe) -> None:
        self.recipe, self.videos, self.decoding = recipe, opened(work.context), work.decoding

    def __len__(self) -> int:
        return len(self.videos)

    def batches(self, epoch: int, start: int, seed: int) -> Iterator[Batch]:
        """Batches of an epoch from batch `start` on."""
        rest = _order(len(self), seed, epoch)[start * self.recipe.batch :]
        for indices, clips_BT3HW, labels_B, resampled in train_loader(
            self.videos, self.recipe.views, seed, epoch, rest, self.recipe.batch, self.decoding
        ):
            yield indices, clips_BT3HW, labels_B, len(resampled)

    def features(self, model: Model, clips_BT3HW: Tensor) -> Tensor:
        return model.encode(
            normalise(clips_BT3HW, *statistics(self.recipe.views, model.clip.spec.mean, model.clip.spec.std))
        )
