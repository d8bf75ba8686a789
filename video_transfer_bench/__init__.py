"""The harness in Python, for notebooks and programs (docs/python.md).

    import video_transfer_bench as vtb

    vtb.plan("quickstart").stages
    found = vtb.run("quickstart", {"recipe.epochs": 5})
    found.results.groupby(["row", "protocol"])["top1"].mean()
    vtb.load_model(found.results.iloc[0], store=found.store)("video.mp4")

A mistake raises UserError; nothing ends the interpreter. Overrides are `{"recipe.epochs": 5}` or `["recipe.epochs=5"]`.
A store is the folder of records: by default $VTB_STORE, else `runs`. Importing this imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bench.core.errors import UserError, refuse_all

if TYPE_CHECKING:
    import pandas as pd

    from bench.checkpoints.deployed import DeployedModel
    from reports.results import Results as _Collected

__all__ = ["Plan", "Results", "Suite", "UserError", "__version__", "load_model", "plan", "results", "run", "suite"]
__version__ = version("video-transfer-bench")

Overrides = Mapping[str, object] | Iterable[str]


@dataclass(frozen=True, eq=False)
class Suite:
    """A suite as it was read, validated and expanded. `plan`, `run` and `results` take it in the place of a name."""

    name: str
    title: str
    path: Path
    overrides: tuple[str, ...]
    trials: pd.DataFrame = field(repr=False)  # a line each: row, label, method, a column for each axis, seed
    notes: tuple[str, ...] = field(repr=False)  # on its settings, e.g. where training and test differ


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run would do."""

    suite: Suite
    stages: pd.DataFrame = field(repr=False)  # kind, identity, title, row, state, seconds (nan if cached)
    missing: dict[str, str]  # dataset, or file of a recipe -> why it cannot be used
    device: str  # by which it is priced
    device_hours: float
    seconds: float  # from start to end, with the stages at once that were asked for
    disk: float  # bytes that records, checkpoints and kept features take


@dataclass(frozen=True, eq=False)
class Results:
    """The results of a suite as far as it has records. What a frame holds is told in docs/python.md."""

    suite: str
    store: Path
    results: pd.DataFrame = field(repr=False)  # a line for each trial, protocol, part, expert; nan without a record
    _collect: Callable[[], _Collected] = field(repr=False)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """A line for each video of each evaluation, read and verified when first asked for."""
        from reports.frames import prediction_frame

        return prediction_frame(self._collect())

    @cached_property
    def costs(self) -> pd.DataFrame:
        """A line for each row and point that was profiled: parameters, FLOPs."""
        from reports.frames import cost_frame

        return cost_frame(self._collect())

    @cached_property
    def latencies(self) -> pd.DataFrame:
        """A line for each measurement of a profile: seconds p50 and p95, videos a second, bytes of memory."""
        from reports.frames import latency_frame

        return latency_frame(self._collect())

    @cached_property
    def trainings(self) -> pd.DataFrame:
        """A line for each finished training: seconds, devices, bytes of memory at the peak."""
        from reports.frames import training_frame

        return training_frame(self._collect())


def suite(name: str | Path | Suite, overrides: Overrides = ()) -> Suite:
    """Read a shipped suite by name, or a YAML file by path. Raises UserError for the first mistake in it."""
    from bench.suite.resolve import load_suite, suite_path

    path, texts = _asked(name, overrides)
    loaded = load_suite(suite_path(str(path)), texts)
    refuse_all(loaded.problems)
    return _described(loaded, suite_path(str(path)))


