"""The commands that exchange checkpoints with official code: `import` makes a record of one, `export` writes one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console

from bench.core.errors import UserError

if TYPE_CHECKING:
    from bench.checkpoints.official import Imported, Sources

out = Console()

StorePath = Annotated[Path, typer.Option("--store", envvar="VTB_STORE", help="folder of records and reports")]


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="official checkpoint, such as MoTE_B16.pt")],
    method: Annotated[str, typer.Option("--method", help="mote, text4vis or dense_temporal")],
    backbone: Annotated[str, typer.Option("--backbone", help="such as ViT-B-16-quickgelu")],
    pretrained: Annotated[
        str, typer.Option("--pretrained", help="the CLIP that its training started from: tag, file, random:<seed>")
    ] = "",
    store: StorePath = Path("runs"),
    name: Annotated[str, typer.Option("--name", help="what the record is called; else the file's name")] = "",
    collapse: Annotated[bool, typer.Option("--collapse", help="merge the experts into a dense head")] = False,
    source: Annotated[
        str, typer.Option("--source", help="compare the stored class features with this dataset's names")
    ] = "",
    templates: Annotated[str, typer.Option("--templates", help="prompts of that comparison")] = "mote28",
    labels: Annotated[str, typer.Option("--labels", help="spelling of the names in that comparison")] = "",
) -> None:
    """Make a training record of an official checkpoint, so that suites evaluate it without training."""
    from bench.checkpoints.official import import_official
    from bench.store.records import Store

    if not file.is_file():
        raise UserError("there is no such file", where=str(file))
    pretrained = pretrained or ("builtin" if backbone == "glyph-vit" else "openai")
    sources = _sources(source, templates, labels) if source else None
    records = Store(store)
    imported = import_official(
        file, records, method, backbone, pretrained, name=name, collapse=collapse, sources=sources
    )
    for note in imported.notes:
        out.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    state = "imported as" if imported.fresh else "nothing to do, it was imported as"
    out.print(f"{state} {records.folder('train', imported.identity)}", highlight=False, markup=False, soft_wrap=True)
    out.print("a suite's row uses it with", highlight=False)
    recipe = {"imported": imported.digest, "backbone": backbone, "pretrained": pretrained}
    if source:
        recipe |= {"source": source, "templates": templates, **({"labels": labels} if labels else {})}
    out.print(_row(method, imported, recipe), highlight=False, markup=False, soft_wrap=True)


def export(
    training: Annotated[
        str, typer.Argument(metavar="TRAINING", help="identity of its record, digest of an import, or name")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="file to write")],
    store: StorePath = Path("runs"),
) -> None:
    """Write a training as an official checkpoint, which official code can load."""
    from bench.checkpoints.official import export_official
    from bench.store.records import Store

    title = export_official(Store(store), training, target)
    out.print(f"{title}: {target}", highlight=False, markup=False, soft_wrap=True)


def _sources(name: str, templates: str, labels: str) -> Sources:
    from bench.checkpoints.official import Sources
    from bench.core.errors import unknown
    from bench.data.datasets import dataset
    from bench.models.prompts import TEMPLATES

    if templates not in TEMPLATES:
        raise unknown("templates", templates, TEMPLATES, where="--templates")
    return Sources(name, dataset(name, {}, where="--source").class_names(labels), templates)


def _row(method: str, imported: Imported, recipe: dict[str, Any]) -> str:
    parts: dict[str, Any] = {"method": method, "config": imported.config, "recipe": recipe}
    if imported.inference:
        parts["inference"] = imported.inference
    flow = (yaml.safe_dump(part, default_flow_style=True, sort_keys=False, width=1000) for part in parts.values())
    values = (text.removesuffix("...\n").strip() for text in flow)
    return "\n".join(f"    {name}: {value}" for name, value in zip(parts, values, strict=True))
