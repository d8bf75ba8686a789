"""The commands of `run_suite.py`. Nothing here, or on the way to a plan, imports torch."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.commands.checkpoints import export, import_
from bench.commands.compare import compare
from bench.commands.data import doctor, prepare
from bench.commands.display import bars
from bench.commands.garbage import gc as collect
from bench.commands.launches import cancel, logs, retry, status
from bench.commands.profile import profile
from bench.commands.why import why as explain
from bench.core.errors import UserError
from methods.registry import use_plugins

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Benchmark and ablation harness for CLIP-to-video transfer.",
)
console = Console(stderr=True)
out = Console()

SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="name of a shipped suite, or a path to a YAML file")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. recipe.epochs=5")]
StorePath = Annotated[Path, typer.Option("--store", envvar="VTB_STORE", help="folder of records and reports")]
CachePath = Annotated[Path | None, typer.Option("--cache", envvar="VTB_CACHE", help="folder of the embedded videos")]
Jobs = Annotated[
    int | None, typer.Option("--jobs", min=0, help="stages at once; 0 = in this process (default: cores, at most 8)")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...; auto: cuda if there is one")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads of a stage")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="decoding processes of a stage; 0 = in the stage")]
FrameCache = Annotated[float, typer.Option("--frame-cache", min=0, help="GB of decoded frames to keep; 0 = none")]
TensorBoard = Annotated[str, typer.Option("--tensorboard", metavar="FOLDER", help="event files of trainings go here")]
WandB = Annotated[str, typer.Option("--wandb", metavar="PROJECT", help="W&B project that trainings are logged to")]
Checkpoints = Annotated[
    float, typer.Option("--checkpoint-seconds", min=0, help="between two checkpoints of a training")
]

SiteFile = Annotated[
    Path | None,
    typer.Option(
        "--site", metavar="FILE", help="profile of the cluster (docs/slurm.md); else $VTB_SITE, else defaults"
    ),
]

Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="PACKAGE", help="a method that is not installed as one; may be repeated"),
]

DEFAULT_STORE = Path("runs")


class On(StrEnum):
    """Where stages are carried out."""

    local = "local"
    slurm = "slurm"


class Listed(StrEnum):
    """What `list` can list."""

    methods = "methods"
    suites = "suites"
    datasets = "datasets"
    protocols = "protocols"


@app.command()
def run(
    suite: SuiteName,
    overrides: Overrides = None,
    store: StorePath = DEFAULT_STORE,
    cache: CachePath = None,
    jobs: Jobs = None,
    device: Device = "auto",
    threads: Threads = 1,
    workers: Workers = 1,
    frame_cache: FrameCache = 10.0,
    checkpoint_seconds: Checkpoints = 60.0,
    tensorboard: TensorBoard = "",
    wandb: WandB = "",
    on: Annotated[On, typer.Option("--on", help="this machine, or jobs of a Slurm cluster")] = On.local,
    site: SiteFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="with --on slurm: print the batch scripts only")] = False,
    plugin: Plugins = None,
) -> None:
    """Do what a suite still needs, then write its report. On Slurm, submit it and return."""
    from bench.checkpoints.imported import refuse_unimported
    from bench.graph.plan import cache_frames, default_jobs, estimate, make_plan, measured_rates
    from bench.stages.work import Compute
    from bench.store.provenance import provenance
    from bench.store.records import Store
    from bench.suite.resolve import suite_path

    started = time.monotonic()
    if dry_run and on is On.local:
        raise UserError("is for --on slurm", where="--dry-run", hint="`plan` shows what would be done on this machine")
    declared, graph = _graph(suite, overrides, cache, plugin)
    records, origin = Store(store.resolve() if on is On.slurm else store), provenance()
    plan = make_plan(graph, records)
    _show(plan, declared.name, len(declared.trials), graph)
    if plan.missing_data:
        name, reason = next(iter(plan.missing_data.items()))
        if name not in graph.datasets:
            raise UserError(reason, where="recipe")
        raise UserError(reason, where=f"dataset '{name}'", hint="see docs/add_a_dataset.md")
    refuse_unimported(graph.stages.values(), records)
    todo = [stage for stage in graph.stages.values() if not records.done(*stage.key)]
    failed = 0
    if todo:
        slots = default_jobs() if jobs is None else jobs
        compute = Compute(
            device,
            threads,
            workers,
            frame_cache_gb=frame_cache,
            checkpoint_seconds=checkpoint_seconds,
            tensorboard=tensorboard,
            wandb=wandb,
        )
        estimates = dict(zip((stage.identity for stage in todo), estimate(todo, measured_rates(records)), strict=True))
        about = {
            "suite": declared.name,
            "file": str(suite_path(suite).resolve()),
            "folder": str(Path.cwd()),
            "overrides": overrides or [],
            "compute": asdict(compute),
            "provenance": origin,
            "cached": len(graph.stages) - len(todo),
        }

        def prepare() -> None:
            _build_worlds(graph, todo, max(1, slots))
            cache_frames(todo, int(frame_cache * 1e9))

        if on is On.slurm:
            _on_slurm(declared, todo, records, estimates, about, site, None if dry_run else prepare)
            return
        prepare()
        failed = _on_this_machine(graph, todo, records, compute, slots, estimates, about)
    else:
        console.print("Nothing had to run: every stage has its record.")
    _report(declared, graph, records, origin)
    console.print(f"Done in {time.monotonic() - started:.0f} s.")
    if failed:
        raise typer.Exit(1)


def _on_this_machine(
    graph: Any, todo: list[Any], records: Any, compute: Any, slots: int, estimates: dict[str, float], about: Any
) -> int:
    """Carry the stages out; the number of those without a record."""
    from bench.launch.launches import Planned, create
    from bench.launch.local import run_local

    planned = [
        Planned(
            stage.kind,
            stage.identity,
            stage.title,
            tuple(other.key for other in stage.inputs.values()),
            estimates[stage.identity],
        )
        for stage in todo
    ]
    launch = create(records, {**about, "on": "local"}, planned)
    origin = {**about["provenance"], "launch": launch.name}
    try:
        with _display(estimates, slots) as watch:
            outcome = run_local(list(graph.stages.values()), records, compute, slots, origin, watch)
    except BaseException:
        launch.end("cancelled")
        raise
    blocked = [stage.identity for stage in outcome.blocked]
    launch.end("incomplete" if outcome.failed or blocked else "complete", outcome.failed, blocked)
    return _account(outcome, graph)


def _on_slurm(
    suite: Any,
    todo: list[Any],
    records: Any,
    estimates: dict[str, float],
    about: Any,
    site: Path | None,
    prepare: Callable[[], None] | None,
) -> None:
    """Submit the stages and say how to follow them; without `prepare`, only show the scripts."""
    from bench.launch.site import load_site
    from bench.launch.slurm import launch_slurm, planned, preview, summary

    profile = load_site(site)
    about, stages = planned(suite, todo, estimates, profile, about)
    if prepare is None:
        for text in preview(about, stages, records):
            out.print(text, highlight=False, soft_wrap=True, markup=False)
        return
    prepare()
    launch = launch_slurm(about, stages, todo, records)
    out.print(f"{launch.name}: {summary(launch.jobs())}", highlight=False, soft_wrap=True)
    for what in ("status", "logs", "cancel", "retry"):
        told = f"python run_suite.py {what} {'TRIAL' if what == 'logs' else launch.name} --store {records.root}"
        out.print(f"  {told}{' --watch' if what == 'status' else ''}", highlight=False, soft_wrap=True)


@app.command()
def plan(
    suite: SuiteName,
    overrides: Overrides = None,
    store: StorePath = DEFAULT_STORE,
    cache: CachePath = None,
    stages: Annotated[bool, typer.Option("--stages", help="list every stage")] = False,
    plugin: Plugins = None,
) -> None:
    """Show what a suite would do: its stages, what is cached, what data are missing, and about how long it takes."""
    from bench.graph.plan import make_plan
    from bench.store.records import Store

    declared, graph = _graph(suite, overrides, cache, plugin)
    records = Store(store)
    _show(make_plan(graph, records), declared.name, len(declared.trials), graph)
    if stages:
        for stage in graph.stages.values():
            state = "cached" if records.done(*stage.key) else "data missing" if stage.missing else "to run"
            out.print(f"{state:<12} {stage.kind:<8} {stage.identity}  {stage.title}", highlight=False, soft_wrap=True)


@app.command()
def report(
    suite: SuiteName,
    overrides: Overrides = None,
    store: StorePath = DEFAULT_STORE,
    cache: CachePath = None,
    plugin: Plugins = None,
) -> None:
    """Write a suite's report from the records there are; cells without a record are shown as missing."""
    from bench.store.provenance import provenance
    from bench.store.records import Store

    declared, graph = _graph(suite, overrides, cache, plugin)
    _report(declared, graph, Store(store), provenance())


