"""Maps: similarity of patches with a model's temporal feature (MoTE, arXiv 2410.10589, Fig. 6).

The paper does not say how they are made. Here: patch tokens of the tower's last block through the norm and projection
of the class token, so that they live where frame features do, and their cosines with the temporal feature of the frame.

Legend: N videos, E choices of experts, T frames, S side in pixels, M tokens, P patches, G side of the grid of patches,
W tower width, D joint CLIP width.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from bench.core.errors import StageError
from bench.core.seeds import seed_for
from bench.data.videos import Videos, opened
from bench.models.clip import load_clip
from bench.stages.trained import class_texts, deploy, feature, trained_model
from bench.video.loader import test_loader
from bench.video.transforms import normalise, statistics
from bench.video.views import TestViews
from methods.contract import Model, Predictor

if TYPE_CHECKING:
    from bench.stages.work import Work


class MappedView(NamedTuple):
    """One view of a decodable video; `place` is its index in the list."""

    place: int
    pixels_T3SS: Tensor  # uint8


@torch.no_grad()
def run(work: Work) -> dict[str, Any]:
    """Writes `maps.safetensors`: `pixels` uint8 [N, T, 3, S, S] and `cosines` [N, E, T, G, G].

    The videos are drawn once for all seeds and methods, leaving out those that cannot be decoded. The result also has
    the class that each choice predicts for each of them.
    """
    model = trained_model(work)
    if work.spec["alpha"] < 1:
        model = deepcopy(model)
        model.interpolate_tower(load_clip(work.spec["backbone"], work.context["pretrained"]), work.spec["alpha"])
    predictors = [deploy(work, model, inference) for _, inference in work.spec["choices"]]
    texts_CD, videos = class_texts(work, "texts", model), opened(work.context)
    clips = _clips(work, videos)
    cosines, predictions = [], []
    for done, clip in enumerate(clips, start=1):
        frames_TD, patches_TPD = _encode(work, model, clip.pixels_T3SS)
        made = [_map(work, predictor, frames_TD, patches_TPD, texts_CD) for predictor in predictors]
        cosines.append(torch.stack([cosines_TGG for cosines_TGG, _ in made]))
        predictions.append([prediction for _, prediction in made])
        work.progress(done, len(clips), "videos")
    pixels_NT3SS = torch.stack([clip.pixels_T3SS for clip in clips])
    save_file({"pixels": pixels_NT3SS, "cosines": torch.stack(cosines)}, work.out / "maps.safetensors")
    entries = [videos.entries[clip.place] for clip in clips]
    return {
        "names": [name for name, _ in work.spec["choices"]],
        "videos": [entry.name for entry in entries],
        "labels": [entry.label for entry in entries],
        "predictions": predictions,
    }


def _clips(work: Work, videos: Videos) -> list[MappedView]:
    """Views of the number of videos that the spec asks for, or of all. Raises StageError if none can be decoded."""
    order = np.random.default_rng(seed_for("maps")).permutation(len(videos)).tolist()
    wanted, views = work.spec["videos"], TestViews(**work.spec["views"])
    clips: list[MappedView] = []
    for indices, pixels_bVT3SS, failures in test_loader(videos, views, work.decoding, wanted, order):
        failed = dict(failures)
        read = zip(indices, pixels_bVT3SS[:, 0], strict=True)
        clips += [MappedView(index, pixels_T3SS) for index, pixels_T3SS in read if index not in failed]
        if len(clips) >= wanted:
            break
    if not clips:
        raise StageError(f"no video of '{videos.dataset.name}' can be decoded")
    return clips[:wanted]


def _encode(work: Work, model: Model, pixels_T3SS: Tensor) -> tuple[Tensor, Tensor]:
    """Frame features [T, D] and patch tokens [T, P, D] of the same pass, so of whatever tower the method has."""
    views, visual, kept = TestViews(**work.spec["views"]), model.clip.visual, []
    mean, std = statistics(views, model.clip.spec.mean, model.clip.spec.std)
    with visual.ln_post.register_forward_hook(lambda module, inputs, tokens_TMW: kept.append(tokens_TMW)):
        frames_TD = model.encode(normalise(pixels_T3SS.to(work.compute.device), mean, std)[None])[0]
    patches = model.clip.spec.vision_tokens - 1  # the last ones: the class token, and whatever else, is in front
    return frames_TD, kept[0][:, -patches:] @ visual.proj


def _map(
    work: Work, predictor: Predictor, frames_TD: Tensor, patches_TPD: Tensor, texts_CD: Tensor
) -> tuple[Tensor, int]:
    """Cosines [T, G, G] of the patches with the temporal feature of the frame, or of the video; the predicted class."""
    predictor.per_frame = True
    prediction = predictor(frames_TD[None], texts_CD)
    feature_tD = feature(work, prediction).reshape(-1, frames_TD.shape[-1])  # t is T, or 1 for a feature of the video
    cosines_TP = F.cosine_similarity(patches_TPD, feature_tD[:, None], dim=-1)
    side = math.isqrt(cosines_TP.shape[1])
    return cosines_TP.unflatten(1, (side, side)).float().cpu(), int(prediction.cosines_BC.argmax())
