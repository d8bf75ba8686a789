"""State dicts in files: safe reading of torch files, comparison of tensors, and the layout of official checkpoints.

An official checkpoint of this field is a torch file with `epoch`, `model_state_dict` (CLIP's visual tower and logit
scale, or a whole CLIP), `fusion_model_state_dict` (the head) and the state of the optimiser. Text4Vis' main trainer
stores all tensors in one dictionary, those of the head under `fusion_model.`; its contrastive trainer, BIKE and MoTE
use two.

Legend: S source classes, D joint CLIP width.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.core.errors import UserError

State = dict[str, Tensor]

TOWER, HEAD = "model_state_dict", "fusion_model_state_dict"
SOURCES = "spe_cls_feature"  # unit class features [S, D] of the training set, stored in MoTE's head for modulation
IN_ONE = "fusion_model."
OPENAI_EXTRAS = {"input_resolution", "context_length", "vocab_size", "attn_mask"}  # stored with the weights, but none
SHOWN = 3  # largest number of tensors that an error names


class Official(NamedTuple):
    """Contents of an official checkpoint; names are without the prefix `module.`."""

    tower: State  # visual.* and logit_scale
    head: State
    texts: State  # the text tower; empty if the file has none
    epoch: int | None
    in_one: bool  # one dictionary holds tower and head


def read_official(file: Path) -> Official:
    """Read an official checkpoint. Raises UserError for other files and for tensors that are not finite."""
    loaded = read_torch(file)
    parts = (loaded.get(TOWER), loaded.get(HEAD, {})) if isinstance(loaded, dict) else (None,)
    if not all(isinstance(part, dict) for part in parts):
        keys = ", ".join(map(str, list(loaded)[:SHOWN])) if isinstance(loaded, dict) else type(loaded).__name__
        hint = f"an official checkpoint has {TOWER} and {HEAD}; weights of a plain CLIP go to --pretrained"
        raise UserError(f"not an official checkpoint: it holds {keys or 'nothing'}", where=str(file), hint=hint)
    model, head = tensors(loaded[TOWER]), tensors(loaded.get(HEAD, {}))
    if in_one := not head:
        head = {name.removeprefix(IN_ONE): tensor for name, tensor in model.items() if name.startswith(IN_ONE)}
    tower = {name: tensor for name, tensor in model.items() if is_tower(name)}
    apart = {*tower, *OPENAI_EXTRAS, *(f"{IN_ONE}{name}" for name in head if in_one)}
    texts = {name: tensor for name, tensor in model.items() if name not in apart}
    if broken := [name for name, tensor in {**model, **head}.items() if not tensor.isfinite().all()]:
        raise UserError(f"{_first(broken)}: values are not finite", where=str(file))
    epoch = loaded.get("epoch")
    return Official(tower, head, texts, epoch if isinstance(epoch, int) else None, in_one)


def official_layout(official: Official) -> dict[str, Any]:
    """The content of an official checkpoint file, without the optimiser: the inverse of `read_official`."""
    model, head = {**official.tower, **official.texts}, official.head
    epoch = {} if official.epoch is None else {"epoch": official.epoch}
    if official.in_one:
        return {**epoch, TOWER: model | {f"{IN_ONE}{name}": tensor for name, tensor in head.items()}}
    return {**epoch, TOWER: model, HEAD: head}


def trained_names(tower: State, head: State) -> State:
    """Tower and head under the names of a method's model."""
    return {f"clip.{name}": tensor for name, tensor in tower.items()} | {f"head.{n}": t for n, t in head.items()}


def official_names(trained: State) -> tuple[State, State]:
    """Tower and head of a method's trained state: the inverse of `trained_names`."""
    tower, head = (
        {name.removeprefix(prefix): tensor for name, tensor in trained.items() if name.startswith(prefix)}
        for prefix in ("clip.", "head.")
    )
    return tower, head


def collapsed(head: State) -> State:
    """The head with its experts merged into their mean, under the names of a dense head."""
    experts = layers_in(head, r"transformer\.resblocks\.\d+\.mlp\.fc_up\.(\d+)\.")
    dense = {name: tensor for name, tensor in head.items() if ".mlp." not in name}
    for name, first in head.items():
        if match := re.fullmatch(r"(.+\.mlp\.)fc_(up|dn)\.0\.(weight|bias)", name):
            own = [head[f"{match[1]}fc_{match[2]}.{expert}.{match[3]}"] for expert in range(experts)]
            mean = torch.stack(own).float().mean(dim=0)
            dense[f"{match[1]}{'c_fc' if match[2] == 'up' else 'c_proj'}.{match[3]}"] = mean.to(first.dtype)
    return dense


def is_tower(name: str) -> bool:
    """True if a tensor of a CLIP belongs to the visual tower or is the logit scale."""
    return name.startswith(("visual.", "logit_scale"))


def tensors(state: dict[Any, Any]) -> State:
    """The tensors of a state, without the prefix `module.` that data-parallel wrappers add."""
    return {str(name).removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}


def layers_in(state: State, pattern: str) -> int:
    """Number of layers: one more than the highest number that the pattern's group matches at the start of a name."""
    return 1 + max((int(match[1]) for name in state if (match := re.match(pattern, name))), default=-1)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_torch(file: Path) -> Any:
    """Content of a torch file, memory-mapped on the CPU. No code in the file is run. Raises UserError."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=_archive(file) is not None)
    except Exception as error:  # arbitrary bytes can raise anything
        what, hint = _reason(file, error)
        raise UserError(f"the weights cannot be read: {what}", where=str(file), hint=hint) from error


def _archive(file: Path) -> list[str] | None:
    """File names in a zip archive, torch's format since 1.6; None for other files and truncated archives."""
    if not zipfile.is_zipfile(file):
        return None
    with zipfile.ZipFile(file) as archive:
        return [Path(name).name for name in archive.namelist()]


def _reason(file: Path, error: Exception) -> tuple[str, str]:
    """(problem, hint). torch's own message advises to load the file unsafely."""
    try:
        with file.open("rb") as stream:
            start = stream.read(2)
    except OSError as unreadable:
        return str(unreadable), ""
    archive = _archive(file)
    if archive is not None and "constants.pkl" in archive:
        return "it is a TorchScript archive", "load it with torch.jit.load and save its state_dict()"
    if foreign := re.search(r"GLOBAL (\S+)|class (\S+) was not", str(error)):
        name = foreign[1] or foreign[2]
        return f"it holds a {name}, which cannot be restored without running its code", "save only tensors in the file"
    if not start or (start == b"PK" and archive is None):
        return "it is truncated", "compare its size with the published one and download it again"
    return "it is not a torch file", "expected safetensors, or a torch file of tensors"


# --- comparing --------------------------------------------------------------------------------------------------------


def refuse_differences(expected: State, found: State, what: str, where: str) -> None:
    """Raises UserError, starting with `what`, if tensors are missing, unexpected or of another shape."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    shapes = [
        f"{name} is {list(found[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    kinds = {"tensors are missing": missing, "unexpected tensors": unexpected, "tensors have another shape": shapes}
    wrong = [f"{len(names)} {kind}: {_first(names)}" for kind, names in kinds.items() if names]
    if wrong:
        raise UserError(f"{what}; " + "; ".join(wrong), where=where)


def _first(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
