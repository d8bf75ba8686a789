"""Parts of a list of videos and of a vocabulary: few-shot draws, base and novel classes, merged class names.

ViFi-CLIP (CVPR 2023) defines base and novel; its own few-shot lists are preferred to a draw where they are at hand.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from bench.core.errors import UserError
from bench.core.seeds import seed_for
from bench.data.datasets import Entry


def few_shot(entries: Iterable[Entry], shots: int, seed: int) -> list[Entry]:
    """`shots` videos of each class that occurs, by class id and then as in the list.

    A class's draw depends on `seed` and its own videos alone, and contains the draw of fewer shots. Raises UserError
    for a class with fewer videos.
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
    """Ids of the classes with more training videos (base) and of the floor(C / 2) with fewer (novel), both ascending.

    Among classes with equally many the lower ids are novel. So do ViFi-CLIP's files: at the border of UCF-101, Surfing
    is novel and Typing is base, with 93 videos each; HMDB-51 is balanced, novel is 0 to 24.
    """
    videos = Counter(entry.label for entry in train_entries)
    ranked = sorted(range(classes), key=lambda label: (videos[label], label))
    return sorted(ranked[classes // 2 :]), sorted(ranked[: classes // 2])


def of_classes(entries: Iterable[Entry], ids: Sequence[int]) -> list[Entry]:
    """The videos of these classes in the list's order; a label becomes the class's place among `ids`."""
    places = {label: place for place, label in enumerate(ids)}
    return [entry._replace(label=places[entry.label]) for entry in entries if entry.label in places]


def merged_vocabulary(names: Sequence[str], others: Iterable[str]) -> list[str]:
    """Candidates: `names` with their spelling and ids, then the other names that are new (MoTE, Section 3.4).

    Names are the same if their lower-case letters are. Of other names that are the same, the first counts.
    """
    new: dict[str, str] = {}
    for name in others:
        new.setdefault(_letters(name), name)
    known = set(map(_letters, names))
    return [*names, *(name for letters, name in new.items() if letters not in known)]


def _letters(name: str) -> str:
    return "".join(filter(str.isalpha, name.lower()))
