"""Costs of methods as one set of grids: profiles, latencies, modules, experts, trainings; and how their numbers print.

Page tables, the terminal tables of `profile` and the figures of costs take their numbers from these grids. GFLOPs count
2 per multiply-add, matrix products only; a GPU-day of a paper is 24 hours of one device.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from math import isnan, nan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bench.measure.statistics import spread
from bench.suite.published import Number, load
from reports.facts import Cost, Subject, TrainingCost, by_setting
from reports.results import Results
from reports.table import Column, Table, TableCell, frame

GIGA, MEGA, MEBIBYTE, MILLI = 1e9, 1e6, 2**20, 1e-3
EACH = "2 per multiply-add"
GPU_DAYS = "gpu_days"
DAY = 24  # hours
DIGITS = {"page": 3, "terminal": 4}  # significant ones
REPRODUCED = re.compile("reproduced_by_MoTE=")
SIZES = ("total", "trainable", "active", "head", "expert")
CALLS = ("view", "video", "text", "training")  # FLOPs of which a profile counts
MEASURED = ("part", "precision", "batch", "p50", "p95", "runs", "throughput", "memory")
Values = dict[str, Any]  # numbers of a line, unrounded


class CostLine(NamedTuple):
    """A line of a grid: the row and setting it is about, its record, and its numbers; `details` are in no file."""

    label: str
    setting: str
    identity: str
    values: Values
    details: Values = {}


class CostColumn(NamedTuple):
    """A column of a grid: its head, its text for a line with so many significant digits, and the media that show it."""

    head: str
    text: Callable[[Values, int], str]
    number: bool = True
    media: tuple[str, ...] = ("page", "terminal")


class CostGrid(NamedTuple):
    """Lines of numbers with all columns that may be shown of them."""

    name: str
    caption: str
    columns: tuple[CostColumn, ...]
    lines: list[CostLine]
    notes: tuple[str, ...] = ()

    def table(self, medium: str) -> Table:
        """The grid for the page or the terminal. Columns of text that are empty are left out; those from the first number on are linked."""
        names = [CostColumn("Method", _plain("label"), False), CostColumn("Setting", _plain("setting"), False)]
        columns = [*names, *(column for column in self.columns if medium in column.media)]
        first = next(place for place, column in enumerate(columns) if column.number)
        rows = [[column.text(_facts(line), DIGITS[medium]) for column in columns] for line in self.lines]
        shown = [place for place, own in enumerate(columns) if own.number or any(row[place] for row in rows)]
        return Table(
            "costs",
            self.name,
            self.caption,
            tuple(Column(columns[place].head, columns[place].number) for place in shown),
            tuple(
                tuple(TableCell(row[place], origin=line.identity if place >= first else "") for place in shown)
                for row, line in zip(rows, self.lines, strict=True)
            ),
            self.notes,
            frame(line.values for line in self.lines),
        )


def cost_tables(results: Results) -> Iterator[Table]:
    """The tables that there are numbers for."""
    profiles = list(_profiles(results))
    grids = [grid(profiles) for grid in (cost_grid, latency_grid, module_grid, expert_grid)]
    yield from (grid.table("page") for grid in (*grids, training_grid(results)) if grid.lines)


def profile_tables(identity: str, result: dict[str, Any]) -> Iterator[Table]:
    """A record of the kind `profile` as tables with all their details."""
    profiles = [Profile(Cost(Subject("", "", "", identity), result, result["machine"]))]
    grids = [grid(profiles) for grid in (cost_grid, latency_grid, module_grid, expert_grid)]
    yield from (grid.table("terminal") for grid in grids if grid.lines)


class Profile(NamedTuple):
    """The profile of a row; `setting`: the axis values of all points that share it."""

    cost: Cost
    setting: str = ""

    def line(self, values: Values, details: Values | None = None) -> CostLine:
        subject = self.cost.subject
        named = {"row": subject.row, "setting": self.setting, "identity": subject.identity}
        return CostLine(subject.label, self.setting, subject.identity, {**named, **values}, details or {})


def _profiles(results: Results) -> Iterator[Profile]:
    """Each profile of a row once, however many points share it."""
    shared: dict[tuple[str, str], list[Cost]] = {}
    for cost in results.costs:
        shared.setdefault((cost.subject.row, cost.subject.identity), []).append(cost)
    for costs in shared.values():
        yield Profile(costs[0], _agreed(results, costs))


def _agreed(results: Results, costs: list[Cost]) -> str:
    """The axis values that all points of a row's profile have."""
    table, points = results.table, [cost.subject.point for cost in costs]
    lines = table[(table["row"] == costs[0].subject.row) & table["point"].isin(points)]
    if lines.empty:
        return points[0] if len(costs) == 1 else ""
    return results.axis_text(lines.iloc[0], [axis for axis in results.axes if lines[axis].nunique(dropna=False) == 1])


