"""Sizes of two differences from the official programs, as docs/traps.md states them: `python -m tools.traps`.

Frames are noise, which is the hardest case for a resize; features are random unit vectors of ViT-B/16's width.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from bench.video.transforms import resized


def resize() -> str:
    """Bicubic resizes of torchvision (here) and PIL (official readers), in steps of 8-bit values."""
    frames_THWC = np.random.default_rng(0).integers(0, 256, (16, 240, 320, 3), dtype=np.uint8)
    own_THWC = resized(frames_THWC, 224).permute(0, 2, 3, 1).numpy().astype(int)
    size = own_THWC.shape[2], own_THWC.shape[1]
    pil = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames_THWC]
    steps = np.abs(own_THWC - np.stack(pil))
    return f"resize: at most {steps.max()} of 255, {100 * (steps > 0).mean():.1f} % of the values differ"


def logits() -> str:
    """Logits of 10,000 videos and 400 classes from features in half precision (official) and in fp32 (here)."""
    drawn = torch.Generator().manual_seed(0)
    videos_ND, classes_CD = (F.normalize(torch.randn(count, 512, generator=drawn), dim=-1) for count in (10_000, 400))
    exact_NC, half_NC = 100 * videos_ND @ classes_CD.T, (100 * videos_ND.half() @ classes_CD.half().T).float()
    changed = (exact_NC.argmax(1) != half_NC.argmax(1)).float().mean()
    return f"logits: at most {(exact_NC - half_NC).abs().max():.3f} apart, {100 * changed:.2f} % of the answers differ"


if __name__ == "__main__":
    print(resize(), logits(), sep="\n")
