"""Official checkpoints become training records, and training records official checkpoints.

Legend: S source classes, D joint CLIP width.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from bench.checkpoints.heads import OfficialHead, official_head
from bench.checkpoints.imported import file_digest, find_trained
from bench.core.errors import UserError
from bench.core.identity import source_hashes
from bench.graph.kinds import ImportedStage
from bench.graph.stage import CARRIERS, Stage, as_json
from bench.models.backbones import backbone, model_config, supported_names
from bench.models.clip import Clip, load_clip
from bench.models.prompts import prompts
from bench.models.state_dicts import (
    SOURCES,
    Official,
    State,
    collapsed,
    is_tower,
    layers_in,
    official_layout,
    official_names,
    read_official,
    refuse_differences,
    trained_names,
)
from bench.models.weights import check_tag
from bench.store.provenance import provenance
from bench.store.records import Store
from methods.contract import Model
from methods.registry import method

ALIKE = 0.999  # least cosine of a stored class feature with the one computed from the class's name


class Imported(NamedTuple):
    """An imported checkpoint: its record, and what a suite has to say to use it."""

    identity: str
    digest: str
    config: dict[str, Any]
    inference: dict[str, Any]
    fresh: bool  # False if the record was there already
    notes: list[str]


class Sources(NamedTuple):
    """Class names and templates whose features the stored ones are compared with."""

    dataset: str
    class_names: tuple[str, ...]
    templates: str


# ---------------------------------------------------------------------------------------------------------------------
# Import


def import_official(
    file: Path,
    store: Store,
    method_name: str,
    backbone_name: str,
    pretrained: str,
    *,
    name: str = "",
    collapse: bool = False,
    sources: Sources | None = None,
) -> Imported:
    """Puts a checkpoint into the store as a training on the CLIP that its own training started from.

    Raises UserError, and writes nothing, where the file is no official checkpoint or fits neither method nor backbone.
    """
    started, shape, head_of = time.time(), backbone(backbone_name), official_head(method_name)
    check_tag(backbone_name, pretrained)
    official = read_official(file, head_of.layout)
    official = official._replace(head=head_of.widened(official.head), tower=head_of.joined(official.tower))
    if collapse:
        _choices(official, "mote", backbone_name, file)
        official = official._replace(head=collapsed(official.head))
    choices = _choices(official, method_name, backbone_name, file)
    config, digest = method(method_name).config.model_validate(choices), file_digest(file)
    stage, notes = ImportedStage(method_name, config, backbone_name, pretrained, digest).plan(), []
    if not shape.quick_gelu and pretrained != "openai" and backbone_name != "glyph-vit":
        notes.append(f"official towers have QuickGELU, {backbone_name} has GELU with these weights")
    given = official.texts if head_of.text == "pretrained" else {}
    frozen = head_of.frozen_in(official.tower)
    if given or frozen or sources:
        clip = load_clip(backbone_name, pretrained)
        _refuse_other_texts(clip, given, file)
        _refuse_other_tower(clip, frozen, file)
        if sources:
            notes.append(_compare_sources(clip, official.head.get(SOURCES), sources, file))
    if fresh := not store.done(*stage.key) or (bool(store.left_out(*stage.key)) and store.mend(*stage.key)):
        result: dict[str, Any] = {"file": file.name, "epoch": official.epoch, "in_one": official.in_one}
        if classes := head_of.bound_classes(official.head):
            result["classes"] = classes
        about = {"title": f"import {name or file.name}", "result": result}
        _write(store, stage, about, _states(official, head_of), started)
    return Imported(stage.identity, digest, choices, dict(head_of.inference), fresh, notes)


def _states(official: Official, head_of: OfficialHead) -> dict[str, State]:
    """Files of a record: weights, and what an export gives back besides, where the checkpoint has it."""
    fresh = head_of.additions(official.head)
    head = {name: tensor for name, tensor in official.head.items() if name not in {SOURCES, *fresh}}
    found = {name: official.head[name] for name in fresh if name in official.head}
    additions = {name: tensor for name, tensor in found.items() if not torch.equal(tensor, fresh[name])}
    features = {name: tensor for name, tensor in official.head.items() if name == SOURCES}
    frozen, texts = head_of.frozen_in(official.tower), official.texts
    tower = {name: tensor for name, tensor in official.tower.items() if name not in frozen}
    if head_of.text == "tuned":
        tower, texts = {**tower, **texts}, {}
    weights = trained_names(tower, head)
    kept = {"sources": features, "texts": texts, "additions": additions, "dropped": official.dropped}
    states = {"weights": weights, **kept}
    return {name: state for name, state in states.items() if state}


def _write(store: Store, stage: Stage, about: dict[str, Any], states: dict[str, State], started: float) -> None:
    """A record as trainings leave it, with an empty history."""
    sources = source_hashes(*stage.modules, without=CARRIERS["train"])
    record = {**about, "spec": as_json(stage.spec), "context": stage.context, "inputs": {}, "source": sources}
    with Store.create(store.root).writing(*stage.key, record) as out:
        for name, state in states.items():
            own = {key: tensor.detach().clone().contiguous() for key, tensor in state.items()}
            save_file(own, out / f"{name}.safetensors")
        (out / "history.json").write_text("[]")
        seconds = time.time() - started
        record["cost"] = {"seconds": seconds, "flops": 0.0}
        record["provenance"] = {
            **provenance(),
            **{"host": socket.gethostname(), "device": "cpu", "threads": torch.get_num_threads()},
            **{"started": started, "seconds": seconds},
        }


# ---------------------------------------------------------------------------------------------------------------------
# What has to fit


def _choices(official: Official, method_name: str, backbone_name: str, where: object) -> dict[str, Any]:
    """Config of the head. Raises UserError where tensors are not those of the method's model on the backbone."""
    head_of = official_head(method_name)
    with _at(where):
        choices = {"tower": "tuned", **head_of.choices(official.head)}
    model = _model(method_name, backbone_name, choices, head_of.bound_classes(official.head))
    tower, head = official_names(model.trained_state())  # a text tower that is trained is part of `tower`
    texts = {name: tensor for name, tensor in model.clip.state_dict().items() if not is_tower(name)}
    beside = head_of.text == "pretrained" and texts.keys() & official.texts.keys()
    whole = {**tower, **head_of.frozen_in(model.clip.state_dict()), **(texts if beside else {})}
    try:
        refuse_differences(whole, {**official.tower, **official.texts}, f"not a tower of '{backbone_name}'", str(where))
    except UserError as error:
        fitting = _fitting(official.tower)
        hint = f"the tower fits {', '.join(fitting) or 'no known backbone'}" if backbone_name not in fitting else ""
        raise UserError(error.what, where=error.where, hint=hint) from None
    features = official.head.get(SOURCES, torch.empty(0))
    features_SD = torch.empty(len(features) if features.ndim else 0, model.width, device="meta")
    additions = {**head_of.additions(official.head), SOURCES: features_SD}
    present = {name: tensor for name, tensor in additions.items() if name in official.head}
    refuse_differences({**head, **present}, official.head, f"not a head of '{method_name}'", str(where))
    with _at(where):
        head_of.refuse(official.head)
    return choices


