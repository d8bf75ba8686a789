"""The method contract in torch: `Model` is trained, `Predictor` is what it deploys.

Legend: B batch, T frames, N videos, D joint CLIP width, C classes, E experts.
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

Features = dict[str, Tensor]  # by name, see `Prediction.features`
Terms = dict[str, Tensor]  # scalar loss terms by name, and their weighted sum `total`, which is differentiated


@dataclass
class Prediction:
    """Answer of a deployed model to a batch of views."""

    cosines_BC: Tensor  # unscaled cosines with the candidate classes
    norms_B: Tensor  # length of the video embedding before normalisation, for feature-level fusion
    # By name [B, D]: "z" video embedding, "t" mean temporal feature, "last_ffn_branch" mean output of the last
    # feed-forward network before the residual sum; with `Predictor.per_frame` also "t_frames" [B, T, D].
    features: Features = field(default_factory=dict)

    @classmethod
    def of(cls, video_BD: Tensor, classes_CD: Tensor, features: Features | None = None) -> Prediction:
        """Cosines of video embeddings with unit class features; `features` are those besides "z"."""
        return cls(cosines(video_BD, classes_CD), video_BD.norm(dim=-1), {"z": video_BD, **(features or {})})


class Predictor(nn.Module):
    """A frozen, merged model: `(frames_BTD, classes_CD) -> Prediction`. Classes have unit norm."""

    logit_scale: float = 1.0  # exp(s), for rules that need scaled logits
    looks_at_classes: bool = False  # True: a class's score depends on which other classes are candidates
    per_frame: bool = False  # True: features of each frame are returned as well

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        raise NotImplementedError

    def shares(self, frames_BTD: Tensor, classes_CD: Tensor) -> Tensor | None:
        """Share [B, E] of each expert in the answer to each video; rows sum to 1. None if a method has no experts."""
        return None


class Model(nn.Module):
    """A transfer method during training. Subclasses add heads and override methods.

    Random choices of a training step come from the `generator` argument. Only `__init__` may use torch's global
    generator (see `build_model`).
    """

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__()
        self.config = config
        self.clip = clip
        self.class_bound: frozenset[str] = frozenset()  # state-dict names of tensors that `bind_classes` made
        self.counts: dict[str, Tensor] = {}  # integers counted during training, no part of the weights
        self.descriptions: Features = {}  # unit features [C, D] by frozen CLIP, one entry a set of descriptions
        self.pretrained_scale = float(clip.logit_scale.detach())
        tuned = config.tower == "tuned"
        clip.requires_grad_(False)
        clip.visual.requires_grad_(tuned)
        clip.logit_scale.requires_grad_(tuned)

    def bind_classes(self, classes: int) -> None:
        """Create the parameters that belong to single source classes. Called once, before training."""

    def learn_from(self, features_ND: Tensor, labels_N: Tensor) -> None:
        """Set tensors from source videos: plain CLIP's features, un-normalised means over frames, and class ids.

        Called once if `config.looks_at_source`, before training and before a checkpoint is loaded, with the same input
        on all ranks. The tensors must be part of `trained_state`.
        """
        raise NotImplementedError

    @property
    def width(self) -> int:
        """D, the joint CLIP width."""
        return self.clip.spec.embed_dim

    def encode(self, clips_BT3HW: Tensor) -> Tensor:
        """Frame features [B, T, D], un-normalised, of normalised pixels; [B, 1, D] by a video tower."""
        return self.clip.encode_clips(clips_BT3HW)

    def embed_classes(self, prompts: list[list[str]]) -> Tensor:
        """Unit class features [C, D] of the prompts of each class."""
        return self.clip.embed_classes(prompts)

    def loss(self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        """Loss terms of a batch."""
        raise NotImplementedError

    def logits(self, video_BD: Tensor, classes_CD: Tensor) -> Tensor:
        """Scores [B, C] of all CLIP-based methods: exp(s) * cosine."""
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

    def unused_parameters(self) -> set[str]:
        """Names of trainable parameters that may have no gradient after a step; the optimiser then skips them."""
        return set()

    def expert_parameters(self) -> Sequence[Mapping[str, Tensor]]:
        """Parameters of each expert alone, under names that start with the layer: "layer 0.fc_up.weight"."""
        return []

    def trained_state(self) -> dict[str, Tensor]:
        """Trainable parameters and the head's buffers, under their state-dict names."""
        names = self._trained_names()
        return {name: tensor for name, tensor in self.state_dict().items() if name in names}

    def load_trained(self, state: dict[str, Tensor], without: frozenset[str] = frozenset()) -> None:
        """Inverse of `trained_state`, for all names but those in `without`.

        Raises KeyError when names are missing or left over.
        """
        own = {name: tensor for name, tensor in state.items() if name not in without}
        if differing := sorted((self._trained_names() - without) ^ set(own)):
            raise KeyError(f"weights differ from the model: {differing[:5]}")
        self.load_state_dict(own, strict=False)

    def init_from(self, state: dict[str, Tensor]) -> None:
        """Load the `trained_state` of another training of this configuration, without class-bound tensors."""
        self.load_trained(state, self.class_bound)

    def _trained_names(self) -> set[str]:
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        buffers = {name for name, _ in self.named_buffers() if not name.startswith("clip.")}
        return trained | buffers & set(self.state_dict())

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
    """Cosines [B, C] of un-normalised video embeddings with unit class features."""
    # Never in bf16: its steps near 1 are 1/256, which exp(s) = 100 turns into a third of a logit.
    with torch.autocast(video_BD.device.type, enabled=False):
        return F.normalize(video_BD.float(), dim=-1) @ classes_CD.float().T


def build_model(model_class: type[Model], config: Config, clip: Clip, seed: int, classes: int = 0) -> Model:
    """A freshly initialised model for a number of source classes. The global generator keeps its state."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for("init", seed))  # manual_seed would reset devices too
        model = model_class(config, clip)
        if classes:
            free = set(model.state_dict())
            model.bind_classes(classes)
            model.class_bound = frozenset(set(model.state_dict()) - free)
        return model
