"""Tables of costs: what a method has, does and takes; where FLOPs go; what experts cost; what trainings took.

GFLOPs count 2 per multiply-add, matrix products only; a GPU-day of a paper is 24 hours of one device.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import compress
from math import isnan, nan

import pandas as pd

from bench.measure.statistics import spread
from bench.published.numbers import Number, load
from reports.costs import GIGA, MEBIBYTE, MEGA, Cost, Training, digits, flop_unit
from reports.results import Results
from reports.shown import Grid

EACH = "2 per multiply-add"
UNIT = f"GFLOPs ({EACH})"
GPU_DAYS = "gpu_days"
DAY = 24  # hours
REPRODUCED = re.compile("reproduced_by_MoTE=")
MEASURED = ("part", "precision", "batch", "p50", "p95", "runs", "throughput", "memory")
Values = Mapping[str, object]


@dataclass(frozen=True)
class _Line:
    """Texts of a row, the record that its numbers come from, and the same unrounded."""

    names: tuple[str, ...]
    numbers: tuple[str, ...]
    identity: str
    values: Values


@dataclass(frozen=True)
class _Profile:
    """A profile, and what the points that share it agree on."""

    cost: Cost
    setting: str

    @property
    def names(self) -> tuple[str, str]:
        return self.cost.label, self.setting

    @property
    def values(self) -> dict[str, object]:
        return {"row": self.cost.row, "setting": self.setting, "identity": self.cost.identity}


def cost_grids(results: Results) -> Iterator[Grid]:
    """The tables that there are numbers for."""
    profiles = _profiles(results)
    grids = [grid(profiles) for grid in (_costs, _latencies, _modules, _experts)]
    yield from (grid for grid in (*grids, _trainings(results)) if grid.rows)


def _profiles(results: Results) -> list[_Profile]:
    """Each profile of a row once, however many points share it."""
    shared: dict[tuple[str, str], list[Cost]] = {}
    for cost in results.costs:
        shared.setdefault((cost.row, cost.identity), []).append(cost)
    return [_Profile(costs[0], _agreed(results, costs)) for costs in shared.values()]


def _agreed(results: Results, costs: list[Cost]) -> str:
    """The axis values that all points of a row's profile have."""
    table, points = results.table, [cost.point for cost in costs]
    lines = table[(table["row"] == costs[0].row) & table["point"].isin(points)]
    if lines.empty:
        return costs[0].point if len(costs) == 1 else ""
    return results.axis_text(lines.iloc[0], [axis for axis in results.axes if lines[axis].nunique(dropna=False) == 1])


def _grid(name: str, caption: str, heads: Mapping[str, bool], lines: list[_Line], *notes: str) -> Grid:
    """Numbers link to their records. Names that are empty everywhere are left out."""
    filled = [any(column) for column in zip(*(line.names for line in lines), strict=True)]
    shown = dict(compress(heads.items(), [*filled, *[True] * (len(heads) - len(filled))]))
    rows = tuple((*compress(line.names, filled), *line.numbers) for line in lines)
    links = {
        (row, column): line.identity
        for row, line in enumerate(lines)
        if line.identity
        for column in range(sum(filled), len(shown))
    }
    return Grid("costs", name, caption, shown, rows, notes, links=links, values=tuple(line.values for line in lines))


# --- profiles --------------------------------------------------------------------------------------------------------


def _costs(profiles: list[_Profile]) -> Grid:
    heads = {
        **dict.fromkeys(("Method", "Setting", "Backbone"), False),
        **dict.fromkeys(("Frames", "Views", "Parameters (M)", "Trainable (M)", "Active (M)"), True),
        **dict.fromkeys(("GFLOPs a view", "GFLOPs a video", "Δ closed form (%)", "GFLOPs a class text"), True),
        "GFLOPs training, a video": True,
    }
    caption = (
        f"Parameters in millions and {UNIT} of matrix products, counted. Active: visual tower and head as deployed, "
        "which is what a video needs; class texts are computed once. Δ: counted − closed form, of a view. Training: "
        "one video in a step, forward and backward, with the tower where the step runs it."
    )
    return _grid("costs", caption, heads, [_cost_line(profile) for profile in profiles])


def _cost_line(profile: _Profile) -> _Line:
    result = profile.cost.result
    parameters, flops = result["parameters"], result["flops"]
    millions = {name: parameters[name] / MEGA for name in ("total", "trainable", "active")}
    giga = {name: _giga(flops[name]["counted"]) for name in ("view", "video", "text", "training")}
    texts = {name: digits(value) for name, value in (millions | giga).items()}
    difference = _difference(flops["view"])
    return _Line(
        (*profile.names, result["backbone"]),
        (
            *(str(result["frames"]), str(result["views"]), texts["total"], texts["trainable"], texts["active"]),
            *(texts["view"], texts["video"], _percent(difference), texts["text"], texts["training"]),
        ),
        profile.cost.identity,
        {
            **profile.values,
            **{name: result[name] for name in ("backbone", "frames", "views", "classes")},
            **{f"parameters_{name}": parameters[name] for name in ("total", "trainable", "active", "head", "expert")},
            **{f"flops_{name}_counted": flops[name]["counted"] for name in giga},
            **{f"flops_{name}_closed": flops[name].get("closed") for name in giga},
            "view_difference_percent": difference,
        },
    )


