"""Pre-training of the tiny CLIP `glyph-vit` on captioned stills: the recipe of bench/assets/glyph_clip.*.

Three chapters, about an hour on two CPU cores:

1. *Teacher*: a small ModifiedResNet (RN50's family, CLIP paper, section 2.4) and the text tower learn together from
   CLIP's contrastive loss, with similar captions as additional negatives, and from naming the object. A convolutional
   tower learns small pictures several times faster than a ViT of the same size.
2. *Tower*: the text tower is frozen and the ViT learns from the teacher's embeddings and from the table of all texts.
   Muon (Jordan et al. 2024) optimises the matrices of the blocks, AdamW the rest; the shipped weights are an
   exponential average.
3. *Finish*: mean feature norm 5, measurements, fp16 file and record.

Between 1 and 2 the class texts are gathered in a cone like those of real CLIP. A batch depends only on (seed, step),
and checkpoints hold all state, so an interrupted run resumes bit for bit on the same machine and thread count.

Legend: B batch, D embedding width, K objects, V verbs.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import typer
from open_clip.transformer import PatchDropout
from rich.progress import Progress, TimeElapsedColumn
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.core.errors import UserError
from bench.core.files import file_sha256, write_atomically
from bench.core.seeds import seed_for
from bench.glyphs import world as glyphs
from bench.glyphs.datasets import rendered
from bench.models.backbones import backbone, model_config
from bench.models.clip import Clip, WordTokenizer, load_clip, new_clip, seeded
from tools.stills import TEMPLATES, WORDS, Stills, other_verb, still_batch

StepProgress = Callable[[int, int, str], None]  # (done, total, text)

PACKAGES = ("torch", "open_clip_torch", "numpy", "pillow", "matplotlib", "av", "decord")  # versions in the record
TEACHER_TOWER: dict[str, Any] = {
    "image_size": 64,
    "layers": [1, 1, 1, 1],
    "width": 16,
    "head_width": 64,
    "patch_size": None,
}


@dataclass(frozen=True)
class Pretraining:
    """Settings of the recipe; the shipped weights were made with the defaults."""

    seed: int = 0
    batch: int = 128
    teacher_steps: int = 1400
    teacher_rate: float = 2e-3
    cone_steps: int = 300
    cone: float = 2.5  # length of the offset that gathers the class texts, which have length 1
    tower_steps: int = 5000
    tower_rate: float = 2e-3
    dropped: float = 0.5  # share of dropped patches in the first steps: equal progress at half the cost (FLIP, 2023)
    dropped_share: float = 0.6  # share of the tower's steps with dropped patches
    optimiser: str = "muon"  # or adamw, for comparison
    weight_decay: float = 0.05
    average: float = 0.998  # decay of the exponential average of the tower's weights
    feature_norm: float = 5.0  # CLIP ViT-B/16's power per dimension (norm 10 at D = 512) at D = 128
    checkpoint_every: int = 250


# --- batches ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StillBatch:
    """Stills of a training step, normalised for the model [B,3,H,W], with their captions, objects and verbs."""

    pixels_B3HW: Tensor
    stills: Stills

    @property
    def objects_B(self) -> Tensor:
        return torch.from_numpy(self.stills.objects_B)

    @property
    def verbs_B(self) -> Tensor:
        return torch.from_numpy(self.stills.verbs_B)


def normalised(pixels_BHW3: np.ndarray) -> Tensor:
    """Normalised input [B,3,H,W] float32 of glyph-vit from uint8 pictures."""
    spec = backbone("glyph-vit")
    pixels = torch.from_numpy(pixels_BHW3).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor(spec.mean).view(3, 1, 1), torch.tensor(spec.std).view(3, 1, 1)
    return (pixels - mean) / std


def batches(config: Pretraining, first: int, steps: int, salt: int) -> Iterator[tuple[int, StillBatch]]:
    """(step, batch) from `first` on; another thread draws the next batch while a step is computed."""

    def draw(step: int) -> StillBatch:
        stills = still_batch(config.batch, seed_for("pretrain", config.seed, salt), step)
        return StillBatch(normalised(stills.pixels_BHW3), stills)

    with ThreadPoolExecutor(1) as drawer:
        ahead = drawer.submit(draw, first)
        for step in range(first, steps):
            batch, ahead = ahead.result(), drawer.submit(draw, step + 1)
            yield step, batch


def confusing_captions(stills: Stills, rng: np.random.Generator) -> list[str]:
    """Captions of the action photos with a wrong verb, often the opposite: negatives that are rare in batches."""
    captions = []
    for caption, verb in zip(stills.captions, stills.verbs_B, strict=True):
        if verb >= 0:
            captions.append(caption.replace(glyphs.VERBS[verb], glyphs.VERBS[other_verb(int(verb), rng)]))
    return captions


# --- optimisation -----------------------------------------------------------------------------------------------------


class Optimisation:
    """Muon for the matrices of the transformer blocks, AdamW for the rest, with one schedule."""

    def __init__(self, model: nn.Module, config: Pretraining, rate: float, steps: int) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if config.optimiser == "muon" and "resblocks" in name and p.ndim == 2]
        chosen = {id(p) for p in matrices}
        decayed = [p for _, p in named if p.ndim > 1 and id(p) not in chosen]
        plain = [p for _, p in named if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.rate, self.steps = rate, steps
        self.optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))]
        if matrices:
            muon = torch.optim.Muon(matrices, lr=rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
            self.optimisers.append(muon)
        self.parameters = [p for _, p in named]

    def step(self, loss: Tensor, step: int) -> None:
        """One update: warm-up, constant, then a linear fall to zero over the last half."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        warm, left = (step + 1) / 60, 2 * (self.steps - step) / self.steps
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.rate * min(1.0, warm, left)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, Any]]:
        return [optimiser.state_dict() for optimiser in self.optimisers]

    def restore(self, states: list[dict[str, Any]]) -> None:
        for optimiser, state in zip(self.optimisers, states, strict=True):
            optimiser.load_state_dict(state)


