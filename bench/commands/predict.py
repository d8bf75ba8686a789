"""The command `predict`: the best classes of video files by the model behind a suite's result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.checks import unusable_device
from bench.commands.options import DEFAULT_STORE, CachePath, Plugins, StorePath, open_suite, say
from bench.core.errors import UserError, refuse_all, unknown
from bench.core.words import typed
from bench.data.class_files import read_classes
from bench.graph.build import Cell, Graph
from bench.store.records import Store


def predict(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO...", help="video files")],
    row: Annotated[str, typer.Option("--row", help="row of the suite, or a trial's title: 'dense lr=0.001 seed 1'")],
    suite: Annotated[str, typer.Option("--suite", help="name of a shipped suite, or a path to a YAML file")],
    classes: Annotated[
        Path | None, typer.Option("--classes", metavar="FILE", help="candidate classes; else those of the protocol")
    ] = None,
    protocol: Annotated[str, typer.Option("--protocol", help="its views, prompts and classes; else the first")] = "",
    top: Annotated[int, typer.Option("--top", min=1, help="classes shown of each video")] = 5,
    override: Annotated[
        list[str] | None, typer.Option("--override", metavar="KEY=VALUE", help="of the suite; may be repeated")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...; auto: cuda if there is one")] = "auto",
    workers: Annotated[
        int, typer.Option("--workers", min=0, max=1000, help="decoding processes; 0 = in this process")
    ] = 1,
    store: StorePath = DEFAULT_STORE,
    cache: CachePath = None,
    plugin: Plugins = None,
) -> None:
    """Show the best classes of videos, by the model behind a result, sampled and scored as under its protocol."""
    refuse_all(unusable_device(device, "--device", here=True))
    names = read_classes(classes).names if classes else ()
    declared, graph = open_suite(suite, override, store, cache, plugin)
    fitting = _fitting(graph, row, protocol)
    done = [cell for cell in fitting if Store(store).done(*cell.stage.key)]
    if not done:
        hint = f"`{typed('run', suite, *(override or ()), '--store', store)}` makes it"
        raise UserError(f"row '{row}' of suite '{declared.name}' has no record yet", where=str(store), hint=hint)
    from bench.checkpoints.deployed import deployed_model

    stage = done[0].stage
    model = deployed_model(Store(store), stage.identity, names, device=device, workers=workers)
    answers = model(videos, top)
    more = f", the first of {len(done)} results that fit" if len(done) > 1 else ""
    say(f"{stage.title.removeprefix('evaluate ')} (record {stage.identity[:8]}){more}")
    for video, found in zip(videos, answers, strict=True):
        say(f"{video}\n  probability      score  class")
        for own in found:
            say(f"  {own.probability:11.3f} {own.score:10.4g}  {own.label}")


def _fitting(graph: Graph, row: str, protocol: str) -> list[Cell]:
    """The results of a row, or of a trial, under a protocol if one is named. Raises UserError if there is none."""
    cells = [cell for cell in graph.cells if not cell.expert]
    named = [cell for cell in cells if f"{cell.trial.title} ".startswith(f"{row} ")]
    if not named:
        raise unknown("row", row, {cell.trial.row for cell in cells}, where="--row")
    if protocol and protocol not in (known := {cell.protocol for cell in named}):
        raise unknown("protocol", protocol, known, where="--protocol")
    return [cell for cell in named if protocol in ("", cell.protocol)]
