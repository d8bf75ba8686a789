"""Pairing of published numbers with measured ones, and differences between their protocols.

Every number carries its protocol as far as it is known. A field that differs rules a comparison out; a field that the
source does not state is listed, and counts neither way. What no source of the file states (prompt templates, fusion,
resizing, spelling of class names, decoder) is no field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import yaml

from bench.core.errors import UserError, unknown
from bench.core.files import ASSETS
from bench.published.numbers import COMPARED, COSTS, Number, lookup, one_value
from bench.suite.file import Published
from bench.suite.measures import measures
from bench.suite.named_protocols import named_protocol
from bench.suite.protocol import Protocol
from bench.suite.trial import Suite, Trial
from bench.video.views import TestViews

Facts = dict[str, str]  # field -> what is known of it, "" for nothing

TABLES: dict[str, dict[str, str]] = yaml.safe_load((ASSETS / "published.yaml").read_text(encoding="utf-8"))
TOWERS, DATASETS, SHORT, SPLITS, K600_VIDEOS = (
    TABLES[name] for name in ("towers", "datasets", "short", "splits", "k600_videos")
)
UNSEEN = {"UCF-101", "HMDB-51", "Kinetics-600"}
REPRODUCED = re.compile("reproduced_by_MoTE=yes|zero-shot part reproduced|same method carries the dagger")
OTHER_DATA = "other data"


@dataclass(frozen=True)
class Pair:
    """A published number beside the `measure` of a row at a point; "" if nothing there is measured on its data.

    `differs` says how the protocols differ, e.g. "views: 1x1 here, 4x3 published"; `unstated` names the fields that the
    source leaves open. A number that nobody can measure again has a `label` and no row: it stands below a column.
    """

    row: str
    point: str
    measure: str
    number: Number
    differs: tuple[str, ...]
    unstated: tuple[str, ...]
    label: str = ""

    @property
    def comparable(self) -> bool:
        return bool(self.measure and self.row) and not self.differs and not self.number.second_hand


@dataclass(frozen=True)
class _Measured:
    """A measured number of a row at a point, with its protocol. `other`: measured on stand-ins for the real data."""

    measure: str
    metric: str
    kinds: frozenset[str]
    datasets: frozenset[str]
    facts: Facts
    other: bool


def pairs(suite: Suite) -> tuple[Pair, ...]:
    """Every published number that a suite selects, beside its measure. Raises UserError at the selector's key path."""
    selectors = enumerate(suite.file.report.published)
    return tuple(
        replace(pair, label=own.label)
        for i, own in selectors
        for pair in _pairs(own, suite, suite.where(("report", "published", i)))
    )


def _pairs(selector: Published, suite: Suite, place: str) -> Iterator[Pair]:
    if selector.row and selector.label:
        raise UserError(f"row '{selector.row}' has a label of its own", where=place, hint="leave `label` out")
    if selector.row and selector.row not in suite.file.rows:
        raise unknown("row", selector.row, suite.file.rows, where=place)
    if absent := [axis for axis in selector.point if axis not in suite.axes]:
        raise unknown("axis", absent[0], suite.axes, where=place)
    if suite.file.world and not any(selector.point.items() <= dict(own.point).items() for own in suite.trials):
        return  # the world has no such point
    found = lookup(selector.where, place=place)
    costs = [number for number in found if number.metric in COSTS]
    point = ", ".join(f"{name} {value}" for name, value in selector.point.items())
    yield from (Pair(selector.row, point, "", number, ("a cost",), ()) for number in costs)
    numbers = [number for number in found if number.metric in COMPARED]
    if not numbers and not costs:
        allowed = " or ".join((*COMPARED, *COSTS))
        raise UserError("no number that a report compares", where=place, hint=f"metric is {allowed}")
    known = _trials(selector, suite, place)
    trials = {trial.point: trial for trial in known if selector.point.items() <= dict(trial.point).items()}
    placed: set[Number] = set()
    measured: set[str] = set()
    uses = {name: str(suite.file.protocols[name].get("use", "")) for name in suite.shown}
    for trial in trials.values():
        for cell in _cells(trial, uses):
            candidates = [number for number in numbers if _belongs(number, cell)]
            placed.update(candidates)
            measured |= cell.datasets
            yield from _closest(candidates, cell, trial, place)
    for number in numbers:
        if number not in placed:
            why = "not measured here" if _datasets(number) <= measured else OTHER_DATA
            yield Pair(selector.row, point, "", number, (why,), ())