@contextmanager
def _at(where: object) -> Iterator[None]:
    """Inside, a UserError names the file as well."""
    try:
        yield
    except UserError as error:
        raise error.at(f"{where}: {error.where}") from None


def _model(method_name: str, backbone_name: str, choices: dict[str, Any], classes: int = 0) -> Model:
    """The model without memory, for its names and shapes."""
    registered = method(method_name)
    with torch.device("meta"):
        clip = Clip(backbone(backbone_name), model_config(backbone_name))
    clip.logit_scale = nn.Parameter(torch.zeros(()))  # models read its value
    with torch.device("meta"):
        model: Model = registered.model(registered.config.model_validate(choices), clip)
        if classes:
            model.bind_classes(classes)
        return model


def _fitting(tower: State) -> list[str]:
    """Backbones with a tower of these shapes, those with OpenAI's activation first."""
    layers = layers_in(tower, r"visual\.transformer\.resblocks\.(\d+)\.")
    named = [tower.get(f"visual.{name}") for name in ("conv1.weight", "positional_embedding", "proj")]
    found = [None if tensor is None else tuple(tensor.shape) for tensor in named]
    fitting = []
    for name in supported_names():
        shape = backbone(name)
        width, patch = shape.vision_width, shape.patch_size
        sizes = [(width, 3, patch, patch), (shape.vision_tokens, width), (width, shape.embed_dim)]
        video = "visual.temporal_positional_embedding" in tower
        if layers == shape.vision_layers and found == sizes and video == shape.video:
            fitting.append(name)
    return sorted(fitting, key=lambda name: not backbone(name).quick_gelu)


def _refuse_other_texts(clip: Clip, texts: State, file: Path) -> None:
    """Class texts come from the CLIP that training started from, so a text tower in the file must be that one's."""
    own = clip.state_dict()
    tuned = [name for name, tensor in texts.items() if not torch.equal(tensor, own[name].to(tensor.dtype))]
    if tuned:
        raise UserError(
            f"its text tower is not that of the pretrained weights: {len(tuned)} tensors differ, such as {tuned[0]}",
            where=str(file),
            hint="class texts are computed by the pretrained weights: name a CLIP with this text tower as --pretrained",
        )


def _refuse_other_tower(clip: Clip, frozen: State, file: Path) -> None:
    """What was frozen in training is not stored: it has to be that of the CLIP that training started from."""
    own = clip.state_dict()
    if other := [name for name, tensor in frozen.items() if not torch.equal(tensor, own[name].to(tensor.dtype))]:
        raise UserError(
            f"its frozen tower is not that of the pretrained weights: {len(other)} tensors differ, such as {other[0]}",
            where=str(file),
            hint="name the CLIP that its training started from as --pretrained",
        )