def fast_attention() -> Any:
    """Attention without PyTorch's fused CPU kernel, whose backward pass takes half of a step's time at 65 tokens."""
    return sdpa_kernel(SDPBackend.MATH)


def half_precision() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


# --- checkpoints ------------------------------------------------------------------------------------------------------


class PretrainingRun:
    """One pre-training: its folder of checkpoints, its settings, and its callback for progress and losses."""

    def __init__(self, out: Path, config: Pretraining, progress: StepProgress) -> None:
        self.folder, self.config, self.progress = out / "checkpoints", config, progress
        self.folder.mkdir(parents=True, exist_ok=True)
        self.began, self.earlier = time.time(), 0.0

    def seconds(self) -> float:
        """Time spent in all sessions of this run."""
        return self.earlier + time.time() - self.began

    def save(
        self, chapter: str, step: int, model: nn.Module, optimisation: Optimisation | None, **more: nn.Module
    ) -> None:
        state = {"config": asdict(self.config), "step": step, "seconds": self.seconds(), "model": model.state_dict()}
        state |= {name: module.state_dict() for name, module in more.items()}
        state["optimisers"] = optimisation.state() if optimisation else []
        file = self.folder / f"{chapter}.pt"
        torch.save(state, file.with_suffix(".new"))
        os.replace(file.with_suffix(".new"), file)

    def load(self, chapter: str) -> dict[str, Any] | None:
        """Last checkpoint of a chapter, None if there is none. Raises UserError if it has other settings."""
        file = self.folder / f"{chapter}.pt"
        if not file.is_file():
            return None
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        if state["config"] != asdict(self.config):
            hint = "continue with the same settings, or choose another folder"
            raise UserError("the checkpoint was made with other settings", where=str(file), hint=hint)
        self.earlier = max(self.earlier, state["seconds"])
        return state

    def resume(self, chapter: str, model: nn.Module, optimisation: Optimisation | None, **more: nn.Module) -> int:
        """Restore the last checkpoint of a chapter if there is one; returns the next step."""
        state = self.load(chapter)
        if state is None:
            return 0
        model.load_state_dict(state["model"])
        for name, module in more.items():
            module.load_state_dict(state[name])
        if optimisation:
            optimisation.restore(state["optimisers"])
        return int(state["step"])

    def due(self, step: int, steps: int) -> bool:
        return step == steps or step % self.config.checkpoint_every == 0

    def report(self, chapter: str, step: int, steps: int, losses: dict[str, Tensor]) -> None:
        if step % 10 == 0 or step == steps:
            text = ", ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items())
            self.progress(step, steps, f"{chapter}: {text}")


