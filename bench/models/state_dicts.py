"""State dicts in files: their tensors, comparison of tensors, and the layout of official checkpoints.

An official checkpoint of this field is a torch file with `epoch`, `model_state_dict` (CLIP's visual tower and logit
scale, or a whole CLIP), `fusion_model_state_dict` (the head) and the state of the optimiser. Text4Vis' main trainer
stores all tensors in one dictionary, those of the head under `fusion_model.`; its contrastive trainer, BIKE and MoTE
use two. Other trainers have other keys and names: `Layout`.

Legend: S source classes, D joint CLIP width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.models.torch_files import named, read_torch, refuse_stand_ins

State = dict[str, Tensor]

TOWER, HEAD = "model_state_dict", "fusion_model_state_dict"
SOURCES = "spe_cls_feature"  # unit class features [S, D] of the training set, stored in MoTE's head for modulation
IN_ONE = "fusion_model."
OPENAI_EXTRAS = {"input_resolution", "context_length", "vocab_size", "attn_mask"}  # stored with the weights, but none
FEWEST = 16  # layers that any state may name
REPEATED = 4  # times that a file's tensors may repeat its bytes, as tied weights do
SHOWN, LONGEST = 3, 200  # largest number of tensors that an error names, and of characters of one


class Layout(NamedTuple):
    """Names of tensors in an official checkpoint, from which those of a method's model follow, and the reverse.

    A rule replaces the start of an official name by one with `clip.` or `head.`; the longest that fits counts. A `*` on
    both sides stands for the same part between dots, such as the number of a block.
    """

    states: Mapping[str, Mapping[str, str]]  # key of the file -> rules; a file has to have the first key
    dropped: tuple[str, ...] = ()  # patterns of official names that no model has; they are kept for an export
    # Exported names start with `module.`, without which official code would not find them: all, or those of these keys.
    wrapped: bool | tuple[str, ...] = False


TWO = Layout({TOWER: {"": "clip."}, HEAD: {"": "head."}})
ONE = Layout({TOWER: {"": "clip.", IN_ONE: "head."}})


class Official(NamedTuple):
    """Contents of an official checkpoint under the names of CLIP and of a method's head."""

    tower: State  # visual.* and logit_scale
    head: State
    texts: State  # the text tower; empty if the file has none
    epoch: int | None
    in_one: bool  # one dictionary holds tower and head
    dropped: State = {}  # by key of the file, a slash and the official name


def read_official(file: Path, layout: Layout = TWO) -> Official:
    """Read an official checkpoint. Raises UserError for other files and for tensors that are not finite."""
    loaded = read_torch(file)
    absent: dict[str, Any] = {key: {} for key in list(layout.states)[1:]}
    content: dict[str, Any] = absent | loaded if isinstance(loaded, dict) else {}
    parts: dict[str, Any] = {key: content.get(key) for key in layout.states}
    refuse_stand_ins(parts, str(file))
    if not all(isinstance(part, dict) for part in parts.values()):
        keys = _first(loaded) if isinstance(loaded, dict) else type(loaded).__name__
        hint = f"an official checkpoint has {' and '.join(layout.states)}; weights of a plain CLIP go to --pretrained"
        raise UserError(f"not an official checkpoint: it holds {keys or 'nothing'}", where=str(file), hint=hint)
    if in_one := layout is TWO and not parts[HEAD]:
        layout = ONE
    states = {key: stored_tensors(parts[key], file) for key in layout.states}
    own, dropped = _named_here(states, layout, file)
    require_finite({**own, **dropped}.items(), str(file))
    model, head = official_names(own)
    tower = {name: tensor for name, tensor in model.items() if is_tower(name)}
    texts = {name: tensor for name, tensor in model.items() if name not in {*tower, *OPENAI_EXTRAS}}
    epoch = loaded.get("epoch")
    return Official(tower, head, texts, epoch if isinstance(epoch, int) else None, in_one, dropped)


