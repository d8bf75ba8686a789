"""Encode, where a dataset is features from elsewhere: they are checked and taken over in the place of the tower's.

Legend: N videos, V views, T frames, D joint CLIP width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from bench.core.errors import Interrupted, StageError
from bench.data.feature_files import are_normalised
from bench.data.selection import Selection
from bench.data.videos import Videos, opened
from bench.models.backbones import backbone

if TYPE_CHECKING:
    from bench.stages.work import Work


def run(work: Work) -> dict[str, Any]:
    """Writes the files of `bench.stages.encode`: `features.safetensors` (`features` [N, V, T, D]), `videos.parquet`.

    Raises StageError, naming file and entry, for features that cannot be used and are not declared in `known_bad`;
    those that are become zeros.
    """
    videos = opened(work.context)
    features_NVTD, failures = stored(work, videos)
    if undeclared := [reason for name, reason in failures.items() if name not in videos.dataset.known_bad]:
        told = "\n".join(f"  {reason}" for reason in undeclared[:20])
        what = f"features of {len(undeclared)} videos of '{videos.dataset.name}' cannot be used and are not declared:"
        raise StageError(f"{what}\n{told}\n  mend the file, or list the videos under known_bad: they count as wrong")
    if are_normalised(features_NVTD):
        what = f"all features of '{videos.dataset.name}' have length 1, and methods need those before normalisation"
        raise StageError(f"{what}\n  {_claim(work, videos)}")
    save_file({"features": features_NVTD}, work.out / "features.safetensors")
    names, labels = [own.name for own in videos.entries], [own.label for own in videos.entries]
    table = pd.DataFrame({"video": names, "label": labels})
    table["failure"] = table["video"].map(failures).astype("string")
    table.to_parquet(work.out / "videos.parquet")
    return {"videos": len(videos), "undecodable": len(failures), "origin": _claim(work, videos)}


def stored(work: Work, videos: Videos) -> tuple[np.ndarray, dict[str, str]]:
    """Features [N, V, T, D] in fp32 of the views and frames that the stage asks for; why some are zeros, by video.

    Of more copies the first are taken, of more frames those at equal distances from the first on.
    """
    claimed, split, views = videos.dataset.features, Selection(*work.context["selection"]).split, work.spec["views"]
    assert claimed is not None
    held, (_, frames, width) = videos.dataset.stored(split), claimed.shape(split)
    count = views["copies"] if "copies" in views else views["clips"] * views["crops"]
    shown = backbone(claimed.backbone).features(views["frames"])
    features_NVTD, failures = np.zeros((len(videos), count, shown, width), np.float32), dict[str, str]()
    for number, entry in enumerate(videos.entries):
        place = held.place(entry.name, entry.path)
        try:
            if place is None:
                raise ValueError(f"{', '.join(own.name for own in held.contents)}: '{entry.name}' is not there")
            features_NVTD[number] = held.read(place)[:count, :: frames // shown]
        except ValueError as error:
            failures[entry.name] = str(error)
        work.progress(number + 1, len(videos), "videos")
        if work.stopping():
            raise Interrupted(f"read {number + 1} of {len(videos)} videos, which begins anew", 0)
    return features_NVTD, failures


def _claim(work: Work, videos: Videos) -> str:
    return "; ".join(videos.dataset.claims(Selection(*work.context["selection"]).split))
