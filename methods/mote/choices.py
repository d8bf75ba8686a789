"""Random choices of a training step: which expert each layer uses, and the temperature of each layer's merge.

All come from the generator that is handed in, layer by layer. Legend: L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from math import copysign, inf

import torch

from methods.mote.config import Config

COLDEST = 1e-3  # smallest size of a drawn temperature; the merge is that of one expert long before


def draw_routing(config: Config, generator: torch.Generator) -> dict[str, list[int]]:
    """The expert of each layer [L] that the whole batch goes through, for each of the config's routers."""
    odds_E = torch.tensor(config.routing_odds, dtype=torch.float64, device=generator.device)
    return {
        router: [int(torch.multinomial(odds_E, 1, generator=generator)) for _ in range(config.layers)]
        for router in config.routers
    }


def temperatures(beta: float) -> list[float]:
    """The eleven merge temperatures of training (Table 2e): +-beta * 2^n for n = 0..4, ascending, then infinity."""
    return [*sorted(sign * beta * 2**n for sign in (-1, 1) for n in range(5)), inf]


def draw_temperatures(config: Config, generator: torch.Generator) -> list[float]:
    """A merge temperature for each layer."""
    draw = DRAWS[config.temperature if config.wmr_region == "region" else "point"]
    return [draw(config.beta, generator) for _ in range(config.layers)]


def _discrete(beta: float, generator: torch.Generator) -> float:
    allowed = temperatures(beta)
    return allowed[int(torch.randint(len(allowed), (1,), generator=generator, device=generator.device))]


def _normal(beta: float, generator: torch.Generator) -> float:
    return _not_zero(float(torch.randn(1, generator=generator, device=generator.device)))


def _uniform(beta: float, generator: torch.Generator) -> float:
    return _not_zero(16 * beta * (2 * float(torch.rand(1, generator=generator, device=generator.device)) - 1))


def _not_zero(temperature: float) -> float:
    return copysign(max(abs(temperature), COLDEST), temperature)


DRAWS: dict[str, Callable[[float, torch.Generator], float]] = {
    "discrete": _discrete,
    "normal": _normal,
    "uniform": _uniform,
    "point": lambda beta, generator: inf,
}
