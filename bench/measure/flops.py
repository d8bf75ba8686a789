"""FLOPs by torch's counter, split by the parts of a model, for comparison with the closed forms.

1 MAC is 2 FLOPs; only matrix products are counted. Gradients are enabled and attention is not fused, because the
counter cannot count inside fused kernels.

Legend: T frames, S side in pixels, D joint CLIP width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.models.clip import new_clip
from methods.contract import Model, Prediction, Predictor, build_model, cosines
from methods.registry import Method
from methods.settings import Config

TOWER, INSIDE = "visual tower", "inside the tower"
CLASSES, ELSEWHERE = "classification", "elsewhere"

Counts = dict[str, int]


def count(run: Callable[[], object], root: nn.Module, paths: Mapping[str, Sequence[str]], rest: str) -> Counts:
    """FLOPs of `run` by the parts of `root` that `paths` defines (as `Config.head_paths`); the others under `rest`."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        ledger = _Ledger(counter, [*paths, rest], rest)
        handles = [handle for path, module in root.named_modules() for handle in ledger.watch(module, path, paths)]
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
        ledger.settle()
    return ledger.counts


class _Ledger:
    """Assigns new counts of the counter to the innermost part that is running."""

    def __init__(self, counter: FlopCounterMode, names: Iterable[str], rest: str) -> None:
        self.counter, self.counts = counter, dict.fromkeys(names, 0)
        self.running, self.assigned = [rest], 0

    def watch(self, module: nn.Module, path: str, paths: Mapping[str, Sequence[str]]) -> Iterable[Any]:
        part = next((name for name, own in paths.items() if any(fnmatchcase(path, each) for each in own)), None)
        if part is not None:
            yield module.register_forward_pre_hook(partial(self._enter, part))
            yield module.register_forward_hook(self._leave)

    def settle(self) -> None:
        total = self.counter.get_total_flops()
        self.counts[self.running[-1]] += total - self.assigned
        self.assigned = total

    def _enter(self, part: str, *_: object) -> None:
        self.settle()
        self.running.append(part)

    def _leave(self, *_: object) -> None:
        self.settle()
        self.running.pop()


def total(run: Callable[[], object]) -> int:
    """FLOPs of `run`."""
    return sum(count(run, nn.Module(), {}, ELSEWHERE).values())


# --- models without data ----------------------------------------------------------------------------------------------


def shapes(method: Method, config: Config, backbone: str, classes: int) -> Model:
    """A model whose towers are "meta" tensors (shapes without values), so that counting takes no memory and no time.

    Its head has values, because its computation can depend on them.
    """
    with torch.device("meta"):
        clip = new_clip(backbone, 0)
    clip.logit_scale = nn.Parameter(torch.zeros(()))  # models read its value
    clip.eval().requires_grad_(False)
    model: Model = build_model(method.model, config, clip, 0, classes)
    model.descriptions = {name: units(classes, model.width) for name in config.description_sets}
    show_source(model, classes)
    return model.eval()


def show_source(model: Model, classes: int) -> None:
    """Give fixed random features of two videos of each class to a model that learns from its source features."""
    if model.config.looks_at_source:
        model.learn_from(units(2 * classes, model.width), torch.arange(2 * classes) % classes)


def units(classes: int, width: int) -> Tensor:
    """Fixed random class features [C, D] of unit length."""
    return F.normalize(torch.randn(classes, width, generator=torch.Generator().manual_seed(0)), dim=-1)


# --- counts -----------------------------------------------------------------------------------------------------------


def head(predictor: Predictor, config: Config, parts: Iterable[str], frames: int, classes: int, width: int) -> Counts:
    """FLOPs of one view in a deployed head on the CPU: its parts, the product with class features, and elsewhere."""
    frames_1TD = torch.randn(1, frames, width, generator=torch.Generator().manual_seed(0)).requires_grad_()
    classes_CD, predictions = units(classes, width), list[Prediction]()
    wanted = set(parts)
    paths = {part: own for part, own in config.head_paths.items() if part in wanted}
    rest = next((part for part, own in paths.items() if "" in own), ELSEWHERE)
    counts = count(lambda: predictions.append(predictor(frames_1TD, classes_CD)), predictor, paths, rest)
    product = total(lambda: cosines(predictions[0].features["z"], classes_CD))
    counts[rest] -= product
    return {name: flops for name, flops in {**counts, CLASSES: product}.items() if flops}


def tower(model: Model, frames: int) -> Counts:
    """FLOPs of one view in the visual tower, and of the method's own modules inside it."""
    without_values = deepcopy(model).to("meta")
    pixels_1T3SS = _pixels(model, frames).requires_grad_()
    paths = {TOWER: ("clip.*",), INSIDE: ("?*",)}
    counts = count(lambda: without_values.encode(pixels_1T3SS), without_values, paths, TOWER)
    return {name: flops for name, flops in counts.items() if flops}


def text(model: Model) -> int:
    """FLOPs of one class text of full context length. A method that adapts texts needs values, to read the tokens."""
    model.clip.token_embedding.requires_grad_()  # otherwise torch fuses attention
    flops = total(lambda: model.embed_classes([["a " * model.clip.context_length]]))
    model.clip.token_embedding.requires_grad_(False)
    return flops


def text_step(model: Model) -> int:
    """FLOPs of one short class text, forward and backward, for a method that adapts texts; needs values, as `text`."""
    model.train()
    flops = total(lambda: model.embed_classes([["a video of a class"]]).sum().backward())
    model.zero_grad()
    model.eval()
    return flops


def step(model: Model, frames: int, classes: int, encoded: bool) -> int:
    """FLOPs of one video in a training step, forward and backward, without class texts.

    With `encoded` features the tower does not run.
    """
    if not model.config.trains:
        return 0
    model.train()
    flops, tuned = (0, False) if encoded else _tower_step(model, frames)
    generator, videos = torch.Generator().manual_seed(0), 2
    features = model.clip.spec.features(frames)
    frames_BTD = torch.randn(videos, features, model.width, generator=generator).requires_grad_(tuned)
    classes_CD = units(classes, model.width).requires_grad_(model.config.texts_inside)
    labels_B = torch.arange(videos) % classes
    flops += total(lambda: model.loss(frames_BTD, labels_B, classes_CD, generator)["total"].backward()) // videos
    model.zero_grad()
    model.eval()
    return flops


def _tower_step(model: Model, frames: int) -> tuple[int, bool]:
    """(FLOPs of a view in training, whether its features have a gradient)."""
    without_values = deepcopy(model).to("meta")
    features: list[Tensor] = []

    def run() -> None:
        features.append(without_values.encode(_pixels(model, frames)))
        if features[0].requires_grad:
            features[0].sum().backward()

    return total(run), features[0].requires_grad


def _pixels(model: Model, frames: int) -> Tensor:
    side = model.clip.spec.image_size
    return torch.empty(1, frames, 3, side, side, device="meta")
