"""A picture of the embedded world's clips: `python -m tools.glyph_sheet WORLD FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from bench.glyphs import world


def sample_sheet(name: str, file: Path) -> None:
    """A picture with six classes of every set, a row each: every second frame of one clip, as rendered."""
    columns = [_clip_rows(name, subset, rows=6) for subset in world.SUBSETS]
    sheet = np.concatenate([np.concatenate(columns[:2], axis=1), np.concatenate(columns[2:], axis=1)])
    Image.fromarray(sheet).quantize().save(file, optimize=True)  # noise hardly compresses in full colour


def _clip_rows(name: str, subset: str, rows: int) -> np.ndarray:
    """Clips of evenly spread classes, [rows * H, T/2 * W, 3], with a dark margin to the right and below."""
    split = world.SPLITS[subset][0]
    listed = world.entries(name, subset, split)
    step = len(world.class_names(name, subset)) // rows * world._clips(world._world(name), split, subset)
    strips = [np.concatenate(list(world.render_entry(name, listed[step * row][0])[::2]), axis=1) for row in range(rows)]
    return np.pad(np.concatenate(strips), ((0, 8), (0, 8), (0, 0)))


if __name__ == "__main__":
    sample_sheet(sys.argv[1], Path(sys.argv[2]))
