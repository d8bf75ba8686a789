"""The method contract in torch: `Model` is trained, `Predictor` is what it deploys.

Legend: B batch, T frames, D joint CLIP width, C classes, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.seeds import seed_for
from bench.models.clip import Clip
from methods.settings import Config, Inference


@dataclass
class Prediction:
    """What a deployed model says about a batch of views."""

    cosines_BC: Tensor  # unscaled cosines with the candidate classes
    norms_B: Tensor  # length of the video embedding before normalisation, for feature-level fusion
    # By name [B, D]: "z" video embedding, "t" mean temporal feature, "last_ffn_branch" mean of what the last
    # feed-forward network added to it; with `Predictor.per_frame` also "t_frames" [B, T, D], that of each frame.
    features: dict[str, Tensor] = field(default_factory=dict)


class Predictor(nn.Module):
    """A frozen, merged model: `(frames_BTD, classes_CD) -> Prediction`. Classes have unit norm."""

    logit_scale: float = 1.0  # exp(s), for rules that need scaled logits
    looks_at_classes: bool = False  # whether a class's score depends on which other classes are candidates
    per_frame: bool = False  # whether features of each frame are wanted as well

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        raise NotImplementedError

    def shares(self, frames_BTD: Tensor, classes_CD: Tensor) -> Tensor | None:
        """[B, E], how much of the answer to each video is each expert's; rows sum to 1. None if a method has none."""
        return None