@app.command("list")
def list_(what: Annotated[Listed, typer.Argument(help="what to list")], plugin: Plugins = None) -> None:
    """List what can be named in a suite."""
    use_plugins(plugin or ())
    for name, text in _listing(what):
        out.print(f"[bold]{name}[/bold]  {text}", highlight=False, soft_wrap=True)


@app.command()
def pretrain(
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="where weights, record and checkpoints go")] = Path(
        "pretrain_out"
    ),
) -> None:
    """Repeat the recipe of the embedded world's tiny CLIP (the better part of an hour; resumes when interrupted)."""
    from tools.pretrain import pretrain as train

    with bars(console) as shown:
        task = shown.add_task("pre-training", total=None)
        file = train(
            target, lambda done, total, text: shown.update(task, completed=done, total=total, description=text)
        )
    out.print(f"weights: {file}", highlight=False, soft_wrap=True)


app.command()(status)
app.command()(logs)
app.command()(cancel)
app.command()(retry)
app.command()(profile)
app.command("why")(explain)
app.command()(compare)
app.command("gc")(collect)
app.command()(doctor)
app.command()(prepare)
app.command("import")(import_)
app.command()(export)


def main(arguments: list[str]) -> int:
    """Run a command and give its exit code: 0 done, 1 stages failed, 2 the input is wrong."""
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    if arguments and arguments[0] not in commands and not arguments[0].startswith("-"):
        arguments = ["run", *arguments]
    try:
        app(arguments, prog_name="run_suite.py")
    except SystemExit as end:
        return int(end.code or 0)
    except UserError as error:
        console.print(f"error: {error}", style="bold red", highlight=False, markup=False, soft_wrap=True)
        return 2
    return 0