def _trials(selector: Published, suite: Suite, place: str) -> Iterator[Trial]:
    """The trials of the selector's row; without a row, one at each point of the suite's axes, measured as the columns.

    Its training data are those of the first trained row that is measured on most columns.
    """
    if selector.row:
        yield from (trial for trial in suite.trials if trial.row == selector.row)
        return
    if not selector.label:
        raise UserError("published numbers without a row have no name", where=place, hint="give `row` or `label`")
    if selector.label in {trial.label for trial in suite.trials}:
        hint = "`row` names the row that they belong to"
        raise UserError(f"'{selector.label}' is the name of a row", where=place, hint=hint)
    most = max(suite.trials, key=lambda trial: (len(trial.columns), trial.config.trains))
    shared = {path.rpartition(".")[2] for path in suite.file.axes}
    for trial in suite.trials:
        if trial.row == most.row:
            point = tuple((axis, value) for axis, value in trial.point if axis in shared)
            yield replace(trial, row="", point=point, protocols=tuple(trial.columns.items()))


def _closest(candidates: list[Number], cell: _Measured, trial: Trial, place: str) -> Iterator[Pair]:
    """Numbers whose protocols differ least from the cell's; a single value where none differs."""
    compared = {number: _compare(number, cell) for number in candidates}
    point = ", ".join(f"{name} {value}" for name, value in trial.point)
    for second_hand in (False, True):
        alike = {number: of for number, of in compared.items() if number.second_hand == second_hand}
        fewest = min((len(differs) for differs, _ in alike.values()), default=0)
        best = sorted((n for n in alike if len(alike[n][0]) == fewest), key=lambda number: len(alike[number][1]))
        if best and not fewest:
            best = [one_value(best, f"{cell.measure} of row '{trial.row}'" if trial.row else cell.measure, place)]
        for number in {number.text: number for number in reversed(best)}.values():
            differs, unstated = ((OTHER_DATA,), ()) if cell.other else alike[number]
            yield Pair(trial.row, point, cell.measure, number, differs, unstated)


def _compare(number: Number, cell: _Measured) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The fields that differ, and those that the source does not state."""
    stated = _stated(number)
    own = {field: value for field, value in cell.facts.items() if value}
    differing = {f: f"{f}: {own[f]} here, {stated[f]} published" for f in own if stated[f] and stated[f] != own[f]}
    return tuple(differing.values()), tuple(field for field in own if not stated[field])


# --- what is known of a published number -----------------------------------------------------------------------------


def _stated(number: Number) -> Facts:
    """Frames `8/32` leave open which were tested; a printed HM_ZS repeats the views of the closed-set number."""
    split = "" if number.split == "val" and number.dataset in ("UCF-101", "HMDB-51") else SPLITS.get(number.split, "")
    return {
        "backbone": number.backbone,
        "frames": number.frames if number.frames.isdigit() else "",
        "views": "" if number.metric == "hm" and "+" in number.dataset else number.views,
        "split": split,
        "videos per class": number.shots or ("all" if number.protocol in ("closed-set", "zero-shot") else ""),
        "training data": _trained_on(number),
        "candidates": "own names",
        "Kinetics-600 videos": K600_VIDEOS.get(_measured_by(number), ""),
    }


def _datasets(number: Number) -> frozenset[str]:
    return frozenset(SHORT.get(name, name) for name in number.dataset.split("+"))


def _trained_on(number: Number) -> str:
    """Training dataset: the measured one; of zero-shot numbers the one in the notes, else the paper's."""
    if number.protocol != "zero-shot":
        return SHORT["K400"] if number.metric == "tradeoff" else number.dataset
    if told := re.search(r"(?:^|; )trained on ([\w-]+)", number.notes):
        return SHORT.get(told[1], told[1])
    known = number.source.removesuffix(" repo") in K600_VIDEOS and _datasets(number) <= UNSEEN
    return SHORT["K400"] if known else ""


def _measured_by(number: Number) -> str:
    """Whose code gave the number, if that is known."""
    if REPRODUCED.search(number.notes):
        return "MoTE"
    return number.method if number.source.removesuffix(" repo") == number.method else ""


def _kind(number: Number) -> str:
    return number.split if number.protocol == "base-to-novel" else number.protocol


# --- what is known of a measured number ------------------------------------------------------------------------------


