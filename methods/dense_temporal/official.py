"""Official checkpoints with a dense temporal transformer: those of Text4Vis, and MoTE's dense rows."""

from __future__ import annotations

from bench.core.errors import UserError
from bench.models.state_dicts import HEAD, State, layers_in

INFERENCE: dict[str, float] = {}  # the official test has no other inference choices than the defaults
HAS_SOURCES = False


def choices(head: State) -> dict[str, int]:
    """Config of a head. Raises UserError for a head that is not dense."""
    if any(".mlp.fc_up." in name for name in head):
        raise UserError("the head has experts", where=HEAD, hint="import it as mote, or merge them with --collapse")
    layers = layers_in(head, r"transformer\.resblocks\.(\d+)\.")
    if not layers:
        raise UserError("the head has no temporal transformer", where=HEAD, hint="expected transformer.resblocks.0...")
    return {"layers": layers}


def additions(head: State) -> State:
    """No tensors besides the parameters."""
    return {}


def refuse_skewed(head: State) -> None:
    """Accepts every head: nothing is merged."""