def plan(
    name: str | Path | Suite,
    overrides: Overrides = (),
    *,
    store: str | Path | None = None,
    jobs: int | None = None,
    threads: int = 1,
    workers: int = 1,
    device_type: str = "",
) -> Plan:
    """Compare a suite with a store and price what has no record; as the command `plan`, without a limit of budget.

    `jobs` stages at once, each with so many `threads` and decoding `workers`, on a `device_type` such as "h100".
    Raises UserError for a mistake in the suite, and for a store that cannot be written to.
    """
    import pandas as pd

    from bench.commands.options import Warnings, open_suite
    from bench.commands.suites import price_of
    from bench.graph.plan import default_jobs, make_plan
    from bench.graph.price import known_device
    from bench.stages.work import Compute
    from bench.store.records import Store

    (path, texts), place = _asked(name, overrides), _store(store)
    device_type = device_type and known_device(device_type)
    with Warnings():
        opened, graph = open_suite(str(path), [*texts], place, None, None)
        made = make_plan(graph, Store(place))
        compute = Compute(threads=threads, loader_workers=workers)
        price = price_of(made, Store(place), compute, device_type, default_jobs() if jobs is None else max(1, jobs))
    todo = {stage.identity for stage in made.todo}
    lines = [
        {
            **{key: getattr(stage, key) for key in ("kind", "identity", "title", "row")},
            "state": "cached" if stage.identity not in todo else "data missing" if stage.missing else "to run",
            "seconds": price.seconds.get(stage.identity, float("nan")),
        }
        for stage in graph.stages.values()
    ]
    return Plan(
        _described(opened, _path(path)),
        pd.DataFrame(lines),
        dict(made.missing_data),
        price.speed.device,
        price.device_hours,
        price.wall,
        float(sum(price.disk.values())),
    )


def run(
    name: str | Path | Suite,
    overrides: Overrides = (),
    *,
    store: str | Path | None = None,
    jobs: int | None = None,
    device: str = "auto",
    threads: int = 1,
    workers: int = 1,
) -> Results:
    """Run the stages of a suite that have no record, on this machine, write its report, and return its results.

    `jobs` stages at once in processes of their own (0: in this one), on a `device`: "cpu", "cuda", "cuda:1", "auto".
    A program, unlike a notebook, calls it below `if __name__ == "__main__":`, and always in its main thread. Raises
    UserError for mistakes, before anything runs, and if stages failed: `results` then has the others. Raises
    KeyboardInterrupt when it is interrupted; the same call goes on from there.
    """
    from bench.commands.options import Warnings, Wrong, open_suite
    from bench.commands.suites import carry_out
    from bench.core.processes import Stopped
    from bench.core.words import counted, typed
    from bench.graph.build import Graph
    from bench.stages.work import Compute
    from bench.suite import trial

    (path, texts), place = _asked(name, overrides), _store(store)

    def opened(wrong: Wrong) -> tuple[trial.Suite, Graph, Path]:
        return *open_suite(str(path), [*texts], place, None, None, wrong), _path(path)

    command = typed("run", path, *texts, "--store", place)
    try:
        with Warnings():
            failed = carry_out(opened, place, Compute(device, threads, workers), jobs, command=command)
    except Stopped as stop:
        raise KeyboardInterrupt(*stop.args) from None
    if failed:
        what = f"{counted(failed, 'stage')} failed, or could not start because of that"
        raise UserError(what, where=str(path), hint="`results` has the others; the command `status` shows the reasons")
    return results(path, texts, store=place)


def results(name: str | Path | Suite, overrides: Overrides = (), *, store: str | Path | None = None) -> Results:
    """The results of a suite as far as its records stand; changes nothing in the store.

    The frame `results` is kept in the cache folder ($VTB_CACHE), and read from there while all that it is made of is as
    it was. Raises UserError for a mistake in the suite, and for a folder that is not there.
    """
    from bench.commands.options import Warnings, without_collecting
    from bench.graph.build import build_graph
    from bench.store.records import Store
    from bench.suite.resolve import load_suite
    from reports.collect import collect
    from reports.frames import kept_result_frame

    (path, texts), place = _asked(name, overrides), _store(store)
    if not place.is_dir():
        raise UserError("no such folder", where=str(place), hint="`store` names the folder of records")
    with Warnings(), without_collecting():
        loaded = load_suite(_path(path), texts)
        refuse_all(loaded.problems)
        graph = build_graph(loaded)
        collected = cache(lambda: collect(loaded, graph, Store(place), {}))
        return Results(
            loaded.name, place, kept_result_frame(_path(path), loaded, graph, Store(place), collected), collected
        )


