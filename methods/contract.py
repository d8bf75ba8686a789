"""The method contract in torch: `Model` is trained, `Predictor` is what it deploys.

Legend: B batch, T frames, N videos, D joint CLIP width, C classes, P prompts of a class, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.seeds import seed_for
from bench.models.clip import Clip, part_of
from methods.settings import Config, Inference

# What `Model.encode` makes of clips: frame features [B, T, D], or a dict of tensors with these as "frames". It reaches
# `Model.loss` and `Predictor.forward` as it is; each method says which of the two it has.
Encoded = Any
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
    """A frozen, merged model: `(frames_BTD, classes_CD) -> Prediction`.

    The frames are what `Model.encode` returns at test. Classes have unit norm, unless the config says otherwise
    (`Config.per_prompt`, `class_shape`).
    """

    logit_scale: float = 1.0  # exp(s), for rules that need scaled logits
    looks_at_classes: bool = False  # True: a class's score depends on which other classes are candidates
    per_frame: bool = False  # True: features of each frame are returned as well
    bounded: bool = True  # False: what stands in the place of cosines may exceed 1, such as log-probabilities

    def forward(self, frames_BTD: Encoded, classes_CD: Tensor) -> Prediction:
        raise NotImplementedError

    def shares(self, frames_BTD: Encoded, classes_CD: Tensor) -> Tensor | None:
        """Share [B, E] of each expert in the answer to each video; rows sum to 1. None if a method has no experts."""
        return None


class Model(nn.Module):
    """A transfer method during training. Subclasses add heads and override methods.

    Random choices of a training step come from the `generator` argument, in `encode` and `embed_classes` from the
    attribute of that name. Only `__init__` may use torch's global generator (see `build_model`).
    """

    generator: torch.Generator | None = None  # of a part of a training step; None outside of one
    carried: frozenset[str] = frozenset()  # state-dict names of frozen tensors that records keep all the same

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__()
        self.config = config
        self.clip = clip
        self.class_bound: frozenset[str] = frozenset()  # state-dict names of tensors that `bind_classes` made
        self.counts: dict[str, Tensor] = {}  # integers counted during training, no part of the weights
        self.descriptions: Features = {}  # unit features [C, D] by frozen CLIP, one entry a set of descriptions
        self.teacher: Clip | None = None  # plain CLIP in training, without gradients: see `Config.teacher`
        for name, parameter in clip.named_parameters():
            parameter.requires_grad_(part_of(name) in config.tuned)

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

    def encode(self, clips_BT3HW: Tensor) -> Encoded:
        """Frame features [B, T, D], un-normalised, of normalised pixels; [B, 1, D] by a video tower.

        If `config.encoded` names more, a dict of them. In training mode a dict may hold further tensors, for the loss
        alone; they are never stored.
        """
        return self.clip.encode_clips(clips_BT3HW)

    def embed_classes(self, prompts: list[list[str]]) -> Tensor:
        """Class features of the prompts of each class: unit [C, D], with `config.per_prompt` raw [C, P, D].

        In training mode the shape may be another, [C, ...]; the loss gets what is returned here.
        """
        if self.config.per_prompt:
            raw_CPD: Tensor = self.clip.encode_prompts(prompts).unflatten(0, (len(prompts), -1))
            return raw_CPD
        return self.clip.embed_classes(prompts)

    def draw_texts(self, prompts: list[list[str]], generator: torch.Generator) -> list[list[str]]:
        """The prompts of a training step among those of each class; all of them unless a method draws."""
        return prompts

    def training_texts(self, prompts: list[list[str]], labels_B: Tensor, generator: torch.Generator) -> Tensor:
        """Class features of a training step by the model's own text tower, from the prompts of all classes.

        With `config.texts_of_labels` row i belongs to the class of video i.
        """
        asked = [prompts[label] for label in labels_B.tolist()] if self.config.texts_of_labels else prompts
        with self.draws_from(generator):
            return self.embed_classes(self.draw_texts(asked, generator))

    @contextmanager
    def draws_from(self, generator: torch.Generator) -> Iterator[None]:
        """Inside the block, `encode` and `embed_classes` find the generator of their random choices."""
        before, self.generator = self.generator, generator
        try:
            yield
        finally:
            self.generator = before

    def loss(self, frames_BTD: Encoded, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        """Loss terms of a batch."""
        raise NotImplementedError

    def logits(self, video_BD: Tensor, classes_CD: Tensor) -> Tensor:
        """Scores [B, C] of all CLIP-based methods: exp(s) * cosine."""
        logits_BC: Tensor = self.clip.logit_scale.exp() * cosines(video_BD, classes_CD)
        return logits_BC

    def cross_entropy(self, video_BD: Tensor, labels_B: Tensor, classes_CD: Tensor) -> Tensor:
        """Mean cross-entropy of `logits`."""
        return F.cross_entropy(self.logits(video_BD, classes_CD), labels_B)

    def after_step(self) -> None:
        """Called after each optimiser step, without gradients, alike on all ranks: the place to move `teacher`.

        A checkpoint holds the teacher and a record does not, since no test needs it.
        """

    def train(self, mode: bool = True) -> Self:
        """As of every module; the teacher stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def deploy(self, inference: Inference, source_classes_CD: Tensor) -> Predictor:
        """A merged, frozen predictor. The model stays untouched and shares no memory with it."""
        raise NotImplementedError

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters: `tower` (CLIP's own and its scale; rate times the recipe's ratio) and `head`."""
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
        """Trainable parameters, the head's buffers and what is `carried`, under their state-dict names."""
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
        """Load the `trained_state` of the training that this one starts from, without class-bound tensors.

        A method whose config continues others (`Config.continues`) maps their state here.
        """
        self.load_trained(state, self.class_bound)

    def _trained_names(self) -> set[str]:
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        buffers = {name for name, _ in self.named_buffers() if not name.startswith(("clip.", "teacher."))}
        return trained | self.carried | buffers & set(self.state_dict())

    @property
    def scale(self) -> float:
        """exp(s), for predictors."""
        return float(self.clip.logit_scale.detach().cpu().exp())

    @torch.no_grad()
    def interpolate(self, pretrained: Clip, alpha: float) -> None:
        """In place, in fp32: CLIP's tensors of the trained state <- alpha * own + (1 - alpha) * pretrained.

        With alpha = 0 they have CLIP's bits, with alpha = 1 they keep their own.
        """
        if alpha == 1:
            return
        names, others = self._trained_names(), pretrained.state_dict()
        for name, own in self.clip.state_dict().items():
            if f"clip.{name}" in names:
                own.copy_(alpha * own + (1 - alpha) * others[name] if alpha else others[name])


