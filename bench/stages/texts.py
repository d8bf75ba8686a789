"""Class texts: unit features [C, D] of a vocabulary under a template set, by a frozen text tower."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from bench.clip import load_clip
from bench.prompts import prompts

if TYPE_CHECKING:
    from bench.work import Work


def run(work: Work) -> dict[str, Any]:
    """Writes `classes.safetensors` with `classes` [C, D], fp32."""
    clip = load_clip(work.spec["backbone"], work.context["pretrained"]).to(work.compute.device)
    texts = prompts(work.context["templates"], work.context["class_names"])
    with torch.no_grad():
        classes_CD = torch.cat([clip.embed_classes(texts[i : i + 32]) for i in range(0, len(texts), 32)])
    save_file({"classes": classes_CD.float().cpu().contiguous()}, work.out / "classes.safetensors")
    return {"classes": len(texts), "prompts_per_class": len(texts[0])}
