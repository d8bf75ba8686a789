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

from bench.models.backbones import Backbone
from bench.models.clip import new_clip
from methods.contract import Encoded, Model, Prediction, Predictor, build_model, cosines, mapped
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


def shapes(method: Method, config: Config, backbone: str, classes: int, training: bool = False) -> Model:
    """A model whose towers are "meta" tensors (shapes without values), so that counting takes no memory and no time.

    Its head has values, because its computation can depend on them.
    """
    with torch.device("meta"):
        clip = new_clip(backbone, 0)
    if config.texts_inside:  # what is deployed may hold blocks of the text tower
        clip._apply(_zeros, recurse=False)
        for part in (clip.token_embedding, clip.transformer, clip.ln_final):
            part._apply(_zeros)
    clip.logit_scale = nn.Parameter(torch.zeros(()))  # models read its value
    clip.eval().requires_grad_(False)
    model: Model = build_model(method.model, config, clip, 0, classes, training)
    model.descriptions = {name: units(classes, model.width) for name in config.description_sets}
    show_source(model, classes)
    return model.eval()


def _zeros(without: Tensor) -> Tensor:
    """Values for a tensor without; zeros take no memory until they are read."""
    return torch.zeros(without.shape, dtype=without.dtype)


def show_source(model: Model, classes: int) -> None:
    """Give fixed random features of two videos of each class to a model that learns from its source features."""
    if model.config.looks_at_source:
        model.learn_from(units(2 * classes, model.width), torch.arange(2 * classes) % classes)


def units(*sizes: int) -> Tensor:
    """Fixed random class features [C, ..., D] of unit length."""
    return F.normalize(torch.randn(sizes, generator=torch.Generator().manual_seed(0)), dim=-1)


def encodings(config: Config, shape: Backbone, views: int, frames: int) -> Encoded:
    """Fixed random encodings of views, in the shapes that the config declares."""
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.randn(views, *own, generator=generator) for name, own in config.encoded(shape, frames).items()}
    return made if len(made) > 1 else made["frames"]


# --- counts -----------------------------------------------------------------------------------------------------------


def head(
    predictor: Predictor,
    config: Config,
    parts: Iterable[str],
    shape: Backbone,
    frames: int,
    classes: int,
    prompts: int = 1,
) -> Counts:
    """FLOPs of one view in a deployed head on the CPU: its parts, what each class takes, and elsewhere.

    What classes take is counted in modules that `head_paths` names, else it is the product with their features.
    """
    encoded = mapped(Tensor.requires_grad_, encodings(config, shape, 1, frames))
    classes_CD, predictions = units(classes, *config.class_shape(shape, prompts)), list[Prediction]()
    wanted = {*parts, CLASSES}
    paths = {part: own for part, own in config.head_paths.items() if part in wanted}
    rest = next((part for part, own in paths.items() if "" in own), ELSEWHERE)
    counts = count(lambda: predictions.append(predictor(encoded, classes_CD)), predictor, paths, rest)
    if CLASSES not in paths:
        counts[CLASSES] = total(lambda: cosines(predictions[0].features["z"], classes_CD.flatten(0, -2)))
        counts[rest] -= counts[CLASSES]
    return {name: flops for name, flops in counts.items() if flops}


def tower(model: Model, frames: int) -> Counts:
    """FLOPs of one view in the visual tower of CLIP, and what the method adds: by its modules, or tokens for CLIP's."""
    without_values, pixels_1T3SS = deepcopy(model).to("meta"), _pixels(model, frames).requires_grad_()
    plain = total(lambda: without_values.clip.encode_clips(pixels_1T3SS))
    added = total(lambda: without_values.encode(pixels_1T3SS)) - plain
    return {name: flops for name, flops in ((TOWER, plain), (INSIDE, added)) if flops}


def text(model: Model) -> int:
    """FLOPs of one class text of full context length. A method that adapts texts needs values, to read the tokens."""
    model.clip.token_embedding.requires_grad_()  # otherwise torch fuses attention
    flops = total(lambda: model.embed_classes([["a " * model.clip.context_length]]))
    model.clip.token_embedding.requires_grad_(False)
    return flops


def text_step(model: Model, prompts: int) -> tuple[int, tuple[int, ...]]:
    """FLOPs of one class of short texts in a step, forward and backward, and the shape of its features there.

    For a method that adapts texts; needs values, as `text`.
    """
    model.train()
    made, generator = list[Tensor](), torch.Generator().manual_seed(0)

    def run() -> None:
        made.append(model.training_texts([["a video of a class"] * prompts], torch.zeros(1).long(), generator))
        if made[0].requires_grad:  # a frozen tower may be asked for more than class features
            made[0].sum().backward()

    flops = total(run)
    model.zero_grad()
    model.eval()
    return flops, tuple(made[0].shape[1:])


def step(model: Model, frames: int, classes: int, encoded: bool, own: tuple[int, ...]) -> int:
    """FLOPs of one video in a training step, forward and backward, without class texts, of this shape for each class.

    With `encoded` features the tower does not run.
    """
    if not model.config.trains:
        return 0
    model.train()
    generator, videos = torch.Generator().manual_seed(0), 2
    if encoded:
        flops, shown = 0, encodings(model.config, model.clip.spec, videos, frames)
    else:
        flops, on_meta = _tower_step(model, frames)
        shown = mapped(lambda each: _valued(each, videos, generator), on_meta)
    labels_B = torch.arange(videos) % classes
    rows = videos if model.config.texts_of_labels else classes
    features = units(rows, *own).requires_grad_(model.config.texts_inside)

    def run() -> None:
        with model.draws_from(generator):
            model.loss(shown, labels_B, features, generator)["total"].backward()

    flops += total(run) // videos
    model.zero_grad()
    model.eval()
    return flops


def _tower_step(model: Model, frames: int) -> tuple[int, Encoded]:
    """FLOPs of a view in training, and what is made of it there, without values."""
    without_values = deepcopy(model).to("meta")
    made: list[Encoded] = []

    def run() -> None:
        with without_values.draws_from(torch.Generator().manual_seed(0)):
            made.append(without_values.encode(_pixels(model, frames)))
        tensors = made[0].values() if isinstance(made[0], dict) else [made[0]]
        if learning := [each.sum() for each in tensors if each.requires_grad]:
            torch.stack(learning).sum().backward()

    return total(run), made[0]


def _valued(without: Tensor, videos: int, generator: torch.Generator) -> Tensor:
    """Random values for so many videos in the place of a tensor of one; a number of the step stays one number."""
    sizes = (videos, *without.shape[1:]) if without.ndim else ()
    return torch.randn(sizes, generator=generator).requires_grad_(without.requires_grad)


def _pixels(model: Model, frames: int) -> Tensor:
    side = model.clip.spec.image_size
    return torch.empty(1, frames, 3, side, side, device="meta")
