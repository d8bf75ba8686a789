"""The commands on weights: `import` and `export` of official checkpoints, `pretrain` of the embedded CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from bench.checkpoints.imported import IMPORTABLE
from bench.commands.options import DEFAULT_STORE, StorePath, progress_bar, say
from bench.core.errors import UserError, unknown
from bench.data.datasets import dataset
from bench.models.prompts import TEMPLATES
from bench.models.weights import BUILTIN_FILES, regular_file
from bench.store.records import Store

if TYPE_CHECKING:
    from bench.checkpoints.official import Imported, Sources


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="official checkpoint, such as MoTE_B16.pt")],
    method: Annotated[str, typer.Option("--method", help=f"{', '.join(IMPORTABLE[:-1])} or {IMPORTABLE[-1]}")],
    backbone: Annotated[str, typer.Option("--backbone", help="such as ViT-B-16-quickgelu")],
    pretrained: Annotated[
        str, typer.Option("--pretrained", help="CLIP weights that its training started from: tag, file, random:<seed>")
    ] = "",
    store: StorePath = DEFAULT_STORE,
    name: Annotated[str, typer.Option("--name", help="name of the record; else the file's name")] = "",
    collapse: Annotated[bool, typer.Option("--collapse", help="merge the experts into a dense head")] = False,
    source: Annotated[
        str, typer.Option("--source", help="dataset whose class names are compared with the stored class features")
    ] = "",
    templates: Annotated[str, typer.Option("--templates", help="prompts of this comparison")] = "mote28",
    labels: Annotated[str, typer.Option("--labels", help="spelling of the names in this comparison")] = "",
) -> None:
    """Make a training record from an official checkpoint, so that suites evaluate it without training."""
    from bench.checkpoints.official import import_official

    regular_file("the checkpoint", file)
    pretrained = pretrained or ("builtin" if backbone in BUILTIN_FILES else "openai")
    sources = _sources(source, templates, labels) if source else None
    records = Store(store)
    imported = import_official(
        file, records, method, backbone, pretrained, name=name, collapse=collapse, sources=sources
    )
    for note in imported.notes:
        say(f"note: {note}")
    state = "imported as" if imported.fresh else "already imported as"
    say(f"{state} {records.folder('train', imported.identity)}")
    say("use it in a row of a suite:")
    recipe = {"imported": imported.digest, "backbone": backbone, "pretrained": pretrained}
    if source:
        recipe |= {"source": source, "templates": templates, **({"labels": labels} if labels else {})}
    say(_row(method, imported, recipe))


def export(
    training: Annotated[
        str, typer.Argument(metavar="TRAINING", help="identity of its record, digest of an import, or name")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="file to write")],
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Write a training as a checkpoint that official code can load."""
    from bench.checkpoints.official import export_official

    title, notes = export_official(Store(store), training, target)
    say("\n".join([f"{title}: {target}", *notes]))


def pretrain(
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="folder of weights, record and checkpoints")] = Path(
        "pretrain_out"
    ),
) -> None:
    """Pretrain the embedded tiny CLIP as the shipped weights were (most of an hour; resumes if interrupted)."""
    try:
        from tools.pretrain import pretrain as train
    except ModuleNotFoundError as error:
        raise UserError("the recipe of the embedded CLIP is not installed", hint="run this in a checkout") from error
    with progress_bar("pre-training") as show:
        say(f"weights: {train(target, show)}")


def _sources(name: str, templates: str, labels: str) -> Sources:
    from bench.checkpoints.official import Sources

    if templates not in TEMPLATES:
        raise unknown("templates", templates, TEMPLATES, where="--templates")
    return Sources(name, dataset(name, {}, where="--source").class_names(labels), templates)


def _row(method: str, imported: Imported, recipe: dict[str, Any]) -> str:
    """The lines of a suite's row."""
    keys: dict[str, Any] = {"method": method, "config": imported.config, "recipe": recipe}
    if imported.inference:
        keys["inference"] = imported.inference
    flow = {key: yaml.safe_dump(own, default_flow_style=True, sort_keys=False, width=1000) for key, own in keys.items()}
    return "\n".join(f"    {key}: " + text.removesuffix("...\n").strip() for key, text in flow.items())
