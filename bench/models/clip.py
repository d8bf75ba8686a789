"""Frozen CLIP: open_clip's towers with weights from the shipped file, a local file, an open_clip tag, or a random seed.

Its visual tower may be one for video, ViCLIP's (arXiv 2307.06942; github.com/OpenGVLab/InternVideo). Left out
of it: masked patches, which the official encoder has unless it is told otherwise, and drop-path in training.

State keys are always those of OpenAI (`visual.transformer.resblocks.0...`, `token_embedding.weight`, `logit_scale`), so
that heads initialised from the text tower find its weights under their official names.

Legend: B clips, T frames, N frames or texts, H height, W width of a frame or a tower, P patches of a frame, K tokens
and F features of a clip, D embedding width, C classes, L context length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.errors import UserError
from bench.models.backbones import Backbone, Part, backbone, model_config
from bench.models.state_dicts import OPENAI_EXTRAS, State, refuse_differences, require_finite, stored_tensors
from bench.models.torch_files import read_torch, refuse_stand_ins
from bench.models.weights import BUILTIN_FILE, random_seed, tag_file, tagged, weights_file

Tokenizer = Callable[[list[str]], Tensor]
NESTED = ("state_dict", "model", "module")  # names of a state that a trainer saved among other things
CLASSES_PER_BATCH = 32  # for all that embed classes: BLAS gives other bits for other numbers of rows
TEXTS_PER_BATCH = 256  # bounds the memory of a large label set's prompts


class WordTokenizer:
    """Word-level tokenizer of the glyph captions: 0 pads, 1 is an unknown word, the last two ids start and end a text.

    Case and punctuation are ignored. The end token has the highest id because CLIP pools at the arg max of the ids.
    """

    PAD, UNKNOWN = 0, 1

    def __init__(self, words: Iterable[str], vocab_size: int, context_length: int) -> None:
        self.ids = {word: index for index, word in enumerate(words, start=2)}
        self.start, self.end, self.context_length = vocab_size - 2, vocab_size - 1, context_length
        if len(self.ids) + 4 > vocab_size:
            raise ValueError(f"{len(self.ids)} words and 4 special tokens do not fit into {vocab_size} ids")

    def __call__(self, texts: list[str]) -> Tensor:
        """Ids [N,L]; texts that are too long are cut at the end."""
        tokens_NL = torch.full((len(texts), self.context_length), self.PAD)
        for row, text in enumerate(texts):
            words = re.findall(r"<unk>|\w+", text.lower())[: self.context_length - 2]
            ids = [self.start, *(self.ids.get(word, self.UNKNOWN) for word in words), self.end]
            tokens_NL[row, : len(ids)] = torch.tensor(ids)
        return tokens_NL


class VideoTower(VisionTransformer):
    """Joint space-time tower (ViCLIP, official code): one class token sees the patches of all frames of a clip.

    Patch n of T frames is token 1 + n * T + t in frame t, which also gets row t of the table of temporal positions.
    """

    def __init__(self, spec: Backbone) -> None:
        super().__init__(
            *(spec.image_size, spec.patch_size, spec.vision_width, spec.vision_layers, spec.vision_heads),
            mlp_ratio=spec.vision_mlp_ratio,
            output_dim=spec.embed_dim,
            act_layer=QuickGELU if spec.quick_gelu else nn.GELU,
        )
        self.temporal_positional_embedding = nn.Parameter(torch.zeros(1, spec.clip_frames, spec.vision_width))

    def positions(self, frames: int) -> Tensor:
        """Temporal positions [1,T,W]: the mean row of one frame, the first rows of fewer, interpolated rows of more."""
        table_1TW = self.temporal_positional_embedding
        if frames == 1:
            return table_1TW.mean(dim=1, keepdim=True)
        if frames <= table_1TW.shape[1]:
            return table_1TW[:, :frames]
        return F.interpolate(table_1TW.mT, frames, mode="linear", align_corners=False).mT

    def tokens(self, clips_BT3HW: Tensor) -> Tensor:
        """Tokens [B,K,W] of clips [B,T,3,H,W] with their positions, before `ln_pre`; K = 1 + P * T."""
        patches_BTPW = self.conv1(clips_BT3HW.flatten(0, 1)).flatten(2).mT.unflatten(0, clips_BT3HW.shape[:2])
        class_W, places_PW = self.class_embedding + self.positional_embedding[0], self.positional_embedding[1:]
        patches_BTPW = patches_BTPW + places_PW + self.positions(clips_BT3HW.shape[1])[..., None, :]
        class_B1W = class_W.to(patches_BTPW.dtype).expand(len(clips_BT3HW), 1, -1)
        tokens_BKW: Tensor = torch.cat([class_B1W, patches_BTPW.transpose(1, 2).flatten(1, 2)], dim=1)
        return tokens_BKW

    def forward(self, clips_BT3HW: Tensor) -> Tensor:
        """Embeddings [B,D] of clips [B,T,3,H,W]; not L2-normalised."""
        hidden_BKW = self.transformer(self.ln_pre(self.tokens(clips_BT3HW)))
        embeddings_BD: Tensor = self._pool(hidden_BKW)[0] @ self.proj
        return embeddings_BD


class Clip(open_clip.CLIP):
    """open_clip's CLIP with its tokenizer and the embeddings that this project needs; `spec` is its `Backbone`."""

    def __init__(self, spec: Backbone, config: dict[str, Any]) -> None:
        vision = {**config["vision_cfg"], **({"layers": 0} if spec.video else {})}  # a video tower takes its place
        super().__init__(config["embed_dim"], vision, config["text_cfg"], spec.quick_gelu)
        if spec.video:
            self.visual = VideoTower(spec)
        self.spec = spec
        self.tokenizer = _tokenizer(spec)

    def encode_frames(self, pixels_N3HW: Tensor) -> Tensor:
        """Embeddings [N,D] of frames [N,3,H,W] that are normalised by spec.mean and spec.std; not L2-normalised."""
        embeddings_ND: Tensor = self.visual(pixels_N3HW)
        return embeddings_ND

    def encode_clips(self, clips_BT3HW: Tensor) -> Tensor:
        """Embeddings [B,F,D] of normalised clips [B,T,3,H,W]: one a frame, or one a clip by a video tower."""
        if self.spec.video:
            embeddings_B1D: Tensor = self.visual(clips_BT3HW)[:, None]
            return embeddings_B1D
        embeddings_BTD: Tensor = self.encode_frames(clips_BT3HW.flatten(0, 1)).unflatten(0, clips_BT3HW.shape[:2])
        return embeddings_BTD

    def compile_blocks(self) -> None:
        """Compile the blocks of the visual tower, each when it is first used; names and weights stay."""
        for block in self.visual.transformer.resblocks:
            block.compile()

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embeddings [N,D] of texts, not L2-normalised."""
        tokens_NL = self.tokenizer(texts).to(self.token_embedding.weight.device)
        return torch.cat([self.encode_text(part) for part in tokens_NL.split(TEXTS_PER_BATCH)])

    def embed_classes(self, prompts: list[list[str]]) -> Tensor:
        """Class embeddings [C,D] of unit length."""
        return class_means(self.encode_prompts(prompts), prompts)

    def encode_prompts(self, prompts: list[list[str]]) -> Tensor:
        """Embeddings [N,D] of the prompts of all classes in a row, not L2-normalised."""
        parts = (prompts[i : i + CLASSES_PER_BATCH] for i in range(0, len(prompts), CLASSES_PER_BATCH))
        return torch.cat([self.encode_texts([prompt for own in part for prompt in own]) for part in parts])


def part_of(name: str) -> Part:
    """The part of CLIP that a tensor belongs to, by its name in the state of a `Clip`."""
    if name.startswith("visual."):
        return "visual"
    named: dict[str, Part] = {"logit_scale": "scale", "token_embedding.weight": "tokens"}
    return named.get(name, "text")


def class_means(texts_ND: Tensor, prompts: list[list[str]]) -> Tensor:
    """Class embeddings [C,D] of unit length: the normalised mean of the normalised embeddings of a class's prompts."""
    own = F.normalize(texts_ND, dim=-1).split([len(texts) for texts in prompts])
    return F.normalize(torch.stack([texts_PD.mean(dim=0) for texts_PD in own]), dim=-1)


