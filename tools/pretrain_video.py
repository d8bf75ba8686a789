"""Training of the embedded world's video tower, `glyph-video`: the recipe of bench/assets/glyph_viclip.*.

ViCLIP's recipe (arXiv 2307.06942) in small, ten minutes of one CPU core: the tower starts from the tiny CLIP
and gets a table of positions in time; texts stay frozen; most steps leave out most of the patches, the last ones see
all. Clips are of random objects, verbs, colours and backgrounds, in the style of the photos that the tiny CLIP learnt
from: larger and brighter than those of the worlds. The captions that a clip is told from are those of all pairs.

A batch depends only on (seed, step), so the result depends on the machine and the number of threads alone.
Legend: B clips, T frames, H height, W width of a frame or a tower, K tokens, D embedding width, P pairs of object and
verb, O objects, N measured clips, C classes.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from bench.core.files import file_sha256, write_atomically
from bench.core.seeds import seed_for
from bench.glyphs import world as glyphs
from bench.models.clip import Clip, VideoTower, load_clip, new_clip, seeded
from tools.pretrain import (
    PACKAGES,
    Optimisation,
    Pretraining,
    StepProgress,
    accuracy,
    average_weights,
    class_texts,
    fast_attention,
    half_precision,
    normalised,
    pair_names,
    write_weights,
)

NAME, FILE = "glyph-video", "glyph_viclip.safetensors"


@dataclass(frozen=True)
class VideoPretraining:
    """Settings of the recipe; the shipped weights were made with the defaults."""

    seed: int = 0
    batch: int = 32
    steps: int = 1400
    rate: float = 1e-3
    dropped: float = 0.75  # share of dropped patches in the first steps; ViCLIP drops 0.9 of many more
    whole_steps: int = 100  # last steps, which see all patches
    average: float = 0.99  # decay of the exponential average of the tower's weights
    feature_norm: float = 5.0  # as the tiny CLIP's
    measured_clips: int = 4  # of each class of the narrow world


@dataclass(frozen=True)
class ClipBatch:
    """Clips of a step, normalised for the model [B,T,3,H,W], and which of all pairs of object and verb they show."""

    clips_BT3HW: Tensor
    pairs_B: Tensor


def clip_batch(config: VideoPretraining, step: int, frames: int) -> ClipBatch:
    rng = np.random.default_rng(seed_for("glyph video", config.seed, step))
    pairs = rng.integers(len(glyphs.OBJECTS) * len(glyphs.VERBS), size=config.batch)
    clips = [_clip(*divmod(int(pair), len(glyphs.VERBS)), frames, rng) for pair in pairs]
    return ClipBatch(_normalised(np.stack(clips)), torch.from_numpy(pairs))


def _normalised(clips_BTHW3: np.ndarray) -> Tensor:
    frames_N3HW = normalised(clips_BTHW3.reshape(-1, *clips_BTHW3.shape[2:]))
    clips_BT3HW: Tensor = frames_N3HW.unflatten(0, clips_BTHW3.shape[:2])
    return clips_BT3HW


def _clip(thing: int, verb: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Frames [T,H,W,3] uint8: a motion of the worlds, with a glyph in the size and contrast of a photo."""
    placement, motion = glyphs.random_placement(rng), glyphs.MOTIONS[glyphs.VERBS[verb]]
    kinds = sorted(set(glyphs.BACKGROUNDS.values()))
    scene_HW3 = glyphs.background(kinds[rng.integers(len(kinds))], rng)
    colour = np.asarray(list(glyphs.COLOURS.values())[rng.integers(len(glyphs.COLOURS))], dtype=np.float32)
    name, times = list(glyphs.OBJECTS)[thing], (np.arange(frames) + rng.random(frames)) / frames  # one a segment
    cover_THW = np.stack([glyphs.warp(name, placement, motion(float(at), placement.cycles)) for at in times])
    return glyphs.quantised(scene_HW3 + cover_THW[..., None] * (colour - scene_HW3), rng)


def batches(config: VideoPretraining, frames: int) -> Iterator[tuple[int, ClipBatch]]:
    """(step, batch); another thread draws the next batch while a step is computed."""
    with ThreadPoolExecutor(1) as drawer:
        ahead = drawer.submit(clip_batch, config, 0, frames)
        for step in range(config.steps):
            batch, ahead = ahead.result(), drawer.submit(clip_batch, config, step + 1, frames)
            yield step, batch


# --- training ---------------------------------------------------------------------------------------------------------


def started(seed: int) -> Clip:
    """The tiny CLIP with a video tower in the place of its own, and a table of zeros."""
    clip = new_clip(NAME, seed)
    missing, unexpected = clip.load_state_dict(load_clip("glyph-vit", "builtin").state_dict(), strict=False)
    assert (missing, unexpected) == (["visual.temporal_positional_embedding"], [])
    clip.requires_grad_(False)
    return clip


def features(tower: VideoTower, clips_BT3HW: Tensor, dropped: float) -> Tensor:
    """Embeddings [B,D] with a share of the patches dropped, others of each clip; the class token stays."""
    tokens_BKW = tower.tokens(clips_BT3HW)
    batch, tokens, width = tokens_BKW.shape
    if dropped:
        kept = tokens - 1 - int(dropped * (tokens - 1))
        places_Bk = 1 + torch.rand(batch, tokens - 1).topk(kept).indices
        places_Bk = F.pad(places_Bk, (1, 0))
        tokens_BKW = tokens_BKW.gather(1, places_Bk[..., None].expand(-1, -1, width))
    hidden_BKW = tower.transformer(tower.ln_pre(tokens_BKW))
    embeddings_BD: Tensor = tower.ln_post(hidden_BKW[:, 0]) @ tower.proj
    return embeddings_BD


