"""Frame features that were extracted elsewhere: how a dataset declares them. `bench.data.feature_files` reads them.

Legend: V views, T frames, D joint CLIP width.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from bench.core.errors import closest
from bench.core.identity import setting
from bench.models.backbones import backbone, supported_names
from bench.video.views import TestViews, TrainViews

SUFFIXES = (".safetensors", ".npz", ".parquet")
SHORT_SIDE = 256 / 224  # of training views, over their size, as in recipes


def _sort(views: object) -> str:
    return "train" if isinstance(views, TrainViews) or (isinstance(views, Mapping) and "copies" in views) else "test"


Views = Annotated[Annotated[TestViews, Tag("test")] | Annotated[TrainViews, Tag("train")], Discriminator(_sort)]


class SplitFeatures(BaseModel):
    """Files with the features of a split, and the views that they are claimed to show."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: tuple[str, ...] = Field(min_length=1, description="files below the root: .safetensors, .npz or .parquet")
    views: Views = Field(
        description="views that the features show: keys of a protocol's `views`, or with `copies` of a recipe's; "
        "without a size they have the backbone's"
    )

    @field_validator("files", mode="before")
    @classmethod
    def _several(cls, files: Any) -> Any:
        return (files,) if isinstance(files, str) else files

    @field_validator("files")
    @classmethod
    def _are_readable(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        for file in files:
            if Path(file).suffix not in SUFFIXES:
                raise ValueError(f"'{file}' is no file of features; allowed: {', '.join(SUFFIXES)}")
        return files

    @field_validator("views")
    @classmethod
    def _are_fixed(cls, views: TestViews | TrainViews) -> TestViews | TrainViews:
        if not views.count:
            raise ValueError("copies is the number of stored views of each video; allowed: 1 or more")
        return views


class Features(BaseModel):
    """Where frame features come from that take the place of videos. It is believed, as far as shapes do not tell."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str = Field(description="CLIP model whose visual tower made them")
    pretrained: str = Field(description="its weights, as in `recipe.pretrained`")
    normalised: bool = setting(False, "each has length 1; methods need the lengths, so such features are refused")
    splits: Annotated[dict[str, SplitFeatures], MinLen(1)] = Field(description="split name -> its files and views")

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, data: Any) -> Any:
        """Views without a size have the backbone's, and a short side as in protocols and recipes."""
        name, splits = (data.get("backbone"), data.get("splits")) if isinstance(data, Mapping) else (None, None)
        if name not in supported_names() or not isinstance(splits, Mapping):
            return data  # validation says what is wrong
        size, sized = backbone(name).image_size, dict(splits)
        for split, own in splits.items():
            if isinstance(own, Mapping) and isinstance(views := own.get("views"), Mapping):
                resize = round(size * (SHORT_SIDE if _sort(views) == "train" else 1))
                sized[split] = {**own, "views": {"size": size, "resize": resize, **views}}
        return {**data, "splits": sized}

    @field_validator("backbone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in (names := supported_names()):
            close = closest(name, names)
            meant = f"did you mean '{close}'?" if close else f"allowed: {', '.join(names)}"
            raise ValueError(f"unknown backbone '{name}'; {meant}")
        return name

    def shape(self, split: str) -> tuple[int, int, int]:
        """V, T and D of each video of a split, as declared."""
        views, shape = self.splits[split].views, backbone(self.backbone)
        return views.count, shape.features(views.frames), shape.embed_dim

    def claim(self, split: str) -> str:
        """What the features of a split are said to be, in a sentence."""
        own, views = self.splits[split], self.splits[split].views
        count = f"{views.clips} x {views.crops} views" if isinstance(views, TestViews) else f"copies: {views.copies},"
        short = "x".join(map(str, views.resize)) if isinstance(views.resize, tuple) else views.resize
        pixels = f"{views.frames} frames ({views.sampler}), {count} of {views.size} pixels (short side {short})"
        made = f"{self.backbone} ({self.pretrained}), {pixels}{', normalised' * self.normalised}"
        return f"features from {', '.join(own.files)}, claimed to be those of {made}"


def implied_lists(features: object, root: str) -> dict[str, Any]:
    """Lists of the splits that features are declared for: the names and labels in their own files."""
    splits = features.get("splits") if isinstance(features, Mapping) else None
    found: dict[str, Any] = {}
    for split, own in splits.items() if isinstance(splits, Mapping) else ():
        files = own.get("files") if isinstance(own, Mapping) else None
        named = [files] if isinstance(files, str) else files if isinstance(files, list | tuple) else []
        found[split] = {"list": [os.path.join(root, str(file)) for file in named], "format": "features"}
    return found
