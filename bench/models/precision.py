"""The precision of matrix products, by autocast."""

from __future__ import annotations

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: str, precision: str) -> torch.autocast:
    """Inside, matrix products on the device have this precision."""
    return torch.autocast(device.partition(":")[0], PRECISIONS[precision], enabled=precision != "fp32")


def scaler(device: str, precision: str) -> torch.amp.GradScaler:
    """Of losses, whose gradients fp16 would else round to 0."""
    return torch.amp.GradScaler(device.partition(":")[0], enabled=precision == "fp16")
