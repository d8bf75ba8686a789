"""Costs of methods as one set of grids: profiles, latencies, modules, experts, trainings.

Page tables, the terminal tables of `profile` and the figures of costs take their numbers from these grids. GFLOPs count
2 per multiply-add, matrix products only; a GPU-day of a paper is 24 hours of one device.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from math import floor, isnan, log10, nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.measure.statistics import Spread, spread
from bench.published.numbers import Number, load
from reports.facts import Cost, Estimate, Subject, TrainingCost, by_setting
from reports.results import Results
from reports.table import Column, Table, cells, columns, frame

GIGA, MEGA, MEBIBYTE, MILLI = 1e9, 1e6, 2**20, 1e-3
EACH = "2 per multiply-add"
GPU_DAYS = "gpu_days"
DAY = 24  # hours
PAGE, TERMINAL = "page", "terminal"
DIGITS = {PAGE: 3, TERMINAL: 4}  # significant ones
REPRODUCED = re.compile("reproduced_by_MoTE=")
CALLS = ("view", "video", "text", "training")  # FLOPs of which a profile counts
TIMES = {"p50", "p95", "throughput", "p50_seconds", "p95_seconds"}  # what a busy machine spoils
MEASURED = ("part", "precision", "batch", "p50", "p95", "runs", "throughput", "memory")
Values = dict[str, Any]  # numbers of a line, unrounded
Profiled = tuple[Cost, str]  # a row's profile, and the axis values of all points that share it


class CostLine(NamedTuple):
    """A line of a grid: the numbers of its file, and `details` that are in none, such as its method."""

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
        mark = "†" if self.key in TIMES and line.values.get("disturbed") and value == value else ""
        return digits(_number(value) / self.unit, significant=DIGITS[medium]) + mark if self.unit else str(value)


def named(head: str) -> CostColumn:
    """A column of texts, whose key is its head in small letters."""
    return CostColumn(head, head.lower(), number=False)


def detail(head: str, key: str, unit: float = 0) -> CostColumn:
    """A column of numbers that only the terminal has room for."""
    return CostColumn(head, key, unit, (TERMINAL,))


class CostGrid(NamedTuple):
    """Lines of numbers with all columns that may be shown of them."""

    name: str
    caption: str
    columns: tuple[CostColumn, ...]
    lines: list[CostLine]
    notes: tuple[str, ...] = ()

    def table(self, medium: str) -> Table:
        """The grid for the page or the terminal. Columns of text that are empty are left out.

        Numbers lead to the record of their line.
        """
        columns, texts = [], []
        for column in (named("Method"), named("Setting"), *self.columns):
            shown = [column.text(line, medium) for line in self.lines] if medium in column.media else []
            if shown and (column.number or any(shown)):
                columns.append(Column(column.head, column.number))
                texts.append(shown)
        first = next(place for place, column in enumerate(columns) if column.number)
        records = [str((line.details | line.values)["identity"]) for line in self.lines]
        rows = tuple(
            (*cells(*row[:first]), *cells(*row[first:], origin=record))
            for row, record in zip(zip(*texts, strict=True), records, strict=True)
        )
        values = frame(line.values for line in self.lines)
        notes = (*self.notes, *_disturbances(self.lines))
        return Table("costs", self.name, self.caption, tuple(columns), rows, notes, values)


def _disturbances(lines: list[CostLine]) -> Iterator[str]:
    """Notes on the times that are marked, the same reason once."""
    reasons: dict[str, list[str]] = {}
    for line in lines:
        if reason := line.values.get("disturbed"):
            names = (
                line.details["method"],
                line.values["setting"],
                *(line.values.get(key) for key in ("part", "expert")),
            )
            reasons.setdefault(reason, []).append(", ".join(filter(None, names)))
    for reason, where in reasons.items():
        yield f"† Disturbed, so neither compared nor on a front: {'; '.join(dict.fromkeys(where))}: {reason}."


def cost_tables(results: Results) -> Iterator[Table]:
    """The tables that there are numbers for."""
    shared: dict[tuple[str, str], list[Cost]] = {}  # each profile of a row once, however many points share it
    for cost in results.costs:
        shared.setdefault((cost.subject.row, cost.subject.identity), []).append(cost)
    profiles = [(costs[0], _agreed(results, costs)) for costs in shared.values()]
    yield from (grid.table(PAGE) for grid in (*profile_grids(profiles), training_grid(results)) if grid.lines)
    yield from estimate_tables(results)
    yield from usage_tables(results)


def profile_tables(identity: str, result: dict[str, Any]) -> Iterator[Table]:
    """A record of the kind `profile` as tables with all their details."""
    cost = Cost(Subject("", "", "", identity), result, result["machine"])
    yield from (grid.table(TERMINAL) for grid in profile_grids([(cost, "")]) if grid.lines)


def profile_grids(profiles: list[Profiled]) -> list[CostGrid]:
    return [grid(profiles) for grid in (cost_grid, latency_grid, module_grid, expert_grid)]


def _line(profile: Profiled, values: Values, **details: object) -> CostLine:
    subject = profile[0].subject
    about = {"row": subject.row, "setting": profile[1], "identity": subject.identity}
    return CostLine(about | values, {"method": subject.label, **details})


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


def cost_grid(profiles: list[Profiled]) -> CostGrid:
    """Parameters and FLOPs."""

    def flops(of: str, key: str) -> tuple[CostColumn, CostColumn, CostColumn]:
        closed, counted = f"flops_{key}_closed", f"flops_{key}_counted"
        return (
            CostColumn(f"GFLOPs {of}", counted, GIGA),
            detail(f"GFLOPs {of}, closed form", closed, GIGA),
            detail(f"GMACs {of}", counted, 2 * GIGA),
        )

    training, _, training_macs = flops("training, a video", "training")
    columns = (
        *(named("Backbone"), CostColumn("Frames", "frames"), CostColumn("Views", "views")),
        CostColumn("Parameters (M)", "parameters_total", MEGA),
        CostColumn("Trainable (M)", "parameters_trainable", MEGA),
        CostColumn("Active (M)", "parameters_active", MEGA),
        *(detail("Head (M)", "parameters_head", MEGA), detail("Expert (M)", "parameters_expert", MEGA)),
        *(detail("Class-bound (M)", "bound", MEGA), detail("Visual tower (M)", "visual", MEGA)),
        *(detail("Text tower (M)", "text", MEGA), *flops("a view", "view"), *flops("a video", "video")),
        *(CostColumn("Δ closed form (%)", "difference"), *flops("a class text", "text"), training, training_macs),
    )
    caption = (
        f"Parameters in millions and GFLOPs ({EACH}) of matrix products, counted. Active: visual tower and head as "
        "deployed, which is what a video needs; class texts are computed once. Δ: counted − closed form, of a view. "
        "Training: one video in a step, forward and backward, with the tower where the step runs it."
    )
    lines = []
    for own in profiles:
        values, parameters = cost_values(own[0].result), own[0].result["parameters"]
        difference = _percent(values["view_difference_percent"])
        lines.append(_line(own, values, difference=difference, bound=parameters["bound"], **parameters["towers"]))
    return CostGrid("costs", caption, columns, lines)


def latency_grid(profiles: list[Profiled]) -> CostGrid:
    """Seconds and memory of every part, precision and batch size."""
    columns = (
        *(named("Part"), named("Precision"), CostColumn("Batch", "batch")),
        *(CostColumn("p50 (ms)", "p50", MILLI), CostColumn("p95 (ms)", "p95", MILLI), detail("Runs", "runs")),
        *(CostColumn("Videos/s", "throughput", 1), CostColumn("Memory (MiB)", "memory", MEBIBYTE)),
        CostColumn("Device", "machine", media=(PAGE,), number=False),
    )
    caption = (
        "Latency of a whole batch, median and 95th percentile, throughput, and peak memory above what was held before, "
        "after warm-up, in a process of its own."
    )
    lines = []
    for own in profiles:
        device, threads = str(own[0].machine["device"]), own[0].machine["threads"]
        machine = f"{device}, {threads} thread{'s' if threads != 1 else ''}" if device.startswith("cpu") else device
        for entry in own[0].result["latency"]:
            values = {**{name: entry[name] for name in MEASURED}, "disturbed": entry.get("disturbed", "")}
            lines.append(_line(own, {**values, "device": device}, machine=machine))
    return CostGrid("cost-latency", caption, columns, lines)


def module_grid(profiles: list[Profiled]) -> CostGrid:
    """FLOPs of every module of a view."""
    views = [float(cost.result["flops"]["view"]["counted"]) for cost, _ in profiles]
    unit, word = flop_unit(max(views, default=0))
    columns = (
        *(named("Module"), CostColumn(f"{word} counted", "counted", unit)),
        *(CostColumn(f"{word} closed form", "closed", unit), detail(f"{word[0]}MACs counted", "counted", 2 * unit)),
        *(CostColumn("Δ (%)", "difference"), CostColumn("Share (%)", "share")),
    )
    caption = (
        f"Where the {word} ({EACH}) of one view go, as deployed; modules add up to the view. Δ: counted − closed form."
    )
    lines = []
    for own, view in zip(profiles, views, strict=True):
        for module in own[0].result["modules"]:
            share = 100 * module["counted"] / view if view else 0.0
            values = {"module": module["name"], "counted": module["counted"], "closed": module["closed"]}
            difference = _percent(_difference(module))
            lines.append(_line(own, values | {"share_percent": share}, difference=difference, share=f"{share:.1f}"))
    return CostGrid("cost-modules", caption, columns, lines)


def expert_grid(profiles: list[Profiled]) -> CostGrid:
    """The experts of each profile, then the choices that are made of several."""
    having = [own for own in profiles if own[0].result["experts"]]
    largest = (choice["flops"]["counted"] for cost, _ in having for choice in cost.result["choices"])
    unit, word = flop_unit(max(largest, default=0))
    columns = (
        *(named("Expert"), CostColumn("Parameters (M)", "parameters", MEGA)),
        detail("Head (M)", "head_parameters", MEGA),
        CostColumn(f"Training step ({word})", "training_flops", unit),
        CostColumn(f"Head, a view ({word})", "head_flops", unit),
        detail(f"closed form ({word})", "head_closed", unit),
        detail(f"counted ({word[0]}MACs)", "head_flops", 2 * unit),
        *(CostColumn("p50 (ms)", "p50_seconds", MILLI), CostColumn("p95 (ms)", "p95_seconds", MILLI)),
    )
    caption = (
        f"What experts cost, in {word} ({EACH}). Parameters: of an expert its own, over all layers; of all together "
        "the head as deployed. Training step: expected for one video, forward and backward, through the expert alone. "
        "Head: a view through the head that has this expert alone, the merge, or all in turn; latency of that head."
    )
    lines = []
    for own in having:
        choices = {choice["name"]: choice for choice in own[0].result["choices"]}
        for values in expert_values(own[0].result):
            choice = choices.get(values["expert"], {})
            closed = choice.get("flops", {}).get("closed")
            lines.append(_line(own, values, head_parameters=choice.get("parameters"), head_closed=closed))
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
            "disturbed": latency.get("disturbed", ""),
        }


# --- trainings -------------------------------------------------------------------------------------------------------


def training_grid(results: Results) -> CostGrid:
    """Like Table 7d of MoTE: the cost of each training over seeds, and what was published."""
    largest = max((own.device_hours for own in results.trainings), default=0)
    measured = any(own.memory for own in results.trainings)
    hour, unit = (1, "hours") if largest >= 0.5 else (60, "minutes")
    selected = {(pair.row, pair.point): pair.number for pair in results.published if pair.number.metric == GPU_DAYS}
    columns = (
        *(named("Device"), CostColumn("Devices", "devices"), CostColumn("Seeds", "seeds")),
        *(CostColumn(f"Device-{unit}", "time"), CostColumn("Device-days", "days")),
        *([CostColumn("Memory (MiB)", "memory", MEBIBYTE)] if measured else []),
        CostColumn("Published GPU-days", "published"),
    )
    caption = (
        "Training cost: computing time × devices, interruptions left out, mean ± 1 s.d. over the seeds. A training "
        "that rows share is counted once." + " Memory: the host's, at the peak of any seed's training." * measured
    )
    groups = by_setting(results.trainings, "device", "devices", "sharing")
    lines = [_training_line(seeds, results, selected, hour) for seeds in groups]
    return CostGrid("cost-training", caption, columns, lines, tuple(_conditions(results, list(selected.values()))))


def estimate_tables(results: Results) -> Iterator[Table]:
    """The price of the suite beside the truth; nothing if no launch has priced a finished stage."""
    if not results.estimates:
        return
    _, stages, *seconds = zip(*results.estimates, strict=True)
    lines = [*results.estimates, Estimate("all", sum(stages), *map(sum, seconds))]
    hour, unit = (3600, "hours") if max(lines[-1][2:]) >= 1800 else (60, "minutes")
    heads = {"Stages": False, "n": True, f"Estimated device-{unit}": True, f"Measured device-{unit}": True}
    rows = tuple(cells(own.kind, str(own.stages), *(digits(each / hour) for each in own[2:])) for own in lines)
    caption = (
        "What finished stages were estimated to take before they first ran, and what they took, on all their devices; "
        "without the start-up of processes where records tell it."
    )
    yield Table("costs", "cost-estimates", caption, columns(heads), rows, (), frame(own._asdict() for own in lines))


def usage_tables(results: Results) -> Iterator[Table]:
    """What stages asked of Slurm and what they used, with what to ask for next time; nothing without such a launch."""
    heads = {"Stages": False, "Time limit, min": True, "Longest attempt, min": True, "Memory asked, GB": True}
    heads |= {"Peak memory, GB": True, "Next time": False}
    rows = tuple(
        cells(
            *(own.kind, str(own.time), digits(own.longest / 60)),
            *(digits(size / 1024) if size else "–" for size in (own.memory, own.peak)),
            own.suggestion.strip(),
        )
        for own in results.usage
    )
    caption = (
        "What stages asked of Slurm in the last launch and what they used, at most, start-up included. The last column "
        "is a line for `resources` of the site or the suite."
    )
    if rows:
        yield Table("costs", "cost-usage", caption, columns(heads), rows, (), frame(map(asdict, results.usage)))


def _training_line(
    seeds: list[TrainingCost], results: Results, selected: Mapping[tuple[str, str], Number], hour: int
) -> CostLine:
    """The record is linked where there is a single one; the values name them all."""
    first, subject = seeds[0], seeds[0].subject
    others = ", ".join(results.labels[row] for row in first.sharing)
    hours = spread([own.device_hours for own in seeds])
    number = selected.get(first.setting) or selected.get((subject.row, ""))
    values = {
        **{"row": subject.row, "setting": subject.point, "sharing": " ".join(first.sharing), "device": first.device},
        **{"devices": first.devices, "seeds": hours.n},
        **{"device_hours_mean": hours.mean, "device_hours_std": hours.std},
        "memory": max((own.memory for own in seeds if own.memory), default=None),
        "published_gpu_days": number.value if number else None,
        "identities": " ".join(own.subject.identity for own in seeds),
    }
    details = {
        **{"method": f"{subject.label} (also {others})" if others else subject.label},
        **{"identity": subject.identity if len(seeds) == 1 else "", "published": number.text if number else "–"},
        **{"time": _plus_minus(hours, hour), "days": _plus_minus(hours, 1 / DAY)},
    }
    return CostLine(values, details)


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
