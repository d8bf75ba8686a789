"""Official checkpoints of MoTE: content of the head, and the config that it was built with.

Sizes are inferred from the tensors' shapes. Legend: E experts.
"""

from __future__ import annotations

import torch

from bench.core.errors import UserError
from bench.models.state_dicts import HEAD, State, layers_in

INFERENCE = {"clip_alpha": 0.99}  # of the official test programs
HAS_SOURCES = True


def choices(head: State) -> dict[str, int]:
    """Config of a head. Raises UserError for a head without experts."""
    experts = layers_in(head, r"transformer\.resblocks\.\d+\.mlp\.fc_up\.(\d+)\.")
    if not experts:
        raise UserError("the head has no experts", where=HEAD, hint="dense heads belong to text4vis or dense_temporal")
    return {"layers": layers_in(head, r"transformer\.resblocks\.(\d+)\."), "num_experts": experts}


def additions(head: State) -> State:
    """Tensors of the official head besides the parameters: logits [E] of each layer's merge weights, fixed at 0."""
    found = choices(head)
    names = (f"transformer.resblocks.{layer}.mlp.mote_fusion_weight" for layer in range(found["layers"]))
    return {name: torch.zeros(found["num_experts"]) for name in names}


def refuse_skewed(head: State) -> None:
    """Raises UserError for experts that are not merged equally."""
    skewed = [name for name in additions(head) if name in head and head[name].any()]
    if skewed:
        raise UserError(f"{skewed[0]} is not 0: these experts were not merged equally", where=HEAD)