# --- profiles --------------------------------------------------------------------------------------------------------


def cost_values(result: dict[str, Any]) -> Values:
    """The numbers of a profile's line: parameters, and FLOPs as counted and in closed form."""
    parameters, flops = result["parameters"], result["flops"]
    return {
        **{name: result[name] for name in ("backbone", "frames", "views", "classes")},
        **{f"parameters_{name}": parameters[name] for name in SIZES},
        **{f"flops_{name}_counted": flops[name]["counted"] for name in CALLS},
        **{f"flops_{name}_closed": flops[name].get("closed") for name in CALLS},
        "view_difference_percent": _difference(flops["view"]),
    }


def cost_grid(profiles: Iterable[Profile]) -> CostGrid:
    """Parameters and FLOPs."""
    millions, giga = partial(_scaled, unit=MEGA), partial(_scaled, unit=GIGA)
    columns = (
        CostColumn("Backbone", _plain("backbone"), False),
        CostColumn("Frames", _plain("frames")),
        CostColumn("Views", _plain("views")),
        CostColumn("Parameters (M)", millions("parameters_total")),
        CostColumn("Trainable (M)", millions("parameters_trainable")),
        CostColumn("Active (M)", millions("parameters_active")),
        *(
            CostColumn(f"{name.capitalize()} (M)", millions(f"parameters_{name}"), media=("terminal",))
            for name in SIZES[3:]
        ),
        *(
            CostColumn(f"{name} (M)", millions(name), media=("terminal",))
            for name in ("Class-bound", "Visual tower", "Text tower")
        ),
        CostColumn("GFLOPs a view", giga("flops_view_counted")),
        CostColumn("GFLOPs a video", giga("flops_video_counted")),
        CostColumn("Δ closed form (%)", lambda own, _: _percent(own["view_difference_percent"])),
        CostColumn("GFLOPs a class text", giga("flops_text_counted")),
        CostColumn("GFLOPs training, a video", giga("flops_training_counted")),
        *(
            CostColumn(f"GFLOPs a {name}, closed form", giga(f"flops_{name}_closed"), media=("terminal",))
            for name in CALLS[:2]
        ),
        *(
            CostColumn(f"GMACs a {name}", _scaled(f"flops_{name}_counted", 2 * GIGA), media=("terminal",))
            for name in CALLS[:2]
        ),
        CostColumn("GFLOPs a class text, closed form", giga("flops_text_closed"), media=("terminal",)),
        CostColumn("GMACs a class text", _scaled("flops_text_counted", 2 * GIGA), media=("terminal",)),
        CostColumn("GMACs training, a video", _scaled("flops_training_counted", 2 * GIGA), media=("terminal",)),
    )
    caption = (
        f"Parameters in millions and GFLOPs ({EACH}) of matrix products, counted. Active: visual tower and head as "
        "deployed, which is what a video needs; class texts are computed once. Δ: counted − closed form, of a view. "
        "Training: one video in a step, forward and backward, with the tower where the step runs it."
    )
    lines = [own.line(cost_values(own.cost.result), _bound_and_towers(own.cost.result)) for own in profiles]
    return CostGrid("costs", caption, columns, lines)


