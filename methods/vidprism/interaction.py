"""Dynamic bidirectional interaction: fast and slow streams take over from each other what their pair's score lets pass.

Source: arXiv 2605.28229, official code. Module names are those of its checkpoints, in which every two streams have a
scoring network, also those that never interact.

Legend: B batch, L tokens of a stream, S source, P pairs, D joint CLIP width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.vidprism.config import Config, Pair
from methods.vidprism.costs import score_width


class Interaction(nn.Module):
    """Streams [B, L, D] -> streams of the same lengths, all from the streams as they came in."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.config, self.pairs, inner = config, config.pairs, score_width(config, width)
        # A dictionary has the names of a list, and can be thinned out for the test.
        self.score_mlps = nn.ModuleDict(
            {str(i): _score_mlp(width, inner) for i in range(len(config.rates) ** 2)},
        )
        if config.interaction != "fast_to_slow":
            self.slow2fast = nn.ModuleDict({"proj": nn.Conv1d(width, width, 1)})
        self.fast2slow_ops = nn.ModuleDict(
            {_name(pair): _strided(width, config, pair) for pair in self.pairs if config.is_slow(pair.target)}
        )

    def _number(self, pair: Pair) -> str:
        """Name of the pair's scoring network."""
        return str(pair.source * len(self.config.rates) + pair.target)

    def forward(self, streams: Sequence[Tensor]) -> list[Tensor]:
        taking = list(streams)
        if not self.pairs:
            return taking
        scores = self.scores(streams)
        # The stack is for deciding alone: were weights taken out of it, idle pairs had gradients of 0 and would decay.
        chosen_PB = self.chosen(torch.stack(scores).detach())
        projected: dict[int, Tensor] = {}
        for pair, score_B, chosen_B, used in zip(
            self.pairs, scores, chosen_PB, chosen_PB.any(dim=1).tolist(), strict=True
        ):
            if used:
                update_BLD = self._update(pair, streams, projected)
                taking[pair.target] = taking[pair.target] + (score_B * chosen_B)[:, None, None] * update_BLD
        return taking

    def scores(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """How much each pair's target takes over from its source, in (0, 1); [B] each."""
        means = [stream_BLD.mean(dim=1) for stream_BLD in streams]
        return [
            self.score_mlps[self._number(pair)](torch.cat([means[pair.source], means[pair.target]], dim=-1)).squeeze(-1)
            for pair in self.pairs
        ]

    def chosen(self, scores_PB: Tensor) -> Tensor:
        """Which pairs take part [P, B]: those whose gate is open, of each target the last one or all."""
        measured_PB = scores_PB.mean(dim=1, keepdim=True) if self.config.gate == "batch" else scores_PB
        open_PB = (measured_PB >= self.config.gate_threshold).expand_as(scores_PB)
        if self.config.sources == "sum":
            return open_PB
        chosen, served = [], {pair.target: torch.zeros_like(open_PB[0]) for pair in self.pairs}
        for pair, open_B in zip(reversed(self.pairs), open_PB.flip(0), strict=True):
            chosen.append(open_B & ~served[pair.target])
            served[pair.target] = served[pair.target] | open_B
        return torch.stack(chosen[::-1])

    def _update(self, pair: Pair, streams: Sequence[Tensor], projected: dict[int, Tensor]) -> Tensor:
        """What the pair's target takes over, [B, L, D]; `projected` keeps what targets of one source share."""
        source_BSD = streams[pair.source]
        if self.config.is_slow(pair.target):
            output_BDL: Tensor = self.fast2slow_ops[_name(pair)]["tconv"](source_BSD.mT)  # type: ignore[index]
            return output_BDL.mT
        if pair.source not in projected:
            # Before the interpolation instead of after it, which is the same for a linear map and costs less.
            convolution = self.slow2fast["proj"]
            weight_DD = convolution.get_parameter("weight").squeeze(-1)
            projected[pair.source] = F.linear(source_BSD, weight_DD, convolution.get_parameter("bias"))
        projected_BSD = projected[pair.source]
        return interpolation(projected_BSD, streams[pair.target].shape[1]).mT @ projected_BSD

    def without_idle_parts(self) -> Interaction:
        """Drops, in place, what no pair of streams needs."""
        needed = {self._number(pair) for pair in self.pairs}
        for name in [name for name in self.score_mlps if name not in needed]:
            del self.score_mlps[name]
        if all(self.config.is_slow(pair.target) for pair in self.pairs) and hasattr(self, "slow2fast"):
            del self.slow2fast
        return self


def _score_mlp(width: int, inner: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2 * width, inner), nn.ReLU(), nn.Linear(inner, 1), nn.Sigmoid())


def _name(pair: Pair) -> str:
    return f"{pair.source}->{pair.target}"


def _strided(width: int, config: Config, pair: Pair) -> nn.ModuleDict:
    stride = config.rates[pair.target] // config.rates[pair.source]
    convolution = nn.Conv1d(width, width, config.kernel, stride, padding=config.kernel // 2, bias=False)
    return nn.ModuleDict({"tconv": convolution})


def interpolation(source_BSD: Tensor, length: int) -> Tensor:
    """Weights [S, L] of linear interpolation to L tokens. A product with them has a deterministic gradient on a GPU."""
    unit_SS = torch.eye(source_BSD.shape[1], dtype=source_BSD.dtype, device=source_BSD.device)
    return F.interpolate(unit_SS[None], size=length, mode="linear", align_corners=False)[0]
