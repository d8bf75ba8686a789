"""Replay of MSTA's golden files on ViCLIP: the method's model on a video tower of the file's shapes, case by case.

No official code of MSTA exists; the reference has ViCLIP's official blocks. A text stands for its row of token ids.
Legend: B clips, D joint width, C classes, N sequences, P tokens, W tower width.
"""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from bench.models.clip import Clip
from bench.models.state_dicts import layers_in
from methods.msta.config import NUMBERS, Config
from methods.msta.model import Model, TowerBlock
from tests.golden.official_viclip import official_viclip
from tests.golden.replay import Deviations, Tensors, _compare, _under

SCALE = 100.0  # of the file's logits; the temperature in its state is not used


def replay_msta_viclip(path: Path) -> Deviations:
    case = load_file(path)
    inputs = _under(case, "in.")
    clip = official_viclip(_under(case, "state."), inputs, case["out.lambda0.video"], case["out.lambda0.text"])
    tags = [name.removesuffix(".scale") for name in inputs if name.endswith(".scale")]
    found = [_without_adapters(clip, case, inputs), *(_outputs(clip, case, inputs, tag) for tag in tags)]
    return _compare({name: tensor for outputs in found for name, tensor in outputs.items()}, case)


class _Recorded(Model):
    """The model, with what leaves each block and each adapter."""

    recorded: Tensors

    def _blocks(self, tower: str, frames: int = 0) -> list[TowerBlock]:
        return [self._recording(f"block.{tower}{place}", b) for place, b in enumerate(super()._blocks(tower, frames))]

    def _recording(self, name: str, block: TowerBlock) -> TowerBlock:
        def run(hidden_NPW: Tensor, **inputs: Any) -> Tensor:
            self.recorded[name] = block(hidden_NPW, **inputs)
            return self.recorded[name]

        return run

    def watch_adapters(self) -> None:
        for pair, places in zip(self.adapters, self.config.pairs(self.clip.spec), strict=True):
            for tower, place in zip(("text", "video"), places, strict=True):
                name = f"adapter.{tower}{place}"
                getattr(pair, tower).register_forward_hook(
                    lambda _module, _inputs, output, name=name: self.recorded.update({name: output})
                )


def _model(clip: Clip, inputs: Tensors, state: Tensors, choices: dict[str, Any]) -> _Recorded:
    """The model with the towers of the file, and the adapters of a state beside the last blocks."""
    clip = deepcopy(clip)
    with torch.no_grad():
        clip.logit_scale.fill_(math.log(SCALE))
    common = {"bottleneck": len(state["adapters.0.shared.weight"]), "temporal_cls": False, **choices}
    pairs = layers_in(state, r"adapters\.(\d+)\.")
    reaching = (Config.model_validate({**common, "first_block": first}) for first in range(1, NUMBERS + 1))
    model = _Recorded(next(config for config in reaching if len(config.pairs(clip.spec)) == pairs), clip).eval()
    model.config.fits(clip.spec, inputs["pixels"].shape[1])
    model.adapters.load_state_dict(_under(state, "adapters."))
    model.descriptions = {kind: inputs[kind] for kind in ("spatial", "temporal")}
    model.recorded = {}
    model.watch_adapters()
    return model


@torch.no_grad()
def _without_adapters(clip: Clip, case: Tensors, inputs: Tensors) -> Tensors:
    model = _model(clip, inputs, _under(case, "state_grouped."), {"scale": 0})
    video_B1D, text_CD = model.encode(inputs["pixels"]), model._encode_tokens(inputs["tokens"])
    return {"lambda0.video": video_B1D[:, 0], "lambda0.text": text_CD}


def _outputs(clip: Clip, case: Tensors, inputs: Tensors, tag: str) -> Tensors:
    layout = "depthwise" if "depthwise" in tag else "grouped"
    choices = {
        "temporal_layout": layout,
        "adapter_input": "raw" if "raw" in tag else "ln1",
        "scale": float(inputs[f"{tag}.scale"]),
    }
    found: Tensors = {}
    for gradients, unscaled in (("grad_plain", False), ("grad", True)):
        model = _model(clip, inputs, _under(case, f"state_{layout}."), {**choices, "unscaled_gradients": unscaled})
        video_B1D, text_CD = model.encode(inputs["pixels"]), model._encode_tokens(inputs["tokens"])
        classes_CD = F.normalize(text_CD, dim=-1)
        terms = model.loss(video_B1D, inputs["labels"], classes_CD, torch.Generator())
        terms["total"].backward()
        found |= {f"{gradients}.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
        found |= {"video": video_B1D[:, 0], "text": text_CD, "logits": model.logits(video_B1D[:, 0], classes_CD)}
        found |= {**terms, **model.recorded}
    return {f"{tag}.{name}": tensor for name, tensor in found.items()}