class Model(nn.Module):
    """A transfer method during training. Sub-classes add heads and override what differs.

    Random choices of a training step come from the `generator` that is handed in; nothing may use torch's global one
    outside `__init__` (see `build_model`).
    """

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__()
        self.config = config
        self.clip = clip
        self.bound: frozenset[str] = frozenset()  # state-dict names of what belongs to single source classes
        self.tallies: dict[str, Tensor] = {}  # counts kept during training, no part of the weights
        self.guidance: dict[str, Tensor] = {}  # of the sets in config.guidance: unit features [C, D], frozen CLIP's
        self.pretrained_scale = float(clip.logit_scale.detach())
        tuned = config.tower == "tuned"
        clip.requires_grad_(False)
        clip.visual.requires_grad_(tuned)
        clip.logit_scale.requires_grad_(tuned)

    def bind(self, classes: int) -> None:
        """Make what belongs to single source classes, of which there are so many. Called once, before training."""

    def learn_from(self, features_ND: Tensor, labels_N: Tensor) -> None:
        """Set what depends on source videos: plain CLIP's features, un-normalised means over frames, and class ids.

        Called if `config.looks_at_source`, once, before training and before a checkpoint is loaded; alike on all
        ranks. What is set has to be part of `trained_state`.
        """
        raise NotImplementedError

    @property
    def width(self) -> int:
        """D, the joint CLIP width."""
        return self.clip.spec.embed_dim

    def encode(self, clips_BT3HW: Tensor) -> Tensor:
        """Frame features [B, T, D], un-normalised, of normalised pixels."""
        batch, frames = clips_BT3HW.shape[:2]
        embeddings_ND = self.clip.encode_frames(clips_BT3HW.flatten(0, 1))
        return embeddings_ND.reshape(batch, frames, -1)

    def embed_classes(self, prompts: list[list[str]]) -> Tensor:
        """Unit class features [C, D] of the prompts of each class."""
        return self.clip.embed_classes(prompts)

    def loss(
        self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Named scalar terms and their weighted sum under `total`, which is what is differentiated."""
        raise NotImplementedError

    def logits(self, video_BD: Tensor, classes_CD: Tensor) -> Tensor:
        """[B, C] exp(s) * cosine, the scores of all CLIP-based methods."""
        logits_BC: Tensor = self.clip.logit_scale.exp() * cosines(video_BD, classes_CD)
        return logits_BC

    def cross_entropy(self, video_BD: Tensor, labels_B: Tensor, classes_CD: Tensor) -> Tensor:
        """Mean cross-entropy of `logits`."""
        return F.cross_entropy(self.logits(video_BD, classes_CD), labels_B)

    def deploy(self, inference: Inference, source_classes_CD: Tensor) -> Predictor:
        """A merged, frozen predictor. The model stays untouched and shares no memory with it."""
        raise NotImplementedError

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters: `tower` (CLIP tower and logit scale, rate scaled by the recipe's ratio) and `head`."""
        tower = [p for p in self.clip.parameters() if p.requires_grad]
        inside = {id(p) for p in self.clip.parameters()}
        head = [p for p in self.parameters() if p.requires_grad and id(p) not in inside]
        return {name: group for name, group in (("tower", tower), ("head", head)) if group}

    def may_rest(self) -> set[str]:
        """Names of trainable parameters that a step may leave without a gradient, which optimisers then pass over."""
        return set()

    def expert_parameters(self) -> Sequence[Mapping[str, Tensor]]:
        """What each expert has of its own, under names that start with the layer: "layer 0.fc_up.weight"."""
        return []

    def trained_state(self) -> dict[str, Tensor]:
        """What training changed: trainable parameters and the head's buffers, under their state-dict names."""
        trained = self._trained_names()
        return {name: tensor for name, tensor in self.state_dict().items() if name in trained}

    def load_trained(self, state: dict[str, Tensor]) -> None:
        """Inverse of `trained_state`. Raises KeyError when names are missing or left over."""
        expected = self._trained_names()
        if expected != set(state):
            raise KeyError(f"weights differ from the model: {sorted(expected ^ set(state))[:5]}")
        self.load_state_dict(state, strict=False)

    def start_from(self, state: dict[str, Tensor]) -> None:
        """Takes over the `trained_state` of another training of this configuration, but for what is `bound`.

        Raises KeyError when names are missing or left over.
        """
        expected = self._trained_names() - self.bound
        free = {name: tensor for name, tensor in state.items() if name not in self.bound}
        if expected != set(free):
            raise KeyError(f"weights to start from differ from the model: {sorted(expected ^ set(free))[:5]}")
        self.load_state_dict(free, strict=False)

    def _trained_names(self) -> set[str]:
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        return trained | {name for name, _ in self.named_buffers() if not name.startswith("clip.")} & set(
            self.state_dict()
        )

    def deployed_scale(self, inference: Inference) -> float:
        """exp(s) after weight interpolation with CLIP."""
        alpha = inference.clip_alpha
        scale = alpha * float(self.clip.logit_scale.detach()) + (1 - alpha) * self.pretrained_scale
        return float(torch.tensor(scale).exp())

    @torch.no_grad()
    def interpolate_tower(self, pretrained: Clip, alpha: float) -> None:
        """In place: tower <- alpha * tower + (1 - alpha) * pretrained tower (in fp32)."""
        for own, other in zip(_tower_tensors(self.clip), _tower_tensors(pretrained), strict=True):
            own.copy_(alpha * own + (1 - alpha) * other)


def _tower_tensors(clip: Clip) -> Iterator[Tensor]:
    yield from clip.visual.parameters()
    yield clip.logit_scale


def cosines(video_BD: Tensor, classes_CD: Tensor) -> Tensor:
    """[B, C] cosines of un-normalised video embeddings with unit class features."""
    # Never in bf16: its steps near 1 are 1/256, which exp(s) = 100 turns into a third of a logit.
    with torch.autocast(video_BD.device.type, enabled=False):
        return F.normalize(video_BD.float(), dim=-1) @ classes_CD.float().T


def build_model(model_class: type[Model], config: Config, clip: Clip, seed: int, classes: int = 0) -> Model:
    """A freshly initialised model for so many source classes; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for("init", seed))  # manual_seed would reset devices too
        model = model_class(config, clip)
        if classes:
            free = set(model.state_dict())
            model.bind(classes)
            model.bound = frozenset(set(model.state_dict()) - free)
        return model