def _latencies(profiles: list[_Profile]) -> Grid:
    heads = {
        **dict.fromkeys(("Method", "Setting", "Part", "Precision"), False),
        **dict.fromkeys(("Batch", "p50 (ms)", "p95 (ms)", "Videos/s", "Memory (MiB)"), True),
        "Device": False,
    }
    caption = (
        "Latency of a whole batch, median and 95th percentile, throughput, and peak memory above what was held before, "
        "after warm-up, in a process of its own."
    )
    lines = [
        _Line(
            (*profile.names, entry["part"], entry["precision"]),
            (
                *(str(entry["batch"]), digits(1000 * entry["p50"]), digits(1000 * entry["p95"])),
                *(digits(entry["throughput"]), digits(_number(entry["memory"]) / MEBIBYTE)),
                _device(profile.cost),
            ),
            profile.cost.identity,
            {**profile.values, **{name: entry[name] for name in MEASURED}, "device": profile.cost.machine["device"]},
        )
        for profile in profiles
        for entry in profile.cost.result["latency"]
    ]
    return _grid("cost-latency", caption, heads, lines)


def _device(cost: Cost) -> str:
    """E.g. "cpu (AVX512), 2 threads"; "NVIDIA H200"."""
    device, threads = str(cost.machine["device"]), cost.machine["threads"]
    return f"{device}, {threads} thread{'s' if threads != 1 else ''}" if device.startswith("cpu") else device


def _modules(profiles: list[_Profile]) -> Grid:
    unit, word = flop_unit(max((_view(profile.cost) for profile in profiles), default=0))
    heads = {
        **dict.fromkeys(("Method", "Setting", "Module"), False),
        **dict.fromkeys((f"{word} counted", f"{word} closed form", "Δ (%)", "Share (%)"), True),
    }
    caption = (
        f"Where the {word} ({EACH}) of one view go, as deployed; modules add up to the view. Δ: counted − closed form."
    )
    lines = [
        _Line(
            (*profile.names, module["name"]),
            (
                *(digits(_number(module[kind]) / unit) for kind in ("counted", "closed")),
                *(_percent(_difference(module)), f"{_share(module, profile.cost):.1f}"),
            ),
            profile.cost.identity,
            {
                **profile.values,
                **{"module": module["name"], "counted": module["counted"], "closed": module["closed"]},
                "share_percent": _share(module, profile.cost),
            },
        )
        for profile in profiles
        for module in profile.cost.result["modules"]
    ]
    return _grid("cost-modules", caption, heads, lines)


def _share(module: Mapping[str, float], cost: Cost) -> float:
    """In percent of a view."""
    whole = _view(cost)
    return 100 * module["counted"] / whole if whole else 0.0


def _view(cost: Cost) -> float:
    """FLOPs."""
    return float(cost.result["flops"]["view"]["counted"])


# --- experts ---------------------------------------------------------------------------------------------------------


def _experts(profiles: list[_Profile]) -> Grid:
    having = [profile for profile in profiles if profile.cost.result["experts"]]
    heads_of_all = [choice["flops"]["counted"] for profile in having for choice in profile.cost.result["choices"]]
    unit, word = flop_unit(max(heads_of_all, default=0))
    heads = {
        **dict.fromkeys(("Method", "Setting", "Expert"), False),
        **dict.fromkeys(("Parameters (M)", f"Training step ({word})", f"Head, a view ({word})"), True),
        **dict.fromkeys(("p50 (ms)", "p95 (ms)"), True),
    }
    caption = (
        f"What experts cost, in {word} ({EACH}). Parameters: of an expert its own, over all layers; of all together "
        "the head as deployed. Training step: expected for one video, forward and backward, through the expert alone. "
        "Head: a view through the head that has this expert alone, the merge, or all in turn; latency of that head."
    )
    lines = [line for profile in having for line in _expert_lines(profile, unit)]
    return _grid("cost-experts", caption, heads, lines)