def _bound_and_towers(result: dict[str, Any]) -> Values:
    parameters = result["parameters"]
    towers = {f"{name.capitalize()} tower": size for name, size in parameters["towers"].items()}
    return {"Class-bound": parameters["bound"], **towers}


def latency_grid(profiles: Iterable[Profile]) -> CostGrid:
    """Seconds and memory of every part, precision and batch size."""
    columns = (
        CostColumn("Part", _plain("part"), False),
        CostColumn("Precision", _plain("precision"), False),
        CostColumn("Batch", _plain("batch")),
        CostColumn("p50 (ms)", _scaled("p50", MILLI)),
        CostColumn("p95 (ms)", _scaled("p95", MILLI)),
        CostColumn("Runs", _plain("runs"), media=("terminal",)),
        CostColumn("Videos/s", _scaled("throughput", 1)),
        CostColumn("Memory (MiB)", _scaled("memory", MEBIBYTE)),
        CostColumn("Device", _plain("Device"), False, ("page",)),
    )
    caption = (
        "Latency of a whole batch, median and 95th percentile, throughput, and peak memory above what was held before, "
        "after warm-up, in a process of its own."
    )
    lines = [
        own.line({**{name: entry[name] for name in MEASURED}, "device": own.cost.machine["device"]}, _device(own.cost))
        for own in profiles
        for entry in own.cost.result["latency"]
    ]
    return CostGrid("cost-latency", caption, columns, lines)


def _device(cost: Cost) -> Values:
    """E.g. "cpu (AVX512), 2 threads"; "NVIDIA H200"."""
    device, threads = str(cost.machine["device"]), cost.machine["threads"]
    text = f"{device}, {threads} thread{'s' if threads != 1 else ''}" if device.startswith("cpu") else device
    return {"Device": text}


def module_grid(profiles: Iterable[Profile]) -> CostGrid:
    """FLOPs of every module of a view."""
    profiles = list(profiles)
    unit, word = flop_unit(max((_view(own.cost) for own in profiles), default=0))
    columns = (
        CostColumn("Module", _plain("module"), False),
        CostColumn(f"{word} counted", _scaled("counted", unit)),
        CostColumn(f"{word} closed form", _scaled("closed", unit)),
        CostColumn(f"{word[0]}MACs counted", _scaled("counted", 2 * unit), media=("terminal",)),
        CostColumn("Δ (%)", lambda own, _: _percent(_difference(own))),
        CostColumn("Share (%)", lambda own, _: f"{own['share_percent']:.1f}"),
    )
    caption = (
        f"Where the {word} ({EACH}) of one view go, as deployed; modules add up to the view. Δ: counted − closed form."
    )
    lines = [
        own.line(
            {
                **{"module": module["name"], "counted": module["counted"], "closed": module["closed"]},
                "share_percent": 100 * module["counted"] / whole if (whole := _view(own.cost)) else 0.0,
            }
        )
        for own in profiles
        for module in own.cost.result["modules"]
    ]
    return CostGrid("cost-modules", caption, columns, lines)


def _view(cost: Cost) -> float:
    """FLOPs."""
    return float(cost.result["flops"]["view"]["counted"])


# --- experts ---------------------------------------------------------------------------------------------------------


