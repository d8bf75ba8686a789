"""The commands that look after a dataset: `doctor` examines it, `prepare` makes a copy that decodes fast."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from bench.commands.display import bars
from bench.core.errors import UserError, unknown
from bench.core.files import write_atomically

if TYPE_CHECKING:
    from bench.care.doctor import Finding
    from bench.data.datasets import Dataset

console = Console(stderr=True)
out = Console()

WHERE_DATA_LIE = "see docs/add_a_dataset.md"
EXAMPLES = 3  # findings of a kind that are shown; the files hold all

DatasetName = Annotated[str, typer.Argument(metavar="DATASET", help="shipped, or declared by the suite")]
SuiteFile = Annotated[str | None, typer.Option("--suite", help="suite that declares the dataset")]
Splits = Annotated[list[str] | None, typer.Option("--split", help="only this split, not all; may be repeated")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="decoding processes; 0 = in this one; else as cores, at most 8"),
]


def doctor(
    dataset: DatasetName,
    suite: SuiteFile = None,
    split: Splits = None,
    full: Annotated[bool, typer.Option("--full", help="decode every frame, not a handful")] = False,
    decoder: Annotated[str, typer.Option("--decoder", help="the reader that protocols use")] = "decord",
    workers: Workers = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.1, help="limit of one video; else 60, with --full 600")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="where the lists go; else doctor/DATASET")
    ] = None,
) -> None:
    """Examine a dataset: files that cannot be decoded, lists that contradict themselves, tests that share videos."""
    from bench.care.doctor import Examination, known_bad, listed

    data = _dataset(dataset, suite)
    files = listed(data, _splits(data, split))
    examination = Examination(data, files, decoder, full)
    with _progress(f"examining {dataset}", "faulty") as progress:
        looked = examination.run(_workers(workers), seconds or (600.0 if full else 60.0), progress)
        findings = examination.findings(progress)
    folder = folder or Path("doctor", dataset)
    folder.mkdir(parents=True, exist_ok=True)
    bad = known_bad(files, findings)
    write_atomically(folder / "doctor.csv", _csv(examination.rows(findings)).encode())
    write_atomically(folder / "known_bad.txt", "".join(f"{name}\n" for name in bad).encode())
    out.print(f"{dataset}: {len(files):,} files, {looked:,} looked at now", highlight=False)
    _show(findings)
    out.print(f"all of it: {folder / 'doctor.csv'}", highlight=False, soft_wrap=True)
    if bad:
        out.print(f"undecodable: {folder / 'known_bad.txt'}", highlight=False, soft_wrap=True)
    if any(finding.is_problem for finding in findings):
        raise typer.Exit(1)


def prepare(
    dataset: DatasetName,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="folder of the copy")],
    suite: SuiteFile = None,
    split: Splits = None,
    short_side: Annotated[int, typer.Option("--short-side", min=16, help="pixels; nothing is enlarged")] = 256,
    gop: Annotated[int, typer.Option("--gop", min=1, help="frames from one key frame to the next")] = 8,
    crf: Annotated[int, typer.Option("--crf", min=0, max=51, help="quality: 0 lossless, 51 worst")] = 18,
    workers: Workers = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="limit of one video")] = 600.0,
) -> None:
    """Make a copy of a dataset that decodes fast: small H.264 videos with many key frames, under the same paths."""
    from bench.care.doctor import declared_bad, listed
    from bench.care.prepare import Preparation, PreparedFolder, declaration, refuse

    data, how = _dataset(dataset, suite), Preparation(short_side, gop, crf)
    refuse(data, target)
    files = listed(data, _splits(data, split))
    with PreparedFolder(target, how) as copy:
        todo, failed = copy.todo(data, files)
        kept = len(files) - len(todo) - len(failed)
        if warning := copy.space_warning(todo):
            console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True)
        with _progress(f"preparing {dataset}", "failed") as progress:
            failed |= copy.make(todo, _workers(workers), seconds, progress)
    out.print(f"{dataset}: {len(files) - kept - len(failed):,} videos made, {kept:,} were there", highlight=False)
    bad = declared_bad(data, files)
    for path, reason in failed.items():
        mark = "left out, as known_bad says" if path in bad else "left out"
        out.print(f"{mark}: {path}: {reason}", highlight=False, markup=False, soft_wrap=True)
    out.print("a suite uses the copy with", highlight=False)
    out.print(declaration(data, target), highlight=False, markup=False, soft_wrap=True)
    if failed.keys() - bad:
        raise typer.Exit(1)


def _dataset(name: str, suite: str | None) -> Dataset:
    from bench.data.datasets import dataset
    from bench.suite.resolve import load_suite, suite_path

    declared = load_suite(suite_path(suite)).datasets if suite else {}
    return dataset(name, declared, where=suite or "")


def _splits(data: Dataset, named: Sequence[str] | None) -> list[str]:
    """The splits to work on: those named, else all whose lists are there. Raises UserError if the videos are not."""
    if reason := data.missing():
        raise UserError(reason, hint="a suite that uses them builds them" if data.buildable else WHERE_DATA_LIE)
    for split in named or ():
        if split not in data.splits:
            raise unknown(f"split of dataset '{data.name}'", split, data.splits)
        if reason := data.missing(split):
            raise UserError(reason, hint=WHERE_DATA_LIE)
    reasons = {split: data.missing(split) for split in named or data.splits}
    for reason in filter(None, reasons.values()):
        console.print(f"left out: {reason}", highlight=False, markup=False, soft_wrap=True)
    chosen = [split for split, reason in reasons.items() if not reason]
    if not chosen:
        raise UserError("no split has its list", where=f"dataset '{data.name}'", hint=WHERE_DATA_LIE)
    return chosen


def _workers(asked: int | None) -> int:
    if asked is not None:
        return asked
    from bench.graph.plan import default_jobs

    return default_jobs()


@contextmanager
def _progress(title: str, wrong: str) -> Iterator[Any]:
    """A function (done, total, number of wrong ones) that draws a bar with the time left."""
    with bars(console) as shown:
        task = shown.add_task(title, total=None)

        def progress(done: int, total: int, faulty: int) -> None:
            shown.update(task, completed=done, total=total, description=f"{title} ({faulty} {wrong})")

        yield progress


def _csv(rows: Iterator[dict[str, object]]) -> str:
    text = io.StringIO()
    first = next(rows)
    writer = csv.DictWriter(text, first, lineterminator="\n")
    writer.writeheader()
    writer.writerow(first)
    writer.writerows(rows)
    return text.getvalue()


def _show(findings: Sequence[Finding]) -> None:
    """A line for every kind of finding, with its first examples."""
    kinds = dict.fromkeys((finding.kind, finding.known) for finding in findings)
    for kind, known in kinds:
        same = [finding for finding in findings if (finding.kind, finding.known) == (kind, known)]
        style, word = ("red", "problem") if same[0].is_problem else ("yellow", "known_bad" if known else "warning")
        out.print(f"{word}: {kind}: {len(same):,}", style=style, highlight=False, markup=False)
        for finding in same[:EXAMPLES]:
            text = f"{finding.path}: {finding.reason}" if finding.path else finding.reason
            out.print(f"    {text}", highlight=False, markup=False, soft_wrap=True)
        if len(same) > EXAMPLES:
            out.print(f"    and {len(same) - EXAMPLES:,} more", highlight=False)
    if not findings:
        out.print("nothing is wrong", style="green", highlight=False)