# --- chapter 1: teacher and text tower --------------------------------------------------------------------------------


def new_teacher(seed: int) -> open_clip.CLIP:
    """A small ModifiedResNet with the text tower of glyph-vit and random weights."""
    with seeded(seed):
        config = model_config("glyph-vit")
        teacher = open_clip.CLIP(config["embed_dim"], TEACHER_TOWER, config["text_cfg"])
    teacher.visual.to(memory_format=torch.channels_last)
    return teacher


def tokenizer() -> WordTokenizer:
    spec = backbone("glyph-vit")
    return WordTokenizer(WORDS, spec.vocab_size, spec.context_length)


def contrastive_losses(model: Any, batch: StillBatch, rng: np.random.Generator) -> dict[str, Tensor]:
    """CLIP's loss in both directions, with confusing captions as additional negatives, and the loss of the object."""
    count = len(batch.stills.captions)
    confusing = confusing_captions(batch.stills, rng)
    names = [TEMPLATES[rng.integers(len(TEMPLATES))].format(thing) for thing in glyphs.OBJECTS]
    tokens = tokenizer()(batch.stills.captions + confusing + names)
    texts_ND = F.normalize(model.encode_text(tokens).float(), dim=-1)
    images_BD = F.normalize(model.visual(batch.pixels_B3HW).float(), dim=-1)
    scale = model.logit_scale.exp().clamp(max=100)
    captions_ND, names_KD = texts_ND.split([count + len(confusing), len(names)])
    logits_BN = scale * images_BD @ captions_ND.T
    own = torch.arange(count)
    both_ways = (F.cross_entropy(logits_BN, own) + F.cross_entropy(logits_BN[:, :count].T, own)) / 2
    return {"captions": both_ways, "objects": F.cross_entropy(scale * images_BD @ names_KD.T, batch.objects_B)}


def train_teacher(run: PretrainingRun) -> open_clip.CLIP:
    """Chapter 1: the teacher in evaluation mode. Its text tower is part of the shipped weights."""
    config = run.config
    teacher = new_teacher(config.seed)
    with torch.no_grad():
        teacher.logit_scale.fill_(math.log(20))
    optimisation = Optimisation(teacher, config, config.teacher_rate, config.teacher_steps)
    first = run.resume("teacher", teacher, optimisation)
    for step, batch in batches(config, first, config.teacher_steps, salt=1):
        with fast_attention(), half_precision():
            losses = contrastive_losses(teacher, batch, np.random.default_rng(seed_for("confuse", config.seed, step)))
        with fast_attention():
            optimisation.step(sum(losses.values(), torch.zeros(())), step)
        run.report("teacher", step + 1, config.teacher_steps, losses)
        if run.due(step + 1, config.teacher_steps):
            run.save("teacher", step + 1, teacher, optimisation)
    return teacher.eval().requires_grad_(False)


# --- between the chapters: the cone -----------------------------------------------------------------------------------


def pair_names() -> list[str]:
    """`<object> <verb>` of all K x V pairs, object by object."""
    return [f"{thing} {verb}" for thing in glyphs.OBJECTS for verb in glyphs.VERBS]


