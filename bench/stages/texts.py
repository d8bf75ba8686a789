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
    texts = texts_of(work.context)
    with torch.no_grad():
        classes_CD = torch.cat([clip.embed_classes(texts[i : i + 32]) for i in range(0, len(texts), 32)])
    save_file({"classes": classes_CD.float().cpu().contiguous()}, work.out / "classes.safetensors")
    return {"classes": len(texts), "prompts_per_class": len(texts[0])}


def texts_of(context: dict[str, Any]) -> list[list[str]]:
    """What is said of each class: sentences as they are written down, or its name in every template."""
    return context.get("sentences") or prompts(context["templates"], context["class_names"])
