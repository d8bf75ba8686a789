"""Which videos of a dataset's list a stage reads: all, those of half of the classes, or a few of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, NamedTuple, overload

from bench.core.errors import StageError, UserError
from bench.data.datasets import Dataset, Entry, dataset
from bench.data.subsets import base_and_novel, few_shot, of_classes
from bench.video.source import Sample


class Selection(NamedTuple):
    """Part of a list: `classes` is all, base or novel; `shots` videos of each class are drawn with the seed `draw`."""

    dataset: str
    split: str
    classes: str = "all"
    shots: int | None = None
    draw: int = 0

    def __str__(self) -> str:
        halves = "" if self.classes == "all" else f" {self.classes} classes"
        return f"{self.dataset}/{self.split}{halves}" + (f" {self.shots}-shot draw {self.draw}" if self.shots else "")


@dataclass(frozen=True)
class Videos(Sequence[Sample]):
    """Videos of a dataset; labels count within the chosen classes."""

    dataset: Dataset
    entries: tuple[Entry, ...]

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Videos: ...

    def __getitem__(self, index: int | slice) -> Sample | Videos:
        if isinstance(index, slice):
            return Videos(self.dataset, self.entries[index])
        entry = self.entries[index]
        return Sample(entry.name, self.dataset.source(entry), entry.label)


def class_ids(data: Dataset, classes: str) -> tuple[int, ...]:
    """Ids of a dataset's classes: all, base or novel. Raises UserError if the ranking list cannot be read."""
    if classes == "all":
        return tuple(range(len(data.class_names())))
    base, novel = base_and_novel(data.entries(data.ranked_by()), len(data.class_names()))
    return tuple(base if classes == "base" else novel)


def select(data: Dataset, selection: Selection) -> tuple[Entry, ...]:
    """The selected entries, labels counted within the chosen classes. Raises UserError for lists that cannot serve."""
    entries: tuple[Entry, ...] = data.entries(selection.split)
    if selection.classes != "all":
        entries = tuple(of_classes(entries, class_ids(data, selection.classes)))
    if not entries:
        raise UserError(f"{selection} has no videos", hint="the list names no video of these classes")
    return entries if selection.shots is None else tuple(few_shot(entries, selection.shots, selection.draw))


def opened(context: Mapping[str, Any]) -> Videos:
    """The videos that a stage's context names. Raises StageError if the data are missing.

    With `length`, the list is repeated until it has that many entries.
    """
    declared = {name: Dataset.model_validate(fields) for name, fields in context["declared"].items()}
    selection = Selection(*context["selection"])
    data = dataset(selection.dataset, declared)
    if reason := data.missing(selection.split):
        raise StageError(reason)
    entries = select(data, selection)
    return Videos(data, tuple(islice(cycle(entries), context.get("length") or len(entries))))
