"""Text4Vis' official checkpoints, and all others with its dense head: what that head holds."""

from __future__ import annotations

from bench.core.errors import UserError
from bench.models.state_dicts import HEAD, State, layers_in

INFERENCE: dict[str, float] = {}  # the official test does as the defaults
HAS_SOURCES = False


def choices(head: State) -> dict[str, int]:
    """The config that a head was built with. Raises UserError for a head that is not dense."""
    if any(".mlp.fc_up." in name for name in head):
        raise UserError("the head has experts", where=HEAD, hint="import it as mote, or merge them with --collapse")
    layers = layers_in(head, r"transformer\.resblocks\.(\d+)\.")
    if not layers:
        raise UserError("there is no temporal transformer, so nothing that this method has", where=HEAD)
    return {"layers": layers}


def additions(head: State) -> State:
    """Nothing beside the parameters."""
    return {}


def refuse_skewed(head: State) -> None:
    """Nothing is merged."""
