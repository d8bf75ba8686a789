"""Weights for jobs without a network: what tags become, what stays as it was, and what errors say."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
from huggingface_hub import constants
from safetensors.torch import save_file

from bench.core.errors import UserError
from bench.models.backbones import backbone, supported_names
from bench.models.clip import load_clip
from bench.models.weights import BUILTIN_FILE, TAGGED, missing_weights, resolved, weights_identity
from tests import zoo
from tests.errors import refused, says
from tests.imports import imported_by


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def zoo_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "zoo@home" / "open_clip_model.safetensors"
    file.parent.mkdir()
    save_file(zoo.published(), str(file))
    zoo.register(tmp_path, monkeypatch, file=str(file))
    return file


def test_weights_that_need_no_network_stay_as_they_are() -> None:
    assert resolved("glyph-vit", "random:3") == ("random:3", None)
    assert resolved("glyph-vit", "builtin") == ("builtin", sha256(BUILTIN_FILE))


def test_a_path_becomes_absolute_but_keeps_its_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "3c4d").write_bytes(b"weights")
    (tmp_path / "clip@home.safetensors").symlink_to(tmp_path / "3c4d")
    monkeypatch.chdir(tmp_path)
    expected = (str(tmp_path / "clip@home.safetensors"), hashlib.sha256(b"weights").hexdigest())
    assert resolved("ViT-B-16", "clip@home.safetensors") == resolved("ViT-B-16", "./clip@home.safetensors") == expected


def test_a_tag_gets_the_file_that_holds_it(zoo_file: Path) -> None:
    assert resolved(zoo.NAME, zoo.TAG) == (f"{zoo.TAG}@{zoo_file}", sha256(zoo_file))


def test_what_is_resolved_resolves_to_itself_and_keeps_the_identity(zoo_file: Path) -> None:
    once = resolved(zoo.NAME, zoo.TAG)
    assert resolved(zoo.NAME, once.value) == once
    assert weights_identity(zoo.NAME, once.value) == weights_identity(zoo.NAME, zoo.TAG)


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_tag_in_the_cache_is_loaded_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    zoo.register(tmp_path, monkeypatch, hf_hub=f"{zoo.HUB}/")
    file = zoo.cached(tmp_path / "cache", monkeypatch, name)
    zoo.forbid_network(monkeypatch)
    value = resolved(zoo.NAME, zoo.TAG).value
    assert value == f"{zoo.TAG}@{file}"
    clip = load_clip(zoo.NAME, value)
    assert clip.encode_texts(["a dog"]).shape == (1, zoo.CONFIG["embed_dim"])


def test_unknown_tags_list_the_known_ones() -> None:
    with refused("'ViT-B-16'", "'openia'", where="pretrained", allowed=["openai"], hint="'openai'"):
        resolved("ViT-B-16", "openia")
    with refused("'ViT-B-16'", "'openia'", where="pretrained"):
        resolved("ViT-B-16", "openia@/data/weights.pt")


def test_what_cannot_be_fetched_is_named_with_the_reason_and_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        resolved("ViT-B-16", "laion2b_s34b_b88k")
    what, hint = str(caught.value).splitlines()
    says(what, "pretrained: ", "'ViT-B-16'", "'laion2b_s34b_b88k'", "cannot find the requested files")
    command = re.search(r'python -c "(.+)";', hint)
    assert command and "recipe.pretrained" in hint
    with pytest.raises(FileNotFoundError, match=r"laion/CLIP-ViT-B-16-laion2B-s34B-b88K"):
        exec(command[1])


def test_a_file_that_a_node_does_not_see_is_named(zoo_file: Path) -> None:
    zoo_file.unlink()
    with refused(f"'{zoo.NAME}'", where=str(zoo_file), hint="HF_HOME"):
        load_clip(zoo.NAME, f"{zoo.TAG}@{zoo_file}")


def test_weights_are_regular_files(tmp_path: Path) -> None:
    """Planning would wait for a pipe, and read a device, without end."""
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "file").write_bytes(b"")
    odd = {"pipe.pt": "pipe", "zero.pt": "device", "folder.pt": "folder", "loop.pt": "cannot be opened"}
    odd |= {"gone.pt": "does not exist", "file/weights.pt": "does not exist", f"{'a' * 300}.pt": "cannot be opened"}
    for name, named in odd.items():
        with refused(named, where=str(tmp_path / name)):
            weights_identity("ViT-B-16", str(tmp_path / name))
    for name in ("a\0b.pt", "~nobody-of-this-name/weights.pt"):
        with refused("the weights file"):
            weights_identity("ViT-B-16", name)


def test_weights_without_a_tag_need_no_torch() -> None:
    code = (
        "from bench.models.weights import offline, resolved\n"
        "resolved('glyph-vit', 'builtin'); resolved('glyph-vit', 'random:0'); offline()"
    )
    assert imported_by(code).isdisjoint({"torch", "open_clip", "numpy", "huggingface_hub"})


@pytest.mark.parametrize("order", ["offline(); import huggingface_hub", "import huggingface_hub.constants; offline()"])
def test_an_offline_process_does_not_reach_for_the_hub(order: str, tmp_path: Path) -> None:
    code = (
        "import os, socket; from bench.models.weights import offline\n"
        f"{order}\n"
        "import huggingface_hub\n"
        "def refuse(*_): os._exit(3)\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "try: huggingface_hub.hf_hub_download('laion/x', 'y', cache_dir=os.environ['CACHE'])\n"
        "except huggingface_hub.errors.LocalEntryNotFoundError: os._exit(0)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"CACHE": str(tmp_path)}, cwd=Path(__file__).parents[2]
    )


def test_every_plain_tag_says_how_it_was_trained_and_lies_on_the_hub() -> None:
    """`offline` stops the hub's library only, and a tag is told from its file by its characters."""
    plain = set(supported_names())
    tags = [(name, tag) for name, tag in open_clip.list_pretrained() if name in plain]
    assert len(tags) > 50
    for name, tag in tags:
        trained = open_clip.get_pretrained_cfg(name, tag)
        assert {"mean", "std"} <= trained.keys() and re.fullmatch(r"[^/]+/[^/]+/", trained["hf_hub"])
        assert TAGGED.fullmatch(f"{tag}@/w")
        assert trained.get("quick_gelu", False) or not backbone(name).quick_gelu


def test_no_plain_backbone_needs_a_network_for_its_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.forbid_network(monkeypatch)
    specs = [spec for spec in map(backbone, supported_names()) if not spec.word_tokens]
    kinds = {type(open_clip.get_tokenizer(spec.tokenizer or spec.name)).__name__ for spec in specs}
    assert kinds == {"SimpleTokenizer"}


def test_a_plan_goes_on_without_a_file_below_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VTB_DATA", raising=False)
    own = "$VTB_DATA/weights/ViCLIP-B-16.pth"
    assert weights_identity("ViCLIP-B-16", own) == f"missing: {own}"
    says(str(missing_weights(own)), "variable $VTB_DATA is not set")
    monkeypatch.setenv("VTB_DATA", str(tmp_path))
    says(str(missing_weights(own)), "not found", str(tmp_path))
    with refused("does not exist", where=str(tmp_path)):
        resolved("ViCLIP-B-16", own)
    file = tmp_path / "weights" / "ViCLIP-B-16.pth"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    assert missing_weights(own) is None and resolved("ViCLIP-B-16", own) == (str(file), sha256(file))
    assert (
        weights_identity("ViCLIP-B-16", own) == f"sha256:{sha256(file)}" == weights_identity("ViCLIP-B-16", str(file))
    )