@torch.no_grad()
def class_texts(model: Any, names: list[str], templates: tuple[str, ...] = TEMPLATES) -> Tensor:
    """Class embeddings [C,D] over templates, as by Clip.embed_classes."""
    prompts = [template.format(name) for name in names for template in templates]
    parts = [model.encode_text(tokens) for tokens in tokenizer()(prompts).split(512)]
    prompts_CPD: Tensor = F.normalize(torch.cat(parts), dim=-1).unflatten(0, (len(names), len(templates)))
    return F.normalize(prompts_CPD.mean(dim=1), dim=-1)


def quietest_direction(images_ND: Tensor) -> Tensor:
    """Unit vector [D] along which image embeddings of unit length have the least energy."""
    eigenvectors_DD: Tensor = torch.linalg.eigh(images_ND.T @ images_ND).eigenvectors
    return eigenvectors_DD[:, 0]


@torch.no_grad()
def move_texts(teacher: open_clip.CLIP, offset_D: Tensor) -> None:
    """Add the offset, scaled to texts before normalisation, to the bias of the last norm."""
    norm = teacher.encode_text(tokenizer()(pair_names())).norm(dim=-1).mean()
    teacher.ln_final.bias += torch.linalg.lstsq(teacher.text_projection.T, norm * offset_D).solution


def gather_texts(run: PretrainingRun, teacher: open_clip.CLIP) -> None:
    """Move all texts by one vector into a narrow cone, like those of real CLIP (Liang et al. 2022).

    A tiny CLIP spreads its class texts over the sphere, with which MoTE's temporal feature modulation only switches on
    or off. The offset has the direction in which images have no energy, so rankings do not change; the logit scale
    grows to make up for the lost length. The text tower is trained on its own moved outputs (cosine), because norms
    before normalisation differ between texts.
    """
    config = run.config
    if run.resume("cone", teacher, None) == config.cone_steps:
        return
    images = [still_batch(config.batch, seed_for("cone", config.seed), step) for step in range(8)]
    with torch.no_grad(), fast_attention():
        embedded = torch.cat([teacher.visual(normalised(stills.pixels_BHW3)) for stills in images])
    offset_D = config.cone * quietest_direction(F.normalize(embedded, dim=-1))
    learn_moved_texts(run, teacher, offset_D)
    with torch.no_grad():
        teacher.logit_scale += math.log(math.hypot(1, config.cone))
        teacher.logit_scale.clamp_(max=math.log(100))
    run.save("cone", config.cone_steps, teacher, None)


def learn_moved_texts(run: PretrainingRun, teacher: open_clip.CLIP, offset_D: Tensor) -> None:
    """Train the text tower on its present outputs of unit length plus the offset, on captions and plain objects."""
    config, spread = run.config, copy.deepcopy(teacher)
    move_texts(teacher, offset_D)
    text_parameters = [p for name, p in teacher.named_parameters() if not name.startswith(("visual", "logit_scale"))]
    for parameter in text_parameters:
        parameter.requires_grad_(True)
    optimisation = Optimisation(teacher, config, 1e-3, config.cone_steps)
    for step in range(config.cone_steps):
        stills = still_batch(config.batch, seed_for("cone texts", config.seed), step)
        tokens = tokenizer()(stills.captions + list(glyphs.OBJECTS))
        with fast_attention():
            with torch.no_grad():
                wanted_BD = F.normalize(spread.encode_text(tokens), dim=-1) + offset_D
            loss = 100 * (1 - F.cosine_similarity(teacher.encode_text(tokens), wanted_BD)).mean()
            optimisation.step(loss, step)
        run.progress(step + 1, config.cone_steps, f"cone: {loss.item():.4f}")
    for parameter in text_parameters:
        parameter.requires_grad_(False)


# --- chapter 2: the ViT tower -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextTable:
    """Embeddings of the frozen text tower: all objects [K,D], all objects with all verbs [K*V,D]."""

    objects_KD: Tensor
    pairs_PD: Tensor
    scale: Tensor


def text_table(teacher: open_clip.CLIP) -> TextTable:
    with fast_attention():
        objects_KD = class_texts(teacher, list(glyphs.OBJECTS))
        pairs_PD = class_texts(teacher, pair_names(), TEMPLATES[:1])
    return TextTable(objects_KD, pairs_PD, teacher.logit_scale.exp())