def expert_grid(profiles: Iterable[Profile]) -> CostGrid:
    """The experts of each profile, then the choices that are made of several."""
    having = [own for own in profiles if own.cost.result["experts"]]
    lines = [own.line(values, details) for own in having for values, details in expert_values(own.cost.result)]
    unit, word = flop_unit(max((line.values["head_flops"] for line in lines if line.details), default=0))
    columns = (
        CostColumn("Expert", _plain("expert"), False),
        CostColumn("Parameters (M)", _scaled("parameters", MEGA)),
        CostColumn("Head (M)", _scaled("head_parameters", MEGA), media=("terminal",)),
        CostColumn(f"Training step ({word})", _scaled("training_flops", unit)),
        CostColumn(f"Head, a view ({word})", _scaled("head_flops", unit)),
        CostColumn(f"closed form ({word})", _scaled("head_closed", unit), media=("terminal",)),
        CostColumn(f"counted ({word[0]}MACs)", _scaled("head_flops", 2 * unit), media=("terminal",)),
        CostColumn("p50 (ms)", _scaled("p50_seconds", MILLI)),
        CostColumn("p95 (ms)", _scaled("p95_seconds", MILLI)),
    )
    caption = (
        f"What experts cost, in {word} ({EACH}). Parameters: of an expert its own, over all layers; of all together "
        "the head as deployed. Training step: expected for one video, forward and backward, through the expert alone. "
        "Head: a view through the head that has this expert alone, the merge, or all in turn; latency of that head."
    )
    return CostGrid("cost-experts", caption, columns, lines)


def expert_values(result: dict[str, Any]) -> Iterator[tuple[Values, Values]]:
    """Values and details of every expert and choice; no details where an expert is no choice."""
    experts = {expert["name"]: expert for expert in result["experts"]}
    choices = {choice["name"]: choice for choice in result["choices"]}
    for name in dict.fromkeys([*experts, *choices]):
        expert, choice = experts.get(name, {}), choices.get(name, {})
        flops, latency = choice.get("flops", {}), choice.get("latency") or {}
        values = {
            "expert": name,
            "parameters": _number(expert.get("parameters", choice.get("parameters"))),
            "training_flops": _number(expert.get("training")),
            "head_flops": _number(flops.get("counted")),
            "p50_seconds": _number(latency.get("p50")),
            "p95_seconds": _number(latency.get("p95")),
        }
        yield values, {"head_parameters": choice["parameters"], "head_closed": flops.get("closed")} if choice else {}


# --- trainings -------------------------------------------------------------------------------------------------------


def training_grid(results: Results) -> CostGrid:
    """Like Table 7d of MoTE: the cost of each training over seeds, and what was published."""
    largest = max((own.device_hours for own in results.trainings), default=0)
    hour, unit = (1, "hours") if largest >= 0.5 else (60, "minutes")
    selected = {(pair.row, pair.point): pair.number for pair in results.published if pair.number.metric == GPU_DAYS}
    columns = (
        CostColumn("Device", _plain("device"), False),
        CostColumn("Devices", _plain("devices")),
        CostColumn("Seeds", _plain("seeds")),
        CostColumn(f"Device-{unit}", lambda own, _: _plus_minus(own, hour)),
        CostColumn("Device-days", lambda own, _: _plus_minus(own, 1 / DAY)),
        CostColumn("Published GPU-days", _plain("published")),
    )
    caption = (
        "Training cost: computing time × devices, interruptions left out, mean ± 1 s.d. over the seeds. A training "
        "that rows share is counted once."
    )
    groups = by_setting(results.trainings, "device", "devices", "sharing")
    lines = [_training_line(seeds, results, selected) for seeds in groups]
    return CostGrid("cost-training", caption, columns, lines, tuple(_conditions(results, list(selected.values()))))


def _training_line(seeds: list[TrainingCost], results: Results, selected: Mapping[tuple[str, str], Number]) -> CostLine:
    """The record is linked where there is a single one; the values name them all."""
    first, subject = seeds[0], seeds[0].subject
    others = [results.labels()[row] for row in first.sharing]
    hours = spread([own.device_hours for own in seeds])
    number = selected.get(first.setting) or selected.get((subject.row, ""))
    values = {
        **{"row": subject.row, "setting": subject.point, "sharing": " ".join(first.sharing), "device": first.device},
        **{"devices": first.devices, "seeds": hours.n},
        **{"device_hours_mean": hours.mean, "device_hours_std": hours.std},
        "published_gpu_days": number.value if number else None,
        "identities": " ".join(own.subject.identity for own in seeds),
    }
    label = f"{subject.label} (also {', '.join(others)})" if others else subject.label
    identity = subject.identity if len(seeds) == 1 else ""
    return CostLine(label, subject.point, identity, values, {"published": number.text if number else "–"})


