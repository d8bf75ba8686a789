"""Train: one method under one recipe with one seed, resumable at any step with the same bits.

A batch is divided into parts (recipe.shards) that go to processes, and within a process through the model in turn.
Every part counts by its share of the batch, so a step is that of the whole batch if the loss is a mean over videos.

Legend: N videos, C classes, T frames, D joint CLIP width, b videos of one part of a batch.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.core.errors import Interrupted, StageError
from bench.core.seeds import seed_for
from bench.models.clip import Clip, load_clip
from bench.models.precision import autocast, scaler
from bench.models.state_dicts import require_finite
from bench.stages import checkpoint
from bench.stages.trained import class_prompts, trained_state
from bench.stages.training.average import RunningMean
from bench.stages.training.batches import Batch, Clips, Division, Features, TrainingData
from bench.stages.training.logs import Events, write_history
from bench.stages.training.mixing import Blend, blended, smoothed
from bench.stages.training.optimiser import adamw, set_rates
from bench.stages.training.processes import start
from bench.stages.training.ranks import RankInfo, Ranks, process_group
from bench.stages.training.schedule import Schedule
from bench.stages.training.validation import Validation
from bench.suite.recipe import Execution, Training
from methods.contract import Model, build_model
from methods.registry import method

if TYPE_CHECKING:
    from bench.stages.work import Work

Named = dict[str, Tensor]


@dataclass
class Position:
    """Progress of a training: optimiser steps done, mean loss terms of each epoch, undecodable videos replaced."""

    step: int = 0
    epochs: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    resampled: int = 0
    seconds: list[float] = field(default_factory=list)  # of each epoch, the current one included
    best: int | None = None  # epoch with the highest validation accuracy, the first of equals


def run(work: Work) -> dict[str, Any]:
    """Writes the trained state and the course of the training.

    `weights.safetensors`: the trained state. `history.json` and `history.csv`: mean loss terms of every epoch.
    `counts.safetensors`: what the method counted, if it counts anything.

    With recipe.processes > 1 the processes are started here, unless a launcher has started this one as one of them.
    """
    processes = _execution(work).processes
    info = RankInfo() if processes == 1 else RankInfo.of_environment()
    if info is None:
        return start(train, work, processes)
    if info.size != processes:
        raise StageError(f"the launcher started {info.size} processes, but recipe.processes is {processes}")
    return train(work, info)


def train(work: Work, info: RankInfo) -> dict[str, Any]:
    """Run the training as one of its processes; all return the result, rank 0 writes files."""
    torch.set_num_threads(work.compute.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    device = info.device(work.compute.device)
    with process_group(info, device) as ranks:
        own = replace(work, compute=replace(work.compute, device=device))
        trainer = Trainer(own, ranks)
        if not trainer.resume():
            trainer = Trainer(own, ranks)
        trainer.fit()
        if ranks.rank == 0:
            trainer.write(work.out)
        return trainer.result()


def _execution(work: Work) -> Execution:
    return Execution.model_validate(work.context.get("execution", {}))


class Trainer:
    """The training of one model. Random choices come from seeds named by trial seed, epoch or step, and sample."""

    def __init__(self, work: Work, ranks: Ranks) -> None:
        self.work, self.ranks, self.device = work, ranks, work.compute.device
        self.training = Training.model_validate(work.spec["recipe"])
        self.seed: int = work.spec["seed"]
        self.position = Position()
        self.stopping = False  # whether any rank is asked to stop
        registered = method(work.spec["method"])
        clip = load_clip(work.spec["backbone"], work.context["pretrained"])
        self.config = registered.config.model_validate(work.spec["config"])
        self.classes_CD = load_file(work.inputs["source_texts"] / "classes.safetensors")["classes"].to(self.device)
        model: Model = build_model(registered.model, self.config, clip, self.seed, len(self.classes_CD), training=True)
        if self.config.looks_at_source:
            model.learn_from(*_source_videos(work.inputs["source_features"]))
        if "init_from" in work.inputs:
            model.init_from(trained_state(work.inputs["init_from"]))
        self.model = model.to(self.device)
        execution = _execution(work)
        self.model.descriptions = {
            name: self._features(f"descriptions_{name}") for name in self.config.description_sets
        }
        self.prompts = class_prompts(work, "source_texts") if self.config.texts_inside else None
        if execution.checkpointing:
            self.model.clip.set_grad_checkpointing(True)
        if self.training.compile:
            self.model.clip.compile_blocks()
        self.optimizer = adamw(self.model, self.training)
        rule = self.training.average
        self.average = RunningMean(rule, self.model.trained_state()) if rule else None
        self.scaler = scaler(self.device, self.training.precision)
        division = Division(execution, ranks.rank)
        self.source: TrainingData = (Features if "features" in work.inputs else Clips)(work, self.training, division)
        self.validation: Validation | None = None
        if "validation" in work.spec:
            self.validation = Validation(
                work, self.training, ranks, registered.inference.model_validate(work.spec["inference"])
            )
        self.events = Events(work, ranks.rank == 0)
        self.schedule = Schedule(self.training, len(self.source))
        self.steps, self.steps_per_epoch = self.schedule.steps, self.schedule.steps_per_epoch

    def _features(self, name: str) -> Tensor:
        """Unit class features [C, D] of an input."""
        return load_file(self.work.inputs[name] / "classes.safetensors")["classes"].to(self.device)

    def _classes(self, labels_b: Tensor, shard: int) -> Tensor:
        """Class features [C, ...] of a part of a step: CLIP's, or those of the adapted text tower, with their graph."""
        if self.prompts is None:
            return self.classes_CD
        return self.model.training_texts(self.prompts, labels_b, self._drawing("texts", shard))

    def _embeds_once(self, parts: int) -> bool:
        """Whether the texts of a step are embedded once for all parts of this rank."""
        alike = not self.config.texts_of_labels and not self.config.depends_on_processes
        return self.prompts is not None and parts > 1 and alike

    # --- the loop -------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train from the current position to the last step, with a checkpoint now and then."""
        self.model.train()
        saved = clock = time.monotonic()
        while self.position.step < self.steps:
            epoch, iteration = divmod(self.position.step, self.steps_per_epoch)
            for batch in self.source.batches(epoch, iteration, self.seed):
                self._step(epoch, batch)
                now = time.monotonic()
                self.position.seconds[epoch:] = [sum(self.position.seconds[epoch:]) + now - clock]
                clock = now
                self.work.progress(self.position.step, self.steps, "steps")
                if self.position.step >= self.steps:
                    break
                if self.stopping:
                    self.save()
                    raise Interrupted(f"saved at step {self.position.step} of {self.steps}", self.position.step)
                if now - saved >= self.work.compute.checkpoint_seconds:
                    self.save()
                    saved = now
        self.events.close()

    def _step(self, epoch: int, batch: Batch) -> None:
        step = self.position.step
        set_rates(self.optimizer, partial(self.schedule.factor, step))
        terms = self._update(batch)
        self.events.add(self.position.step, {"lr": self.training.lr * self.schedule.factor(step), **terms})
        self._account(epoch, terms)

    def _update(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns the loss terms of the whole batch."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = self.ranks.gather(self._backward(batch))
        self.stopping = any(part.stopping for part in parts)  # alike on all ranks, so they stop at the same step
        self.position.step += 1
        terms = _summed([part.terms for part in parts])
        if not all(map(math.isfinite, terms.values())):
            raise StageError(f"the loss is not finite at step {self.position.step}: {terms}; try a lower recipe.lr")
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.ranks.sum_gradients(parameters)
        if self.training.clip_grad:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, self.training.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            self.model.after_step()
        if self.average:
            self.average.after_step(self.model.trained_state())
        self.position.resampled += sum(part.replaced for part in parts)
        for name, count in _summed([part.counts for part in parts]).items():
            self.model.counts[name] += count
        return terms

    def _backward(self, batch: Batch) -> ShareResult:
        """Backward pass of this rank's share of a batch; returns what other ranks need to know of it."""
        sizes = self.source.division.sizes(batch.videos)
        pieces = zip(self.source.division.shards, batch.frames_b.split(sizes), batch.labels_b.split(sizes), strict=True)
        terms: list[Named] = []
        counts: list[Named] = []
        shared: Tensor | None = None
        if self._embeds_once(sum(map(bool, sizes))):
            with autocast(self.device, self.training.precision):
                shared = self._classes(batch.labels_b, 0)
        leaf = shared.detach().requires_grad_(shared.requires_grad) if shared is not None else None
        for shard, frames_b, labels_b in pieces:
            if not len(labels_b):
                continue
            before = {name: count.clone() for name, count in self.model.counts.items()}
            drawing = self._drawing("routing", shard)
            with autocast(self.device, self.training.precision), self.model.draws_from(drawing):
                videos = self.source.prepared(self.model, frames_b.to(self.device))
                videos, targets_b = self._targets(videos, labels_b.to(self.device), shard)
                encoded = self.source.encoded(self.model, videos)
                classes = self._classes(labels_b, shard) if leaf is None else leaf
                own = self.model.loss(encoded, targets_b, classes, drawing)
            share = len(labels_b) / batch.videos
            self.scaler.scale(own["total"] * share).backward()
            terms.append({name: term.detach() * share for name, term in own.items()})
            if shard == 0 or self.config.depends_on_processes:  # else all parts have the draws of the first
                counts.append({name: count - before[name] for name, count in self.model.counts.items()})
            self.model.counts.update(before)
        if shared is not None and leaf is not None and leaf.grad is not None:
            shared.backward(leaf.grad)
        summed = _summed(terms)
        values = torch.stack([term.float() for term in summed.values()]).tolist()  # a device is waited for once
        return ShareResult(
            dict(zip(summed, values, strict=True)), _summed(counts), batch.replaced, self.work.stopping()
        )

    def _targets(self, videos: Tensor, labels_b: Tensor, shard: int) -> Blend:
        """The videos of a part and their targets: labels [b], or shares [b, C] with smoothing or blends."""
        recipe = self.training
        if not recipe.soft_targets:
            return Blend(videos, labels_b)
        own = Blend(videos, smoothed(labels_b, len(self.classes_CD), recipe.smoothing))
        drawing = np.random.default_rng(seed_for("mix", self.seed, self.position.step, shard))
        return blended(own, recipe.mix, drawing) if recipe.mix else own

    def _drawing(self, of: str, shard: int) -> torch.Generator:
        """Generator of a step's random choices: one for each part if processes draw for themselves, else one."""
        own = shard if self.config.depends_on_processes else 0
        return torch.Generator().manual_seed(seed_for(of, self.seed, self.position.step, own))

    # --- epochs ---------------------------------------------------------------------------------------------------

    def _account(self, epoch: int, terms: dict[str, float]) -> None:
        """Add the terms of a step; at the end of an epoch keep their means, and the accuracy if it is due."""
        sums = self.position.sums = _summed([self.position.sums, terms])
        done = self.position.step % self.steps_per_epoch
        if done and self.position.step < self.steps:
            return
        means = {name: total / (done or self.steps_per_epoch) for name, total in sums.items()}
        if self.validation and ((epoch + 1) % self.training.validate_every == 0 or self.position.step == self.steps):
            with torch.no_grad():
                self.model.eval()  # texts of a training step may have other shapes
                classes = self.classes_CD if self.prompts is None else self.model.embed_classes(self.prompts)
                means["validation"] = self.validation.accuracy(self.model, classes)
            self.events.add(self.position.step, {"top1": means["validation"]}, "validation")
            self._compare(epoch, means["validation"])
        if self.average:
            self.average.after_epoch(epoch + 1, self.position.step == self.steps, self.model.trained_state())
        self.position.epochs.append(means)
        self.position.sums = {}

    def _compare(self, epoch: int, accuracy: float) -> None:
        """Note the best epoch, and save its weights if they are to be kept."""
        best = self.position.best
        if best is not None and accuracy <= self.position.epochs[best]["validation"]:
            return
        self.position.best = epoch
        if self.training.keep == "best" and self.ranks.rank == 0:
            checkpoint.save(self._best, self.model.trained_state())

    @property
    def _best(self) -> Path:
        return self.work.checkpoint / f"best-{self.position.best}.pt"

    def _best_state(self) -> Named:
        """The weights of the best epoch. Raises DamagedCheckpoint if they are not there."""
        state: Named | None = checkpoint.load(self._best, dict)
        if state is None:
            raise checkpoint.DamagedCheckpoint(f"{self._best} is missing")
        return state

    def _result(self) -> Named:
        """The weights that are the result of the training."""
        if self.average:
            return self.average.state
        return self._best_state() if self.training.keep == "best" else self.model.trained_state()

    # --- the record -----------------------------------------------------------------------------------------------

    def write(self, out: Path) -> None:
        """Write the files of the record."""
        kept = self._result()
        require_finite(kept.items(), "trained weights", "the last steps overflow: try a lower recipe.lr, or fp32")
        save_file(kept, out / "weights.safetensors")
        if self.model.counts:
            save_file(self.model.counts, out / "counts.safetensors")
        epochs = self.position.epochs
        (out / "history.json").write_text(json.dumps(epochs))
        last = [min((epoch + 1) * self.steps_per_epoch, self.steps) - 1 for epoch in range(len(epochs))]
        rates = [self.training.lr * self.schedule.factor(step) for step in last]
        write_history(out / "history.csv", epochs, rates)

    def result(self) -> dict[str, Any]:
        """Numbers of the record: steps, videos replaced, processes, seconds of every epoch, terms of the last one.

        `seconds` are those of all attempts, as far as their work was saved.
        """
        position = self.position
        kept = {"kept_epoch": (position.best or 0) + 1} if self.training.keep == "best" else {}
        return {
            "steps": position.step,
            "resampled": position.resampled,
            "processes": self.ranks.size,
            "classes": len(self.classes_CD),
            "seconds": round(sum(position.seconds), 3),
            "epoch_seconds": [round(seconds, 3) for seconds in position.seconds],
            **kept,
            **position.epochs[-1],
        }

    # --- interruption ---------------------------------------------------------------------------------------------

    @property
    def _file(self) -> Path:
        return self.work.checkpoint / "training.pt"

    def save(self) -> None:
        """Save everything that the next step depends on, in one rename. All ranks hold the same, so one writes it."""
        if self.ranks.rank > 0:
            return
        state = {
            "model": self.model.trained_state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "counts": self.model.counts,
            "teacher": self._moved_teacher.state_dict() if self._moved_teacher else None,
            "average": (self.average.count, self.average.state) if self.average else None,
            "position": vars(self.position),
        }
        checkpoint.save(self._file, state)
        for other in set(self.work.checkpoint.glob("best-*.pt")) - {self._best}:
            other.unlink()

    @property
    def _moved_teacher(self) -> Clip | None:
        """The teacher, if the method moves it; else it is plain CLIP, of which a checkpoint needs no copy."""
        return self.model.teacher if type(self.model).after_step is not Model.after_step else None

    def resume(self) -> bool:
        """Continue from the checkpoint of an earlier attempt, if there is one.

        Returns False if it was damaged: it was set aside, and this trainer, which may have taken parts of it over, is
        not to be used.
        """
        damage = ""
        try:
            checkpoint.load(self._file, self._restore)
        except checkpoint.DamagedCheckpoint as error:
            damage = str(error)
        found = [each for each in self.ranks.gather(damage) if each]
        if found and self.ranks.rank == 0:
            checkpoint.set_aside(self.work, self._file, found[0])
        steps = self.ranks.gather(self.position.step)
        if not found and len(set(steps)) > 1:
            raise StageError(f"the processes would resume at steps {steps}; do all of them see the same store?")
        return not found

    def _restore(self, saved: dict[str, Any]) -> None:
        self.model.load_trained(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        self.model.counts.update(saved["counts"])
        if self._moved_teacher:
            self._moved_teacher.load_state_dict(saved["teacher"])
        if self.average:
            count, mean = saved["average"]
            self.average.count, self.average.state = count, {name: own.to(self.device) for name, own in mean.items()}
        self.position = Position(**saved["position"])
        if self.training.keep == "best" and self.position.best is not None:
            self._best_state()


def _source_videos(folder: Path) -> tuple[Tensor, Tensor]:
    """Features [N, D], means over frames, and labels [N] of the encoded videos that can be decoded."""
    features_N1TD = load_file(folder / "features.safetensors")["features"]
    table = pd.read_parquet(folder / "videos.parquet")
    decoded = torch.tensor(table["failure"].isna().to_numpy())
    return features_N1TD.mean(dim=(1, 2))[decoded], torch.tensor(table["label"].to_numpy())[decoded]


class ShareResult(NamedTuple):
    """A rank's share of a batch: weighted loss terms, the method's counts, videos replaced, whether it is to stop."""

    terms: dict[str, float]
    counts: Named
    replaced: int
    stopping: bool


def _summed(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums by name."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part[name] for part in parts if name in part) for name in names}
