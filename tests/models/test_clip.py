"""The frozen CLIP: its embeddings, its weights files and what it says about broken ones."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from bench.core.errors import UserError
from bench.models.backbones import backbone
from bench.models.clip import Clip, load_clip
from tests import zoo
from tests.errors import refused

PROMPTS = [["a photo of a skull rising", "a skull rising"], ["a video of a sun falling"]]


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip("glyph-vit", "random:1")


def some_frames(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_loaded_clip_is_frozen_and_has_official_keys(clip: Clip) -> None:
    assert not clip.training and all(not p.requires_grad and p.dtype == torch.float32 for p in clip.parameters())
    official = {
        "positional_embedding",
        "text_projection",
        "logit_scale",
        "token_embedding.weight",
        "ln_final.weight",
        "visual.class_embedding",
        "visual.proj",
        "visual.conv1.weight",
        "visual.ln_post.bias",
        "visual.transformer.resblocks.0.attn.in_proj_weight",
        "transformer.resblocks.1.mlp.c_fc.weight",
    }
    assert official <= clip.state_dict().keys() and clip.spec == backbone("glyph-vit")


def test_random_weights_follow_their_seed_and_leave_the_global_state_alone(clip: Clip) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    same, other = load_clip("glyph-vit", "random:1"), load_clip("glyph-vit", "random:2")
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(clip.parameters(), same.parameters(), strict=True))
    assert not torch.equal(clip.visual.proj, other.visual.proj)


def test_frames_are_embedded_one_by_one_and_not_normalised(clip: Clip) -> None:
    together = clip.encode_frames(some_frames())
    assert together.shape == (3, 128)
    torch.testing.assert_close(clip.encode_frames(some_frames()[1:2])[0], together[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together.norm(dim=-1), torch.ones(3), atol=0.05)


def test_class_embeddings_are_the_normalised_mean_of_normalised_prompts(clip: Clip) -> None:
    classes_CD = clip.embed_classes(PROMPTS)
    first, second, third = (F.normalize(clip.encode_texts([text]), dim=-1)[0] for own in PROMPTS for text in own)
    torch.testing.assert_close(classes_CD[0], F.normalize(first + second, dim=0))
    torch.testing.assert_close(classes_CD[1], third)


def test_words_are_tokens(clip: Clip) -> None:
    rows = clip.tokenizer(["A  Skull, rising.", "a skull rising", "a zebra rising", "skull " * 40])
    assert rows.shape == (4, 16) and torch.equal(rows[0], rows[1])
    assert rows[2, 2] == 1 and rows[2, 1] == rows[1, 1] and rows[2, 3] == rows[1, 3]
    ends = rows.argmax(dim=1)
    assert ends.tolist() == [4, 4, 4, 15] and (rows.gather(1, ends[:, None]) == 127).all()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_files_of_either_kind_give_the_same_clip(clip: Clip, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    state = {key: value.clone() for key, value in clip.state_dict().items()}
    if suffix == ".pt":
        nested = {f"module.{key}": value for key, value in state.items()} | {"input_resolution": torch.tensor(64)}
        torch.save({"epoch": 3, "state_dict": nested}, file)
    else:
        save_file(state, str(file))
    loaded = load_clip("glyph-vit", str(file))
    assert torch.equal(loaded.encode_frames(some_frames()), clip.encode_frames(some_frames()))
    assert torch.equal(loaded.embed_classes(PROMPTS), clip.embed_classes(PROMPTS))


def test_half_precision_files_are_loaded_in_single(clip: Clip, tmp_path: Path) -> None:
    save_file({k: v.half().contiguous() for k, v in clip.state_dict().items()}, str(tmp_path / "half.safetensors"))
    loaded = load_clip("glyph-vit", str(tmp_path / "half.safetensors"))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_wrong_weights_are_named(clip: Clip, tmp_path: Path) -> None:
    state = {key: value.clone() for key, value in clip.state_dict().items()}
    state["visual.proj"] = state["visual.proj"][:, :5].contiguous()
    state["classifier"] = state.pop("ln_final.bias")
    file = tmp_path / "wrong.safetensors"
    save_file(state, str(file))
    differences = ("missing: ln_final.bias", "unexpected tensors: classifier", "visual.proj", "[128, 5]", "[128, 128]")
    with refused("'glyph-vit'", *differences, where=f"{file}: "):
        load_clip("glyph-vit", str(file))


def test_words_are_those_of_the_weights(clip: Clip, tmp_path: Path) -> None:
    file = tmp_path / "words.safetensors"
    state = {key: value.clone() for key, value in clip.state_dict().items()}
    save_file(state, str(file), metadata={"words": "of photo a"})
    loaded = load_clip("glyph-vit", str(file))
    assert loaded.tokenizer(["a photo of"])[0, 1:4].tolist() == [4, 3, 2]  # ids count from 2 in the file's order
    assert clip.tokenizer(["a photo of"])[0, 1:4].tolist() != [4, 3, 2]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_truncated_file_is_named(clip: Clip, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"short{suffix}"
    if suffix == ".pt":
        torch.save(clip.state_dict(), file)
    else:
        save_file({key: value.clone() for key, value in clip.state_dict().items()}, str(file))
    file.write_bytes(file.read_bytes()[:5000])
    with refused("cannot be read", where=f"short{suffix}"):
        load_clip("glyph-vit", str(file))


def test_a_file_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "code.pt"
    torch.save({"state_dict": Path("x")}, file)
    with refused("cannot be read", where="code.pt"):
        load_clip("glyph-vit", str(file))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_weights_that_are_not_finite_are_named(clip: Clip, tmp_path: Path, value: float, suffix: str) -> None:
    file, state = tmp_path / f"broken{suffix}", {key: own.clone() for key, own in clip.state_dict().items()}
    state["visual.ln_post.bias"][5] = value
    save_file(state, str(file)) if suffix == ".safetensors" else torch.save(state, file)
    with refused("visual.ln_post.bias: ", where=str(file)):
        load_clip("glyph-vit", str(file))


@pytest.mark.parametrize("key", ["state_dict", "model", ""])
def test_numbers_and_objects_beside_the_weights_do_no_harm(clip: Clip, tmp_path: Path, key: str) -> None:
    beside = {"epoch": np.int64(3), "best": np.float64(77.1), "config": Namespace(lr=1e-3), "folder": Path("x")}
    state = {f"module.{name}": own for name, own in clip.state_dict().items()}
    state["module.attn_mask"] = torch.full((2, 2), -torch.inf)  # OpenAI's archives keep theirs
    torch.save({**beside, key: state} if key else {**beside, **state}, tmp_path / "weights.pt")
    loaded = load_clip("glyph-vit", str(tmp_path / "weights.pt"))
    assert all(torch.equal(own, loaded.state_dict()[name]) for name, own in clip.state_dict().items())


def test_a_tensor_that_a_function_would_make_is_named_with_it(clip: Clip, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save({"model": {**clip.state_dict(), "visual.proj": Path("x")}}, file)
    with refused("cannot be read", "visual.proj", "pathlib.PosixPath", where=str(file), hint="only tensors"):
        load_clip("glyph-vit", str(file))


def test_an_unknown_tag_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="did you mean 'openai'"):
        load_clip("ViT-B-16", "openia")


@pytest.fixture(params=["safetensors", "half.pt", "wrapped.bin"])
def zoo_file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Published weights in one of the forms that open_clip accepts."""
    file, state = tmp_path / f"weights.{request.param}", zoo.published()
    if file.suffix == ".safetensors":
        save_file(state, str(file))
    elif file.suffix == ".pt":
        torch.save({name: tensor.half() for name, tensor in state.items()}, file)
    else:
        scale = {"logit_scale": state["logit_scale"].reshape(1)}
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in (state | scale).items()}}, file)
    zoo.register(tmp_path, monkeypatch, file=str(file))
    return file


