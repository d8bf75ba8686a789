"""The command that measures the costs of methods: `profile`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType

from bench.core.errors import UserError, refuse_all
from bench.core.processes import Stopped

if TYPE_CHECKING:
    from bench.graph.stage import Stage
    from bench.store.records import Store
    from bench.suite.file import Measurement
    from methods.settings import Config

Settings = dict[str, Any]

console = Console(stderr=True)
out = Console()


def profile(
    methods: Annotated[list[str], typer.Argument(metavar="METHOD...", help="as `list methods` names them")],
    backbone: Annotated[
        str, typer.Option("--backbone", help="open_clip ViT config, glyph-vit or ViCLIP-B-16")
    ] = "ViT-B-16",
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
    from bench.commands.checks import unusable_device
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
    refuse_all(unusable_device(measurement.device, "--device", here=True))
    shown, given = {"frames": frames, "views": views, "classes": classes}, _given(settings or ())
    stages = [_stage(name, backbone, shown, given, measurement) for name in methods]
    records = Store.create(store)
    failed = _carry_out(stages, records, threads)
    for stage in stages:
        if records.done(*stage.key):
            for each in _tables(stage, records):
                out.print(each, highlight=False)
    if failed:
        raise typer.Exit(1)


_OPTIONS = {"batches": "--batch", "precisions": "--precision", "device": "--device", "seconds": "--seconds"}
PARTS = ("config", "inference")


def _given(settings: Iterable[str]) -> dict[str, Settings]:
    """Settings by part. Raises UserError for what is not written as one."""
    from bench.suite.yaml_lines import load_value

    given: dict[str, Settings] = {part: {} for part in PARTS}
    for text in settings:
        dotted, equals, value = text.partition("=")
        part, _, field = dotted.partition(".")
        if part not in PARTS or not field or not equals:
            raise UserError("a setting is written config.FIELD=value or inference.FIELD=value", where=f"--set {text}")
        given[part][field] = load_value(value, f"--set {text}")
    return given


def _stage(
    name: str, backbone_name: str, shown: Settings, given: dict[str, Settings], measurement: Measurement
) -> Stage:
    """The profile of a method with class texts encoded and batches as its recipe has them by default."""
    from bench.commands.checks import without_hooks
    from bench.graph.kinds import profile_stage
    from bench.models.backbones import backbone
    from bench.suite.recipe import Recipe
    from bench.suite.yaml_lines import validate
    from methods.registry import method, refuse_video

    kind = method(name, where="METHOD")
    config: Config = validate(kind.config, given["config"], lambda key: f"--set config.{'.'.join(map(str, key))}")
    inference = validate(kind.inference, given["inference"], lambda key: f"--set inference.{'.'.join(map(str, key))}")
    refuse_all(without_hooks([(name, config)]))
    try:
        config.check(inference)
        shape = backbone(backbone_name)
        refuse_video(name, config, shape)
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
    from bench.graph.price import Speed, measurements, price, usual_device
    from bench.launch.local import run_local
    from bench.stages.work import Compute
    from bench.store.provenance import provenance

    todo = list({stage.identity: stage for stage in stages if not store.done(*stage.key)}.values())
    if not todo:
        return 0
    known = measurements(store)
    priced = price(todo, known, Speed(usual_device(known), threads), 1)
    with watching(console, priced.seconds, 1) as watch:
        outcome = run_local(todo, store, Compute(threads=threads), 1, provenance(), watch)
    if outcome.stopped:
        raise Stopped(outcome.stopped)
    for stage in todo:
        if reason := outcome.failed.get(stage.identity):
            console.print(f"failed: {stage.title}\n{reason}", style="red", highlight=False, markup=False)
    return len(outcome.failed)


def _tables(stage: Stage, store: Store) -> Iterator[RenderableType]:
    """The tables of a record."""
    from reports.costs import profile_tables
    from reports.table import terminal

    record = store.read(*stage.key)
    result, spec = record["result"], record["spec"]
    yield f"\n{spec['method']}, {result['backbone']}, {result['frames']} frames, {result['classes']} classes"
    yield from map(terminal, profile_tables(stage.identity, result))
    known = ", ".join(f"{name} {value}" for name, value in result["machine"].items() if value is not None)
    yield f"{known}; record {stage.identity}"
