"""Costs of methods as one set of grids: profiles, latencies, modules, experts, trainings.

Page tables, the terminal tables of `profile` and the figures of costs take their numbers from these grids. GFLOPs count
2 per multiply-add, matrix products only; a GPU-day of a paper is 24 hours of one device.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import floor, isnan, log10, nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.measure.statistics import Spread, spread
from bench.published.numbers import Number, load
from reports.facts import Cost, Subject, TrainingCost, by_setting
from reports.results import Results
from reports.table import Column, Table, TableCell, frame

GIGA, MEGA, MEBIBYTE, MILLI = 1e9, 1e6, 2**20, 1e-3
EACH = "2 per multiply-add"
GPU_DAYS = "gpu_days"
DAY = 24  # hours
PAGE, TERMINAL = "page", "terminal"
DETAIL = (TERMINAL,)
DIGITS = {PAGE: 3, TERMINAL: 4}  # significant ones
REPRODUCED = re.compile("reproduced_by_MoTE=")
CALLS = ("view", "video", "text", "training")  # FLOPs of which a profile counts
MEASURED = ("part", "precision", "batch", "p50", "p95", "runs", "throughput", "memory")
Values = dict[str, Any]  # numbers of a line, unrounded


class CostLine(NamedTuple):
    """A line of a grid: the row's label, its record, its numbers, and `details` that are in no file."""

    label: str
    record: str
    values: Values
    details: Values


class CostColumn(NamedTuple):
    """A column of a grid: its head, the key of its values, the unit of numbers, and the media that show it."""

    head: str
    key: str
    unit: float = 0  # 0: as it is
    media: tuple[str, ...] = (PAGE, TERMINAL)
    number: bool = True

    def text(self, line: CostLine, medium: str) -> str:
        value = (line.values | line.details).get(self.key)
        return digits(_number(value) / self.unit, significant=DIGITS[medium]) if self.unit else str(value)


def named(head: str, *media: str) -> CostColumn:
    """A column of texts, whose key is its head in small letters."""
    return CostColumn(head, head.lower(), 0, media or (PAGE, TERMINAL), number=False)


class CostGrid(NamedTuple):
    """Lines of numbers with all columns that may be shown of them."""

    name: str
    caption: str
    columns: tuple[CostColumn, ...]
    lines: list[CostLine]
    notes: tuple[str, ...] = ()

    def table(self, medium: str) -> Table:
        """The grid for the page or the terminal. Columns of text that are empty are left out.

        Cells from the first column of numbers on lead to their record.
        """
        columns = [column for column in (named("Setting"), *self.columns) if medium in column.media]
        rows = [[line.label, *(column.text(line, medium) for column in columns)] for line in self.lines]
        heads = [Column("Method"), *(Column(column.head, column.number) for column in columns)]
        first = next(place for place, head in enumerate(heads) if head.number)
        shown = [place for place, head in enumerate(heads) if head.number or any(row[place] for row in rows)]
        return Table(
            "costs",
            self.name,
            self.caption,
            tuple(heads[place] for place in shown),
            tuple(
                tuple(TableCell(row[place], origin=line.record if place >= first else "") for place in shown)
                for row, line in zip(rows, self.lines, strict=True)
            ),
            self.notes,
            frame(line.values for line in self.lines),
        )


class ProfiledRow(NamedTuple):
    """The profile of a row; `setting`: the axis values of all points that share it."""

    cost: Cost
    setting: str = ""

    def line(self, values: Values, **details: object) -> CostLine:
        subject = self.cost.subject
        about = {"row": subject.row, "setting": self.setting, "identity": subject.identity}
        return CostLine(subject.label, subject.identity, about | values, details)


def cost_tables(results: Results) -> Iterator[Table]:
    """The tables that there are numbers for."""
    grids = [*profile_grids(list(_profiles(results))), training_grid(results)]
    yield from (grid.table(PAGE) for grid in grids if grid.lines)