def test_a_tag_and_its_file_give_what_open_clip_gives(zoo_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of QuickGELU under a config that says GELU: the tag knows, the Clip follows, as do mean and std."""
    zoo.forbid_network(monkeypatch)
    source = open_clip.create_model(zoo.NAME, pretrained=zoo.TAG, force_quick_gelu=True).eval().requires_grad_(False)
    frames = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for pretrained in (zoo.TAG, f"{zoo.TAG}@{zoo_file}"):
        clip = load_clip(zoo.NAME, pretrained)
        assert (clip.spec.mean, clip.spec.std, clip.spec.quick_gelu) == (zoo.MEAN, zoo.STD, True)
        assert clip.state_dict().keys() == source.state_dict().keys()
        assert all(torch.equal(tensor, clip.state_dict()[name]) for name, tensor in source.state_dict().items())
        assert torch.equal(clip.encode_frames(frames), source.encode_image(frames))
        assert torch.equal(clip.encode_texts(["a dog"]), source.encode_text(open_clip.get_tokenizer(zoo.NAME)("a dog")))
    assert not backbone(zoo.NAME).quick_gelu


def test_a_tag_with_a_file_takes_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.register(tmp_path, monkeypatch, file=str(tmp_path / "of-the-tag-alone.pt"))
    torch.save(zoo.published(seed=1), tmp_path / "other.pt")
    clip = load_clip(zoo.NAME, f"{zoo.TAG}@{tmp_path / 'other.pt'}")
    assert torch.equal(clip.visual.proj, zoo.published(seed=1)["visual.proj"])


def test_code_in_a_file_of_a_tag_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "code.bin"
    torch.save({"state_dict": Path("x")}, file)
    zoo.register(tmp_path, monkeypatch, file=str(file))
    for pretrained in (zoo.TAG, f"{zoo.TAG}@{file}"):
        with refused("cannot be read", where="code.bin"):
            load_clip(zoo.NAME, pretrained)


def test_loading_a_tag_leaves_the_global_state_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(zoo.published(), tmp_path / "weights.pt")
    zoo.register(tmp_path, monkeypatch, file=str(tmp_path / "weights.pt"))
    before = torch.get_rng_state()
    load_clip(zoo.NAME, zoo.TAG)
    assert torch.equal(before, torch.get_rng_state())
