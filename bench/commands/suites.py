"""The commands on suites: `plan`, `run` and `report`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Column, Table

from bench.checkpoints.imported import unimported
from bench.commands.checks import (
    long_names,
    over_budget,
    too_few_devices,
    unknown_weights,
    unusable_device,
    unusable_files,
    unusable_options,
    without_experts,
    without_hooks,
)
from bench.commands.display import amount, counted, price_lines, summary, watching
from bench.commands.driver import drive, drive_here
from bench.commands.options import (
    DEFAULT_STORE,
    CachePath,
    Overrides,
    Plugins,
    Rows,
    StorePath,
    SuiteName,
    Without,
    Wrong,
    console,
    open_launched,
    open_suite,
    origin_of,
    out,
    progress_bar,
    say,
    warn,
)
from bench.commands.reporting import write_bundle, write_suite_report
from bench.core.errors import UserError, refuse_all
from bench.core.processes import Stopped
from bench.core.words import typed
from bench.graph.build import Graph
from bench.graph.plan import Plan, cache_frames, default_jobs, make_plan, mend_inputs
from bench.graph.price import Price, Speed, known_device, measurements, price, usual_device
from bench.graph.stage import Stage
from bench.launch.code import changed_kinds, frozen, run_under
from bench.launch.launches import JobArray, Launch, LaunchData, PlannedStage, StageKey, create, find_launch
from bench.launch.local import run_local
from bench.launch.schedule import Schedule
from bench.launch.site import Site, load_site
from bench.launch.slots import preload_stages
from bench.launch.slurm import (
    Followers,
    Submission,
    arranged,
    begin,
    create_on_slurm,
    driver_submission,
    on_site,
    script,
)
from bench.launch.states import launch_status
from bench.stages.work import Compute
from bench.store.records import KINDS, Store
from bench.suite.base import suite_text
from bench.suite.resolve import suite_path
from bench.suite.resources import Resources
from bench.suite.subset import selection
from bench.suite.trial import Suite

SHOWN = 10  # titles of stages that failed alike

Jobs = Annotated[
    int | None,
    typer.Option("--jobs", min=0, max=1000, help="stages at once; 0 = in this process (default: cores, at most 8)"),
]
Threads = Annotated[int, typer.Option("--threads", min=1, max=1000, help="CPU threads of a stage")]
Workers = Annotated[
    int, typer.Option("--workers", min=0, max=1000, help="decoding processes of a stage; 0 = in the stage")
]
FrameCache = Annotated[
    float, typer.Option("--frame-cache", min=0, max=1e6, help="GB of decoded frames to keep; 0 = none")
]
DeviceType = Annotated[
    str, typer.Option("--device-type", help="device to price by, such as h100 (default: that of the store's records)")
]


def run(
    suite: SuiteName,
    overrides: Overrides = None,
    store: StorePath = DEFAULT_STORE,
    cache: CachePath = None,
    jobs: Jobs = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...; auto: cuda if there is one")] = "auto",
    threads: Threads = 1,
    workers: Workers = 1,
    frame_cache: FrameCache = 10.0,
    checkpoint_seconds: Annotated[
        float, typer.Option("--checkpoint-seconds", min=0, max=1e6, help="seconds between checkpoints of a training")
    ] = 60.0,
    tensorboard: Annotated[str, typer.Option("--tensorboard", metavar="FOLDER", help="of trainings' event files")] = "",
    wandb: Annotated[str, typer.Option("--wandb", metavar="PROJECT", help="of W&B, that trainings are logged to")] = "",
    on: Annotated[
        Literal["local", "slurm"], typer.Option("--on", help="this machine, or jobs of a Slurm cluster")
    ] = "local",
    site: Annotated[
        Path | None,
        typer.Option("--site", metavar="FILE", help="profile of the cluster; else $VTB_SITE, else defaults"),
    ] = None,
    driver: Annotated[
        Literal["job", "here"], typer.Option("--driver", help="with --on slurm: drive it in a job, or in this process")
    ] = "job",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="with --on slurm: only print the batch scripts")] = False,
    device_type: DeviceType = "",
    plugin: Plugins = None,
    rows: Rows = None,
    without: Without = "",
) -> None:
    """Run the stages of a suite that have no record, then write its report. On Slurm, submit them and return."""
    if dry_run and on == "local":
        raise UserError("needs --on slurm", where="--dry-run", hint="`plan` shows the stages to run on this machine")
    device_type = device_type and known_device(device_type)
    overrides = [*selection(rows, without), *(overrides or ())]
    compute = Compute(
        device,
        threads,
        workers,
        frame_cache_gb=frame_cache,
        checkpoint_seconds=checkpoint_seconds,
        tensorboard=tensorboard,
        wandb=wandb,
    )

    def opened(wrong: Wrong) -> tuple[Suite, Graph, Path]:
        return *open_suite(suite, overrides, store, cache, plugin, wrong), suite_path(suite)

    if carry_out(opened, store, compute, jobs, OnSlurm(site, driver, dry_run) if on == "slurm" else None, device_type):
        raise typer.Exit(1)


@dataclass(frozen=True)
class OnSlurm:
    """Options of a launch on Slurm."""

    site: Path | None
    driver: Literal["job", "here"]
    dry_run: bool


def carry_out(
    opened: Callable[[Wrong], tuple[Suite, Graph, Path]],
    store: Path,
    compute: Compute,
    jobs: int | None,
    slurm: OnSlurm | None = None,
    device_type: str = "",
    earlier: Launch | None = None,
    command: str = "",
) -> int:
    """Do what `run` does, here or on Slurm. Returns how many stages have no record although they should.

    `opened` gives the suite, its graph and its file, and refuses what a function finds wrong with it. `earlier` is the
    launch whose code this process runs, to go on with it. `command` does the same at the prompt, if it was not typed.
    """
    started = time.monotonic()

    def wrong(declared: Suite | None) -> Iterator[UserError]:
        yield from unusable_options(compute, not slurm)
        if declared is not None:
            yield from without_hooks((own.method, own.config) for own in declared.trials)
            yield from without_experts(declared)
        if declared is not None and not slurm:
            yield from too_few_devices(declared.trials, compute.device)
            if profile := declared.file.report.profile:
                yield from unusable_device(profile.device, declared.where(("report", "profile", "device")), here=True)

    declared, graph, file = opened(wrong)
    records, origin = Store(store.resolve() if slurm else store), origin_of(earlier)
    origin |= {"command": command} if command else {}
    made = make_plan(graph, records)
    with console.status("verifying the records that will be read"):
        while not slurm and mend_inputs(made.todo, records):  # on a cluster, each job verifies what it reads
            made = make_plan(graph, records)
    todo, slots = made.todo, default_jobs() if jobs is None else max(1, jobs)
    site = load_site(slurm.site) if slurm else None
    at_once = slots if site is None else site[0].parallel or len(todo)
    priced = price_of(made, records, compute, device_type, at_once)
    kept_frames = min(made.frames, compute.frame_cache_gb * 1e9)
    _show_plan(made, declared, graph, priced, kept_frames)
    over, lacking = over_budget(declared, priced, kept_frames), unimported(todo, records)
    refused = [*_missing_data(made, graph), *unknown_weights(todo), *long_names(todo), *over, *lacking]
    if not (dry_run := slurm is not None and slurm.dry_run):
        refuse_all(refused)
    failed = 0
    with ExitStack() as frozen_code:
        if todo:
            stages = [PlannedStage.of(stage, priced.seconds[stage.identity]) for stage in todo]
            about = {
                "suite": declared.name,
                "file": str(file.resolve()),
                "folder": str(Path.cwd()),
                "command": earlier.about.get("command") if earlier else command or typed(*sys.argv[1:]),
                "overrides": [*declared.overrides],
                "compute": asdict(compute),
                "provenance": origin,
                "cached": len(graph.stages) - len(todo),
            }
            if site is not None:
                about, stages = on_site(*site, declared, about, stages, todo)
            if dry_run:
                _show_scripts(Launch(records.root / "launches" / "<launch>", about, tuple(stages)), priced)
                refuse_all(refused)
                return 0
            Store.create(records.root)
            for stage in todo:
                if records.left_out(*stage.key):
                    records.mend(*stage.key)  # makes room for the whole record
            if older := _unfinished(about, graph, records):
                again = typed("retry", older, "--store", records.root)
                say(f"launch {older} of this suite is unfinished under other code; `{again}` goes on with it")
            about |= frozen_code.enter_context(frozen(records, graph.stages.values()))
            about |= {"places": earlier.about["places"]} if earlier else {}
            if not slurm:
                preload_stages((stage.kind for stage in todo), compute.threads)
            _build_worlds(graph, todo, slots)
            cache_frames(todo, int(compute.frame_cache_gb * 1e9))
            if slurm:
                launch = create_on_slurm(about, stages, todo, records)
                _follow(launch, begin(launch, drive if slurm.driver == "job" else None))
                return int(slurm.driver == "here" and not drive_here(launch, launch.since))
            kept = earlier.suite_file if earlier else file
            launch = create(records, {**about, "on": "local", "jobs": jobs}, stages, suite=kept)
            failed = _on_this_machine(launch, graph, compute, slots if jobs != 0 else 0)
            origin = {**origin, "launch": launch.name}
        else:
            Store.create(records.root)
            console.print("Nothing had to run: every stage has its record.")
        alarms = write_suite_report(declared, graph, records, origin)
    alarmed = f", with {counted(alarms, 'alarm')} about its numbers" if alarms else ""
    console.print(f"Done in {time.monotonic() - started:.0f} s{alarmed}.")
    return failed


def plan(
    suite: SuiteName,
    overrides: Overrides = None,
    store: StorePath = DEFAULT_STORE,
    cache: CachePath = None,
    stages: Annotated[bool, typer.Option("--stages", help="list every stage")] = False,
    jobs: Jobs = None,
    threads: Threads = 1,
    workers: Workers = 1,
    frame_cache: FrameCache = 10.0,
    device_type: DeviceType = "",
    plugin: Plugins = None,
    rows: Rows = None,
    without: Without = "",
) -> None:
    """Show the plan of a suite: its stages, those cached, missing data, and what the rest takes: time, devices, disk.

    The exit code is 2 over the suite's budget, and if videos of a dataset that is there cannot be used; one that is not
    there may still come.
    """
    device_type = device_type and known_device(device_type)
    overrides = [*selection(rows, without), *(overrides or ())]
    declared, graph = open_suite(suite, overrides, store, cache, plugin)
    made = make_plan(graph, Store(store))
    slots, kept_frames = default_jobs() if jobs is None else max(1, jobs), min(made.frames, frame_cache * 1e9)
    priced = price_of(made, Store(store), Compute(threads=threads, loader_workers=workers), device_type, slots)
    _show_plan(made, declared, graph, priced, kept_frames)
    from bench.commands.power import power_lines  # with scipy, which no other command needs before its work

    for line in power_lines(declared, graph, Store(store)):
        say(line)
    if profile := declared.file.report.profile:
        for error in unusable_device(profile.device, declared.where(("report", "profile", "device")), here=True):
            say(f"note: {error.where}: {error.what}; a run on this machine is refused")
    todo = {stage.identity for stage in made.todo}
    for stage in graph.stages.values() if stages else ():
        state = "cached" if stage.identity not in todo else "data missing" if stage.missing else "to run"
        say(f"{state:<12} {stage.kind:<8} {stage.identity}  {stage.title}")
    refuse_all(over_budget(declared, priced, kept_frames))
    if graph.faulty:
        raise typer.Exit(2)


def report(
    suite: SuiteName,
    overrides: Overrides = None,
    store: StorePath = DEFAULT_STORE,
    cache: CachePath = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="FILE.zip", help="also write it with the linked records as one file"),
    ] = None,
    plugin: Plugins = None,
    rows: Rows = None,
    without: Without = "",
) -> None:
    """Write a suite's report from the records there are; cells without a record are shown as missing.

    SUITE@LAUNCH, or @LAUNCH, is the suite of a launch as it was submitted, under the code and with the options of then.
    """
    refuse_all(unusable_files({"--bundle": bundle}))
    overrides = [*selection(rows, without), *(overrides or ())]
    name, at, wanted = suite.rpartition("@")
    launch = find_launch(Store(store.resolve()), wanted) if at and not Path(suite).exists() else None
    if launch is None:
        opened = open_suite(suite, overrides, store, cache, plugin)
    elif name and Path(name).name.removesuffix(".yaml") != launch.about["suite"]:
        raise UserError(f"is a launch of suite '{launch.about['suite']}'", where=launch.name)
    elif overrides or plugin:
        raise UserError("has its own overrides and plugins", where=launch.name, hint=f"report @{launch.name}")
    else:
        run_under(launch, sys.argv[1:])
        opened = open_launched(launch)
    origin = {**origin_of(launch), **({"launch": launch.name} if launch else {})}
    records = Store.create(launch.store.root if launch else store)
    write_suite_report(*opened, records, origin)
    if bundle:
        write_bundle(bundle, opened[0], records)


# --- the plan ---------------------------------------------------------------------------------------------------------


def price_of(plan: Plan, store: Store, compute: Compute, device_type: str, slots: int) -> Price:
    """The price of the stages without a record, on a type of device; "": the usual one."""
    known = measurements(store)
    speed = Speed(device_type or usual_device(known, compute.device), compute.threads, compute.loader_workers)
    return price(plan.todo, known, speed, slots)


def _show_plan(plan: Plan, suite: Suite, graph: Graph, price: Price, kept_frames: float) -> None:
    numbers = (Column(name, justify="right") for name in ("cached", "to run", "data missing"))
    table = Table("stage", *numbers, title=f"{suite.name}: {len(suite.trials)} trials", title_justify="left")
    for kind in KINDS:
        counts = [plan.cached[kind], plan.to_run[kind], plan.missing[kind]]
        if any(counts):
            table.add_row(kind, *(str(count) if count else "" for count in counts))
    out.print(table)
    for line in suite.bases:
        say(line)
    for line in price_lines(price, kept_frames) if plan.todo else ():
        say(line)
    if plan.frames:
        text = f"frame cache: {amount(plan.frames / 1e9)} GB of frames are read more than once"
        part = f", {amount(kept_frames / 1e9)} are kept (--frame-cache); `prepare` makes copies that decode faster"
        say(text + (part if kept_frames < plan.frames else ""))
    for why, trainings in graph.uncached.items():
        say(f"{len(trainings)} trainings decode and encode in every step, without cached features: {why}")
    for note in dict.fromkeys(note for notes in graph.notes.values() for note in notes):
        say(f"note: {note}")
    for dataset, reason in plan.missing_data.items():
        say(f"data missing: {dataset}: {reason}")


def _missing_data(plan: Plan, graph: Graph) -> Iterator[UserError]:
    """The errors for datasets, and files of recipes, that are missing."""
    for name, reason in plan.missing_data.items():
        if name in graph.datasets:
            yield UserError(reason, where=f"dataset '{name}'", hint="see docs/add_a_dataset.md")
        else:
            yield UserError(reason, where="recipe")


# --- running ----------------------------------------------------------------------------------------------------------


def _build_worlds(graph: Graph, todo: list[Stage], workers: int) -> None:
    """Render the embedded videos that the stages need and that are missing."""
    needed = {stage.context["dataset"] for stage in todo if "dataset" in stage.context}
    worlds: list[Any] = [data for name in sorted(needed) if (data := graph.datasets[name]).buildable]
    for data in worlds:
        if data.missing():
            with progress_bar(f"making the videos of {data.name}") as show:
                data.build(show, workers)


def _unfinished(about: LaunchData, graph: Graph, store: Store) -> str:
    """The last launch of the same suite, if it left stages that only other code keeps from being these; else empty."""
    try:
        launch = find_launch(store, about["suite"])
        same = launch.suite_file.read_bytes() == suite_text(Path(about["file"]))
    except (OSError, UserError):
        return ""
    same &= all(launch.about[name] == about[name] for name in ("suite", "file", "overrides"))
    left = [number for number in launch.missing() if launch.stages[number].identity not in graph.stages]
    unfinished = same and left and launch.code and changed_kinds(launch) and not launch_status(launch).going_on
    return launch.name if unfinished else ""


def _on_this_machine(launch: Launch, graph: Graph, compute: Compute, slots: int) -> int:
    """Carry out the stages here. Returns the number of stages that have no record afterwards."""
    origin = {**launch.about["provenance"], "launch": launch.name}
    estimates = {stage.identity: stage.seconds for stage in launch.stages}
    try:
        with watching(console, estimates, max(1, slots)) as watch:
            run = run_local(list(graph.stages.values()), launch.store, compute, slots, origin, watch)
    except BaseException:
        launch.end("cancelled")
        raise
    if run.stopped:
        launch.end("cancelled")
        _say_saved(run, graph)
        raise Stopped(run.stopped)
    blocked = [stage.identity for stage in run.blocked]
    for reason, titles in _alike(run.failed, graph).items():
        more = f" and {len(titles) - SHOWN} more" if len(titles) > SHOWN else ""
        several = f"{len(titles)} stages failed alike" if len(titles) > 1 else "failed"
        warn(f"{several}: {', '.join(titles[:SHOWN])}{more}\n{reason}", "red")
    if blocked:
        warn(f"{len(blocked)} stages were not started because an input failed.", "red")
    launch.end("incomplete" if run.failed or blocked else "complete", run.failed, blocked)
    return len(run.failed) + len(blocked)


def _alike(failed: dict[str, str], graph: Graph) -> dict[str, list[str]]:
    """Reason -> titles of the stages that failed for it."""
    found: dict[str, list[str]] = {}
    for identity, reason in failed.items():
        found.setdefault(reason, []).append(graph.stages[identity].title)
    return found


def _say_saved(run: Schedule, graph: Graph) -> None:
    """Say what an interrupted run has finished and saved, and what it loses."""
    done = sum(run.store.done(*stage.key) for stage in graph.stages.values())
    warn(f"{done} of {counted(len(graph.stages), 'stage')} are done")
    for identity, how_far in run.saved.items():
        warn(f"  {graph.stages[identity].title}: {how_far}")
    for stage in run.running.values():
        saved = "goes on from its last checkpoint" if run.store.checkpoint(*stage.key).is_dir() else "starts anew"
        warn(f"  {stage.title}: was ended, {saved}")


def _follow(launch: Launch, submitted: list[JobArray]) -> None:
    """Print what was submitted, and the commands that follow it."""
    say(f"{launch.name}: {summary(submitted)}")
    name, store = launch.name, ("--store", launch.store.root)
    for arguments in (("status", name, "--watch"), ("logs", "TRIAL"), ("cancel", name), ("retry", name)):
        say(f"  {typed(*arguments, *store)}")


def _show_scripts(launch: Launch, price: Price) -> None:
    """Print the batch scripts that would be submitted, and what their jobs take and ask for; asks nothing of Slurm."""
    waves = list(_in_waves(launch))
    for each in [*waves, driver_submission(launch)]:
        size = f"{counted(sum(map(len, each.array_tasks)), 'stage')} in {counted(len(each.array_tasks), 'job')}"
        purpose = "submits the others, and writes the report" if each.driver else size
        say(f"# {each.name}: {purpose}\n{script(launch, each)}")
    jobs = [[launch.stages[number] for number in task] for each in waves for task in each.array_tasks]
    expected, asked = dict.fromkeys(("CPU", "GPU"), 0.0), dict.fromkeys(("CPU", "GPU"), 0.0)
    for first, *others in jobs:
        for unit, count in (("CPU", first.resources["cpus"]), ("GPU", first.resources["gpus"] or 0)):
            work, slots = [stage.seconds for stage in (first, *others)], Resources(**first.resources).side_by_side
            seconds = price.speed.startup + max(max(work), sum(work) / slots)
            expected[unit] += count * first.tasks * seconds / 3600
            asked[unit] += count * first.tasks * first.resources["time"] / 60
    sums = [f"{amount(expected[unit])} of {amount(hours)} {unit}-hours" for unit, hours in asked.items() if hours]
    say(f"# {counted(len(jobs), 'job')} without the driver will take about {' and '.join(sums)} that they ask for")


def _in_waves(launch: Launch) -> Iterator[Submission]:
    """All stages as arrays, as if those that are equally deep in the graph could start together."""
    site, depth, behind = Site.model_validate(launch.about["site"]), dict[StageKey, int](), dict[int, list[int]]()
    trainings = {stage.key: Followers(stage, site) for stage in launch.stages if stage.kind == "train"}
    waves = dict[int, list[int]]()
    numbers = {stage.key: number for number, stage in enumerate(launch.stages)}
    for number, stage in enumerate(launch.stages):  # inputs come first
        depth[stage.key] = 1 + max((depth.get(key, 0) for key in stage.inputs), default=0)
        last = [key for key in stage.inputs if depth.get(key, 0) == depth[stage.key] - 1]
        if len(last) == 1 and last[0] in trainings and trainings[last[0]](stage):
            behind.setdefault(numbers[last[0]], []).append(number)
        else:
            waves.setdefault(depth[stage.key], []).append(number)
    for _, wave in sorted(waves.items()):
        yield from arranged(launch, wave, site, following=behind)
