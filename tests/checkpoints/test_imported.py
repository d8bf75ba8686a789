"""Official checkpoints go into the store and come out again; other files are refused and leave nothing."""

from __future__ import annotations

import json
import os
import pickle
from argparse import Namespace
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from bench.checkpoints.heads import HEADS
from bench.checkpoints.imported import file_digest, find_trained, unimported
from bench.commands.app import main
from bench.core.errors import refuse_all
from bench.data.datasets import dataset
from bench.graph.kinds import ImportedStage
from bench.graph.stage import as_json
from bench.models.clip import load_clip
from bench.models.prompts import prompts
from bench.models.state_dicts import HEAD, SOURCES, TOWER
from bench.store.records import Store
from methods.contract import Model, build_model
from methods.registry import method
from tests.errors import refused, says
from tests.official_files import (
    TINY,
    actionclip_checkpoint,
    golden,
    golden_checkpoint,
    mote_checkpoint,
    register_tiny,
    text4vis_checkpoint,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def saved(folder: Path, checkpoint: object, name: str = "official.pt") -> Path:
    torch.save(checkpoint, folder / name)
    return folder / name


def take(file: Path, store: Store, *options: str, method: str = "mote", backbone: str = "glyph-vit") -> int:
    pretrained = () if "--pretrained" in options else ("--pretrained", "random:0")
    fixed = ["--method", method, "--backbone", backbone, "--store", str(store.root), *pretrained]
    return main(["import", str(file), *fixed, *options])


def give(key: str, file: Path, store: Store) -> int:
    return main(["export", key, str(file), "--store", str(store.root)])


def the_record(store: Store) -> tuple[dict[str, Any], Path]:
    (identity,) = store.known("train")
    return store.read("train", identity), store.folder("train", identity)


def same(left: dict[str, Any], right: dict[str, Any], prefix: str = "module.") -> bool:
    """Whether two states have the same tensors, whatever their order and prefix."""
    left, right = ({name.removeprefix(prefix): t for name, t in state.items()} for state in (left, right))
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def trained(store: Store, pretrained: str) -> Model:
    """The model of the only record, as stages load it."""
    record, folder = the_record(store)
    registered, spec = method(record["spec"]["method"]), record["spec"]
    config = registered.config.model_validate(spec["config"])
    model = build_model(registered.model, config, load_clip(spec["backbone"], pretrained), 0)
    model.load_trained(load_file(folder / "weights.safetensors"))
    return model


# --- what becomes of a checkpoint -----------------------------------------------------------------------------------


def test_the_official_model_predicts_the_same_through_its_record(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrained = str(register_tiny(tmp_path / "tiny", monkeypatch))
    file = saved(tmp_path, golden_checkpoint())
    assert take(file, store, "--pretrained", pretrained, backbone=TINY) == 0
    inputs, outputs, checkpoint = golden("in."), golden("out."), golden_checkpoint()
    sources_SD = load_file(the_record(store)[1] / "sources.safetensors")[SOURCES]
    assert torch.equal(sources_SD, checkpoint[HEAD][SOURCES])
    computed: dict[str, Tensor] = {}
    for suffix, alpha in (("", 1.0), ("_alpha099", 0.99)):
        model = trained(store, pretrained)
        model.interpolate(load_clip(TINY, pretrained), alpha)
        inference = method("mote").inference.model_validate({"clip_alpha": alpha})
        predictor = model.deploy(inference, sources_SD)
        with torch.no_grad():
            frames_BTD = model.encode(inputs["frames"])
            computed[f"frame_embeddings{suffix}"] = frames_BTD
            computed |= {
                f"logits_{kind}{suffix}": predictor(frames_BTD, inputs[f"{kind}_class_embeddings"]).cosines_BC
                for kind in ("seen", "unseen")
            }
        computed[f"logit_scale{suffix}"] = torch.tensor(predictor.logit_scale)
    for name, expected in outputs.items():
        torch.testing.assert_close(computed[name], expected, atol=1e-5, rtol=0, msg=name)
    assert give(file_digest(file), tmp_path / "back.pt", store) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back.keys() == {"epoch", TOWER, HEAD} and back["epoch"] == 29
    assert all(same(back[part], checkpoint[part]) for part in (TOWER, HEAD))
    assert (tmp_path / "back.pt").stat().st_size < 1.1 * file.stat().st_size


def test_a_second_import_does_nothing_and_an_export_gives_the_same_record(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved(tmp_path, mote_checkpoint(F.normalize(torch.randn(7, 128), dim=-1)))
    assert take(file, store, "--name", "mine") == 0
    record, folder = the_record(store)
    first = capsys.readouterr().out
    before = (folder / "record.json").stat().st_mtime_ns
    assert take(file, store) == 0
    assert "already imported" in capsys.readouterr().out
    assert (folder / "record.json").stat().st_mtime_ns == before
    assert f"imported: {file_digest(file)}, backbone: glyph-vit, pretrained: 'random:0'" in first
    assert "config: {tower: tuned, layers: 2, num_experts: 3}" in first and "inference: {clip_alpha: 0.99}" in first
    assert give("mine", tmp_path / "back.pt", store) == 0
    other = Store(tmp_path / "other")
    assert take(tmp_path / "back.pt", other) == 0
    again, _ = the_record(other)
    content = ("weights.safetensors", "sources.safetensors", "history.json")
    assert [again["sha256"][name] for name in content] == [record["sha256"][name] for name in content]


def test_the_identity_is_that_of_the_spec_alone(tmp_path: Path, store: Store) -> None:
    file = saved(tmp_path, mote_checkpoint())
    assert take(file, store) == 0
    record, _ = the_record(store)
    config = method("mote").config.model_validate({"tower": "tuned", "layers": 2, "num_experts": 3})
    stage = ImportedStage("mote", config, "glyph-vit", "random:0", file_digest(file)).plan()
    assert (record["spec"], record["identity"], record["inputs"]) == (as_json(stage.spec), stage.identity, {})
    refuse_all(unimported([stage, stage], store))
    deeper = config.model_copy(update={"layers": 3})
    stage = ImportedStage("mote", deeper, "glyph-vit", "random:0", file_digest(file)).plan()
    with refused("layers: 3", "mote", "layers: 2", "import FILE"):
        refuse_all(unimported([stage], store))


@pytest.mark.parametrize(
    ("name", "whole", "in_one"),
    [
        ("text4vis", True, False),
        ("text4vis", False, False),
        ("text4vis", False, True),
        ("text4vis", True, True),
        ("dense_temporal", False, False),
    ],
)
def test_dense_heads_in_all_official_layouts(
    tmp_path: Path, store: Store, name: str, whole: bool, in_one: bool
) -> None:
    checkpoint = text4vis_checkpoint(whole, in_one)
    assert take(saved(tmp_path, checkpoint), store, method=name) == 0
    model, head = trained(store, "random:0"), checkpoint.get(HEAD) or checkpoint[TOWER]
    weight = "transformer.resblocks.1.mlp.c_fc.weight"
    official = head[f"fusion_model.{weight}" if in_one else weight]
    assert torch.equal(model.state_dict()[f"head.{weight}"], official)
    assert give(the_record(store)[0]["identity"][:8], tmp_path / "back.pt", store) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back.keys() == checkpoint.keys()
    assert all(same(back[part], checkpoint[part]) for part in (TOWER, HEAD) if part in checkpoint)


@pytest.mark.parametrize(
    ("head", "config"),
    [
        ("none", {"head": "none"}),
        ("conv1d", {"head": "conv1d", "conv_axes": "viewed"}),
        ("lstm", {"head": "lstm"}),
        ("transf", {"head": "transf", "layers": 2}),
        ("transf_cls", {"head": "transf_cls", "layers": 1}),
    ],
)
def test_tuned_texts_come_back_with_every_head_of_actionclip(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str], head: str, config: dict[str, Any]
) -> None:
    frames, names = 4, [[f"a video of {name}", name] for name in ("star", "heart", "flag")]
    checkpoint = actionclip_checkpoint(frames, **config)
    assert take(saved(tmp_path, checkpoint), store, method="actionclip") == 0
    assert f"config: {{tower: tuned, head: {head}" in capsys.readouterr().out
    clip = load_clip("glyph-vit", "random:0")
    clip.load_state_dict(checkpoint[TOWER])
    own = build_model(method("actionclip").model, method("actionclip").config.model_validate(config), clip, 0).eval()
    answers = []
    for model in (own, trained(store, "random:0").eval()):
        with torch.no_grad():
            classes_CPD = model.embed_classes(names)
            predictor = model.deploy(method("actionclip").inference(), classes_CPD)
            answers.append(predictor(model.encode(torch.ones(2, frames, 3, 64, 64)), classes_CPD).cosines_BC)
    assert torch.equal(*answers) and answers[0].isfinite().all()
    assert give(the_record(store)[0]["identity"][:8], tmp_path / "back.pt", store) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back.keys() == checkpoint.keys() and all(
        back[part].keys() == checkpoint[part].keys() for part in (TOWER, HEAD)
    )
    assert all(same(back[part], checkpoint[part]) for part in (TOWER, HEAD))
    assert {name: t.dtype for name, t in back[TOWER].items()} == {n: t.dtype for n, t in checkpoint[TOWER].items()}


def test_a_training_with_modules_inside_its_tower_is_not_exported(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert take(saved(tmp_path, actionclip_checkpoint(4, head="transf", layers=1)), store, method="actionclip") == 0
    record, folder = the_record(store)
    config = {**record["spec"]["config"], "inside": "tsm"}
    recipe = {"epochs": 2.0, "views": {"frames": 4}}
    spec = {k: v for k, v in record["spec"].items() if k != "imported"} | {"config": config, "recipe": recipe}
    own = {**record, "title": "train shifted seed 0", "spec": spec}
    own = {name: own[name] for name in ("title", "spec", "context", "inputs", "result", "cost", "provenance")}
    with store.writing("train", "d" * 32, own) as out:
        save_file(load_file(folder / "weights.safetensors"), out / "weights.safetensors")
    assert give("train shifted seed 0", tmp_path / "own.pt", store) == 2
    assert "inside its tower have no place in an official checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "own.pt").exists()


def test_official_towers_with_shifts_are_not_taken_for_plain_ones(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, block = actionclip_checkpoint(4, head="none"), "visual.transformer.resblocks.0."
    moved = {n.replace(block, f"{block}net."): t for n, t in checkpoint[TOWER].items()}
    assert take(saved(tmp_path, {**checkpoint, TOWER: moved}), store, method="actionclip") == 2
    assert f"unexpected tensors: {block}net." in capsys.readouterr().err


def test_collapsed_experts_predict_like_merged_ones(tmp_path: Path, store: Store) -> None:
    file, dense_store = saved(tmp_path, mote_checkpoint()), Store(tmp_path / "dense")
    assert take(file, store) == 0 and take(file, dense_store, "--collapse", method="dense_temporal") == 0
    frames_BTD = torch.randn(2, 4, 128, generator=torch.Generator().manual_seed(0))
    classes_CD = F.normalize(torch.randn(5, 128, generator=torch.Generator().manual_seed(1)), dim=-1)
    merged, dense = (
        trained(each, "random:0").deploy(method(name).inference.model_validate(choices), classes_CD)
        for each, name, choices in ((store, "mote", {"tfm": False}), (dense_store, "dense_temporal", {}))
    )
    torch.testing.assert_close(
        dense(frames_BTD, classes_CD).cosines_BC, merged(frames_BTD, classes_CD).cosines_BC, atol=1e-6, rtol=0
    )


def test_experts_that_are_not_whole_are_not_collapsed(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = mote_checkpoint()
    del checkpoint[HEAD]["module.transformer.resblocks.1.mlp.fc_dn.1.bias"]
    assert take(saved(tmp_path, checkpoint), store, "--collapse", method="text4vis") == 2
    assert "1 tensors are missing: transformer.resblocks.1.mlp.fc_dn.1.bias" in capsys.readouterr().err


def test_class_features_are_compared_with_their_names(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    names = dataset("glyphs-narrow", {}).class_names()
    with torch.no_grad():
        sources_SD = load_clip("glyph-vit", "random:0").embed_classes(prompts("mote28", names))
    sources_SD = sources_SD + 1e-5  # rounding of another program
    good, swapped = mote_checkpoint(sources_SD), mote_checkpoint(sources_SD[[1, 0, *range(2, len(names))]])
    assert take(saved(tmp_path, swapped, "swapped.pt"), store, "--source", "glyphs-narrow") == 2
    message = capsys.readouterr().err
    assert SOURCES in message and f"2 of {len(names)} classes" in message
    assert f"'{names[0]}'" in message or f"'{names[1]}'" in message
    assert take(saved(tmp_path, good), store, "--source", "glyphs-broad-both") == 2
    assert f"{len(names)} classes, glyphs-broad-both has" in capsys.readouterr().err
    assert not store.known("train")
    assert take(tmp_path / "official.pt", store, "--source", "glyphs-narrow") == 0
    printed = capsys.readouterr().out
    assert (
        "class features agree with glyphs-narrow" in printed and "source: glyphs-narrow, templates: mote28" in printed
    )


def test_a_training_of_a_head_is_exported_with_its_tower_and_class_features(tmp_path: Path, store: Store) -> None:
    file = saved(tmp_path, mote_checkpoint())
    assert take(file, store) == 0
    record, folder = the_record(store)
    weights = {n: t for n, t in load_file(folder / "weights.safetensors").items() if n.startswith("head.")}
    sources_SD = torch.eye(6, 128)
    with store.writing("texts", "abc", {}) as out:
        save_file({"classes": sources_SD}, out / "classes.safetensors")
    spec = {k: v for k, v in record["spec"].items() if k != "imported"} | {"recipe": {"epochs": 2.0}}
    own = {**record, "title": "train mote seed 0", "spec": spec, "inputs": {"source_texts": ["texts", "abc"]}}
    own = {name: own[name] for name in ("title", "spec", "context", "inputs", "result", "cost", "provenance")}
    with store.writing("train", "d" * 32, own) as out:
        save_file(weights, out / "weights.safetensors")
    assert give("mote seed 0", tmp_path / "own.pt", store) == 0
    back, expected = torch.load(tmp_path / "own.pt", weights_only=True), mote_checkpoint(sources_SD)
    tower = {n: t for n, t in load_clip("glyph-vit", "random:0").state_dict().items() if n in back[TOWER]}
    assert back["epoch"] == 2 and same(back[HEAD], expected[HEAD]) and same(back[TOWER], tower)
    assert len(tower) == len(expected[TOWER])


# --- what is refused ------------------------------------------------------------------------------------------------


def write_part(file: Path) -> None:
    file.write_bytes(saved(file.parent, mote_checkpoint(), "whole.pt").read_bytes()[:9000])


def write_script(file: Path) -> None:
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(file))


GARBAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda file: file.write_text("<html>not found</html>"), "not a torch file"),
    "empty": (lambda file: file.write_bytes(b""), "truncated"),
    "truncated": (write_part, "truncated"),
    "script": (write_script, "TorchScript archive"),
    "code": (lambda file: torch.save({TOWER: Path("x")}, file), "without running its code"),
    "old code": (lambda file: file.write_bytes(pickle.dumps({TOWER: Path("x")}, 2)), "not a torch file"),
    "list": (lambda file: torch.save([torch.zeros(2)], file), "not an official checkpoint: it holds list"),
    "other": (lambda file: torch.save({"state_dict": {}}, file), "not an official checkpoint: it holds state_dict"),
    "head": (
        lambda file: torch.save({TOWER: {}, HEAD: 1}, file),
        "not an official checkpoint: it holds model_state_dict",
    ),
    "folder": (lambda file: file.mkdir(), "is a folder"),
    "pipe": (lambda file: os.mkfifo(file), "is a pipe"),
    "device": (lambda file: file.symlink_to("/dev/zero"), "is a device"),
    "loop": (lambda file: file.symlink_to(file), "cannot be opened"),
    "nothing": (lambda file: None, "does not exist"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", GARBAGE)
def test_other_files_are_refused(kind: str, tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    make, message = GARBAGE[kind]
    make(tmp_path / "official.pt")
    assert take(tmp_path / "official.pt", store) == 2
    printed = capsys.readouterr().err
    assert message in printed and "official.pt" in printed and "weights_only" not in printed
    assert not store.root.exists()


BIAS = "module.transformer.resblocks.0.ln_2.bias"


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        (
            TOWER,
            "module.visual.ln_post.bias",
            None,
            "not a tower of 'glyph-vit'; 1 tensors are missing: visual.ln_post",
        ),
        (TOWER, "module.novel", torch.zeros(1), "1 unexpected tensors: novel"),
        (HEAD, BIAS, None, "not a head of 'mote'; 1 tensors are missing: transformer.resblocks.0.ln_2.bias"),
        (HEAD, BIAS, torch.zeros(7), "transformer.resblocks.0.ln_2.bias is [7], expected [128]"),
        (HEAD, BIAS, torch.full((128,), torch.nan), "transformer.resblocks.0.ln_2.bias: values are not finite"),
        (HEAD, "module.novel", torch.zeros(1), "1 unexpected tensors: novel"),
        (HEAD, f"module.{SOURCES}", torch.zeros(5, 64), f"{SOURCES} is [5, 64], expected [5, 128]"),
        (HEAD, "module.transformer.resblocks.1.mlp.mote_fusion_weight", torch.ones(3), "not merged equally"),
        (TOWER, "module.ln_final.bias", torch.zeros(128), "not a tower of 'glyph-vit'; 28 tensors are missing"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    part: str,
    name: str,
    value: Tensor | None,
    message: str,
    tmp_path: Path,
    store: Store,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = mote_checkpoint()
    checkpoint[part].pop(name, None)
    checkpoint[part] |= {} if value is None else {name: value}
    assert take(saved(tmp_path, checkpoint), store) == 2
    printed = capsys.readouterr().err
    assert message in printed and "official.pt" in printed
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("transformer.resblocks.1000000000.mlp.fc_up.0.weight", "the state has only"),
        (f"transformer.resblocks.0.mlp.fc_up.{'9' * 5000}.weight", "the state has only"),
        ("transformer.resblocks.0.mlp.fc_up.77777.weight", "the state has only"),
    ],
)
def test_numbers_in_names_are_bounded(
    name: str, message: str, tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = mote_checkpoint()
    checkpoint[HEAD][name] = torch.zeros(1)
    assert take(saved(tmp_path, checkpoint), store) == 2
    says(capsys.readouterr().err, message, name[:40], "official.pt")


def test_help_names_every_importable_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--help"]) == 0
    says(capsys.readouterr().out, *HEADS)


def test_whole_official_files_with_a_mask_a_config_and_numpy_numbers(tmp_path: Path, store: Store) -> None:
    """Masks may have infinities; OpenAI's extras are no weights."""
    checkpoint = text4vis_checkpoint(whole=True, in_one=True)
    checkpoint[TOWER]["attn_mask"] = torch.full((16, 16), -torch.inf)
    beside = {"epoch": np.int64(7), "config": Namespace(lr=1), "folder": Path("x"), "best": np.float32(80.5)}
    assert take(saved(tmp_path, checkpoint | beside), store, method="text4vis") == 0
    assert the_record(store)[0]["result"]["epoch"] == 7


def test_another_backbone_is_named(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert take(saved(tmp_path, mote_checkpoint()), store, backbone="ViT-B-16-quickgelu") == 2
    printed = capsys.readouterr().err
    says(printed, "visual.positional_embedding", "[65, 128]", "[197, 768]", "fits glyph-vit")


def test_a_tuned_text_tower_is_refused(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = deepcopy(text4vis_checkpoint(whole=True, in_one=False))
    checkpoint[TOWER]["ln_final.bias"] += 0.1
    assert take(saved(tmp_path, checkpoint), store, method="text4vis") == 2
    says(capsys.readouterr().err, "1 tensors", "ln_final.bias")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mot"}, "did you mean 'mote'"),
        ({"method": "vid_prism"}, "did you mean 'vidprism'"),
        ({"method": "clip_mean"}, "has no official layout here"),
        ({"method": "text4vis"}, "the head has experts"),
        ({"backbone": "ViT-B-61"}, "unknown backbone"),
        ({"more": ("--pretrained", "openia")}, "unknown weights of 'glyph-vit'"),
        ({"more": ("--pretrained", "gone.pt")}, "the weights file does not exist"),
        ({"more": ("--source", "glyphs-narow")}, "did you mean 'glyphs-narrow'"),
        ({"more": ("--source", "glyphs-narrow", "--templates", "mote")}, "unknown templates"),
        ({"more": ("--collapse",)}, "the head has no experts"),
    ],
)
def test_wrong_options_are_refused(
    options: dict[str, Any], message: str, tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    more = options.pop("more", ())
    assert take(saved(tmp_path, mote_checkpoint()), store, *more, **options) == 2
    assert message in capsys.readouterr().err and not store.root.exists()


def test_exports_that_cannot_be_are_refused(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert give("mine", tmp_path / "back.pt", store) == 2
    assert "no training is called 'mine'" in capsys.readouterr().err
    for name in ("one.pt", "two.pt"):
        checkpoint = mote_checkpoint() | {"epoch": len(name)}
        checkpoint[TOWER]["module.logit_scale"] = torch.tensor(float(name == "one.pt"))
        assert take(saved(tmp_path, checkpoint, name), store, "--name", "mine") == 0
    assert give("mine", tmp_path / "back.pt", store) == 2
    assert "'mine' names 2 trainings" in capsys.readouterr().err
    identity, record = find_trained(store, file_digest(tmp_path / "two.pt"))
    assert record["result"]["file"] == "two.pt" and json.dumps(record["spec"])
    assert give(identity, tmp_path / "one.pt", store) == 2
    assert "the file exists" in capsys.readouterr().err
    assert give(identity, tmp_path / "nowhere" / "two.pt", store) == 2
