"""Weights: distances between the experts of a trained model in weight space.

Legend: E experts, G groups of parameters: all of them, then each layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.core.errors import StageError
from bench.stages.trained import trained_model

if TYPE_CHECKING:
    from bench.stages.work import Work

ALL = "all layers"
Parameters = Mapping[str, Tensor]


@torch.no_grad()
def run(work: Work) -> dict[str, Any]:
    """Writes `weights.safetensors`: `distance` and `cosine` of the experts' parameters as vectors, fp64 [G, E, E]."""
    experts = trained_model(work).expert_parameters()
    if (count := len(experts)) < 2:
        raise StageError(f"method '{work.spec['method']}' names the parameters of {count} experts; two are needed")
    layers = dict.fromkeys(_layer(name) for name in experts[0])
    groups = [experts, *([_of_layer(expert, layer) for expert in experts] for layer in layers)]
    pairs = [[[compare(a, b) for b in group] for a in group] for group in groups]
    distance_GEE, cosine_GEE = torch.tensor(pairs, dtype=torch.float64).unbind(dim=-1)
    save_file(
        {"distance": distance_GEE.contiguous(), "cosine": cosine_GEE.contiguous()}, work.out / "weights.safetensors"
    )
    return {
        "groups": [ALL, *layers],
        "experts": len(experts),
        "parameters": [sum(map(Tensor.numel, group[0].values())) for group in groups],  # of one expert
    }


def compare(a: Parameters, b: Parameters) -> tuple[float, float]:
    """Relative distance and cosine of two sets of parameters of the same names and shapes; nan where both are zeros.

    The distance is |a - b| over the root mean square of |a| and |b|: 0 for equals, and the square root of 2 for
    orthogonal vectors of one length, which independent draws nearly are.
    """
    apart = _total((a[name].double() - b[name].double()).square() for name in a)
    product = _total(a[name].double() * b[name].double() for name in a)
    a_2, b_2 = (_total(tensor.double().square() for tensor in own.values()) for own in (a, b))
    return float((apart / ((a_2 + b_2) / 2)).sqrt()), float(product / (a_2 * b_2).sqrt())


def _total(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack([part.sum() for part in parts]).sum()


def _layer(name: str) -> str:
    return name.partition(".")[0]


def _of_layer(expert: Parameters, layer: str) -> Parameters:
    return {name: tensor for name, tensor in expert.items() if _layer(name) == layer}
