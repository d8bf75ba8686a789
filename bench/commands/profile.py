"""The command that says what methods cost: `profile`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.core.errors import UserError

if TYPE_CHECKING:
    from bench.graph.stage import Stage
    from bench.store.records import Store
    from bench.suite.file import Measurement

Part = dict[str, Any]

console = Console(stderr=True)
out = Console()


def profile(
    methods: Annotated[list[str], typer.Argument(metavar="METHOD...", help="as `list methods` names them")],
    backbone: Annotated[str, typer.Option("--backbone", help="open_clip ViT config, or glyph-vit")] = "ViT-B-16",
    frames: Annotated[int, typer.Option("--frames", min=1, help="of a view")] = 8,
    views: Annotated[int, typer.Option("--views", min=1, help="of a video: clips x crops")] = 1,
    classes: Annotated[int, typer.Option("--classes", min=1, help="of training, and candidates")] = 400,
    counts_only: Annotated[bool, typer.Option("--counts-only", help="nothing is timed")] = False,
    batch: Annotated[list[int] | None, typer.Option("--batch", help="videos at once; may be repeated")] = None,
    precision: Annotated[list[str] | None, typer.Option("--precision", help="fp32, bf16, fp16; likewise")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...; auto: cuda if there is one")] = "auto",
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads")] = 1,
    seconds: Annotated[float, typer.Option("--seconds", help="of each measurement, about")] = 0.5,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="config.layers=6 ...")
    ] = None,
    store: Annotated[Path, typer.Option("--store", envvar="VTB_STORE", help="folder of records")] = Path("runs"),
    plugin: Annotated[list[str] | None, typer.Option("--plugin", metavar="PACKAGE", help="as for a suite")] = None,
) -> None:
    """Measure what methods cost: parameters, FLOPs by part and by expert, seconds and memory. Weights are random."""
    from bench.store.records import Store
    from bench.suite.file import Measurement
    from bench.suite.yaml_lines import validate
    from methods.registry import use_plugins

    use_plugins(plugin or ())
    asked = {"batches": [] if counts_only else batch or [1], "precisions": precision or ["fp32"]}
    measurement = validate(
        Measurement,
        {**asked, "device": device, "threads": threads, "seconds": seconds},
        lambda key: _OPTIONS[str(key[0])],
    )
    shown, given = {"frames": frames, "views": views, "classes": classes}, _given(settings or ())
    stages = [_stage(name, backbone, shown, given, measurement) for name in methods]
    records = Store(store)
    failed = _carry_out(stages, records, threads)
    for stage in stages:
        if records.done(*stage.key):
            for each in _tables(stage, records):
                out.print(each, highlight=False)
    if failed:
        raise typer.Exit(1)


_OPTIONS = {"batches": "--batch", "precisions": "--precision", "device": "--device", "seconds": "--seconds"}
PARTS = ("config", "inference")


def _given(settings: Iterable[str]) -> dict[str, Part]:
    """Settings by part. Raises UserError for what is not written as one."""
    from bench.suite.yaml_lines import load_value

    given: dict[str, Part] = {part: {} for part in PARTS}
    for text in settings:
        dotted, equals, value = text.partition("=")
        part, _, field = dotted.partition(".")
        if part not in PARTS or not field or not equals:
            raise UserError("a setting is written config.FIELD=value or inference.FIELD=value", where=f"--set {text}")
        given[part][field] = load_value(value)
    return given


def _stage(name: str, backbone_name: str, shown: Part, given: dict[str, Part], measurement: Measurement) -> Stage:
    """The profile of a method with class texts encoded and batches as its recipe has them by default."""
    from bench.graph.kinds import profile_stage
    from bench.models.backbones import backbone
    from bench.suite.recipe import Recipe
    from bench.suite.yaml_lines import validate
    from methods.registry import method

    kind = method(name, where="METHOD")
    config = validate(kind.config, given["config"], lambda key: f"--set config.{'.'.join(map(str, key))}")
    inference = validate(kind.inference, given["inference"], lambda key: f"--set inference.{'.'.join(map(str, key))}")
    try:
        config.check(inference)
        shape = backbone(backbone_name)
        config.fits(shape, shown["frames"])
    except ValueError as error:
        raise UserError(str(error), where=f"settings of {name}") from error
    except UserError as error:
        raise error.at("--backbone") from error
    training = {
        "frames": shown["frames"],
        "cached": config.shares_encodings,
        "checkpointing": False,
        "texts": 1,
        "batch": Recipe().batch,
    }
    title = f"profile {name} {backbone_name}"
    return profile_stage(name, config, inference, shape, shown, training, measurement, title)


def _carry_out(stages: list[Stage], store: Store, threads: int) -> int:
    """Measure what has no record, each in a fresh process; the number of those that failed."""
    from bench.commands.display import watching
    from bench.graph.plan import estimate, measured_rates
    from bench.launch.local import run_local
    from bench.stages.work import Compute
    from bench.store.provenance import provenance

    todo = list({stage.identity: stage for stage in stages if not store.done(*stage.key)}.values())
    if not todo:
        return 0
    estimates = dict(zip((stage.identity for stage in todo), estimate(todo, measured_rates(store)), strict=True))
    with watching(console, estimates, 1) as watch:
        outcome = run_local(todo, store, Compute(threads=threads), 1, provenance(), watch)
    for stage in todo:
        if reason := outcome.failed.get(stage.identity):
            console.print(f"failed: {stage.title}\n{reason}", style="red", highlight=False, markup=False)
    return len(outcome.failed)


# --- tables -----------------------------------------------------------------------------------------------------------


def _tables(stage: Stage, store: Store) -> Iterator[Table | str]:
    """A record as tables."""
    record = store.read(*stage.key)
    result, spec = record["result"], record["spec"]
    yield ""
    yield f"{spec['method']}, {result['backbone']}, {result['frames']} frames, {result['classes']} classes"
    yield _parameters(result["parameters"])
    yield _modules(result)
    if result["experts"]:
        yield _experts(result["experts"])
        yield _choices(result["choices"])
    if result["latency"]:
        yield _latency(result["latency"])
    machine = result["machine"]
    known = ", ".join(f"{name} {value}" for name, value in machine.items() if value is not None)
    yield f"{known}; record {stage.identity}"


def _parameters(found: Part) -> Table:
    towers = {f"{name} tower": size for name, size in found["towers"].items()}
    sizes = {**{name: size for name, size in found.items() if name != "towers"}, **towers}
    table = _table("Parameters, millions", *sizes)
    table.add_row(*(_millions(size) for size in sizes.values()))
    return table


def _modules(result: Part) -> Table:
    """FLOPs by part, then sums."""
    title = "Matrix products, forward: 1 MAC = 2 FLOPs"
    table = _table(title, "of one view", "GFLOPs counted", "in closed form", "GMACs counted")
    for line in result["modules"]:
        table.add_row(line["name"], *_flops(line))
    table.add_section()
    flops = result["flops"]
    table.add_row("a view", *_flops(flops["view"]))
    table.add_row(f"a video, {result['views']} x", *_flops(flops["video"]))
    table.add_row("a class text", *_flops(flops["text"]))
    table.add_row("a video in training, with backward", *_flops(flops["training"]))
    return table


def _experts(experts: list[Part]) -> Table:
    heads = ("expert", "M parameters", "GFLOPs of a video in training, expected")
    table = _table("Experts as trained", *heads)
    for expert in experts:
        table.add_row(expert["name"], _millions(expert["parameters"]), _giga(expert["training"]))
    return table


def _choices(choices: list[Part]) -> Table:
    heads = ("head", "M parameters", "GFLOPs counted", "in closed form", "GMACs counted", "p50 ms", "p95 ms")
    table = _table("Experts as asked, one view", *heads)
    for choice in choices:
        found = choice["latency"]
        latency = (_milli(found[name]) for name in ("p50", "p95")) if found else ()
        table.add_row(choice["name"], _millions(choice["parameters"]), *_flops(choice["flops"]), *latency)
    return table


def _latency(lines: list[Part]) -> Table:
    heads = ("part", "precision", "batch", "p50 ms", "p95 ms", "runs", "videos/s", "peak MB")
    table = _table("Latency", *heads)
    for line in lines:
        memory = "" if line["memory"] is None else f"{line['memory'] / 1e6:,.1f}"
        numbers = (_milli(line["p50"]), _milli(line["p95"]), str(line["runs"]), _digits(line["throughput"]), memory)
        table.add_row(line["part"], line["precision"], str(line["batch"]), *numbers)
    return table


def _table(title: str, first: str, *heads: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for head in heads:
        table.add_column(head, justify="right")
    return table


def _flops(found: Part) -> tuple[str, str, str]:
    closed = _giga(found["closed"]) if "closed" in found else ""
    return _giga(found["counted"]), closed, _giga(found["counted"] / 2)


def _giga(value: float) -> str:
    return _digits(value / 1e9)


def _millions(value: int) -> str:
    return f"{value / 1e6:,.3f}"


def _milli(seconds: float) -> str:
    return _digits(seconds * 1e3)


def _digits(value: float) -> str:
    """Four significant digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
