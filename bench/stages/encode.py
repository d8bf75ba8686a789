"""Encode: frame features of every view of a list of videos, by plain CLIP or by a trained tower.

Legend: N videos, V views (copies of a training video, clips x crops of a test video), T frames, D joint CLIP width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.core.errors import Interrupted, StageError
from bench.data.videos import Videos, opened
from bench.models.clip import load_clip
from bench.models.state_dicts import require_finite
from bench.stages.trained import trained_model
from bench.video.loader import ViewBatch, copies_loader, test_loader
from bench.video.transforms import normalise, statistics
from bench.video.views import TestViews, TrainViews

if TYPE_CHECKING:
    from bench.stages.work import Work

SHARD = 256  # videos between two points of resumption
BATCH = 32  # videos decoded together
FRAMES = 256  # frames that go through the tower at once, about, which bounds memory

Encoder = Callable[[Tensor], Tensor]  # uint8 pixels [M, T, 3, H, W] -> features [M, T, D]


def run(work: Work) -> dict[str, Any]:
    """Writes `features.safetensors` (`features` [N, V, T, D] fp32) and `videos.parquet` (video, label, failure).

    An undecodable video has zero features. In test views it must be declared as known bad, else the stage ends with
    the list of such videos; the encoded shards stay, so nothing is encoded again once they are declared.
    """
    videos = opened(work.context)
    names = [entry.name for entry in videos.entries]
    work.checkpoint.mkdir(parents=True, exist_ok=True)
    encoder = _encoder(work)
    shards, done = list[Path](), 0
    while done < len(videos):
        shards.append(_shard(work, videos, encoder, done))
        done += _length(shards[-1])
    failures = {names[index]: reason for shard in shards for index, reason in _failures(shard).items()}
    if isinstance(_views(work), TestViews):
        _refuse_undeclared(videos, failures)
    features_NVTD = torch.cat([load_file(shard)["features"] for shard in shards])
    save_file({"features": features_NVTD}, work.out / "features.safetensors")
    table = pd.DataFrame({"video": names, "label": [entry.label for entry in videos.entries]})
    table["failure"] = table["video"].map(failures).astype("string")
    table.to_parquet(work.out / "videos.parquet")
    return {"videos": len(videos), "undecodable": len(failures)}


def _views(work: Work) -> TestViews | TrainViews:
    views = work.spec["views"]
    return TrainViews(**views) if "copies" in views else TestViews(**views)


def _shard(work: Work, videos: Videos, encoder: Encoder, start: int) -> Path:
    """The file with the features of videos from `start` on, made unless an earlier attempt left it.

    They are SHARD videos, or fewer at the end and where an attempt was asked to stop: after a whole batch, so that all
    batches stay as they are.
    """
    path = work.checkpoint / f"shard-{start:08d}.safetensors"
    if path.is_file():
        return path
    features: list[Tensor] = []
    failures: dict[int, str] = {}
    for indices, pixels_NVT3HW, failed in _batches(work, videos, range(start, min(start + SHARD, len(videos)))):
        features_NVTD = _encode(encoder, pixels_NVT3HW)
        features_NVTD[[indices.index(index) for index, _ in failed]] = 0
        shown = (f"features of {videos.entries[index].name}" for index in indices)
        hint = "the weights are finite, but overflow: train the tower again in recipe.precision fp32, or use others"
        require_finite(zip(shown, features_NVTD, strict=True), work.spec["backbone"], hint)
        features.append(features_NVTD)
        failures |= dict(failed)
        done = int(indices[-1]) + 1
        work.progress(done, len(videos), "videos")
        if stopping := work.stopping():
            break
    partial = path.with_suffix(".tmp")
    save_file({"features": torch.cat(features)}, partial, metadata={"failures": json.dumps(failures)})
    os.replace(partial, path)
    if stopping:
        raise Interrupted(f"saved {done} of {len(videos)} videos", done)
    return path


def _batches(work: Work, videos: Videos, indices: Sequence[int]) -> Iterable[ViewBatch]:
    views = _views(work)
    if isinstance(views, TrainViews):
        return copies_loader(videos, views, work.decoding, BATCH, indices)
    return test_loader(videos, views, work.decoding, BATCH, indices)


def _encode(encoder: Encoder, pixels_NVT3HW: Tensor) -> Tensor:
    """Features [N, V, T, D] on the CPU. Views stay whole, since frames of one may meet in the tower."""
    views_MT3HW = pixels_NVT3HW.flatten(0, 1)
    at_once = max(1, FRAMES // views_MT3HW.shape[1])
    with torch.no_grad():
        features_MTD = torch.cat([encoder(part_mT3HW) for part_mT3HW in views_MT3HW.split(at_once)]).float().cpu()
    features_NVTD: Tensor = features_MTD.unflatten(0, pixels_NVT3HW.shape[:2])
    return features_NVTD


def _encoder(work: Work) -> Encoder:
    """Plain CLIP, or the tower of a trained model interpolated with CLIP by alpha."""
    device = work.compute.device
    clip = load_clip(work.spec["backbone"], work.context["pretrained"])
    mean, std = statistics(_views(work), clip.spec.mean, clip.spec.std)
    if "method" not in work.spec:
        clip.to(device)
        return lambda views_MT3HW: clip.encode_frames(
            normalise(views_MT3HW.flatten(0, 1).to(device), mean, std)
        ).unflatten(0, views_MT3HW.shape[:2])
    model = trained_model(work)
    model.interpolate_tower(clip, work.spec["alpha"])
    model.to(device)
    return lambda views_MT3HW: model.encode(normalise(views_MT3HW.to(device), mean, std))


def _length(shard: Path) -> int:
    with safe_open(shard, framework="pt") as file:
        return int(file.get_slice("features").get_shape()[0])


def _failures(shard: Path) -> dict[int, str]:
    with safe_open(shard, framework="pt") as file:
        found: dict[str, str] = json.loads(file.metadata()["failures"])
    return {int(index): reason for index, reason in found.items()}


def _refuse_undeclared(videos: Videos, failures: dict[str, str]) -> None:
    undeclared = sorted(set(failures) - set(videos.dataset.known_bad))
    if undeclared:
        lines = [f"  {name}: {failures[name]}" for name in undeclared[:20]]
        raise StageError(
            "\n".join(
                [
                    f"{len(undeclared)} videos of '{videos.dataset.name}' cannot be decoded and are not declared:",
                    *lines,
                    "  mend the files, or list them under known_bad: they then count as wrong answers",
                ]
            )
        )
