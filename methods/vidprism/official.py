"""Official checkpoints of VidPrism: content of the head, and the config that it was built with.

Sizes are inferred from the tensors' shapes, rates are not in the file: those of the official configs are taken, which
have one choice for each number of experts. No weights have been published.
Legend: D joint CLIP width, C classes.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from bench.core.errors import UserError
from bench.models.state_dicts import HEAD, State, layers_in
from methods.vidprism.config import Config

INFERENCE = {"clip_alpha": 0.99}  # of the official test programs; the evaluation inside training has 1
HAS_SOURCES = False
RATES = {1: (4,), 2: (2, 8), 3: (2, 4, 8), 4: (2, 4, 8, 16)}  # of the official configs and the paper's ablation
UNUSED_CLASSES = 400  # of the linear classifier that the official head for class texts has and does not use


def choices(head: State) -> dict[str, Any]:
    """Config of a head. Raises UserError for another head, and for rates that cannot be told."""
    experts = layers_in(head, r"mote\.experts\.(\d+)\.")
    if not experts:
        raise UserError("the head has no experts", where=HEAD, hint="expected VidPrism's: mote.experts.0...")
    if experts not in RATES:
        hint = "the file does not say them, and no official config has as many"
        raise UserError(f"rates of {experts} experts are not known", where=HEAD, allowed=map(str, RATES), hint=hint)
    chosen = {"rates": list(RATES[experts]), "classifier": "text" if "projection_head.3.weight" in head else "linear"}
    config = Config.model_validate(chosen)
    own = {f"{pair.source}->{pair.target}" for pair in config.pairs if config.is_slow(pair.target)}
    found = {match[1] for name in head if (match := re.match(r"dynamic_interaction\.fast2slow_ops\.(.+?)\.", name))}
    if own != found:
        raise UserError(
            f"its convolutions {', '.join(sorted(found)) or '(none)'} are not those of rates {chosen['rates']}",
            where=HEAD,
            hint="other rates than the official configs' cannot be read from a file",
        )
    return chosen


def bound_classes(head: State) -> int:
    """Number of classes of the linear classifier; 0 where texts classify."""
    weight = head.get("head.weight")
    return 0 if weight is None or "projection_head.3.weight" in head else len(weight)


def additions(head: State) -> State:
    """Tensors of the official head besides the parameters: with class texts, an unused linear classifier."""
    if "projection_head.3.weight" not in head:
        return {}
    width = len(head["projection_head.3.weight"])
    return {"head.weight": torch.zeros(UNUSED_CLASSES, width), "head.bias": torch.zeros(UNUSED_CLASSES)}


def refuse_skewed(head: State) -> None:
    """Accepts every head: tensors besides the parameters have no effect."""