def load_model(
    record: str | Path | Mapping[str, Any] | pd.Series[Any],
    *,
    store: str | Path | None = None,
    classes: Sequence[str] | Path | None = None,
    templates: Sequence[str] = (),
    device: str = "cpu",
    workers: int = 0,
) -> DeployedModel:
    """The model behind an evaluation, as it was deployed; call it on video files or on frames.

    `record` is a line of `Results.results`, the start of the record's identity, or its folder. `classes` are other
    candidates, as names or a file of them, under the evaluation's templates or under `templates`: patterns with `{}`
    for the class. On "cpu", "cuda", "cuda:1" or "auto"; `workers` processes decode files, 0: this one.

    The model takes files, uint8 frames [B, T, 3, H, W], or preprocessed ones (`DeployedModel.scores` tells shapes), and
    returns the best classes of each video with their scores. Raises UserError if the record is missing or damaged.
    """
    from bench.checkpoints.deployed import deployed_model
    from bench.commands.checks import unusable_device
    from bench.core.errors import refuse_all
    from bench.data.class_files import read_classes
    from bench.store.records import Store
    from bench.store.why import find_record

    key = str(record) if isinstance(record, str | Path) else str(record["identity"])
    if not key:
        raise UserError("the result has no record yet", hint="run its suite")
    found = find_record(Store(_store(store)), key)
    if found.record["kind"] != "evaluate":
        what = f"is a record of the kind '{found.record['kind']}'"
        raise UserError(what, where=found.record["identity"], allowed=["evaluate"])
    refuse_all(unusable_device(device, f"device={device}", here=True))
    if isinstance(templates, str):
        raise UserError("expected a list of patterns", where=f"templates={templates}", hint=f"['{templates}']")
    names = read_classes(Path(classes)).names if isinstance(classes, str | Path) else classes
    if names is not None and (not names or len({*names}) < len(names)):
        twice = [name for name in dict.fromkeys(names) if [*names].count(name) > 1]
        raise UserError(f"'{twice[0]}' appears twice" if twice else "lists no classes", where="classes")
    return deployed_model(found.store, found.record["identity"], names or (), templates, device, workers)


# --- what is asked for ------------------------------------------------------------------------------------------------


def _asked(name: str | Path | Suite, overrides: Overrides) -> tuple[Path | str, tuple[str, ...]]:
    """Path or name of a suite, and overrides as they are typed."""
    if isinstance(overrides, str):
        raise UserError("overrides are a mapping, or a list of texts", where=overrides, hint=f"['{overrides}']")
    pairs = overrides.items() if isinstance(overrides, Mapping) else ()
    texts = [f"{key}={_yaml(value)}" for key, value in pairs] or [*map(str, overrides)]
    return (name.path, (*name.overrides, *texts)) if isinstance(name, Suite) else (name, tuple(texts))


def _yaml(value: object) -> str:
    """A value in one line of YAML, as an override has it."""
    return yaml.safe_dump(value, default_flow_style=True, width=float("inf")).removesuffix("\n").removesuffix("\n...")


def _path(name: str | Path) -> Path:
    from bench.suite.resolve import suite_path

    return suite_path(str(name))


def _store(store: str | Path | None) -> Path:
    return Path(store or os.environ.get("VTB_STORE") or "runs")


def _described(loaded: Any, path: Path) -> Suite:
    import pandas as pd

    trials = [
        {
            **{name: getattr(trial, name) for name in ("row", "label", "method")},
            **dict.fromkeys(loaded.axes),
            **dict(trial.point),
            "seed": trial.seed,
        }
        for trial in loaded.trials
    ]
    return Suite(loaded.name, loaded.file.title, path, loaded.overrides, pd.DataFrame(trials), loaded.notes)