def profile_tables(identity: str, result: dict[str, Any]) -> Iterator[Table]:
    """A record of the kind `profile` as tables with all their details."""
    profile = ProfiledRow(Cost(Subject("", "", "", identity), result, result["machine"]))
    yield from (grid.table(TERMINAL) for grid in profile_grids([profile]) if grid.lines)


def profile_grids(profiles: list[ProfiledRow]) -> Iterator[CostGrid]:
    yield from (grid(profiles) for grid in (cost_grid, latency_grid, module_grid, expert_grid))


def _profiles(results: Results) -> Iterator[ProfiledRow]:
    """Each profile of a row once, however many points share it."""
    shared: dict[tuple[str, str], list[Cost]] = {}
    for cost in results.costs:
        shared.setdefault((cost.subject.row, cost.subject.identity), []).append(cost)
    for costs in shared.values():
        yield ProfiledRow(costs[0], _agreed(results, costs))


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
        **{f"parameters_{name}": parameters[name] for name in ("total", "trainable", "active", "head", "expert")},
        **{f"flops_{name}_counted": flops[name]["counted"] for name in CALLS},
        **{f"flops_{name}_closed": flops[name].get("closed") for name in CALLS},
        "view_difference_percent": _difference(flops["view"]),
    }


def cost_grid(profiles: list[ProfiledRow]) -> CostGrid:
    """Parameters and FLOPs."""
    columns = (
        named("Backbone"),
        CostColumn("Frames", "frames"),
        CostColumn("Views", "views"),
        CostColumn("Parameters (M)", "parameters_total", MEGA),
        CostColumn("Trainable (M)", "parameters_trainable", MEGA),
        CostColumn("Active (M)", "parameters_active", MEGA),
        CostColumn("Head (M)", "parameters_head", MEGA, DETAIL),
        CostColumn("Expert (M)", "parameters_expert", MEGA, DETAIL),
        CostColumn("Class-bound (M)", "bound", MEGA, DETAIL),
        CostColumn("Visual tower (M)", "visual", MEGA, DETAIL),
        CostColumn("Text tower (M)", "text", MEGA, DETAIL),
        CostColumn("GFLOPs a view", "flops_view_counted", GIGA),
        CostColumn("GFLOPs a view, closed form", "flops_view_closed", GIGA, DETAIL),
        CostColumn("GMACs a view", "flops_view_counted", 2 * GIGA, DETAIL),
        CostColumn("GFLOPs a video", "flops_video_counted", GIGA),
        CostColumn("GFLOPs a video, closed form", "flops_video_closed", GIGA, DETAIL),
        CostColumn("GMACs a video", "flops_video_counted", 2 * GIGA, DETAIL),
        CostColumn("Δ closed form (%)", "difference"),
        CostColumn("GFLOPs a class text", "flops_text_counted", GIGA),
        CostColumn("GFLOPs a class text, closed form", "flops_text_closed", GIGA, DETAIL),
        CostColumn("GMACs a class text", "flops_text_counted", 2 * GIGA, DETAIL),
        CostColumn("GFLOPs training, a video", "flops_training_counted", GIGA),
        CostColumn("GMACs training, a video", "flops_training_counted", 2 * GIGA, DETAIL),
    )
    caption = (
        f"Parameters in millions and GFLOPs ({EACH}) of matrix products, counted. Active: visual tower and head as "
        "deployed, which is what a video needs; class texts are computed once. Δ: counted − closed form, of a view. "
        "Training: one video in a step, forward and backward, with the tower where the step runs it."
    )
    lines = []
    for own in profiles:
        values, parameters = cost_values(own.cost.result), own.cost.result["parameters"]
        difference = _percent(values["view_difference_percent"])
        lines.append(own.line(values, difference=difference, bound=parameters["bound"], **parameters["towers"]))
    return CostGrid("costs", caption, columns, lines)


