"""Replay of AIM's golden files: one state for the network of Kinetics-400 and for that of SSv2, with both heads.

Draws of the official modules are inputs. Legend: B videos, T frames, P tokens, W tower width, D joint width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.checkpoints.heads import AIM, HEADS
from bench.models.backbones import backbone
from bench.models.clip import Clip
from bench.models.state_dicts import layers_in, official_names, renamed
from bench.stages.training.mixing import smoothed
from methods import linear_head
from methods.aim.config import Config
from methods.aim.model import Model
from methods.settings import Inference
from tests.golden.official_mote import HEAD_CHANNELS, bare_clip
from tests.golden.replay import Deviations, Tensors, _compare, _under, norm

RULES = AIM.states["state_dict"]
NETWORKS: dict[str, dict[str, Any]] = {
    "k400": {"temporal_adapters": 1, "scale": 0.5},
    "ssv2": {"temporal_adapters": 2, "scale": 1.0},
}


def replay_aim(path: Path) -> Deviations:
    case = load_file(path)
    computed: Tensors = {}
    for network in {name.split(".")[1] for name in case if name.startswith("out.")}:
        replay = _Replay(case, network)
        found = {**replay.tested(), **replay.trained(), **{f"text.{name}": own for name, own in replay.texts().items()}}
        computed |= {f"{network}.{name}": own for name, own in found.items()}
    return _compare(computed, case, norm)


class _Drawn(Model):
    """The model with the draws of a file, block by block."""

    draws: list[Tensor]

    def draw_kept(self, rate: float, places: int, sizes: torch.Size) -> Tensor:
        kept_P: Tensor = self.draws.pop(0) / (1 - rate)
        assert len(kept_P) == places
        return kept_P[None, :, None]


class _Replay:
    def __init__(self, case: Tensors, network: str) -> None:
        self.inputs, self.own = _under(case, "in."), _under(case, f"in.{network}.")
        self.network, self.pixels, self.labels_B = network, self.inputs["pixels"], self.inputs["labels"]
        state = _under(case, "state.")
        self.names = {name: renamed(name, RULES) for name in state}
        self.tower, head = official_names({self.names[name]: own.float() for name, own in state.items()})
        self.targets = self.labels_B
        if f"out.{network}.targets" in case:
            self.targets = smoothed(self.labels_B, len(self.inputs["classes"]), float(self.inputs["smoothing"]))
        two = NETWORKS[network]["temporal_adapters"] == 2
        self.head = {name: own for name, own in head.items() if two or ".T_Adapter_in." not in name}

    def model(self, **choices: Any) -> _Drawn:
        """The network as a checkpoint's tensors tell it, with the choices that they do not."""
        blocks = layers_in(self.tower, r"visual\.transformer\.resblocks\.(\d+)\.")
        rates = {int(n.split(".")[1]): float(own) for n, own in self.own.items() if n.endswith(".rate")}
        last = max(rates, default=0)
        drop_path = rates[last] * (blocks - 1) / last if rates else 0.0
        given = {**HEADS["aim"].choices(self.head), **NETWORKS[self.network], "drop_path": drop_path, **choices}
        model = _Drawn(Config.model_validate(given), self._clip())
        head = dict(self.head)
        if model.config.head == "linear":
            model.bind_classes(len(head["fc.weight"]))
        else:
            head = {name: own for name, own in head.items() if not name.startswith("fc.")}
        model.head.load_state_dict(head)
        return model.eval()

    def _clip(self) -> Clip:
        (width, patch), proj_WD = self.tower["visual.conv1.weight"].shape[::3], self.inputs["proj"]
        spec = replace(
            backbone("ViT-B-16-quickgelu"),
            image_size=isqrt(len(self.tower["visual.positional_embedding"]) - 1) * patch,
            patch_size=patch,
            vision_width=width,
            vision_layers=layers_in(self.tower, r"visual\.transformer\.resblocks\.(\d+)\."),
            vision_heads=max(1, width // HEAD_CHANNELS),
            embed_dim=proj_WD.shape[1],
            text_width=HEAD_CHANNELS,
            text_layers=1,
            text_heads=1,
        )
        clip = bare_clip(spec)
        clip.load_state_dict({**self.tower, "visual.proj": proj_WD}, strict=False)
        with torch.no_grad():
            clip.logit_scale.copy_(self.inputs["logit_scale"])
        return clip

    def tested(self) -> Tensors:
        """Tokens behind each block, frame features and logits of the official head in evaluation mode."""
        model, found = self.model(), Tensors()
        for place, block in enumerate(model.head.blocks):
            block.register_forward_hook(
                lambda module, given, made, place=place: found.update(
                    {f"block.{place}": made.unflatten(0, self.pixels.shape[:2])}
                )
            )
        with torch.no_grad():
            found["frames"] = model.encode(self.pixels)
            predictor = model.deploy(Inference(), self.inputs["classes"])
            found["logits.eval"] = predictor(found["frames"], self.inputs["classes"]).cosines_BC
        return found

    def trained(self) -> Tensors:
        """A training step of the official head, with the file's draws."""
        model, keep_BW, made = self.model().train(), self.own["dropout_keep"], list[Tensor]()
        rates = {name.split(".")[1]: float(own) for name, own in self.own.items() if name.endswith(".rate")}
        places = sorted((place for place, rate in rates.items() if rate), key=int)
        model.draws = [self.own[f"droppath.{place}.{term}"] for place in places for term in ("temporal", "mlp")]
        assert model.head.fc is not None
        model.head.fc.register_forward_hook(lambda module, given, logits: made.append(logits))
        factors: Callable[..., Tensor] = lambda shape, share, *others: keep_BW / (1 - share)  # noqa: E731
        with patch.object(linear_head, "dropout_factors", factors):
            found = self._step(model, self.targets)
        assert not model.draws
        return {**found, "logits.train": made[0], "targets": self.targets}

    def texts(self) -> Tensors:
        """The head of class texts in evaluation mode, with plain labels."""
        model, classes_CD = self.model(head="text"), self.inputs["classes"]
        with torch.no_grad():
            frames_BTD = model.encode(self.pixels)
            predictor = model.deploy(Inference(), classes_CD)
            logits_BC = predictor.logit_scale * predictor(frames_BTD, classes_CD).cosines_BC
        return {"frames": frames_BTD, "logits": logits_BC, **self._step(model, self.labels_B)}

    def _step(self, model: Model, targets: Tensor) -> Tensors:
        """Loss and gradients under official names."""
        generator = torch.Generator()
        with model.draws_from(generator):
            loss = model.loss(model.encode(self.pixels), targets, self.inputs["classes"], generator)["total"]
        loss.backward()
        official = {own: name for name, own in self.names.items()}
        reached = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return {"loss": loss, **{f"grad.{official[name]}": grad for name, grad in reached.items()}}
