"""Screenshots of a page in headless Chromium: `python -m tools.screenshots runs/reports/quickstart/report.html`.

Writes `docs/images/page_WIDTH_SCHEME.png` of the whole page as it opens, in 64 colours, at the widths of a telephone, a
tablet and two screens. The page stands in a frame, because a window of Chromium is at least 500 pixels wide.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
WIDTHS = (390, 768, 1280, 1920)
SCHEMES = {"dark": 0, "light": 1}  # how Chromium numbers them
TALLEST = 7000
COLOURS = 64
FLAGS = ("headless", "no-sandbox", "disable-gpu", "hide-scrollbars", "allow-file-access-from-files")
FRAME = '<body style="margin:0"><iframe src="{}" width="{}" height="{}" style="border:0;display:block"></iframe>'


def screenshot(page: Path, width: int, scheme: str) -> Image.Image:
    """The page from its top to its end, at most `TALLEST` pixels."""
    with tempfile.TemporaryDirectory() as name:
        shot, frame = Path(name, "shot.png"), Path(name, "frame.html")
        frame.write_text(FRAME.format(page.resolve().as_uri(), width, TALLEST), encoding="utf-8")
        options = [f"screenshot={shot}", f"window-size={max(width, 500)},{TALLEST}", f"user-data-dir={name}/profile"]
        flags = [*FLAGS, *options, f"blink-settings=preferredColorScheme={SCHEMES[scheme]}"]
        command = ["chromium", *(f"--{flag}" for flag in flags), frame.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with Image.open(shot) as whole:
            pixels_HW3 = np.asarray(whole.convert("RGB"))[:, :width]
    inked_H = (pixels_HW3 != pixels_HW3[-1, 0]).any(axis=(1, 2))
    return Image.fromarray(pixels_HW3[: int(np.flatnonzero(inked_H)[-1]) + 17])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images")
    parser.add_argument("--name", default="page", help="with which the files' names begin")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    given = parser.parse_args(arguments)
    for width in given.widths:
        for scheme in SCHEMES:
            shot, file = screenshot(given.page, width, scheme), given.out / f"{given.name}_{width}_{scheme}.png"
            shot.quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(file, optimize=True)
            print(f"{file}: {shot.width} × {shot.height} pixels, {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
