"""Replay of ActionCLIP's golden files: the method's model on a CLIP of the file's shapes, one head after the other.

Prompts stand for rows of token ids, by template and class. Templates that were drawn are an input.
Legend: B videos, T frames, D joint CLIP width, C classes, K templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.models.clip import Clip, part_of
from bench.models.state_dicts import is_tower, layers_in
from bench.stages.training.schedule import lr_factor
from bench.video.sampling import test_indices
from bench.video.views import TestViews
from methods.actionclip.config import PRESETS, Config, Inference
from methods.actionclip.model import Model
from methods.text4vis.model import SHARPNESS, divergence, matching
from methods.text4vis.temporal import TransfCls
from tests.golden.official_mote import HEAD_CHANNELS, _tower_shapes, bare_clip
from tests.golden.replay import Deviations, Tensors, _compare, _under, largest

HEADS = {"meanP": "none", "Transf": "transf", "LSTM": "lstm", "Conv_1D": "conv1d"}  # official name -> own
LAYER = r"transformer\.(?:resblocks|transformer_enc\.layers)\.(\d+)\."
TABLES = ("frame_position_embeddings.weight", "pos_embed")  # sized by the official model's text or clip


def replay_actionclip(path: Path) -> Deviations:
    case = load_file(path)
    replay = _Replay(case)
    with torch.no_grad():
        untrained = {**replay.features(), **replay.test(), **replay.data()}
    return {
        **_compare({**untrained, **replay.training(), **replay.fixed_text()}, case, largest),
        "head.Conv_1D.initial": replay.initial_taps(),
        "grad_fixed_text of texts": replay.leaked,
    }


class _Drawn(Model):
    """The model with the templates of the file."""

    drawn: Sequence[int]

    def draw(self, choices: Sequence[int], generator: torch.Generator) -> list[int]:
        return list(self.drawn)


class _Replay:
    def __init__(self, case: Tensors) -> None:
        self.inputs, self.outputs = _under(case, "in."), _under(case, "out.")
        self.state = _under(case, "state.")
        self.tokens_KCL = self.inputs["tokens_templates"]
        templates, classes, _ = self.tokens_KCL.shape
        self.prompts = [[f"{k},{c}" for k in range(templates)] for c in range(classes)]
        self.pixels, self.labels_B = self.inputs["pixels"], self.inputs["labels"]
        self.generator = torch.Generator()
        self.leaked = 0.0  # inf if a text tensor has a gradient under `fix_text`

    def model(self, head: str, **choices: object) -> _Drawn:
        """The model with a head by its official name, and its weights."""
        state = _under(self.state, f"head.{head}.")
        layers = {"layers": layers_in(state, LAYER)} if head == "Transf" else {}
        config = Config.model_validate({"head": HEADS[head], **layers, **choices})
        clip = _clip(self.state, self.inputs)
        clip.tokenizer = self._tokens
        model = _Drawn(config, clip).eval()
        model.head.load_state_dict(_with_whole_tables(state, model.head.state_dict()))
        model.drawn = self.inputs["template_ids"].tolist()
        return model

    def _tokens(self, texts: list[str]) -> Tensor:
        rows = [[int(number) for number in text.split(",")] for text in texts]
        return torch.stack([self.tokens_KCL[k, c] for k, c in rows])

    # --- outputs ------------------------------------------------------------------------------------------------------

    def features(self) -> Tensors:
        plain = self.model("meanP")
        frames_BTD = plain.encode(self.pixels)
        found = {
            "frames": frames_BTD,
            "texts": plain.embed_classes(self.prompts).transpose(0, 1),
            "tsm.frames": self.model("meanP", inside="tsm").encode(self.pixels),
            "cls": self._class_token(),
        }
        heads = {official: self._official(official) for official in HEADS}
        heads["Conv_1D.transposed"] = self.model("Conv_1D", conv_axes="transposed")
        return found | {f"head.{name}": model.head.features(frames_BTD)["z"] for name, model in heads.items()}

    def _official(self, head: str, **choices: object) -> _Drawn:
        return self.model(head, **({"conv_axes": "viewed"} if head == "Conv_1D" else {}), **choices)

    def _class_token(self) -> Tensor:
        state = _under(self.state, "cls.transformer.")
        frames_BTD = self.inputs["cls.frames"]
        head = TransfCls(frames_BTD.shape[-1], layers_in(state, r"transformer_enc\.layers\.(\d+)\.")).eval()
        head.load_state_dict(_with_whole_tables(state, head.state_dict()))
        return head.features(frames_BTD)["z"]

    def initial_taps(self) -> float:
        fresh = Model(Config(head="conv1d"), _clip(self.state, self.inputs)).head.state_dict()["shift.weight"]
        return float((fresh - self.inputs["head.Conv_1D.initial"]).abs().max())

    def training(self) -> Tensors:
        found: Tensors = {}
        for official in HEADS:
            model = self._official(official)
            frames_BTD = model.encode(self.pixels)
            texts_B1D = model.training_texts(self.prompts, self.labels_B, self.generator)
            if official == "Transf":
                found |= self._step(model, frames_BTD, texts_B1D)
            loss = model.loss(frames_BTD, self.labels_B, texts_B1D, self.generator)["total"]
            loss.backward()
            found["train.loss" if official == "Transf" else f"train.loss.{official}"] = loss
            found |= {f"grad.head.{official}.{n}": g for n, g in self._gradients(model.head, official).items()}
            if official == "Transf":
                found |= {f"grad.{n}": g for n, g in self._gradients(model.clip).items()}
        return found

    @torch.no_grad()
    def _step(self, model: Model, frames_BTD: Tensor, texts_B1D: Tensor) -> Tensors:
        video_BD = model.head.features(frames_BTD)["z"]
        similarity_BB = model.logits(video_BD, model.label_texts(self.labels_B, texts_B1D, self.generator))
        targets_BB = matching(self.labels_B)
        return {
            "train.video": video_BD,
            "train.texts": texts_B1D[:, 0],
            "train.logits_image": similarity_BB,
            "train.logits_text": similarity_BB.T,
            "train.target": targets_BB,
            # Targets grow by exp(SHARPNESS) where labels are the same.
            "train.same": (targets_BB / targets_BB.amin(dim=-1, keepdim=True)).log() / SHARPNESS,
            "train.loss_image": divergence(similarity_BB, targets_BB),
            "train.loss_text": divergence(similarity_BB.T, targets_BB),
        }

    def fixed_text(self) -> Tensors:
        model = self._official("Transf", tunes_text=False)
        classes_CKD = model.embed_classes(self.prompts)
        model.loss(model.encode(self.pixels), self.labels_B, classes_CKD, self.generator)["total"].backward()
        gradients = self._gradients(model.clip)
        if classes_CKD.requires_grad or any(part_of(name) in ("text", "tokens") for name in gradients):
            self.leaked = inf
        return {f"grad_fixed_text.{name}": gradient for name, gradient in gradients.items()}

    def _gradients(self, module: torch.nn.Module, head: str = "") -> Tensors:
        """Gradients by name; of tables, the rows that the file has."""
        found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        for name in found.keys() & {*TABLES}:
            found[name] = found[name][: len(self.state[f"head.{head}.{name}"])]
        return found

    def test(self) -> Tensors:
        model = self._official("Transf")
        frames_BTD, classes_CKD = model.encode(self.pixels), model.embed_classes(self.prompts)
        predictor = model.deploy(Inference(), classes_CKD)
        scale, templates = predictor.logit_scale, range(classes_CKD.shape[1])
        scores_BC = predictor(frames_BTD, classes_CKD).cosines_BC
        alone = [predictor(frames_BTD, classes_CKD[:, k : k + 1]).cosines_BC for k in templates]
        return {
            "test.per_template": (scale * torch.stack(alone, dim=1)).exp(),
            "test.probabilities": (scale * scores_BC).softmax(dim=-1),
        }

    def data(self) -> Tensors:
        """Frames of validation and rates, with the settings of the official preset."""
        widest = self.outputs["sampling.validation"].shape[1]
        rows = [
            test_indices(TestViews(frames=frames, sampler="segment_centre"), length)[0]
            for length, frames in self.inputs["sampling.length_frames"].tolist()
        ]
        padded = [np.pad(row, (0, widest - len(row)), constant_values=-1) for row in rows]
        recipe = PRESETS["official"]["recipe"]
        rates = recipe["lr"] * torch.tensor([recipe["tower_lr_ratio"], 1.0], dtype=torch.float64)
        schedules = {}
        for name in (name.removesuffix(".epochs_steps") for name in self.inputs if name.endswith(".epochs_steps")):
            epochs, _ = self.inputs[f"{name}.epochs_steps"].tolist()
            steps = len(self.outputs[f"{name}.rates"])
            length = steps // epochs
            places = (divmod(step, length) for step in range(steps))
            factors = [lr_factor(epoch, at, length, epochs, recipe["warmup_epochs"]) for epoch, at in places]
            schedules[f"{name}.rates"] = torch.tensor(factors, dtype=torch.float64)[:, None] * rates
        return {"sampling.validation": torch.from_numpy(np.stack(padded)), **schedules}


def _with_whole_tables(state: Tensors, own: Tensors) -> Tensors:
    """A head's state with position tables as long as here; no position beyond the file's is used."""
    whole = {name: torch.zeros_like(own[name]) for name in TABLES if name in state}
    for name, table in whole.items():
        table.flatten(0, -2)[: state[name].flatten(0, -2).shape[0]] = state[name].flatten(0, -2)
    return {**state, **whole}


def _clip(state: Tensors, inputs: Tensors) -> Clip:
    """The whole CLIP of a file."""
    own = {name: tensor for name, tensor in state.items() if not name.startswith(("head.", "cls."))}
    tower = _tower_shapes({name: tensor for name, tensor in own.items() if is_tower(name)})
    (length, width), vocabulary = own["positional_embedding"].shape, len(own["token_embedding.weight"])

    def heads(of: str, width: int) -> int:
        return int(inputs.get(f"{of}_heads", max(1, width // HEAD_CHANNELS)))

    clip = bare_clip(
        replace(
            tower,
            vision_heads=heads("vision", tower.vision_width),
            context_length=length,
            vocab_size=vocabulary,
            text_width=width,
            text_heads=heads("text", width),
            text_layers=layers_in(own, r"transformer\.resblocks\.(\d+)\."),
        )
    )
    clip.load_state_dict(own)
    clip.eval()
    return clip
