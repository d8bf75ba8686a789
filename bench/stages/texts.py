"""Class texts: features of a vocabulary under a template set, by a frozen text tower.

Legend: C classes, P prompts of a class, D joint CLIP width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from bench.core.errors import StageError
from bench.core.identity import digest
from bench.models.class_features import class_features, content
from bench.models.clip import load_clip
from bench.models.prompts import texts_of
from bench.models.state_dicts import require_finite

if TYPE_CHECKING:
    from bench.stages.work import Work


def run(work: Work) -> dict[str, Any]:
    """Writes `classes.safetensors` with `classes`, fp32: unit [C, D], or of every prompt [C, P, D], not normalised."""
    if source := work.context.get("class_features"):
        return _listed(work, source)
    clip = load_clip(work.spec["backbone"], work.context["pretrained"]).to(work.compute.device)
    texts = texts_of(work.context)
    if digest(texts) != work.spec["prompts"]:
        raise StageError("the prompts have changed since they were planned with; launch again")
    with torch.no_grad():
        if work.spec.get("form") == "prompts":
            classes_CD = clip.encode_prompts(texts).unflatten(0, (len(texts), -1))
        else:
            classes_CD = clip.embed_classes(texts)
    named = ((f"text features of '{own[0]}'", class_D) for own, class_D in zip(texts, classes_CD, strict=True))
    require_finite(named, work.spec["backbone"])
    save_file({"classes": classes_CD.float().cpu().contiguous()}, work.out / "classes.safetensors")
    return {"classes": len(texts), "prompts_per_class": len(texts[0])}


def _listed(work: Work, source: str) -> dict[str, Any]:
    """Features from a file."""
    names = work.context["class_names"]
    classes_CD = class_features(source, names, work.context["width"])
    if content(classes_CD) != work.spec["classes"]:
        raise StageError(f"{source} has changed since it was planned with")
    save_file({"classes": torch.from_numpy(classes_CD)}, work.out / "classes.safetensors")
    return {"classes": len(names), "prompts_per_class": 0}
