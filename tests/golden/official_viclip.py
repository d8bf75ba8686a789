"""Outputs of ViCLIP's official modules, computed by a video tower here (golden file `viclip`).

The file does not say how many heads a tower has: those are taken that give its features, W/64 (official code) before
others that give them too.

Legend: B clips, T frames, P patches of a frame, K tokens of a clip, W tower width, D joint width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.models.backbones import Backbone, backbone
from bench.models.clip import Clip, VideoTower, from_viclip
from bench.models.state_dicts import layers_in
from tests.golden.official_mote import HEAD_CHANNELS, bare_clip
from tests.golden.official_tc_clip import divisors

Tensors = dict[str, Tensor]

MASKED = 0.9  # share of patches that the official encoder leaves out unless it is told `test`


def official_viclip(state: Tensors, inputs: Tensors, video_BD: Tensor, text_CD: Tensor) -> Clip:
    """The CLIP of a state under official names, with as many heads as give these features of the inputs."""
    own = from_viclip(state, "state")
    (width, patch), (length, text_width) = own["visual.conv1.weight"].shape[::3], own["positional_embedding"].shape
    spec = replace(
        backbone("ViCLIP-B-16"),
        image_size=isqrt(len(own["visual.positional_embedding"]) - 1) * patch,
        patch_size=patch,
        vision_width=width,
        vision_layers=layers_in(own, r"visual\.transformer\.resblocks\.(\d+)\."),
        vision_heads=1,
        embed_dim=own["visual.proj"].shape[1],
        text_width=text_width,
        text_layers=layers_in(own, r"transformer\.resblocks\.(\d+)\."),
        text_heads=1,
        context_length=length,
        vocab_size=len(own["token_embedding.weight"]),
        clip_frames=own["visual.temporal_positional_embedding"].shape[1],
    )

    def off(reference: Tensor, features: Callable[[Clip], Tensor], heads: Backbone) -> float:
        with torch.no_grad():
            return float((features(_loaded(heads, own)) - reference).abs().max())

    for name, tower, features, reference in (
        ("vision_heads", width, lambda clip: clip.encode_clips(inputs["pixels"])[:, 0], video_BD),
        ("text_heads", text_width, lambda clip: clip.encode_text(inputs["tokens"]), text_CD),
    ):
        tried = sorted(divisors(tower), key=lambda heads: heads != tower // HEAD_CHANNELS)
        each = [replace(spec, **{name: heads}) for heads in tried]  # type: ignore[arg-type]
        spec = min(each, key=partial(off, reference, features))
    return _loaded(spec, own)


def _loaded(spec: Backbone, own: Tensors) -> Clip:
    clip = bare_clip(spec)
    clip.eval().load_state_dict(own)
    return clip


def outputs(state: Tensors, inputs: Tensors, references: Tensors) -> Tensors:
    """Everything under `out`."""
    clip = official_viclip(state, inputs, references["video"], references["text"])
    tower = clip.visual
    assert isinstance(tower, VideoTower)
    layers = {"ln_pre": tower.ln_pre, "ln_post": tower.ln_post}
    layers |= {f"block.{number}": block for number, block in enumerate(tower.transformer.resblocks)}
    found: Tensors = {"sequence": tower.tokens(inputs["pixels"])}
    handles = [
        layer.register_forward_hook(lambda module, given, output, name=name: found.update({name: output}))
        for name, layer in layers.items()
    ]
    video_BD = clip.encode_clips(inputs["pixels"])[:, 0]
    for handle in handles:
        handle.remove()
    text_CD = clip.encode_text(inputs["tokens"])
    cosines_BC = F.normalize(video_BD, dim=-1) @ F.normalize(text_CD, dim=-1).T
    loss = F.cross_entropy(clip.logit_scale.exp() * cosines_BC, inputs["labels"])
    loss.backward()
    top = (100 * cosines_BC).softmax(dim=-1).topk(min(3, cosines_BC.shape[1]))
    found |= {
        **{"video": video_BD, "video_unit": F.normalize(video_BD, dim=-1)},
        **{"text": text_CD, "text_unit": F.normalize(text_CD, dim=-1)},
        **{"logits_100": 100 * cosines_BC, "logits_temp": clip.logit_scale.exp() * cosines_BC, "loss_ce": loss},
        **{"top3_probability": top.values, "top3_class": top.indices},
        "video_one_frame": clip.encode_clips(inputs["pixels"][:, :1])[:, 0],
        **{f"grad.{name}": _gradient(clip, name, tensor) for name, tensor in state.items()},
        **_masked(tower, inputs),
    }
    for name in ("more", "fewer"):
        clips_BT3HW = inputs[f"pixels_{name}"]
        found[f"video_{name}"] = clip.encode_clips(clips_BT3HW)[:, 0]
        found[f"table_{name}"] = tower.positions(clips_BT3HW.shape[1])
    table_1TW = tower.temporal_positional_embedding
    added = inputs["pixels_more"].shape[1] - table_1TW.shape[1]
    return found | {"table_zero_padded": F.pad(table_1TW, (0, 0, 0, added))}  # an option that no caller uses


def _gradient(clip: Clip, name: str, official: Tensor) -> Tensor:
    """The gradient of a tensor under its official name, in its official shape."""
    own = dict(clip.named_parameters())
    if name == "temp":
        assert clip.logit_scale.grad is not None
        of_temp: Tensor = -clip.logit_scale.grad * clip.logit_scale.exp()  # the scale is -ln(temp)
        return of_temp
    gradient = own[next(iter(from_viclip({name: official}, name)))].grad
    assert gradient is not None
    reshaped: Tensor = gradient.reshape(official.shape)
    return reshaped


def _masked(tower: VideoTower, inputs: Tensors) -> Tensors:
    """The official default: patches with the smallest draws are left out. No tower here does that."""
    sequence_BKW, noise_BK = tower.tokens(inputs["pixels"]), inputs["mask_noise"]
    dropped = int(MASKED * noise_BK.shape[1])
    kept_Bk = 1 + noise_BK.argsort(dim=1)[:, dropped:].sort(dim=1).values
    places_Bk = F.pad(kept_Bk, (1, 0))
    hidden_BkW = sequence_BKW.gather(1, places_Bk[..., None].expand(-1, -1, sequence_BKW.shape[-1]))
    pooled_BW = tower.ln_post(tower.transformer(tower.ln_pre(hidden_BkW)))[:, 0]
    return {"video_masked": pooled_BW @ tower.proj, "mask_kept": torch.tensor(kept_Bk.shape[1])}