def _tokenizer(spec: Backbone) -> Tokenizer:
    if spec.word_tokens:
        return WordTokenizer(_words(BUILTIN_FILE), spec.vocab_size, spec.context_length)
    tokenizer: Tokenizer = open_clip.get_tokenizer(spec.tokenizer or spec.name, context_length=spec.context_length)
    return tokenizer


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the block and restore its state afterwards. Other generators do not change."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def new_clip(name: str, seed: int) -> Clip:
    """A randomly initialised, trainable Clip in training mode. Global random state does not change."""
    with seeded(seed):
        return Clip(backbone(name), model_config(name))


def load_clip(name: str, pretrained: str) -> Clip:
    """A frozen Clip in fp32 and evaluation mode; `pretrained` as in `bench.models.weights.weights_identity`.

    Raises UserError for unknown names and tags, missing or broken files, and weights of another model.
    """
    file, seed = weights_file(name, pretrained), random_seed(pretrained)
    clip = _from_tag(name, pretrained) if file is None and seed is None else new_clip(name, seed or 0)
    if file is not None:
        _load(clip, _read_state(file), str(file))
        if clip.spec.word_tokens and (words := _words(file)):
            clip.tokenizer = WordTokenizer(words, clip.spec.vocab_size, clip.spec.context_length)
    clip.float().eval().requires_grad_(False)
    return clip


