"""The commands on datasets: `doctor` examines one, `prepare` makes a copy that decodes fast."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from bench.care.doctor import Examination, FeatureExamination, Finding, declared_bad, known_bad, listed
from bench.care.prepare import Preparation, PreparedFolder, declaration, refuse
from bench.commands.options import console, progress_bar, say, warn
from bench.commands.store import examine_store
from bench.core.errors import UserError, unknown
from bench.core.files import write_atomically
from bench.data.datasets import Dataset
from bench.data.datasets import dataset as find_dataset
from bench.graph.plan import default_jobs
from bench.suite.resolve import load_suite, suite_path

SEE = "see docs/add_a_dataset.md"
EXAMPLES = 3  # findings of a kind that are printed; the files list all

DatasetName = Annotated[str, typer.Argument(metavar="DATASET", help="shipped, or declared by the suite")]
SuiteFile = Annotated[str | None, typer.Option("--suite", help="suite that declares the dataset")]
Splits = Annotated[list[str] | None, typer.Option("--split", help="only this split; may be repeated")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="decoding processes; 0 = in this one (default: cores, at most 8)")
]


def doctor(
    dataset: Annotated[
        str | None, typer.Argument(metavar="DATASET", help="shipped, or declared by the suite; or use --store")
    ] = None,
    suite: SuiteFile = None,
    split: Splits = None,
    full: Annotated[bool, typer.Option("--full", help="decode every frame, not only a few")] = False,
    decoder: Annotated[str, typer.Option("--decoder", help="decoder that protocols use")] = "decord",
    workers: Workers = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.1, help="time limit of one video; default 60, with --full 600")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="folder of the lists; default doctor/DATASET")
    ] = None,
    store: Annotated[
        Path | None, typer.Option("--store", metavar="FOLDER", help="examine this store in place of a dataset")
    ] = None,
) -> None:
    """Examine a dataset: undecodable files, contradictions in its lists, test videos that are also in training.

    Or a store: damaged records, checkpoints and launches, accuracies that contradict predictions, stray files.
    """
    if (dataset is None) == (store is None):
        raise UserError("give a DATASET, or the --store FOLDER to examine", where="doctor")
    if store is not None:
        if suite or split or full or seconds or folder:
            raise UserError("only --store FOLDER is used when a store is examined", where="doctor")
        examine_store(store)
        return
    assert dataset is not None
    data = _dataset(dataset, suite)
    files = listed(data, _splits(data, split))
    examination = FeatureExamination(data, files) if data.features else Examination(data, files, decoder, full)
    with _progress(f"examining {dataset}", "faulty") as progress:
        looked = examination.run(
            default_jobs() if workers is None else workers, seconds or (600.0 if full else 60.0), progress
        )
        findings = examination.findings(progress)
    folder = folder or Path("doctor", dataset)
    folder.mkdir(parents=True, exist_ok=True)
    bad = known_bad(files, findings)
    write_atomically(folder / "doctor.csv", _csv(examination.rows(findings)).encode())
    write_atomically(folder / "known_bad.txt", "".join(f"{name}\n" for name in bad).encode())
    say(f"{dataset}: {len(files):,} {'videos' if data.features else 'files'}, {looked:,} examined now")
    for claimed in dict.fromkeys(name for own in files.values() for name, _ in own):
        for claim in data.claims(claimed):
            say(f"{claimed}: {claim}")
    _show(findings)
    say(f"all findings: {folder / 'doctor.csv'}")
    if bad:
        say(f"undecodable: {folder / 'known_bad.txt'}")
    if any(finding.is_problem for finding in findings):
        raise typer.Exit(1)


def prepare(
    dataset: DatasetName,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="folder of the copy")],
    suite: SuiteFile = None,
    split: Splits = None,
    short_side: Annotated[int, typer.Option("--short-side", min=16, help="pixels; no video is enlarged")] = 256,
    gop: Annotated[int, typer.Option("--gop", min=1, help="frames between key frames")] = 8,
    crf: Annotated[int, typer.Option("--crf", min=0, max=51, help="quality: 0 lossless, 51 worst")] = 18,
    workers: Workers = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="time limit of one video")] = 600.0,
) -> None:
    """Make a copy of a dataset that decodes fast: small H.264 videos with many key frames, under the same paths."""
    data, how = _dataset(dataset, suite), Preparation(short_side, gop, crf)
    refuse(data, target)
    files = listed(data, _splits(data, split))
    with PreparedFolder(target, how) as copy:
        todo, failed = copy.todo(data, files)
        kept = len(files) - len(todo) - len(failed)
        if warning := copy.space_warning(todo):
            warn(f"warning: {warning}")
        with _progress(f"preparing {dataset}", "failed") as progress:
            failed |= copy.make(todo, default_jobs() if workers is None else workers, seconds, progress)
    say(f"{dataset}: {len(files) - kept - len(failed):,} videos made, {kept:,} existed already")
    bad = declared_bad(data, files)
    for path, reason in failed.items():
        mark = "left out, listed as known_bad" if path in bad else "left out"
        say(f"{mark}: {path}: {reason}")
    say("use the copy in a suite:")
    say(declaration(data, target))
    if failed.keys() - bad:
        raise typer.Exit(1)


def _dataset(name: str, suite: str | None) -> Dataset:
    declared = load_suite(suite_path(suite)).datasets if suite else {}
    return find_dataset(name, declared, where=suite or "")


def _splits(data: Dataset, named: Sequence[str] | None) -> list[str]:
    """The named splits, else all that have lists. Raises UserError if the videos are missing."""
    if reason := data.missing():
        raise UserError(reason, hint="running a suite that uses them renders them" if data.buildable else SEE)
    for split in named or ():
        if split not in data.splits:
            raise unknown(f"split of dataset '{data.name}'", split, data.splits)
        if reason := data.missing(split):
            raise UserError(reason, hint=SEE)
    reasons = {split: data.missing(split) for split in named or data.splits}
    for reason in filter(None, reasons.values()):
        say(f"left out: {reason}", None, console)
    chosen = [split for split, reason in reasons.items() if not reason]
    if not chosen:
        raise UserError("no split has a list", where=f"dataset '{data.name}'", hint=SEE)
    return chosen


@contextmanager
def _progress(title: str, wrong: str) -> Iterator[Callable[[int, int, int], None]]:
    """A function (done, total, number of faulty videos) that draws a progress bar."""
    with progress_bar(title) as show:
        yield lambda done, total, faulty: show(done, total, f"{title} ({faulty} {wrong})")


def _csv(rows: Iterator[dict[str, object]]) -> str:
    text, lines = io.StringIO(), list(rows)
    writer = csv.DictWriter(text, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _show(findings: Sequence[Finding]) -> None:
    """Print each kind of finding with its first examples."""
    kinds = dict.fromkeys((finding.kind, finding.known) for finding in findings)
    for kind, known in kinds:
        same = [finding for finding in findings if (finding.kind, finding.known) == (kind, known)]
        style, word = ("red", "problem") if same[0].is_problem else ("yellow", "known_bad" if known else "warning")
        say(f"{word}: {kind}: {len(same):,}", style)
        for finding in same[:EXAMPLES]:
            text = f"{finding.path}: {finding.reason}" if finding.path else finding.reason
            say(f"    {text}")
        if len(same) > EXAMPLES:
            say(f"    and {len(same) - EXAMPLES:,} more")
    if not findings:
        say("no problems found", "green")