def distillation_losses(
    tower: nn.Module, teacher: open_clip.CLIP, table: TextTable, batch: StillBatch
) -> dict[str, Tensor]:
    """Losses: cosine to the teacher's embeddings, the object among all objects, the action among all pairs."""
    with torch.no_grad():
        wanted_BD = F.normalize(teacher.visual(batch.pixels_B3HW).float(), dim=-1)
    images_BD = F.normalize(tower(batch.pixels_B3HW).float(), dim=-1)
    acting = batch.verbs_B >= 0
    pairs = batch.objects_B * len(glyphs.VERBS) + batch.verbs_B
    return {
        "embedding": 20 * (1 - (images_BD * wanted_BD).sum(dim=-1)).mean(),
        "objects": F.cross_entropy(table.scale * images_BD @ table.objects_KD.T, batch.objects_B),
        "actions": 0.5 * F.cross_entropy(table.scale * images_BD[acting] @ table.pairs_PD.T, pairs[acting]),
    }


def train_tower(run: PretrainingRun, teacher: open_clip.CLIP) -> Clip:
    """Chapter 2: the Clip before rescaling, with averaged ViT weights and the teacher's text tower and logit scale."""
    config, table = run.config, text_table(teacher)
    clip = new_clip("glyph-vit", config.seed)
    tower = clip.visual
    averaged = copy.deepcopy(tower).requires_grad_(False)
    optimisation = Optimisation(tower, config, config.tower_rate, config.tower_steps)
    first = run.resume("tower", tower, optimisation, averaged=averaged)
    for step, batch in batches(config, first, config.tower_steps, salt=2):
        dropping = step < config.dropped_share * config.tower_steps
        tower.patch_dropout = PatchDropout(config.dropped if dropping else 0.0)
        with fast_attention(), seeded(seed_for("patches", config.seed, step)):
            with half_precision():
                losses = distillation_losses(tower, teacher, table, batch)
            optimisation.step(sum(losses.values(), torch.zeros(())), step)
        average_weights(averaged, tower, min(config.average, (1 + step) / (10 + step)))
        run.report("tower", step + 1, config.tower_steps, losses)
        if run.due(step + 1, config.tower_steps):
            run.save("tower", step + 1, tower, optimisation, averaged=averaged)
    clip.visual.load_state_dict(averaged.state_dict())
    clip.load_state_dict({k: v for k, v in teacher.state_dict().items() if not k.startswith("visual")}, strict=False)
    clip.eval().requires_grad_(False)
    return clip


@torch.no_grad()
def average_weights(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)


# --- chapter 3: scale, measurements, file and record ------------------------------------------------------------------