def latency_grid(profiles: list[ProfiledRow]) -> CostGrid:
    """Seconds and memory of every part, precision and batch size."""
    columns = (
        named("Part"),
        named("Precision"),
        CostColumn("Batch", "batch"),
        CostColumn("p50 (ms)", "p50", MILLI),
        CostColumn("p95 (ms)", "p95", MILLI),
        CostColumn("Runs", "runs", media=DETAIL),
        CostColumn("Videos/s", "throughput", 1),
        CostColumn("Memory (MiB)", "memory", MEBIBYTE),
        CostColumn("Device", "machine", media=(PAGE,), number=False),
    )
    caption = (
        "Latency of a whole batch, median and 95th percentile, throughput, and peak memory above what was held before, "
        "after warm-up, in a process of its own."
    )
    lines = []
    for own in profiles:
        device, threads = str(own.cost.machine["device"]), own.cost.machine["threads"]
        machine = f"{device}, {threads} thread{'s' if threads != 1 else ''}" if device.startswith("cpu") else device
        for entry in own.cost.result["latency"]:
            lines.append(own.line({**{name: entry[name] for name in MEASURED}, "device": device}, machine=machine))
    return CostGrid("cost-latency", caption, columns, lines)


def module_grid(profiles: list[ProfiledRow]) -> CostGrid:
    """FLOPs of every module of a view."""
    views = [float(own.cost.result["flops"]["view"]["counted"]) for own in profiles]
    unit, word = flop_unit(max(views, default=0))
    columns = (
        named("Module"),
        CostColumn(f"{word} counted", "counted", unit),
        CostColumn(f"{word} closed form", "closed", unit),
        CostColumn(f"{word[0]}MACs counted", "counted", 2 * unit, DETAIL),
        CostColumn("Δ (%)", "difference"),
        CostColumn("Share (%)", "share"),
    )
    caption = (
        f"Where the {word} ({EACH}) of one view go, as deployed; modules add up to the view. Δ: counted − closed form."
    )
    lines = []
    for own, view in zip(profiles, views, strict=True):
        for module in own.cost.result["modules"]:
            share = 100 * module["counted"] / view if view else 0.0
            values = {"module": module["name"], "counted": module["counted"], "closed": module["closed"]}
            difference = _percent(_difference(module))
            lines.append(own.line(values | {"share_percent": share}, difference=difference, share=f"{share:.1f}"))
    return CostGrid("cost-modules", caption, columns, lines)


def expert_grid(profiles: list[ProfiledRow]) -> CostGrid:
    """The experts of each profile, then the choices that are made of several."""
    having = [own for own in profiles if own.cost.result["experts"]]
    largest = (choice["flops"]["counted"] for own in having for choice in own.cost.result["choices"])
    unit, word = flop_unit(max(largest, default=0))
    columns = (
        named("Expert"),
        CostColumn("Parameters (M)", "parameters", MEGA),
        CostColumn("Head (M)", "head_parameters", MEGA, DETAIL),
        CostColumn(f"Training step ({word})", "training_flops", unit),
        CostColumn(f"Head, a view ({word})", "head_flops", unit),
        CostColumn(f"closed form ({word})", "head_closed", unit, DETAIL),
        CostColumn(f"counted ({word[0]}MACs)", "head_flops", 2 * unit, DETAIL),
        CostColumn("p50 (ms)", "p50_seconds", MILLI),
        CostColumn("p95 (ms)", "p95_seconds", MILLI),
    )
    caption = (
        f"What experts cost, in {word} ({EACH}). Parameters: of an expert its own, over all layers; of all together "
        "the head as deployed. Training step: expected for one video, forward and backward, through the expert alone. "
        "Head: a view through the head that has this expert alone, the merge, or all in turn; latency of that head."
    )
    lines = []
    for own in having:
        choices = {choice["name"]: choice for choice in own.cost.result["choices"]}
        for values in expert_values(own.cost.result):
            choice = choices.get(values["expert"], {})
            closed = choice.get("flops", {}).get("closed")
            lines.append(own.line(values, head_parameters=choice.get("parameters"), head_closed=closed))
    return CostGrid("cost-experts", caption, columns, lines)


