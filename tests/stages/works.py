"""Stages in tests: a tiny CLIP of random weights, a tiny dataset, and a method that stands in for all with experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from bench.core.seeds import seed_for
from bench.data.datasets import Dataset, declared_fields
from bench.models.clip import load_clip
from bench.video.pool import Decoding
from methods.contract import Model, Prediction, Predictor, cosines
from methods.settings import Config
from tests.videos import CLASSES, write_tiny_dataset

EXPERTS = 3


class Shifted(Predictor):
    """Frame features plus what an expert adds; `t` is their mean over frames."""

    def __init__(self, shift_D: Tensor, shared: bool = False) -> None:
        super().__init__()
        self.shift_D, self.shared = shift_D, shared

    def shares(self, frames_BTD: Tensor, classes_CD: Tensor) -> Tensor | None:
        """By the first channels of a video, if it is to tell them."""
        return frames_BTD.mean(dim=1)[:, :EXPERTS].softmax(dim=1) if self.shared else None

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        temporal_BTD = frames_BTD + self.shift_D
        video_BD = temporal_BTD.mean(dim=1)
        features = {"t": video_BD} | ({"t_frames": temporal_BTD} if self.per_frame else {})
        return Prediction(cosines(video_BD, classes_CD), video_BD.norm(dim=-1), features)


class Experts(Model):
    """A plain tower and experts of two layers, each one vector per layer."""

    def __init__(self, shared: bool = False) -> None:
        super().__init__(Config(), load_clip("glyph-vit", "random:0"))
        self.shared = shared
        generator = torch.Generator().manual_seed(seed_for("experts"))
        self.vectors_ELD = torch.randn(EXPERTS, 2, self.width, generator=generator)

    def expert_parameters(self) -> Sequence[Mapping[str, Tensor]]:
        return [{f"layer {n}.vector": own_D for n, own_D in enumerate(own_LD)} for own_LD in self.vectors_ELD]

    def predictor(self, inference: dict[str, Any]) -> Predictor:
        """The expert that the inference choices name, or the mean of all."""
        own = self.vectors_ELD.sum(dim=1)
        return Shifted(own.mean(dim=0) if inference["expert"] is None else own[inference["expert"]], self.shared)


def work(folder: Path, spec: dict[str, Any], **features: Tensor) -> Any:
    """A stage in `folder`, with class texts and, under "features", the tensors given."""
    texts = {"classes": F.normalize(torch.randn(len(CLASSES), 128, generator=torch.Generator().manual_seed(1)), dim=-1)}
    for name, tensors in {"texts": texts, "features": features}.items():
        (folder / name).mkdir()
        save_file(tensors, folder / name / f"{'classes' if name == 'texts' else name}.safetensors")
    (folder / "out").mkdir()
    return SimpleNamespace(
        spec={"method": "stand-in", "backbone": "glyph-vit", **spec},
        context={"pretrained": "random:0"},
        inputs={"texts": folder / "texts", "features": folder / "features"},
        out=folder / "out",
        compute=SimpleNamespace(device="cpu"),
        decoding=Decoding(workers=0),
        progress=lambda *told: None,
    )


def tiny_selection(folder: Path, test: int = 6) -> dict[str, Any]:
    """What a context says of the test list of a tiny dataset, which is written into `folder`."""
    write_tiny_dataset(folder, train=0, test=test)
    data = Dataset.model_validate(
        declared_fields("tiny", str(folder), {"root": ".", "classes": "classes.csv", "splits": {"test": "test.txt"}})
    )
    return {"declared": {"tiny": data.model_dump(mode="json")}, "selection": ["tiny", "test"], "dataset": "tiny"}


def choices() -> list[list[Any]]:
    return [["merged", {"expert": None, "clip_alpha": 1.0}], *([f"expert {i}", {"expert": i}] for i in range(EXPERTS))]
