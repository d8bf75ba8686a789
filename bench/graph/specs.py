"""Datasets, lists, weights and class names as they enter specs and contexts, each worked out once for a suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, TypeVar

from bench.core.errors import UserError
from bench.core.identity import digest
from bench.data.datasets import Dataset, dataset
from bench.data.places import Fault
from bench.data.selection import Selection, class_ids, merged_vocabulary, select
from bench.graph.stage import Context, Frames, Spec
from bench.models.backbones import model_config
from bench.models.weights import missing_weights, weights_identity
from bench.suite.protocol import Protocol
from bench.video.frame_cache import LENGTH, estimate
from bench.video.views import TestViews, TrainViews

Made = TypeVar("Made")
ABSENT: Any = object()
Hashing = Callable[[str, int, int], None]  # (dataset, files hashed, files to hash)


def clip_spec(backbone: str, pretrained: str) -> Spec:
    """The CLIP that a stage starts from: name, shapes and weights."""
    return {**shape_spec(backbone), "weights": weights_identity(backbone, pretrained)}


def shape_spec(backbone: str) -> Spec:
    """The shapes of a backbone, by content: its config is a file of open_clip or of this project."""
    return {"backbone": backbone, "shape": digest(model_config(backbone))}


class Specs:
    """Parts of the stages of one suite. Missing data are noted with the reason, and planning goes on."""

    def __init__(self, declared: Mapping[str, Dataset], hashing: Hashing) -> None:
        self.declared = declared
        self.hashing = hashing
        self.datasets: dict[str, Dataset] = {}
        self.absent: dict[str, str] = {}  # dataset, or file of a recipe -> why it is not usable
        self.faulty: set[str] = set()  # those of `absent` that are there, but not all of their listed videos
        self.notes: dict[tuple[str, str], list[str]] = {}  # (dataset, split or what else of it) -> what is odd about it
        self._faults: dict[tuple[str, str], tuple[set[str], dict[str, Fault]]] = {}  # (dataset, split) -> names, faulty
        self._made: dict[tuple[str, Hashable], Any] = {}

    def once(self, name: str, key: Hashable, make: Callable[[], Made]) -> Made:
        """The value that `make` returns, made once for this name and key."""
        found = self._made.get((name, key), ABSENT)
        if found is ABSENT:
            found = self._made[name, key] = make()
        return found  # type: ignore[no-any-return]

    def clip(self, backbone: str, pretrained: str) -> Spec:
        """As `clip_spec`."""
        if reason := missing_weights(pretrained):
            self.absent[pretrained] = reason
        return self.once("clip", (backbone, pretrained), lambda: clip_spec(backbone, pretrained))

    def dataset(self, name: str) -> Dataset:
        if name not in self.datasets:
            self.datasets[name] = dataset(name, self.declared)
        return self.datasets[name]

    # --- videos -------------------------------------------------------------------------------------------------------

    def missing(self, selection: Selection | Protocol) -> str | None:
        """Reason why a list or its videos cannot be used; None if they can."""
        key = selection.dataset, selection.split, selection.classes
        return self.once("missing", key, lambda: self._missing(*key))

    def _missing(self, name: str, split: str, classes: str) -> str | None:
        data = self.dataset(name)
        reason = None
        if not data.buildable:
            reason = data.missing(split) or (data.missing(data.ranked_by()) if classes != "all" else None)
        if reason:
            self.absent[name] = reason
        else:
            self.notes[name, split] = data.notes(split)
        return reason

    def unreadable(self, selection: Selection) -> str | None:
        """Reason why the selected videos cannot be used: as `missing`, or because some are not there and undeclared."""
        return self.missing(selection) or self.once("unreadable", selection, lambda: self._unreadable(selection))

    def _unreadable(self, selection: Selection) -> str | None:
        data, name = self.dataset(selection.dataset), selection.dataset
        if data.buildable:
            return None
        self.content(selection)
        entries = select(data, selection)
        names, faults = self._faults.setdefault((name, selection.split), (set(), {}))
        names |= {entry.name for entry in entries}
        found = data.faults(entries, selection.split)
        faults |= found
        if found:
            self.faulty.add(name)
            self.absent[name] = self._explained(name)
        return self.absent[name] if found else None

    def _explained(self, dataset: str) -> str:
        """How many videos of the splits of a dataset cannot be read, an example of each kind of fault, and advice."""
        told: list[str] = []
        advice: dict[str, str] = {}
        for (name, split), (names, faults) in self._faults.items():
            for kind in dict.fromkeys(fault.kind for fault in faults.values() if name == dataset):
                own = {video: fault for video, fault in faults.items() if fault.kind == kind}
                video, fault = next(iter(own.items()))
                counts = f"{len(own):,} of {len(names):,} videos of {name}/{split}"
                told.append(f"{counts} {kind}, such as '{video}' ({fault.detail})")
                advice.setdefault(kind, next((each for each in own.values() if each.folder), fault).advice(name))
        return "; ".join([*told, *advice.values()])

    def content(self, selection: Selection) -> Spec:
        """Content of the selected videos; a placeholder that matches no record while the data are not there."""
        return {"content": self.once("content", selection, lambda: self._content(selection))}

    def _content(self, selection: Selection) -> str:
        if self.missing(selection):
            return f"missing: {selection}"
        data = self.dataset(selection.dataset)
        entries = select(data, selection)
        data.require_numbering(entries)
        return data.content(entries, partial(self.hashing, selection.dataset), selection.split)

    def place(self, selection: Selection) -> Context:
        """Settings with which another process opens the selected videos; of an embedded dataset its name is enough."""
        data = self.dataset(selection.dataset)
        fields: Callable[[], Context] = lambda: {} if data.buildable else {data.name: data.model_dump(mode="json")}  # noqa: E731
        declared = self.once("declared", data.name, fields)
        return {"dataset": selection.dataset, "selection": list(selection), "declared": declared}

    def count(self, selection: Selection) -> int:
        """Number of selected videos, or about how many they are while the list is not there."""
        return self.once("count", selection, lambda: self._count(selection))

    def _count(self, selection: Selection) -> int:
        data = self.dataset(selection.dataset)
        if not self.missing(selection):
            return len(select(data, selection))
        classes = len(self.all_class_names(data.name)) // (1 if selection.classes == "all" else 2)
        return selection.shots * classes if selection.shots else data.count(selection.split)

    def fewest(self, selection: Selection) -> int:
        """Number of selected videos of the class that has the fewest; the data have to be there."""
        entries = partial(select, self.dataset(selection.dataset), selection)
        return self.once("fewest", selection, lambda: min(Counter(entry.label for entry in entries()).values()))

    def frames(self, selection: Selection, views: TestViews | TrainViews, passes: float) -> Frames:
        """Decoded frames of the selected videos and how often they are read."""
        key = digest([self.content(selection), views.fingerprint])
        size = estimate(views, self.count(selection))
        return Frames(key, passes, size, size * LENGTH / (views.frames * views.count or LENGTH))

    # --- class names --------------------------------------------------------------------------------------------------

    def vocabulary(self, owner: Selection, labels: str, more: tuple[str, ...]) -> list[str]:
        """The class names of a selection, and those of the datasets `more` that are not among them."""
        names = self.class_names(owner, labels)
        others = [name for other in more for name in self.all_class_names(other)]
        return list(merged_vocabulary(names, others)) if more else list(names)

    def class_names(self, owner: Selection, labels: str) -> tuple[str, ...]:
        """The names of a selection's classes."""
        data, names = self.dataset(owner.dataset), self.all_class_names(owner.dataset, labels)
        if owner.classes == "all" or self.missing(owner):
            return names
        return tuple(names[index] for index in class_ids(data, owner.classes))

    def all_class_names(self, name: str, labels: str = "") -> tuple[str, ...]:
        """All class names of a dataset; one unknown if their file is not there, so that all else can be planned."""
        data = self.dataset(name)
        try:
            return data.class_names(labels)
        except UserError:
            if data.buildable or not any(data.missing(split) for split in data.splits):
                raise
            return ("?",)
