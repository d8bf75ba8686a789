"""Cases of the contract tests: each method with a frozen and with a tuned tower, if it has both, and its variants.

The config.py of a method of another package may define VARIANTS, name -> (config, inference).
Legend: C classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from pydantic import ValidationError
from torch.nn import functional as F

from bench.models.clip import Clip, load_clip
from conformance.variants import VARIANTS
from methods.contract import Model, build_model
from methods.registry import Method, method, methods
from methods.settings import Config, Inference

C = 5
BACKBONE, VIDEO = "glyph-vit", "glyph-viclip"  # of images, of clips


@dataclass(frozen=True)
class Case:
    """A method with a config and inference choices; `variant` names them if they are not the defaults."""

    method: Method
    config: Config
    variant: str = ""
    choices: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return f"{self.method.name}-{self.config.tower}{self.variant and '-'}{self.variant}"

    def build(self, seed: int = 0, source: int = 2, classes: int = C, clip: Clip | None = None) -> Model:
        """A fresh model. `source` seeds random descriptions of source classes and random features of source videos."""
        model: Model = build_model(self.method.model, self.config, clip or pretrained(), seed, classes, training=True)
        generator = torch.Generator().manual_seed(source)
        for name in self.config.description_sets:
            model.descriptions[name] = F.normalize(torch.randn(classes, model.width, generator=generator), dim=-1)
        if self.config.looks_at_source:
            features_ND = torch.randn(3 * classes, model.width, generator=generator)
            model.learn_from(features_ND, torch.arange(3 * classes) % classes)
        return model

    def inference(self, **choices: Any) -> Inference:
        return self.method.inference.model_validate({**dict(self.choices), **choices})


def pretrained() -> Clip:
    return load_clip(BACKBONE, "random:0")


def video_clip() -> Clip:
    """A CLIP with a video tower whose table of temporal positions, which starts at zero, has values."""
    clip = load_clip(VIDEO, "random:0")
    table_1TW = clip.visual.temporal_positional_embedding
    table_1TW.data = torch.randn(table_1TW.shape, generator=torch.Generator().manual_seed(0))
    return clip


def cases(names: Iterable[str] = (), variants: int | None = None) -> list[Case]:
    """Cases of the named methods, by default of all registered ones, and so many variants of each, by default all.

    Raises UserError for an unknown name.
    """
    return [case for name in names or methods() for case in _cases(method(name), variants)]


def _cases(each: Method, variants: int | None) -> list[Case]:
    own = dict(getattr(import_module(each.modules[0]), "VARIANTS", {}))
    own |= {name: (config, inference) for name, (of, config, inference) in VARIANTS.items() if of == each.name}
    own = dict(list(own.items())[:variants])
    return [Case(each, config) for config in _towers(each.config)] + [
        Case(each, each.config.model_validate(config), name, tuple(inference.items()))
        for name, (config, inference) in own.items()
    ]


def _towers(config: type[Config]) -> list[Config]:
    """The defaults with a frozen and with a tuned tower, of which a method may refuse the one that is no default."""
    found = [config()]
    for tower in ("frozen", "tuned"):
        if tower != found[0].tower:
            with suppress(ValidationError):
                found.append(config.model_validate({"tower": tower}))
    return sorted(found, key=lambda each: each.tower)
