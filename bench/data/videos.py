"""Selected videos as stages open them: a source and a label for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from bench.core.errors import StageError
from bench.data.datasets import Dataset, Entry, dataset
from bench.data.selection import Selection, select
from bench.video.source import Sample, Source


@dataclass(frozen=True)
class Videos:
    """Selected videos of a dataset; labels count within the selected classes."""

    dataset: Dataset
    entries: tuple[Entry, ...]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        return Sample(entry.name, source_of(self.dataset, entry), entry.label)


def source_of(data: Dataset, entry: Entry) -> Source:
    """The source of a listed video. Raises UserError if its path leads out of the root."""
    return Source(data.file(entry), entry.span, data.frames, data.first)


def opened(context: Mapping[str, Any]) -> Videos:
    """Videos that a stage's context selects. Raises StageError if the data are missing.

    With `length`, the list is repeated until it has that many entries.
    """
    declared = {name: Dataset.model_validate(fields) for name, fields in context["declared"].items()}
    selection = Selection(*context["selection"])
    data = dataset(selection.dataset, declared)
    if reason := data.missing(selection.split):
        raise StageError(reason)
    entries = select(data, selection)
    return Videos(data, tuple(islice(cycle(entries), context.get("length") or len(entries))))
