"""Trainings in miniature for tests: a tiny CLIP, twelve videos of three classes, two frames each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from bench.core.identity import digest
from bench.stages.work import Compute, Work
from bench.suite.recipe import Execution
from tests.videos import CLASSES, write_tiny_dataset

VIDEOS, FRAMES, WIDTH = 12, 2, 128
PROMPTS = [[f"a {name}", name] for name in CLASSES]
LDA = {"layers": 1, "classifier": "lda"}  # of text4vis
MOTE = {"layers": 1, "num_experts": 3, "routing_scope": "step"}
# Nothing is merged, so that experts which are not drawn have no gradient.
ROUTED = {**MOTE, "wmr_weight": 0.0, "mse_weight": 0.0}


def quiet(*_told: object) -> None:
    """For progress and notes; of this module, so that it can be sent to another process."""


def prepare(folder: Path) -> None:
    """The inputs of all trainings below: videos, features of a frozen tower, and class texts."""
    write_tiny_dataset(folder, VIDEOS, 6)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in (
        ("features", torch.randn(VIDEOS, 1, FRAMES, WIDTH, generator=generator)),
        ("classes", F.normalize(torch.randn(len(CLASSES), WIDTH, generator=generator), dim=-1)),
    ):
        (folder / name).mkdir()
        save_file({name: tensor}, folder / name / f"{name}.safetensors")
    record = {"context": {"sentences": PROMPTS}, "spec": {"prompts": digest(PROMPTS)}}
    (folder / "classes/record.json").write_text(json.dumps(record))  # for methods with a text tower of their own
    labels = [n % len(CLASSES) for n in range(VIDEOS)]
    table = pd.DataFrame({"video": [f"{n}.mp4" for n in range(VIDEOS)], "label": labels, "failure": [None] * VIDEOS})
    table.to_parquet(folder / "features/videos.parquet")


def training(
    folder: Path, name: str, config: dict[str, Any] = MOTE, method: str = "mote", tuned: bool = False, **recipe: Any
) -> Work:
    """The work of a training in batches of five, so that the last of an epoch has two videos."""
    (folder / name).mkdir()
    settings = {"views": {"frames": FRAMES, "resize": 73, "size": 64, "copies": int(not tuned)}, "lr": 1e-3}
    # AdamW blows a gradient that is 0 but for rounding (keys' biases have one) up to a full step unless eps is larger.
    settings |= {"batch": 5, "epochs": 2, "warmup_epochs": 0, "tower_lr_ratio": 1.0, "eps": 1e-4}
    splits = {"train": "train.txt", "test": "test.txt"}
    settings |= recipe
    execution = {name: settings.pop(name) for name in Execution.model_fields if name in settings}
    measured = {"validation": "validation", "inference": {}} if settings.pop("validation", "") else {}
    declared = {"name": "tiny", "folder": str(folder), "root": ".", "classes": "classes.csv", "splits": splits}
    return Work(
        spec={
            **{"backbone": "glyph-vit", "content": "content", "length": None, "seed": 0, **measured},
            **{"method": method, "config": {**config, "tower": "tuned" if tuned else "frozen"}},
            "recipe": settings,
        },
        context={
            "pretrained": "random:0",
            "declared": {"tiny": declared},
            "selection": ["tiny", "train"],
            "validation": ["tiny", "test"],
            "execution": execution,
        },
        inputs={"source_texts": folder / "classes", "source_features": folder / "features"}
        | ({} if tuned else {"features": folder / "features"}),
        out=folder / name,
        checkpoint=folder / f"{name}-checkpoint",
        compute=Compute("cpu", loader_workers=0, checkpoint_seconds=0.0),
        progress=quiet,
        note=quiet,
    )


def again(work: Work) -> Work:
    """The same training, with nothing of it done."""
    out, checkpoint = (path.with_name(f"{path.name}-again") for path in (work.out, work.checkpoint))
    out.mkdir()
    return replace(work, out=out, checkpoint=checkpoint)


def weights(work: Work) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(work.out / "weights.safetensors")
    return found


def files(work: Work) -> dict[str, bytes]:
    """Every file that a training left, by name."""
    return {path.name: path.read_bytes() for path in work.out.iterdir()}


def close(one: Work, other: Work, atol: float) -> None:
    """Asserts that two trainings have the same weights within `atol`."""
    torch.testing.assert_close(weights(one), weights(other), atol=atol, rtol=0)