def _named_here(states: dict[str, State], layout: Layout, file: Path) -> tuple[State, State]:
    """Tensors under the names of a model, and the dropped ones."""
    own, dropped, unexpected = State(), State(), []
    for key, state in states.items():
        for name, tensor in state.items():
            if any(fnmatchcase(name, pattern) for pattern in layout.dropped):
                dropped[f"{key}/{name}"] = tensor
            elif (new := renamed(name, layout.states[key])) and new not in own:
                own[new] = tensor
            else:
                unexpected.append(name)
    if unexpected:
        raise UserError(f"{len(unexpected)} unexpected tensors: {_first(unexpected)}", where=str(file))
    return own, dropped


def renamed(name: str, rules: Mapping[str, str]) -> str:
    """A name with another start; empty if no rule fits."""
    for start in sorted(rules, key=lambda start: len(start.replace("*", "")), reverse=True):
        if match := re.match(re.escape(start).replace(r"\*", r"([^.]+)"), name):
            return rules[start].replace("*", "".join(match.groups())) + name[match.end() :]
    return ""


def official_layout(official: Official, layout: Layout = TWO) -> dict[str, Any]:
    """The content of an official checkpoint file, without the optimiser: the inverse of `read_official`."""
    layout = ONE if official.in_one else layout
    reverse = {key: {own: start for start, own in rules.items()} for key, rules in layout.states.items()}
    states: dict[str, State] = {key: {} for key in layout.states}
    for own, tensor in trained_names({**official.tower, **official.texts}, official.head).items():
        key, name = next((key, name) for key, rules in reverse.items() if (name := renamed(own, rules)))
        states[key][name] = tensor
    for place, tensor in official.dropped.items():
        key, _, name = place.partition("/")
        states[key][name] = tensor
    wrapped = layout.wrapped if isinstance(layout.wrapped, tuple) else tuple(states) if layout.wrapped else ()
    starts = {key: "module." if key in wrapped else "" for key in states}
    epoch = {} if official.epoch is None else {"epoch": official.epoch}
    return {**epoch, **{key: {starts[key] + name: t for name, t in state.items()} for key, state in states.items()}}


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


def stored_tensors(state: dict[Any, Any], file: Path) -> State:
    """As `tensors`, of a state in a file. Raises UserError for tensors that are not plain numbers in the file."""
    content = named(state)
    refuse_stand_ins(content, str(file))
    for name, value in content.items():
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.is_quantized or value.is_meta:
                raise UserError(f"{_first([name])} is sparse, quantized or without values", where=str(file))
            content[name] = Tensor.detach(value)  # without attributes that the file gave it
    found = tensors(content)
    if sum(tensor.nbytes for tensor in found.values()) > REPEATED * file.stat().st_size:
        raise UserError("its tensors are many times as large as the file", where=str(file))
    return found


def require_finite(tensors: Iterable[tuple[str, Tensor]], where: object, hint: str = "") -> None:
    """Raises UserError that names the first tensors with a NaN or an infinity, which only masks may have."""
    if broken := [name for name, tensor in tensors if not (name.endswith("mask") or is_finite(tensor))]:
        raise UserError(f"{_first(broken)}: values are not finite", where=str(where), hint=hint)


def is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    ends = torch.aminmax(tensor if tensor.itemsize > 1 else tensor.float())  # hands a NaN on, and takes no memory
    return math.isfinite(ends.min) and math.isfinite(ends.max)


def layers_in(state: State, pattern: str) -> int:
    """Number of layers: one more than the highest number that the pattern's group matches at the start of a name.

    Raises UserError for a number that so few tensors cannot come up to.
    """
    found = {match[1]: name for name in state if (match := re.match(pattern, name))}
    highest = max(found, key=lambda number: (len(number), number), default="")
    if len(highest) > 9 or int(highest or 0) > max(len(state), FEWEST):
        raise UserError(f"{_first([found[highest]])}: the state has only {len(state)} tensors", where=HEAD)
    return 1 + int(highest or -1)


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
    """The first names, without what a terminal could take for an order."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(ascii(name[:LONGEST])[1:-1] for name in names[:SHOWN]) + more