def _conditions(results: Results, selected: list[Number]) -> Iterator[str]:
    """Where published numbers come from: those selected, or else all of the suite's methods."""
    methods = results.table["method"].map(_simplified).unique()
    known = [number for number in load() if number.metric == GPU_DAYS and _simplified(number.method) in methods]
    origins: dict[str, list[str]] = {}
    for number in dict.fromkeys(selected or known):
        conditions = number.notes.partition("; ")[2] if REPRODUCED.match(number.notes) else number.notes
        what = " ".join(filter(None, [number.method, number.variant, number.backbone, number.value]))
        origins.setdefault(f"{number.source}, {number.table}; {conditions}", []).append(what)
    for origin, numbers in origins.items():
        yield f"Published GPU-days ({origin}): {'; '.join(numbers)}."


def _simplified(method: str) -> str:
    """A method's name without the differences in spelling between papers and the registry."""
    return method.casefold().replace("-", "").replace("_", "")


# --- numbers ---------------------------------------------------------------------------------------------------------


def pareto_front(prices_N: ArrayLike, accuracies_N: ArrayLike) -> NDArray[np.bool_]:
    """The points that no other one beats by being as cheap and as accurate, and better in one of both. Equals stay."""
    prices_N, accuracies_N = np.asarray(prices_N, dtype=float), np.asarray(accuracies_N, dtype=float)
    no_worse_NN = (prices_N[:, None] <= prices_N) & (accuracies_N[:, None] >= accuracies_N)
    better_NN = (prices_N[:, None] < prices_N) | (accuracies_N[:, None] > accuracies_N)
    return np.asarray(~(no_worse_NN & better_NN).any(axis=0))


def flop_unit(largest: float) -> tuple[float, str]:
    """The unit for numbers up to `largest`, and its name."""
    return (GIGA, "GFLOPs") if largest >= GIGA else (MEGA, "MFLOPs")


def digits(value: float, like: float | None = None, significant: int = DIGITS["page"]) -> str:
    """Significant digits, at least one after the point: "649.3", "98.8", "0.0123", "1,299.0"; "–" for nan.

    With `like`, as many digits after the point as that number has.
    """
    if math.isnan(value):
        return "–"
    scale = value if like is None else like
    places = max(1, significant - 1 - math.floor(math.log10(abs(scale)))) if scale else 0
    return f"{value:,.{places}f}"


def _facts(line: CostLine) -> Values:
    return {**line.values, **line.details, "label": line.label, "setting": line.setting}


def _plain(key: str) -> Callable[[Values, int], str]:
    return lambda values, _: str(values[key])


def _scaled(key: str, unit: float) -> Callable[[Values, int], str]:
    return lambda values, significant: digits(_number(values.get(key)) / unit, significant=significant)


def _number(value: float | None) -> float:
    return nan if value is None else float(value)


def _difference(flops: Mapping[str, float | None]) -> float:
    """Counted − closed form, in percent; nan where there is no closed form to compare with."""
    counted, closed = _number(flops["counted"]), _number(flops["closed"])
    return 100 * (counted - closed) / closed if closed else nan if counted else 0.0


def _percent(difference: float) -> str:
    return "–" if isnan(difference) else f"{round(difference, 2) + 0.0:+.2f}".replace("-", "−")


def _plus_minus(values: Values, scale: float) -> str:
    """Mean ± s.d. of device hours in another unit."""
    mean, std = values["device_hours_mean"] * scale, values["device_hours_std"] * scale
    return digits(mean) if pd.isna(std) else f"{digits(mean)} ± {digits(std, like=mean)}"