def frames_of(encoded: Encoded) -> Tensor:
    """The frame features of what `encode` returned."""
    return encoded["frames"] if isinstance(encoded, dict) else encoded  # type: ignore[no-any-return]


def mapped(change: Callable[[Tensor], Tensor], encoded: Encoded) -> Encoded:
    """The same change of every tensor of what `encode` returned."""
    if isinstance(encoded, dict):
        return {name: change(tensor) for name, tensor in encoded.items()}
    return change(encoded)


def missing_hooks(model: type[Model], config: Config) -> list[str]:
    """Hooks of methods with experts that a model class does not override, though its config says that it has to."""
    needed = {"expert_parameters": config.experts > 1, "unused_parameters": bool(config.routing_odds)}
    return [name for name, does in needed.items() if does and getattr(model, name) is getattr(Model, name)]


def cosines(video_BD: Tensor, classes_CD: Tensor) -> Tensor:
    """Cosines [B, C] of un-normalised video embeddings with unit class features."""
    # Never in bf16: its steps near 1 are 1/256, which exp(s) = 100 turns into a third of a logit.
    with torch.autocast(video_BD.device.type, enabled=False):
        return F.normalize(video_BD.float(), dim=-1) @ classes_CD.float().T


def build_model(
    model_class: type[Model], config: Config, clip: Clip, seed: int, classes: int = 0, training: bool = False
) -> Model:
    """A freshly initialised model for a number of source classes; for `training` with the teacher that it may have.

    The global generator keeps its state.
    """
    teacher = deepcopy(clip) if training and config.teacher else None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for("init", seed))  # manual_seed would reset devices too
        model = model_class(config, clip)
        if classes:
            free = set(model.state_dict())
            model.bind_classes(classes)
            model.class_bound = frozenset(set(model.state_dict()) - free)
    if teacher is not None:
        model.teacher = teacher.requires_grad_(False).eval()
    return model