def _graph(name: str, overrides: list[str] | None, cache: Path | None, plugins: list[str] | None) -> tuple[Any, Any]:
    from bench.graph.build import build_graph
    from bench.suite.resolve import load_suite, suite_path

    use_plugins(plugins or ())
    if cache is not None:
        os.environ["VTB_CACHE"] = str(cache)
    gc.disable()  # thousands of small objects that all live on; collecting them costs half of a large plan's time
    suite = load_suite(suite_path(name), tuple(overrides or ()))
    with bars(console) as shown:
        tasks: dict[str, Any] = {}

        def hashing(dataset: str, done: int, total: int) -> None:
            if dataset not in tasks:
                tasks[dataset] = shown.add_task(f"reading {dataset} once for its identity")
            shown.update(tasks[dataset], completed=done, total=total)

        graph = build_graph(suite, hashing)
    gc.enable()
    return suite, graph


def _show(plan: Any, name: str, trials: int, graph: Any) -> None:
    from bench.commands.display import clock
    from bench.store.records import KINDS

    table = Table(title=f"{name}: {trials} trials", title_justify="left")
    for title in ("stage", "cached", "to run", "data missing"):
        table.add_column(title, justify="left" if title == "stage" else "right")
    for kind in KINDS:
        counts = [plan.cached[kind], plan.to_run[kind], plan.missing[kind]]
        if any(counts):
            table.add_row(kind, *(str(count) if count else "" for count in counts))
    out.print(table)
    basis = "from earlier records" if plan.measured else "a rough guess from FLOPs"
    if plan.to_run:
        out.print(f"about {clock(plan.seconds)} of work in one slot ({basis})", highlight=False)
    if plan.frames:
        out.print(f"frame cache: {plan.frames / 1e9:.2g} GB of frames are read more than once", highlight=False)
    for why, trainings in graph.uncached.items():
        told = f"{len(trainings)} trainings decode and encode in every step, nothing is kept: {why}"
        out.print(told, highlight=False)
    for note in (note for notes in graph.notes.values() for note in notes):
        out.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    for dataset, reason in plan.missing_data.items():
        out.print(f"data missing: {dataset}: {reason}", highlight=False, soft_wrap=True)


def _build_worlds(graph: Any, todo: list[Any], workers: int) -> None:
    """Make the embedded videos that the stages need and that are not there yet."""
    needed = {stage.context["dataset"] for stage in todo if "dataset" in stage.context}
    for name in sorted(needed):
        data = graph.datasets[name]
        if data.buildable and data.missing():
            with bars(console) as shown:
                task = shown.add_task(f"making the videos of {name}", total=None)
                data.build(lambda done, total, task=task: shown.update(task, completed=done, total=total), workers)


def _display(estimates: dict[str, float], slots: int) -> Any:
    from bench.commands.display import watching

    return watching(console, estimates, max(1, slots))


def _account(outcome: Any, graph: Any) -> int:
    """Say what failed and what was blocked by it; the number of stages without a record."""
    for identity, reason in outcome.failed.items():
        console.print(f"failed: {graph.stages[identity].title}\n{reason}", style="red", highlight=False, markup=False)
    if outcome.blocked:
        console.print(f"{len(outcome.blocked)} stages were not started because an input failed.", style="red")
    return len(outcome.failed) + len(outcome.blocked)


def _report(suite: Any, graph: Any, records: Any, origin: dict[str, object]) -> None:
    from reports.collect import collect
    from reports.page import write_report

    page = write_report(collect(suite, graph, records, origin), records.root / "reports" / suite.name)
    out.print(f"report: {page}", highlight=False, soft_wrap=True)


def _listing(what: Listed) -> list[tuple[str, str]]:
    from bench.data.datasets import datasets
    from bench.suite.named_protocols import named_protocols
    from bench.suite.resolve import SUITES, load_suite
    from methods.registry import methods

    if what is Listed.methods:
        return [(name, found.summary) for name, found in methods().items()]
    if what is Listed.datasets:
        return [(name, _described(data)) for name, data in datasets({}).items()]
    if what is Listed.protocols:
        return list(named_protocols())
    suites = [load_suite(path) for path in sorted(SUITES.glob("*.yaml"))]
    return [(suite.name, suite.file.title) for suite in suites]


def _described(data: Any) -> str:
    """Splits with their numbers of videos, as far as they are known, and what is not there."""
    splits = [f"{split} {count:,}" if (count := data.count(split)) else split for split in data.splits]
    missing = None if data.buildable else data.missing()
    return ", ".join(splits) + (f"  ({missing})" if missing else "")