@torch.no_grad()
def embed(clip: Clip, pixels_NHW3: np.ndarray) -> Tensor:
    """Embeddings [N,D] of uint8 frames, not normalised."""
    parts = np.array_split(pixels_NHW3, len(pixels_NHW3) // 256 + 1)
    with fast_attention():
        return torch.cat([clip.encode_frames(normalised(part)) for part in parts])


@torch.no_grad()
def rescale(clip: Clip, norm: float, seed: int) -> None:
    """Scale the output projection to this mean feature norm of stills, so that features have CLIP's usual size."""
    stills = [still_batch(128, seed_for("norm", seed), step).pixels_BHW3 for step in range(4)]
    clip.visual.proj *= norm / embed(clip, np.concatenate(stills)).norm(dim=-1).mean()


def frames_of(world: str, subset: str, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Every second frame [N,8,H,W,3] of a set's test clips, decoded by decord, and their labels [N]."""
    import decord

    split = glyphs.SPLITS[subset][-1]
    entries = glyphs.entries(world, subset, split)
    files = [str(glyphs.folder(world, cache) / path) for path, _ in entries]
    every_second = list(range(1, glyphs.FRAMES, 2))
    clips = [decord.VideoReader(file, num_threads=1).get_batch(every_second).asnumpy() for file in files]
    return np.stack(clips), np.array([label for _, label in entries])


def accuracy(found: Tensor, wanted: Tensor) -> float:
    return round((found == wanted).float().mean().item(), 4)


def measure_set(clip: Clip, world: str, subset: str, cache: Path) -> dict[str, float]:
    """Zero-shot accuracy of mean-pooling (object, class, verb given the object) and the set's modulation factor."""
    frames_NTHW3, labels = frames_of(world, subset, cache)
    frames_NTD = embed(clip, frames_NTHW3.reshape(-1, *frames_NTHW3.shape[2:])).unflatten(0, frames_NTHW3.shape[:2])
    videos_ND = F.normalize(F.normalize(frames_NTD, dim=-1).mean(dim=1), dim=-1)
    with fast_attention():
        classes_CD = class_texts(clip, list(glyphs.class_names(world, subset)))
        objects_KD = class_texts(clip, list(glyphs.OBJECTS))
        source_CD = class_texts(clip, list(glyphs.class_names(world, "source")))
    things = [list(glyphs.OBJECTS).index(own.object) for own in glyphs.classes(world, subset)]
    labels_N, things_C = torch.from_numpy(labels), torch.tensor(things)
    scores_NC = videos_ND @ classes_CD.T
    same_object_NC = things_C[labels_N][:, None] == things_C
    return {
        "videos": len(labels),
        "classes": len(things),
        "object_accuracy": accuracy((videos_ND @ objects_KD.T).argmax(dim=1), things_C[labels_N]),
        "top1": accuracy(scores_NC.argmax(dim=1), labels_N),
        "verb_given_object": accuracy(scores_NC.masked_fill(~same_object_NC, -2).argmax(dim=1), labels_N),
        "median_modulation": round(modulation(videos_ND, classes_CD, source_CD).median().item(), 4),
    }


@torch.no_grad()
def sample_accuracy(clip: Clip) -> float:
    """Object accuracy on one clip per class of the narrow world's new objects, not encoded; takes a second."""
    listed = [(c, p) for subset in ("objects", "both") for c, p in first_clips("narrow", subset)]
    frames_NTHW3 = np.stack([glyphs.render_entry("narrow", path)[1::2] for _, path in listed])
    frames_NTD = embed(clip, frames_NTHW3.reshape(-1, *frames_NTHW3.shape[2:])).unflatten(0, frames_NTHW3.shape[:2])
    scores_NK = F.normalize(frames_NTD, dim=-1).mean(dim=1) @ class_texts(clip, list(glyphs.OBJECTS)).T
    return accuracy(scores_NK.argmax(dim=1), torch.tensor([list(glyphs.OBJECTS).index(c.object) for c, _ in listed]))


def first_clips(world: str, subset: str) -> list[tuple[glyphs.GlyphClass, str]]:
    """Each class of a target set with the path of its first clip."""
    classes, entries = glyphs.classes(world, subset), glyphs.entries(world, subset, "test")
    return [(own, entries[label * (len(entries) // len(classes))][0]) for label, own in enumerate(classes)]


def modulation(videos_ND: Tensor, classes_CD: Tensor, source_CD: Tensor, k: int = 5, gamma: float = 0.05) -> Tensor:
    """Factor [N] of temporal feature modulation (MoTE): near 1 if the test classes are similar to the source's."""
    near_ND = classes_CD[(videos_ND @ classes_CD.T).topk(k).indices]
    source_near_ND = source_CD[(videos_ND @ source_CD.T).topk(k).indices]
    likeness_N = (near_ND @ source_near_ND.mT).amax(dim=-1).mean(dim=-1)
    return torch.exp(-(1 - likeness_N) / gamma)


def opposite_texts(clip: Clip) -> dict[str, dict[str, float]]:
    """Mean cosine of the texts of opposite motions: unchanged, and minus the mean text of each object."""
    with fast_attention():
        pairs_PD = class_texts(clip, pair_names(), TEMPLATES[:1])
    pairs_KVD = pairs_PD.unflatten(0, (len(glyphs.OBJECTS), len(glyphs.VERBS)))
    found = {}
    for one, other in glyphs.OPPOSITES:
        a, b = glyphs.VERBS.index(one), glyphs.VERBS.index(other)
        centred_KVD = pairs_KVD - pairs_KVD.mean(dim=1, keepdim=True)
        found[f"{one} / {other}"] = {
            "cosine": round(F.cosine_similarity(pairs_KVD[:, a], pairs_KVD[:, b]).mean().item(), 4),
            "centred_cosine": round(F.cosine_similarity(centred_KVD[:, a], centred_KVD[:, b]).mean().item(), 4),
        }
    return found


def measure(clip: Clip, cache: Path, progress: StepProgress) -> dict[str, Any]:
    """All numbers about the tiny CLIP in docs/glyph_world.md; builds the worlds under `cache`."""
    sets: dict[str, dict[str, Any]] = {}
    for world in glyphs.WORLDS:
        rendered(world, cache, lambda done, total: progress(done, total, f"building {world}"), workers=2)  # noqa: B023
        sets[world] = {subset: measure_set(clip, world, subset, cache) for subset in glyphs.SUBSETS}
    stills = still_batch(1024, seed_for("measure"), 0)
    raw_ND = embed(clip, stills.pixels_BHW3)
    objects_KD = class_texts(clip, list(glyphs.OBJECTS))
    return {
        "sets": sets,
        "sample_object_accuracy": sample_accuracy(clip),
        "opposite_texts": opposite_texts(clip),
        "still_object_accuracy": accuracy((raw_ND @ objects_KD.T).argmax(dim=1), torch.from_numpy(stills.objects_B)),
        "mean_feature_norm": round(raw_ND.norm(dim=-1).mean().item(), 3),
        "logit_scale": round(clip.logit_scale.exp().item(), 2),
    }


def write_weights(clip: Clip, file: Path) -> None:
    """Write fp16 safetensors with the word list in the metadata."""
    state = {key: value.half().contiguous() for key, value in clip.state_dict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, save(state, metadata={"format": "pt", "words": " ".join(WORDS)}))


def train(run: PretrainingRun) -> Clip:
    """Run the chapters that train, in order; returns the finished Clip."""
    teacher = train_teacher(run)
    gather_texts(run, teacher)
    clip = train_tower(run, teacher)
    rescale(clip, run.config.feature_norm, run.config.seed)
    return clip


def pretrain(out: Path, progress: StepProgress, **settings: Any) -> Path:
    """Run or resume the whole recipe in `out`; returns the path of the weights, with the record beside it.

    `settings` are fields of Pretraining; `progress(done, total, text)` counts the steps of the running chapter. The
    shipped weights were made with two threads; another number gives other bits.
    """
    run = PretrainingRun(Path(out), Pretraining(**settings), progress)
    clip = train(run)
    file = Path(out) / "glyph_clip.safetensors"
    write_weights(clip, file)
    shipped = load_clip("glyph-vit", str(file))
    record = {
        "config": asdict(run.config),
        "seconds": round(run.seconds()),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in PACKAGES},
        "worlds": {world: glyphs.recipe_digest(world) for world in glyphs.WORLDS},
        "measured": measure(shipped, Path(out) / "worlds", progress),
        "sha256": file_sha256(file),
    }
    write_atomically(file.with_suffix(".json"), f"{json.dumps(record, indent=2)}\n".encode())
    return file


app = typer.Typer(add_completion=False)


@app.callback()
def about() -> None:
    """The tiny CLIP of the embedded world. `python run_suite.py pretrain` repeats its recipe."""


@app.command("measure")
def measure_command(cache: Path = Path("pretrain_out/worlds")) -> None:
    """Measure the shipped weights again; builds the worlds under CACHE."""
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn()) as bar:
        task = bar.add_task("measuring")
        measured = measure(
            load_clip("glyph-vit", "builtin"),
            cache,
            lambda done, total, text: bar.update(task, completed=done, total=total, description=text),
        )
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    app()