def expert_values(result: dict[str, Any]) -> Iterator[Values]:
    """The numbers of every expert, then of every choice that is no expert."""
    experts = {expert["name"]: expert for expert in result["experts"]}
    choices = {choice["name"]: choice for choice in result["choices"]}
    for name in dict.fromkeys([*experts, *choices]):
        expert, choice = experts.get(name, {}), choices.get(name, {})
        latency = choice.get("latency") or {}
        yield {
            "expert": name,
            "parameters": _number(expert.get("parameters", choice.get("parameters"))),
            "training_flops": _number(expert.get("training")),
            "head_flops": _number(choice.get("flops", {}).get("counted")),
            "p50_seconds": _number(latency.get("p50")),
            "p95_seconds": _number(latency.get("p95")),
        }


# --- trainings -------------------------------------------------------------------------------------------------------


def training_grid(results: Results) -> CostGrid:
    """Like Table 7d of MoTE: the cost of each training over seeds, and what was published."""
    largest = max((own.device_hours for own in results.trainings), default=0)
    hour, unit = (1, "hours") if largest >= 0.5 else (60, "minutes")
    selected = {(pair.row, pair.point): pair.number for pair in results.published if pair.number.metric == GPU_DAYS}
    columns = (
        named("Device"),
        CostColumn("Devices", "devices"),
        CostColumn("Seeds", "seeds"),
        CostColumn(f"Device-{unit}", "time"),
        CostColumn("Device-days", "days"),
        CostColumn("Published GPU-days", "published"),
    )
    caption = (
        "Training cost: computing time × devices, interruptions left out, mean ± 1 s.d. over the seeds. A training "
        "that rows share is counted once."
    )
    groups = by_setting(results.trainings, "device", "devices", "sharing")
    lines = [_training_line(seeds, results, selected, hour) for seeds in groups]
    return CostGrid("cost-training", caption, columns, lines, tuple(_conditions(results, list(selected.values()))))


def _training_line(
    seeds: list[TrainingCost], results: Results, selected: Mapping[tuple[str, str], Number], hour: int
) -> CostLine:
    """The record is linked where there is a single one; the values name them all."""
    first, subject = seeds[0], seeds[0].subject
    others = [results.labels[row] for row in first.sharing]
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
    details = {
        **{"time": _plus_minus(hours, hour), "days": _plus_minus(hours, 1 / DAY)},
        "published": number.text if number else "–",
    }
    return CostLine(label, subject.identity if len(seeds) == 1 else "", values, details)


def _conditions(results: Results, selected: list[Number]) -> Iterator[str]:
    """Notes on the sources of published numbers: of those selected, or else of all of the suite's methods."""
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


def digits(value: float, like: float | None = None, significant: int = DIGITS[PAGE]) -> str:
    """Significant digits, at least one after the point: "649.3", "98.8", "0.0123", "1,299.0"; "–" for nan.

    With `like`, as many digits after the point as that number has.
    """
    if isnan(value):
        return "–"
    scale = value if like is None else like
    places = max(1, significant - 1 - floor(log10(abs(scale)))) if scale else 0
    return f"{value:,.{places}f}"


def _number(value: float | None) -> float:
    return nan if value is None else float(value)


def _difference(flops: Mapping[str, float | None]) -> float:
    """Counted − closed form, in percent; nan where there is no closed form to compare with."""
    counted, closed = _number(flops["counted"]), _number(flops["closed"])
    return 100 * (counted - closed) / closed if closed else nan if counted else 0.0


def _percent(difference: float) -> str:
    return "–" if isnan(difference) else f"{round(difference, 2) + 0.0:+.2f}".replace("-", "−")


def _plus_minus(values: Spread, scale: float) -> str:
    """Mean ± s.d. in another unit."""
    mean, std = values.mean * scale, values.std * scale
    return digits(mean) if isnan(std) else f"{digits(mean)} ± {digits(std, like=mean)}"