def _belongs(number: Number, cell: _Measured) -> bool:
    kind = _kind(number)
    return number.metric == cell.metric and _datasets(number) == cell.datasets and (not kind or kind in cell.kinds)


def _cells(trial: Trial, uses: Mapping[str, str]) -> Iterator[_Measured]:
    """The cells of a trial that are on data of the file, or stand for such data."""
    own = {name: protocol for name, protocol in trial.protocols if name in uses}
    meant = {name: _meant(protocol, uses[name]) for name, protocol in own.items()}
    for key, measure in measures(
        {name: p.role for name, p in meant.items()}, {name: p.dataset for name, p in meant.items()}
    ).items():
        inputs = [meant[name] for name in measure.inputs]
        if not all(protocol.dataset in DATASETS for protocol in inputs):
            continue
        closed, unseen = [p for p in inputs if p.role == "closed-set"], [p for p in inputs if p.role == "zero-shot"]
        both = len(inputs) > 1 and closed and unseen
        views, splits = (closed, unseen) if both else (inputs, inputs)
        yield _Measured(
            key,
            "tradeoff" if key == "trade_off" else "hm" if measure.needs else "top1",
            _kinds(inputs, trial, bool(measure.needs)),
            frozenset(DATASETS[protocol.dataset] for protocol in inputs),
            {
                "backbone": _backbone(trial),
                "frames": _joined(str(p.views.frames) for p in inputs),
                "views": _joined(f"{p.views.clips}x{p.views.crops}" for p in views),
                "split": _joined(map(_split, splits)),
                **_training(inputs, trial),
                "candidates": _joined("own names" if not p.vocabulary else "mixed with others" for p in inputs),
                "Kinetics-600 videos": _joined(p.split for p in inputs if p.dataset.startswith("kinetics-600")),
            },
            other=any(own[name].dataset not in DATASETS for name in measure.inputs),
        )


def _meant(protocol: Protocol, use: str) -> Protocol:
    """The protocol itself; for stand-ins of real data, the named protocol that they stand for."""
    if protocol.dataset in DATASETS or not use:
        return protocol
    settings = named_protocol(use)
    return Protocol.model_validate({**settings, "views": TestViews.model_validate(settings.get("views", {}))})


def _kinds(inputs: list[Protocol], trial: Trial, derived: bool) -> frozenset[str]:
    """Kinds of published numbers that a cell may be paired with; an untrained method is the same under all of them."""
    roles = [protocol.role for protocol in inputs]
    if "base" in roles and derived:
        return frozenset({"base+novel"})
    if roles[0] in ("base", "novel"):
        return frozenset(roles)
    if not trial.config.trains:
        return frozenset({"closed-set", "few-shot", "zero-shot"})
    return frozenset({"few-shot" if roles[0] == "closed-set" and trial.recipe.shots else roles[0]})


def _training(inputs: list[Protocol], trial: Trial) -> Facts:
    """Facts about the training data; none for a method without training."""
    recipe, halves = trial.recipe, inputs[0].role in ("base", "novel")
    if not trial.config.trains:
        return {}
    source = DATASETS.get(recipe.source, recipe.source)
    part = ", base classes" if recipe.classes == "base" and not halves else ""
    return {"videos per class": str(recipe.shots or "all"), "training data": source + part}


def _backbone(trial: Trial) -> str:
    """The backbone as papers print it. They mean OpenAI's weights, or ViCLIP's, so other tags are named."""
    recipe = trial.recipe
    name = TOWERS.get(recipe.backbone, recipe.backbone)
    shape = re.sub(r"^(ViT-[A-Z])-(\d+)", r"\1/\2", name.removesuffix("-quickgelu"))
    local = recipe.pretrained in ("openai", "builtin") or re.search(r"[/\\]|\.(pt|safetensors)$", recipe.pretrained)
    return shape if local else f"{shape} ({recipe.pretrained})"


def _split(protocol: Protocol) -> str:
    parts = list(protocol.parts().values())
    if protocol.half:
        return "halves of the classes"
    if len(parts) > 1:
        return f"mean of {len(parts)}"
    place = parts[0].dataset if parts[0].dataset.startswith("kinetics-600") else parts[0].split
    if official := re.search(r"^(?:test|kinetics-600-split)(\d)$", place):
        return official[1]
    return "all videos" if place in ("full", "split1") else place


def _joined(values: Iterator[str]) -> str:
    return ", ".join(dict.fromkeys(filter(None, values)))
