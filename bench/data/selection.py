"""Selections of videos from a dataset's list (all, base or novel classes, few-shot draws), and merged vocabularies.

ViFi-CLIP (CVPR 2023) defines base and novel classes. Its published few-shot lists are preferred to a draw if available.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bench.core.errors import UserError
from bench.core.seeds import seed_for
from bench.data.datasets import Dataset, Entry


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


def class_ids(data: Dataset, classes: str) -> tuple[int, ...]:
    """Ids of a dataset's classes: all, base or novel. Raises UserError if the ranking list cannot be read."""
    if classes == "all":
        return tuple(range(len(data.class_names())))
    base, novel = base_and_novel(data.entries(data.ranked_by()), len(data.class_names()))
    return tuple(base if classes == "base" else novel)


def select(data: Dataset, selection: Selection) -> tuple[Entry, ...]:
    """The selected entries; labels count within the selected classes. Raises UserError if a list has too few videos."""
    entries: tuple[Entry, ...] = data.entries(selection.split)
    if selection.classes != "all":
        entries = tuple(of_classes(entries, class_ids(data, selection.classes)))
    if not entries:
        raise UserError(f"{selection} has no videos", hint="the list names no video of these classes")
    return entries if selection.shots is None else tuple(few_shot(entries, selection.shots, selection.draw))


def few_shot(entries: Iterable[Entry], shots: int, seed: int) -> list[Entry]:
    """`shots` random videos of each class that occurs, ordered by class id and then as in the list.

    The draw of a class depends only on `seed` and the videos of the class, and contains the draw of fewer shots. Raises
    UserError for a class with too few videos.
    """
    own: defaultdict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        own[entry.label].append(entry)
    return [entry for label in sorted(own) for entry in _drawn(own[label], shots, seed)]


def _drawn(entries: list[Entry], shots: int, seed: int) -> list[Entry]:
    first = entries[0]
    if len(entries) < shots:
        raise UserError(
            f"class {first.label} has {len(entries)} videos, fewer than {shots} shots", hint=f"one is '{first.path}'"
        )
    order = np.random.default_rng(seed_for("few-shot", seed, first.label)).permutation(len(entries))
    return [entries[index] for index in sorted(order[:shots])]


def base_and_novel(train_entries: Iterable[Entry], classes: int) -> tuple[list[int], list[int]]:
    """Ids of base classes and of the floor(C / 2) novel classes, which have fewer training videos; both ascending.

    Among classes with equally many videos, those with lower ids are novel, as in ViFi-CLIP's files: in UCF-101 Surfing
    is novel and Typing is base, with 93 videos each; in the balanced HMDB-51, ids 0 to 24 are novel.
    """
    videos = Counter(entry.label for entry in train_entries)
    ranked = sorted(range(classes), key=lambda label: (videos[label], label))
    return sorted(ranked[classes // 2 :]), sorted(ranked[: classes // 2])


def of_classes(entries: Iterable[Entry], ids: Sequence[int]) -> list[Entry]:
    """Videos of these classes in the list's order; labels become positions in `ids`."""
    places = {label: place for place, label in enumerate(ids)}
    return [
        entry._replace(label=places[entry.label], whole=entry.class_id) for entry in entries if entry.label in places
    ]


def merged_vocabulary(names: Sequence[str], others: Iterable[str]) -> list[str]:
    """Candidate classes: `names` with their spelling and ids, then the new names of `others` (MoTE, Section 3.4).

    Two names are the same if their lower-case letters are. Of equal names in `others`, the first is kept.
    """
    new: dict[str, str] = {}
    for name in others:
        new.setdefault(_letters(name), name)
    known = set(map(_letters, names))
    return [*names, *(name for letters, name in new.items() if letters not in known)]


def _letters(name: str) -> str:
    return "".join(filter(str.isalpha, name.lower()))
