"""Figures of the patches in each frame that are like the temporal feature, merged and by expert (MoTE, Fig. 6)."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from reports import style
from reports.facts import MappedClip, Maps
from reports.results import Results
from reports.style import Picture, expert_picture

COLUMNS = 8  # frames that fit across a page
TILE = 0.8  # inches
WIDTH = 20  # characters of a class name in a line beside them


def map_figures(results: Results) -> Iterator[Picture]:
    """Per row, point and clip, a line for each choice and a column for each frame; the first seed."""
    first: dict[tuple[str, ...], tuple[Maps, MappedClip]] = {}
    for maps in sorted(results.maps, key=lambda maps: maps.subject.seed):
        for number, clip in enumerate(maps.clips, start=1):
            first.setdefault((*maps.setting, str(number)), (maps, clip))
    for key, (maps, clip) in first.items():
        caption = f"What the temporal feature of {maps.subject.name} is like in each frame, video {key[-1]}."
        yield expert_picture("maps", key, caption, _figure(maps, clip))


def scaled(cosines_TGG: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each frame's map from 0 (its least alike patch) to 1; zeros where all are alike."""
    low, high = (limit(cosines_TGG, axis=(1, 2), keepdims=True) for limit in (np.min, np.max))
    span = high - low
    return np.asarray(np.divide(cosines_TGG - low, span, out=np.zeros_like(cosines_TGG), where=span > 0))


def _figure(maps: Maps, clip: MappedClip) -> Figure:
    frames = len(clip.pixels)
    shown = np.linspace(0, frames - 1, min(COLUMNS, frames)).round().astype(int)
    rows = len(maps.names) + 1
    with style.look():
        figure = Figure(figsize=(TILE * len(shown) + 1.3, TILE * rows + 0.75), layout="constrained")
        grid = figure.subplots(rows, len(shown), squeeze=False)
        for axes, frame in zip(grid[0], shown, strict=True):
            _show(axes, clip.pixels[frame])
            axes.set_title(f"frame {frame}", fontsize=style.SMALL)
        _name(grid[0, 0], "frames")
        for line, name, predicted, cosines_TGG in zip(grid[1:], maps.names, clip.predicted, clip.cosines, strict=True):
            for axes, frame, map_GG in zip(line, shown, scaled(cosines_TGG)[shown], strict=True):
                image = _show(axes, clip.pixels[frame], map_GG)
            low, high = cosines_TGG[shown].min(), cosines_TGG[shown].max()
            _name(line[0], f"{name}\n{fill(predicted, WIDTH)}\n{low:.2f} to {high:.2f}")
        bar = figure.colorbar(image, ax=grid[1:], ticks=[0, 1], aspect=30, shrink=0.8, pad=0.01)
        bar.set_ticklabels(["least", "most"])
        bar.set_label("cosine, scaled in each frame")
        title = ", ".join([maps.subject.name, maps.protocol, f"seed {maps.subject.seed}"])
        figure.suptitle(f"{title}\n{clip.video}: {clip.shown}", fontsize=8, parse_math=False)
        some = f", {len(shown)} of {frames} frames" if frames > len(shown) else ""
        style.add_note(figure, f"Left: choice of experts, class it predicts, range of its cosines. 1 clip{some}.")
    return figure


def _show(axes: Axes, pixels_3SS: NDArray[np.uint8], map_GG: NDArray[np.float32] | None = None) -> AxesImage:
    """A frame, in grey below its map."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    side = pixels_3SS.shape[-1]
    if map_GG is None:
        return axes.imshow(pixels_3SS.transpose(1, 2, 0))
    axes.imshow(pixels_3SS.mean(axis=0), cmap="gray", vmin=0, vmax=255)
    return axes.imshow(
        map_GG, cmap="inferno", vmin=0, vmax=1, alpha=0.6, interpolation="bilinear", extent=(0, side, side, 0)
    )


def _name(axes: Axes, text: str) -> None:
    axes.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=style.SMALL, parse_math=False)