def _from_tag(name: str, pretrained: str) -> Clip:
    """Weights of an open_clip tag, with the activation, mean and std that the tag was trained with.

    open_clip itself would only warn and use the activation of the model's config.
    """
    file, trained = tag_file(name, pretrained), open_clip.get_pretrained_cfg(name, tagged(pretrained)[0])
    quick_gelu = trained.get("quick_gelu", False)
    spec = replace(backbone(name), quick_gelu=quick_gelu, mean=tuple(trained["mean"]), std=tuple(trained["std"]))
    with seeded(0):
        clip = Clip(spec, model_config(name))
    _load(clip, _read_state(file), str(file))
    return clip


# --- weights files ----------------------------------------------------------------------------------------------------


def _read_state(file: Path) -> State:
    """Tensors of a safetensors or torch file, also of a state among other things, without the prefix `module.`."""
    if file.suffix != ".safetensors":
        loaded = read_torch(file)
        if not isinstance(loaded, dict):
            return {}
        refuse_stand_ins({name: loaded.get(name) for name in NESTED}, str(file))
        plain = {name: own for name, own in loaded.items() if isinstance(own, Tensor)}
        nested = (loaded[name] for name in NESTED if isinstance(loaded.get(name), dict))
        return stored_tensors(next(nested, plain), file)
    try:
        with safe_open(str(file), framework="pt") as stored:
            return {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"the weights cannot be read: {error}", where=str(file)) from error


def _words(file: Path) -> list[str]:
    """Word list of the text embedding's rows, from the metadata of a weights file; empty if it has none."""
    if file.suffix != ".safetensors":
        return []
    with safe_open(str(file), framework="pt") as stored:
        words: str = (stored.metadata() or {}).get("words", "")
    return words.split()


def _load(clip: Clip, state: State, where: str) -> None:
    """Copy a state into the Clip. Raises UserError that names the first tensors that do not fit."""
    if clip.spec.video:
        state = from_viclip(state, where)
    state = {key: value for key, value in state.items() if key not in OPENAI_EXTRAS}
    scale = state.get("logit_scale")
    if scale is not None and scale.numel() == 1:  # some model zoos store a vector of length 1
        state["logit_scale"] = scale.reshape(clip.logit_scale.shape)
    refuse_differences(clip.state_dict(), state, f"not the weights of '{clip.spec.name}'", where)
    require_finite(state.items(), where)
    clip.load_state_dict(state)


def from_viclip(state: State, where: str) -> State:
    """A state under ViCLIP's official names under those of OpenAI; a state under these stays as it is.

    Raises UserError for a patch kernel over several frames, which no tower here has.
    """
    renamed = {
        re.sub(r"^text_encoder\.", "", re.sub(r"^vision_encoder\.", "visual.", key)): tensor
        for key, tensor in state.items()
    }
    if (temperature := renamed.pop("temp", None)) is not None:
        renamed["logit_scale"] = -temperature.log()
    kernel = renamed.get("visual.conv1.weight")
    if kernel is not None and kernel.ndim == 5:
        if kernel.shape[2] != 1:
            raise UserError(f"its patch kernel covers {kernel.shape[2]} frames", where=where, allowed=["1 frame"])
        renamed["visual.conv1.weight"] = kernel[:, :, 0]
    return renamed
