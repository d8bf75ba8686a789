"""VidPrism's head: frames to streams, interaction, experts, one vector (arXiv 2605.28229, official code).

Merging makes a stream of few tokens, each a window's most important frame with a share of the others; the official code
goes through videos and windows one by one, here all windows of a length are merged at once. In the dynamic
bidirectional interaction, fast and slow streams take over from each other what their pair's score lets pass. Experts
are one post-norm transformer layer for each stream, and a read-out makes one vector of their tokens.

State-dict names are those of official checkpoints, in which every two streams have a scoring network, also those that
never interact. Features come in un-normalised: their norms rank frames.

Legend: B batch, T frames, L tokens of a stream or of all, S tokens of a source, n windows, w frames of a window, K
tokens it keeps, P pairs, E experts, D joint CLIP width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.nn import functional as F

from methods.vidprism.config import Config, StreamPair

TINY_WEIGHT = 1e-6  # added to sums that weights are divided by (code)
TINY_SHARE = 1e-9  # logarithms of shares start here (code)

# --- Merging of windows -----------------------------------------------------------------------------------------------


class MergedStream(NamedTuple):
    """A stream, and the divergence of its predicted ranking from the target; 0 unless requested."""

    tokens_BLD: Tensor
    divergence: Tensor


def windowed(frames_BTD: Tensor, rate: int) -> list[Tensor]:
    """Whole windows [B, n, w, D], then the shorter last one, if there is one."""
    whole = frames_BTD.shape[1] // rate
    parts = frames_BTD.split([whole * rate, frames_BTD.shape[1] - whole * rate], dim=1)
    shapes = ((whole, rate), (1, parts[1].shape[1]))
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True) if part.shape[1]]


class Merging(nn.Module):
    """Stream of one rate."""

    def __init__(self, rate: int, config: Config) -> None:
        super().__init__()
        self.rate, self.config = rate, config

    def forward(self, frames_BTD: Tensor, ranked: bool) -> MergedStream:
        """Stream of frames [B, T, D]; with its divergence if `ranked`."""
        merged = [self.merge(windows_BnwD, ranked) for windows_BnwD in windowed(frames_BTD, self.rate)]
        tokens, divergences = zip(*merged, strict=True)
        divergence_BN = torch.cat(divergences, dim=1)
        mean = divergence_BN.mean() if divergence_BN.numel() else frames_BTD.new_zeros(())
        return MergedStream(torch.cat([tokens_BnKD.flatten(1, 2) for tokens_BnKD in tokens], dim=1), mean)

    def merge(self, windows_BnwD: Tensor, ranked: bool) -> tuple[Tensor, Tensor]:
        """Tokens [B, n, K, D] of windows of one length, and the divergence [B, n or 0] of ranked ones."""
        raise NotImplementedError


class RankGuidedMerging(Merging):
    """Best frames with a share of the others. Choosing has no gradient: scores learn from the rank loss alone."""

    def __init__(self, width: int, rate: int, config: Config) -> None:
        super().__init__(rate, config)
        self.metric_proj = nn.Linear(width, width)
        self.score_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1, bias=False))

    def merge(self, windows_BnwD: Tensor, ranked: bool) -> tuple[Tensor, Tensor]:
        config, length = self.config, windows_BnwD.shape[2]
        if length <= config.keep:
            return windows_BnwD, windows_BnwD.new_zeros(len(windows_BnwD), 0)
        metric_BnwD = self.metric_proj(windows_BnwD)
        predicted_Bnw = self.score_head(metric_BnwD).squeeze(-1)
        similarity_Bnww = _similarities(metric_BnwD)
        norms_Bnw = windows_BnwD.norm(dim=-1)
        mixed_Bnw = config.score_share * predicted_Bnw + (1 - config.score_share) * norms_Bnw
        kept_BnK = mixed_Bnw.topk(config.keep, dim=-1).indices.sort(dim=-1).values
        selected_BnKw = F.one_hot(kept_BnK, length).to(windows_BnwD.dtype)
        shares_BnKw = self._shares(similarity_Bnww, selected_BnKw)
        merged_BnKD = (selected_BnKw + config.merge_factor * shares_BnKw) @ windows_BnwD
        if not ranked:
            return merged_BnKD, windows_BnwD.new_zeros(len(windows_BnwD), 0)
        target_Bnw = (norms_Bnw + similarity_Bnww.mean(dim=-1)).detach()
        return merged_BnKD, divergence(target_Bnw, predicted_Bnw, config.score_temperature)

    def _shares(self, similarity_Bnww: Tensor, selected_BnKw: Tensor) -> Tensor:
        """Shares of each dropped token in each kept token.

        A token's shares sum to almost 1, so with one kept token nearly all of every other goes into it and similarity
        has no effect: so it is in the official code, and in the paper's formula as well.
        """
        attention_Bnww = (similarity_Bnww / self.config.similarity_temperature).softmax(dim=-1)
        to_kept_BnKw = selected_BnKw @ attention_Bnww.mT
        shares_BnKw = to_kept_BnKw / (to_kept_BnKw.sum(dim=-2, keepdim=True) + TINY_WEIGHT)
        return shares_BnKw * (1 - selected_BnKw.sum(dim=-2, keepdim=True))


def _similarities(metric_BnwD: Tensor) -> Tensor:
    """Cosines within windows [B, n, w, w]; 0 for a token with itself."""
    unit_BnwD = F.normalize(metric_BnwD, dim=-1)
    others_ww = 1 - torch.eye(metric_BnwD.shape[2], dtype=unit_BnwD.dtype, device=unit_BnwD.device)
    return (unit_BnwD @ unit_BnwD.mT) * others_ww


def divergence(target_Bnw: Tensor, predicted_Bnw: Tensor, temperature: float) -> Tensor:
    """KL [B, n] of the predicted from the target ranking, each a softmax within a window."""
    target_Bnw, predicted_Bnw = ((scores / temperature).softmax(dim=-1) for scores in (target_Bnw, predicted_Bnw))
    logs = [shares.clamp_min(TINY_SHARE).log() for shares in (target_Bnw, predicted_Bnw)]
    return (target_Bnw * (logs[0] - logs[1])).sum(dim=-1)


PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "sampling": lambda windows_BnwD: windows_BnwD[:, :, 0],
    "average": lambda windows_BnwD: windows_BnwD.mean(dim=2),
    "max": lambda windows_BnwD: windows_BnwD.amax(dim=2),
}


class PlainMerging(Merging):
    """The first frame, the mean or the maximum of each window, without parameters and ranking."""

    def merge(self, windows_BnwD: Tensor, ranked: bool) -> tuple[Tensor, Tensor]:
        tokens_BnD = PLAIN[self.config.aggregation](windows_BnwD)
        return tokens_BnD[:, :, None], windows_BnwD.new_zeros(len(windows_BnwD), 0)


# --- Interaction of streams -------------------------------------------------------------------------------------------


class Interaction(nn.Module):
    """Streams [B, L, D] -> streams of the same lengths; all updates are computed from the incoming streams."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.config, self.pairs = config, config.pairs
        # A dictionary has the state-dict names of a list, and entries can be deleted for the test.
        self.score_mlps = nn.ModuleDict(
            {str(i): scoring(2 * width, width, config).append(nn.Sigmoid()) for i in range(len(config.rates) ** 2)}
        )
        if config.interaction != "fast_to_slow":
            self.slow2fast = nn.ModuleDict({"proj": nn.Conv1d(width, width, 1)})
        self.fast2slow_ops = nn.ModuleDict(
            {_name(pair): _strided(width, config, pair) for pair in self.pairs if config.is_slow(pair.target)}
        )

    def _number(self, pair: StreamPair) -> str:
        """Name of the pair's scoring network."""
        return str(pair.source * len(self.config.rates) + pair.target)

    def forward(self, streams: Sequence[Tensor]) -> list[Tensor]:
        taking = list(streams)
        if not self.pairs:
            return taking
        scores = self.scores(streams)
        # The stack only serves the decision: weights taken from it would give idle pairs gradients of 0, hence decay.
        chosen_PB = self.chosen(torch.stack(scores).detach())
        projected: dict[int, Tensor] = {}
        used = chosen_PB.any(dim=1).tolist()
        for pair, score_B, chosen_B, is_used in zip(self.pairs, scores, chosen_PB, used, strict=True):
            if is_used:
                update_BLD = self._update(pair, streams, projected)
                taking[pair.target] = taking[pair.target] + (score_B * chosen_B)[:, None, None] * update_BLD
        return taking

    def scores(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """Weight [B] in (0, 1) of each pair's source in its target."""
        means = [stream_BLD.mean(dim=1) for stream_BLD in streams]
        return [
            self.score_mlps[self._number(pair)](torch.cat([means[pair.source], means[pair.target]], dim=-1)).squeeze(-1)
            for pair in self.pairs
        ]

    def chosen(self, scores_PB: Tensor) -> Tensor:
        """Mask [P, B] of pairs that take part: those whose gate is open, of each target the last one or all."""
        measured_PB = scores_PB.mean(dim=1, keepdim=True) if self.config.gate == "batch" else scores_PB
        open_PB = (measured_PB >= self.config.gate_threshold).expand_as(scores_PB)
        if self.config.sources == "sum":
            return open_PB
        chosen, served = [], {pair.target: torch.zeros_like(open_PB[0]) for pair in self.pairs}
        for pair, open_B in zip(reversed(self.pairs), open_PB.flip(0), strict=True):
            chosen.append(open_B & ~served[pair.target])
            served[pair.target] = served[pair.target] | open_B
        return torch.stack(chosen[::-1])

    def _update(self, pair: StreamPair, streams: Sequence[Tensor], projected: dict[int, Tensor]) -> Tensor:
        """Update [B, L, D] of the pair's target; `projected` caches the projections of sources."""
        source_BSD = streams[pair.source]
        if self.config.is_slow(pair.target):
            output_BDL: Tensor = self.fast2slow_ops[_name(pair)]["tconv"](source_BSD.mT)  # type: ignore[index]
            return output_BDL.mT
        if pair.source not in projected:
            # Before the interpolation instead of after it: equal for a linear map, and cheaper.
            convolution = self.slow2fast["proj"]
            weight_DD = convolution.get_parameter("weight").squeeze(-1)
            projected[pair.source] = F.linear(source_BSD, weight_DD, convolution.get_parameter("bias"))
        projected_BSD = projected[pair.source]
        return interpolation(projected_BSD, streams[pair.target].shape[1]).mT @ projected_BSD

    def drop_idle_modules(self) -> None:
        """Drop, in place, the modules that no pair of streams needs."""
        needed = {self._number(pair) for pair in self.pairs}
        for name in [name for name in self.score_mlps if name not in needed]:
            del self.score_mlps[name]
        if all(self.config.is_slow(pair.target) for pair in self.pairs) and hasattr(self, "slow2fast"):
            del self.slow2fast


def scoring(inputs: int, width: int, config: Config) -> nn.Sequential:
    """A small network from vectors to scores."""
    inner = config.score_width(width)
    return nn.Sequential(nn.Linear(inputs, inner), nn.ReLU(), nn.Linear(inner, 1))


def _name(pair: StreamPair) -> str:
    return f"{pair.source}->{pair.target}"


def _strided(width: int, config: Config, pair: StreamPair) -> nn.ModuleDict:
    stride = config.rates[pair.target] // config.rates[pair.source]
    convolution = nn.Conv1d(width, width, config.kernel, stride, padding=config.kernel // 2, bias=False)
    return nn.ModuleDict({"tconv": convolution})


def interpolation(source_BSD: Tensor, length: int) -> Tensor:
    """Weights [S, L] of linear interpolation to L tokens; products with them have deterministic gradients on GPUs."""
    unit_SS = torch.eye(source_BSD.shape[1], dtype=source_BSD.dtype, device=source_BSD.device)
    return F.interpolate(unit_SS[None], size=length, mode="linear", align_corners=False)[0]


# --- Experts and read-out ---------------------------------------------------------------------------------------------


class Expert(nn.Module):
    """Attention within a stream and a feed-forward network, each followed by a norm."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        inner = config.expansion * width
        self.attn = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, inner), QuickGELU(), nn.Linear(inner, width))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, stream_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Stream behind the layer, and the feed-forward network's output before the last norm."""
        attended_BLD = self.attn(stream_BLD, stream_BLD, stream_BLD, need_weights=False)[0]
        hidden_BLD = self.ln_1(stream_BLD + attended_BLD)
        branch_BLD = self.ffn(hidden_BLD)
        return self.ln_2(hidden_BLD + branch_BLD), branch_BLD


class QueryReadout(nn.Module):
    """Attention of one learnt query over all tokens, then a norm; no residual connection."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.global_query = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.attn = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.ln = nn.LayerNorm(width)

    def forward(self, tokens_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Vector [B, D] and the weight [B, L] of every token, the mean over heads."""
        query_B1D = self.global_query.expand(len(tokens_BLD), -1, -1)
        read_B1D, weights_B1L = self.attn(query_B1D, tokens_BLD, tokens_BLD)
        return self.ln(read_B1D.squeeze(1)), weights_B1L.squeeze(1)


class WeightedReadout(nn.Module):
    """Weighted mean of all tokens, then a norm; weights are equal, or a softmax of a small network's scores."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        if config.readout != "average":
            self.score = nn.Linear(width, 1) if config.readout == "linear" else scoring(width, width, config)
        self.ln = nn.LayerNorm(width)

    def forward(self, tokens_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Vector [B, D] and the weight [B, L] of every token."""
        scored_BL = self.score(tokens_BLD)[..., 0] if hasattr(self, "score") else torch.zeros_like(tokens_BLD[..., 0])
        weights_BL = scored_BL.softmax(dim=-1)
        return self.ln((weights_BL[:, None] @ tokens_BLD).squeeze(1)), weights_BL


class Readout(NamedTuple):
    """Read-out of the experts that were run, E of them."""

    video_BD: Tensor
    shares_BE: Tensor  # sum of the weights of each expert's tokens; rows sum to 1
    tokens_BLD: Tensor  # of all experts, one after the other
    branch_BLD: Tensor  # outputs of the feed-forward networks, which are part of them
    summaries_BED: Tensor  # mean token of each expert


class Experts(nn.Module):
    """One expert for each stream, and their read-out."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Expert(width, config) for _ in config.rates)
        self.readout_gate = QueryReadout(width, config) if config.readout == "query" else WeightedReadout(width, config)

    def forward(self, streams: Sequence[Tensor]) -> Readout:
        """Read-out of streams [B, L, D], one for each expert."""
        pairs = [expert(stream_BLD) for expert, stream_BLD in zip(self.experts, streams, strict=True)]
        outputs, branches = zip(*pairs, strict=True)
        tokens_BLD = torch.cat(outputs, dim=1)
        video_BD, weights_BL = self.readout_gate(tokens_BLD)
        own = weights_BL.split([stream_BLD.shape[1] for stream_BLD in streams], dim=1)
        return Readout(
            video_BD,
            torch.stack([weights.sum(dim=1) for weights in own], dim=1),
            tokens_BLD,
            torch.cat(branches, dim=1),
            torch.stack([output_BLD.mean(dim=1) for output_BLD in outputs], dim=1),
        )


# --- Head -------------------------------------------------------------------------------------------------------------


class Trace(NamedTuple):
    """Intermediate and final values of a batch in the head."""

    sampled: list[Tensor]  # streams [B, L, D] as merged
    interacted: list[Tensor]  # streams behind the interaction
    read: Readout
    rank: Tensor  # rank loss; 0 unless requested


class VidPrismHead(nn.Module):
    """All modules between the frame features and the logits. `bind_classes` adds the linear classifier."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.width, self.config = width, config
        self.chosen: int | None = None  # the only expert of a deployed copy; none: all experts
        guided = config.aggregation == "guided"
        self.pooling_layers = nn.ModuleList(
            RankGuidedMerging(width, rate, config) if guided else PlainMerging(rate, config) for rate in config.rates
        )
        if config.interaction != "none":
            self.dynamic_interaction = Interaction(width, config)
        self.mote = Experts(width, config)
        norm = [nn.LayerNorm(width)] if config.classifier == "text" else []
        self.projection_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), *norm)

    def bind_classes(self, classes: int) -> None:
        if self.config.classifier == "linear":
            self.head = nn.Linear(self.width, classes)

    def forward(self, frames_BTD: Tensor, ranked: bool = False) -> Trace:
        """Values for frames [B, T, D]; the rank loss if `ranked`. Raises ValueError if T does not fit the rates."""
        self.config.lengths(frames_BTD.shape[1])
        merged = [pool(frames_BTD, ranked) for pool in self.pooling_layers]
        sampled = [stream.tokens_BLD for stream in merged]
        interacted = self.dynamic_interaction(sampled) if self.config.interaction != "none" else sampled
        rank = torch.stack([stream.divergence for stream in merged]).mean()
        streams = interacted if self.chosen is None else [interacted[self.chosen]]
        return Trace(sampled, interacted, self.mote(streams), rank)

    def logits(self, video_BD: Tensor) -> Tensor:
        """Logits [B, C] of the linear classifier. Raises RuntimeError before `bind_classes`."""
        if not hasattr(self, "head"):
            raise RuntimeError("the linear classifier has no classes yet: Model.bind_classes was not called")
        logits_BC: Tensor = self.head(video_BD)
        return logits_BC

    def deployed(self, expert: int | None) -> VidPrismHead:
        """Copy of the modules that the test needs, with all experts or a single one."""
        deployed = deepcopy(self)
        if self.config.interaction != "none":
            deployed.dynamic_interaction.drop_idle_modules()
        if self.config.classifier == "linear":
            del deployed.projection_head
        if expert is not None:
            deployed.chosen, deployed.mote.experts = expert, nn.ModuleList([deployed.mote.experts[expert]])
        return deployed