@torch.no_grad()
def _compare_sources(clip: Clip, sources_SD: Tensor | None, sources: Sources, file: Path) -> str:
    """Compare stored class features with CLIP's. Raises UserError if they are of other classes or texts."""
    where, names = f"{file}: {SOURCES}", sources.class_names
    if sources_SD is None:
        return "the file has no class features to compare"
    if len(sources_SD) != len(names):
        raise UserError(f"{len(sources_SD)} classes, {sources.dataset} has {len(names)}", where=where)
    own_SD = clip.embed_classes(prompts(sources.templates, names))
    cosines_SS = F.normalize(sources_SD.float(), dim=-1) @ own_SD.T
    cosines_S = cosines_SS.diagonal()
    worst = int(cosines_S.argmin())
    if cosines_S[worst] < ALIKE:
        nearest = int(cosines_SS[worst].argmax())
        raise UserError(
            f"class {worst}, '{names[worst]}', has cosine {float(cosines_S[worst]):.4f} with the text of its name; "
            f"{int((cosines_S < ALIKE).sum())} of {len(names)} classes are below {ALIKE}",
            where=where,
            hint=f"row {worst} is most like '{names[nearest]}' ({float(cosines_SS[worst, nearest]):.4f}): other order, "
            "spelling, templates or CLIP; without --source nothing is compared",
        )
    return f"class features agree with {sources.dataset}: cosine at least {float(cosines_S[worst]):.5f}"


# ---------------------------------------------------------------------------------------------------------------------
# Export


def export_official(store: Store, key: str, target: Path) -> tuple[str, list[str]]:
    """Writes a training as an official checkpoint and returns its title, and settings that an import would not find.

    Raises UserError for trainings whose head is not an official one, and for a file that exists.
    """
    identity, record = find_trained(store, key)
    folder, spec = store.folder("train", identity), store.read("train", identity, None)["spec"]
    if target.exists():
        raise UserError("the file exists", where=str(target), hint="name another file")
    if not target.absolute().parent.is_dir():
        raise UserError("there is no such folder", where=str(target.parent))
    head_of = official_head(spec["method"])
    tower, head = official_names(load_file(folder / "weights.safetensors"))
    if not tower or head_of.frozen or head_of.text == "tuned":  # what was not trained is CLIP's
        clip = load_clip(spec["backbone"], record["context"]["pretrained"])
        with _at(folder):
            needed = _clip_names(head_of, head, spec)
        tower = {name: tensor for name, tensor in clip.state_dict().items() if name in needed} | tower
    if "imported" in spec:
        epoch, in_one = record["result"]["epoch"], record["result"]["in_one"]
    else:
        epoch, in_one = int(spec["recipe"]["epochs"]), False
    with _at(folder):
        additions = {**head_of.additions(head), **_stored(folder / "additions.safetensors")}
        whole = {**head, **additions, **_sources(store, folder, record, head_of)}
    texts, dropped = (_stored(folder / f"{name}.safetensors") for name in ("texts", "dropped"))
    if head_of.whole and not texts:
        clip = load_clip(spec["backbone"], record["context"]["pretrained"])
        texts = {name: own for name, own in clip.state_dict().items() if not is_tower(name) and name not in tower}
    official = Official(tower, whole, texts, epoch, in_one, dropped)
    choices = _choices(official, spec["method"], spec["backbone"], folder)
    own, read_back = (method(spec["method"]).config.model_validate(each) for each in (spec["config"], choices))
    if own.tower_inside and not read_back.tower_inside:
        raise UserError("modules inside its tower have no place in an official checkpoint", where=str(folder))
    frames = spec.get("recipe", {}).get("views", {}).get("frames", 0)
    official = official._replace(head=head_of.narrowed(whole, frames), tower=head_of.split(tower))
    partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        torch.save(official_layout(official, head_of.layout), partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    unsaid = {name: (getattr(own, name), getattr(read_back, name)) for name in head_of.unsaid}
    notes = [
        f"the file does not say {name}: {as_json(mine)}, and an import of it takes {name}: {as_json(other)}"
        for name, (mine, other) in unsaid.items()
        if mine != other
    ]
    return str(record["title"]), notes


def _clip_names(head_of: OfficialHead, head: State, spec: dict[str, Any]) -> set[str]:
    """CLIP's tensors in an official checkpoint with this head, whatever a training left frozen."""
    choices = {"tower": "tuned", **head_of.choices(head)}
    model = _model(spec["method"], spec["backbone"], choices, head_of.bound_classes(head))
    return {*official_names(model.trained_state())[0], *head_of.frozen_in(model.clip.state_dict())}


def _stored(file: Path) -> State:
    """Tensors of a file; none if there is no file."""
    return load_file(file) if file.is_file() else {}


def _sources(store: Store, folder: Path, record: dict[str, Any], head_of: OfficialHead) -> State:
    """Class features of the training set: those of the imported file, or those that the training itself used."""
    if imported := _stored(folder / "sources.safetensors"):
        return imported
    used = record["inputs"].get("source_texts") if head_of.has_sources else None
    if used is None or not store.find(used[0], used[1], ["classes.safetensors"]):
        return {}
    return {SOURCES: load_file(store.folder(*used) / "classes.safetensors")["classes"]}