def _expert_lines(profile: _Profile, unit: float) -> Iterator[_Line]:
    """Experts first, then what is made of all of them."""
    experts = {expert["name"]: expert for expert in profile.cost.result["experts"]}
    choices = {choice["name"]: choice for choice in profile.cost.result["choices"]}
    for name in dict.fromkeys([*experts, *choices]):
        expert, choice = experts.get(name, {}), choices.get(name, {})
        latency = choice.get("latency") or {}
        values = {
            "parameters": _number(expert.get("parameters", choice.get("parameters"))),
            "training_flops": _number(expert.get("training")),
            "head_flops": _number(choice.get("flops", {}).get("counted")),
            "p50_seconds": _number(latency.get("p50")),
            "p95_seconds": _number(latency.get("p95")),
        }
        scales = (1 / MEGA, 1 / unit, 1 / unit, 1000, 1000)
        texts = tuple(digits(value * scale) for value, scale in zip(values.values(), scales, strict=True))
        yield _Line((*profile.names, name), texts, profile.cost.identity, {**profile.values, "expert": name, **values})


# --- trainings -------------------------------------------------------------------------------------------------------


def _trainings(results: Results) -> Grid:
    """Like Table 7d of MoTE: what each training took, over seeds, and what was published."""
    hour, unit = _time_unit(max((own.device_hours for own in results.trainings), default=0))
    heads = {
        **dict.fromkeys(("Method", "Setting", "Device"), False),
        **dict.fromkeys(("Devices", "Seeds", f"Device-{unit}", "Device-days", "Published GPU-days"), True),
    }
    caption = (
        "Training cost: computing time × devices, interruptions left out, mean ± 1 s.d. over the seeds. A training "
        "that rows share is counted once."
    )
    groups: dict[tuple[str, str, str, int, tuple[str, ...]], list[Training]] = {}
    for own in results.trainings:
        groups.setdefault((own.row, own.point, own.device, own.devices, own.sharing), []).append(own)
    selected = {(pair.row, pair.point): pair.number for pair in results.published if pair.number.metric == GPU_DAYS}
    lines = [_training_line(seeds, results, selected, hour) for seeds in groups.values()]
    return _grid("cost-training", caption, heads, lines, *_conditions(results, list(selected.values())))


def _time_unit(largest: float) -> tuple[int, str]:
    """What up to `largest` hours are best told in: how many there are of it in an hour, and its name."""
    return (1, "hours") if largest >= 0.5 else (60, "minutes")


def _training_line(
    seeds: list[Training], results: Results, selected: Mapping[tuple[str, str], Number], hour: int
) -> _Line:
    """The record is linked where there is a single one; the values name them all."""
    first, names = seeds[0], results.labels()
    others = [names[row] for row in first.sharing]
    hours = spread([own.device_hours for own in seeds])
    number = selected.get((first.row, first.point)) or selected.get((first.row, ""))
    return _Line(
        (f"{first.label} (also {', '.join(others)})" if others else first.label, first.point, first.device),
        (
            *(str(first.devices), str(hours.n), _plus_minus(hours.mean * hour, hours.std * hour)),
            *(_plus_minus(hours.mean / DAY, hours.std / DAY), number.text if number else "–"),
        ),
        first.identity if len(seeds) == 1 else "",
        {
            **{"row": first.row, "setting": first.point, "sharing": " ".join(first.sharing), "device": first.device},
            **{"devices": first.devices, "seeds": hours.n},
            **{"device_hours_mean": hours.mean, "device_hours_std": hours.std},
            "published_gpu_days": number.value if number else None,
            "identities": " ".join(own.identity for own in seeds),
        },
    )


def _conditions(results: Results, selected: list[Number]) -> Iterator[str]:
    """How published numbers came about: those selected, or else all of the suite's methods."""
    methods = results.table["method"].map(_plain).unique()
    known = [number for number in load() if number.metric == GPU_DAYS and _plain(number.method) in methods]
    origins: dict[str, list[str]] = {}
    for number in dict.fromkeys(selected or known):
        conditions = number.notes.partition("; ")[2] if REPRODUCED.match(number.notes) else number.notes
        what = " ".join(filter(None, [number.method, number.variant, number.backbone, number.value]))
        origins.setdefault(f"{number.source}, {number.table}; {conditions}", []).append(what)
    for origin, numbers in origins.items():
        yield f"Published GPU-days ({origin}): {'; '.join(numbers)}."


def _plain(method: str) -> str:
    """A method's name without what papers and the registry spell otherwise."""
    return method.casefold().replace("-", "").replace("_", "")


# --- numbers ---------------------------------------------------------------------------------------------------------


def _number(value: float | None) -> float:
    return nan if value is None else float(value)


def _giga(value: float | None) -> float:
    return _number(value) / GIGA


def _difference(flops: Mapping[str, float | None]) -> float:
    """Counted − closed form, in percent; nan where there is no closed form to compare with."""
    counted, closed = _number(flops["counted"]), _number(flops["closed"])
    return 100 * (counted - closed) / closed if closed else nan if counted else 0.0


def _percent(difference: float) -> str:
    return "–" if isnan(difference) else f"{round(difference, 2) + 0.0:+.2f}".replace("-", "−")


def _plus_minus(mean: float, std: float) -> str:
    return digits(mean) if pd.isna(std) else f"{digits(mean)} ± {digits(std, like=mean)}"