def train(config: VideoPretraining, progress: StepProgress) -> Clip:
    """The finished Clip, frozen, with averaged weights."""
    clip = started(config.seed)
    tower = clip.visual.requires_grad_(True)
    assert isinstance(tower, VideoTower)
    averaged = copy.deepcopy(tower).requires_grad_(False)
    with torch.no_grad(), fast_attention():
        texts_PD, scale = class_texts(clip, pair_names()), clip.logit_scale.exp()
    optimisation = Optimisation(tower, Pretraining(), config.rate, config.steps)
    for step, batch in batches(config, clip.spec.clip_frames):
        dropped = config.dropped if step < config.steps - config.whole_steps else 0.0
        # The fused kernel is slower at 65 tokens, and faster where all are seen.
        with fast_attention() if dropped else nullcontext(), seeded(seed_for("patches", config.seed, step)):
            with half_precision():
                videos_BD = features(tower, batch.clips_BT3HW, dropped)
            scores_BP = scale * F.normalize(videos_BD.float(), dim=-1) @ texts_PD.T
            loss = F.cross_entropy(scores_BP, batch.pairs_B)
            optimisation.step(loss, step)
        average_weights(averaged, tower, min(config.average, (1 + step) / (10 + step)))
        progress(step + 1, config.steps, f"loss {loss.item():.3f}")
    tower.load_state_dict(averaged.state_dict())
    clip.eval().requires_grad_(False)
    _rescale(clip, config)
    return clip


@torch.no_grad()
def _rescale(clip: Clip, config: VideoPretraining) -> None:
    """Scale the output projection to the mean feature norm of clips."""
    clips_BT3HW = clip_batch(config, -1, clip.spec.clip_frames).clips_BT3HW
    clip.visual.proj *= config.feature_norm / clip.encode_clips(clips_BT3HW).norm(dim=-1).mean()


# --- measurements, file and record ------------------------------------------------------------------------------------


@torch.no_grad()
def measure_set(clip: Clip, subset: str, count: int) -> dict[str, float]:
    """Zero-shot accuracy on so many clips of each class of the narrow world: class, object, verb given the object.

    The first frame of each segment, not encoded as a video. `reversed_top1`: of clips that are played backwards.
    """
    split = glyphs.SPLITS[subset][-1]
    listed: dict[int, list[str]] = {}
    for path, label in glyphs.entries("narrow", subset, split):
        listed.setdefault(label, []).append(path)
    chosen = [(path, label) for label, paths in listed.items() for path in paths[:count]]
    every = glyphs.FRAMES // clip.spec.clip_frames
    clips_NT3HW = _normalised(np.stack([glyphs.render_entry("narrow", path)[::every] for path, _ in chosen]))
    labels_N = torch.tensor([label for _, label in chosen])
    things = [list(glyphs.OBJECTS).index(own.object) for own in glyphs.classes("narrow", subset)]
    things_C = torch.tensor(things)
    classes_CD, objects_OD = (
        class_texts(clip, names) for names in (list(glyphs.class_names("narrow", subset)), list(glyphs.OBJECTS))
    )

    def videos(clips: Tensor) -> Tensor:
        parts = [clip.encode_clips(part)[:, 0] for part in clips.split(16)]
        return F.normalize(torch.cat(parts), dim=-1)

    with fast_attention():
        videos_ND, backwards_ND = videos(clips_NT3HW), videos(clips_NT3HW.flip(1))
    scores_NC = videos_ND @ classes_CD.T
    same_object_NC = things_C[labels_N][:, None] == things_C
    return {
        "videos": len(labels_N),
        "classes": len(things),
        "object_accuracy": accuracy((videos_ND @ objects_OD.T).argmax(dim=1), things_C[labels_N]),
        "top1": accuracy(scores_NC.argmax(dim=1), labels_N),
        "verb_given_object": accuracy(scores_NC.masked_fill(~same_object_NC, -2).argmax(dim=1), labels_N),
        "reversed_top1": accuracy((backwards_ND @ classes_CD.T).argmax(dim=1), labels_N),
    }


def measure(clip: Clip, count: int) -> dict[str, dict[str, float]]:
    return {subset: measure_set(clip, subset, count) for subset in glyphs.SUBSETS}


def pretrain(out: Path, progress: StepProgress, **settings: Any) -> Path:
    """Run the recipe; returns the path of the weights in `out`, with the record beside it."""
    began, config = time.time(), VideoPretraining(**settings)
    clip, file = train(config, progress), Path(out) / FILE
    write_weights(clip, file)
    record = {
        "config": asdict(config),
        "seconds": round(time.time() - began),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in PACKAGES},
        "measured": measure(load_clip(NAME, str(file)), config.measured_clips),
        "sha256": file_sha256(file),
    }
    write_atomically(file.with_suffix(".json"), f"{json.dumps(record, indent=2)}\n".encode())
    return file


app = typer.Typer(add_completion=False)


@app.command()
def main(out: Annotated[Path, typer.Argument(help="folder")] = Path("pretrain_out")) -> None:
    """Train the video tower of the embedded world; weights and record are written to OUT."""

    def show(done: int, total: int, text: str) -> None:
        if done % 50 == 0:
            print(f"{done}/{total} {text}", flush=True)

    print(pretrain(out, show))


if __name__ == "__main__":
    app()
