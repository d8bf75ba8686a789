"""Encode: frame features of every view of a list of videos, by plain CLIP or by a trained tower.

Legend: N videos, V views (copies of a training video, clips x crops of a test video), T frames, D joint CLIP width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.core.errors import Interrupted, StageError
from bench.data.videos import Videos, opened
from bench.models.clip import load_clip
from bench.models.precision import autocast
from bench.models.state_dicts import require_finite
from bench.stages import checkpoint
from bench.stages.trained import stored, trained_model
from bench.video.loader import ViewBatch, copies_loader, test_loader
from bench.video.transforms import normalise, statistics
from bench.video.views import TestViews, TrainViews
from methods.contract import Encoded

if TYPE_CHECKING:
    from bench.stages.work import Work

SHARD = 256  # videos between two points of resumption
BATCH = 32  # videos decoded together
# Frames that go through the tower at once, about. That bounds memory; a CPU is faster where they fit into its cache.
FRAMES, FRAMES_OF_CPU = 256, 32

Encoder = Callable[[Tensor], Encoded]  # of uint8 pixels [M, T, 3, H, W]


def run(work: Work) -> dict[str, Any]:
    """Writes `features.safetensors` (`features` [N, V, T, D] fp32) and `videos.parquet` (video, label, failure).

    What else a method makes of a view lies beside the frame features, as `features.NAME` [N, V, ...]. An undecodable
    video has zero features. In test views it must be declared as known bad, else the stage ends with the list of such
    videos; the encoded shards stay, so nothing is encoded again once they are declared.
    """
    videos = opened(work.context)
    names = [entry.name for entry in videos.entries]
    encoder = _encoder(work)
    shards, done = list[Shard](), 0
    while done < len(videos):
        shards.append(_shard(work, videos, encoder, done))
        done += len(shards[-1].features["features"])
    failures = {names[index]: reason for shard in shards for index, reason in shard.failures.items()}
    if isinstance(_views(work), TestViews):
        _refuse_undeclared(videos, failures)
    save_file(_joined([shard.features for shard in shards]), work.out / "features.safetensors")
    table = pd.DataFrame({"video": names, "label": [entry.label for entry in videos.entries]})
    table["failure"] = table["video"].map(failures).astype("string")
    table.to_parquet(work.out / "videos.parquet")
    return {"videos": len(videos), "undecodable": len(failures)}


def _views(work: Work) -> TestViews | TrainViews:
    views = work.spec["views"]
    return TrainViews(**views) if "copies" in views else TestViews(**views)


class Shard(NamedTuple):
    """Features of some videos in a row, and the reasons for those that cannot be decoded, by index in the list."""

    features: dict[str, Tensor]  # as they are stored
    failures: dict[int, str]


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _shard(work: Work, videos: Videos, encoder: Encoder, start: int) -> Shard:
    """Videos from `start` on, from the file that an earlier attempt left, or encoded now and saved in it.

    They are SHARD videos, or fewer at the end and where an attempt was asked to stop: after a whole batch, so that all
    batches stay as they are.
    """
    path = work.checkpoint / f"shard-{start:08d}.pt"
    try:
        if found := checkpoint.load(path, lambda saved: Shard(*saved)):
            return found
    except checkpoint.DamagedCheckpoint as error:
        checkpoint.set_aside(work, path, str(error))
    features: list[dict[str, Tensor]] = []
    failures: dict[int, str] = {}
    for indices, pixels_NVT3HW, failed in _batches(work, videos, range(start, min(start + SHARD, len(videos)))):
        at_once = FRAMES_OF_CPU if work.compute.device == "cpu" else FRAMES
        features.append(_encode(encoder, pixels_NVT3HW, at_once))
        for own_NV in features[-1].values():
            own_NV[[indices.index(index) for index, _ in failed]] = 0
            shown = (f"features of {videos.entries[index].name}" for index in indices)
            hint = "the weights are finite, but overflow: train the tower again in recipe.precision fp32, or use others"
            require_finite(zip(shown, own_NV, strict=True), work.spec["backbone"], hint)
        failures |= dict(failed)
        done = int(indices[-1]) + 1
        work.progress(done, len(videos), "videos")
        if stopping := work.stopping():
            break
    shard = Shard(_joined(features), failures)
    checkpoint.save(path, tuple(shard))
    if stopping:
        raise Interrupted(f"saved {done} of {len(videos)} videos", done)
    return shard


def _batches(work: Work, videos: Videos, indices: Sequence[int]) -> Iterable[ViewBatch]:
    views = _views(work)
    if isinstance(views, TrainViews):
        return copies_loader(videos, views, work.decoding, BATCH, indices)
    return test_loader(videos, views, work.decoding, BATCH, indices)


def _encode(encoder: Encoder, pixels_NVT3HW: Tensor, frames: int) -> dict[str, Tensor]:
    """Features [N, V, ...] on the CPU, as they are stored, of about `frames` at once.

    Views stay whole: frames of one may meet in the tower.
    """
    views_MT3HW = pixels_NVT3HW.flatten(0, 1)
    at_once = max(1, frames // views_MT3HW.shape[1])
    with torch.no_grad():
        parts = [stored(encoder(part_mT3HW)) for part_mT3HW in views_MT3HW.split(at_once)]
    shape = pixels_NVT3HW.shape[:2]
    return {name: tensor_M.float().cpu().unflatten(0, shape) for name, tensor_M in _joined(parts).items()}


def _encoder(work: Work) -> Encoder:
    """Plain CLIP, or the tower of a trained model interpolated with CLIP by alpha."""
    device = work.compute.device
    clip = load_clip(work.spec["backbone"], work.context["pretrained"])
    mean, std = statistics(_views(work), clip.spec.mean, clip.spec.std)
    encode = clip.to(device).encode_clips
    if "method" in work.spec:
        model = trained_model(work, work.spec["alpha"]).to(device)
        clip, encode = model.clip, model.encode
    if work.spec.get("compile"):
        clip.compile_blocks()

    def encoder(views_MT3HW: Tensor) -> Encoded:
        with autocast(device, work.spec.get("precision", "fp32")):
            return encode(normalise(views_MT3HW.to(device), mean, std))

    return encoder


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
