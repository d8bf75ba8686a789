"""What stages are made of: settings, data and weights as they enter identities, each worked out and hashed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel

from bench.core.errors import UserError
from bench.core.identity import digest
from bench.data.datasets import Dataset, dataset
from bench.data.selection import Selection, class_ids, select
from bench.graph.stage import Frames, Part
from bench.models.backbones import weights_identity
from bench.suite.protocol import Protocol
from bench.suite.recipe import EXECUTION, Recipe
from bench.suite.resolve import Suite, Trial
from bench.video.frame_cache import estimate
from bench.video.views import TestViews, TrainViews
from methods.settings import Inference

# Fields that only name what an identity takes by content: lists, videos, prompts, weights.
BY_CONTENT = {
    *("role", "source", "dataset", "split", "over", "classes", "shots", "draw", "repeat"),
    *("labels", "vocabulary", "templates", "descriptions", "class_features", "backbone", "pretrained", "imported"),
}

Made = TypeVar("Made")
Hashing = Callable[[str, int, int], None]  # (dataset, files hashed, files to hash)


class Parts:
    """Parts of the stages of one suite. Of data that are not there it notes why, and goes on without them."""

    def __init__(self, suite: Suite, hashing: Hashing) -> None:
        self.suite = suite
        self.hashing = hashing
        self.datasets: dict[str, Dataset] = {}
        self.missing: dict[str, str] = {}  # dataset -> why its data are not usable
        self.notes: dict[tuple[str, str], list[str]] = {}  # (dataset, split) -> what is odd about it
        self.memo: dict[tuple[object, ...], Any] = {}
        self.hashes: dict[int, str] = {}  # of parts, by their id; the parts live in the memo

    def _once(self, key: tuple[object, ...], make: Callable[[], Made]) -> Made:
        """What `make` makes, made once for this key."""
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]  # type: ignore[no-any-return]

    def _dump(self, model: BaseModel) -> Part:
        return self._part(model, lambda: model.model_dump(mode="json"))

    def _recipe(self, recipe: Recipe) -> Part:
        """Without what only says which videos, names and weights: they enter by content."""
        return self._part(recipe, lambda: recipe.model_dump(mode="json", exclude={*BY_CONTENT, *EXECUTION}))

    def _protocol(self, protocol: Protocol) -> Part:
        return self._part(protocol, lambda: protocol.model_dump(mode="json", exclude=BY_CONTENT))

    def _inference(self, trial: Trial, inference: Inference) -> Part:
        """A tower that is not tuned has nothing to interpolate, so rows that differ in alpha alone are one."""
        if trial.config.tower == "frozen":
            return self._part(inference, lambda: {**inference.model_dump(mode="json"), "clip_alpha": 1.0}, "frozen")
        return self._dump(inference)

    def _part(self, owner: object, make: Callable[[], Part], variant: str = "") -> Part:
        """A part of a spec, made and hashed once for an object that many stages share."""
        key = ("part", variant, id(owner))
        if key not in self.memo:
            part = make()
            self.memo[key] = (owner, part)  # the owner stays alive, so its id stays its own
            self.hashes[id(part)] = digest(part)
        return self.memo[key][1]  # type: ignore[no-any-return]

    def _method(self, trial: Trial) -> Part:
        return {**self._weights(trial.recipe), "method": trial.method, "config": self._dump(trial.config)}

    def _weights(self, recipe: Recipe) -> Part:
        name, pretrained = recipe.backbone, recipe.pretrained
        return self._once(
            ("weights", name, pretrained), lambda: {"backbone": name, "weights": weights_identity(name, pretrained)}
        )

    def _dataset(self, name: str) -> Dataset:
        if name not in self.datasets:
            self.datasets[name] = dataset(name, self.suite.datasets)
        return self.datasets[name]

    def _missing(self, selection: Selection | Protocol) -> str | None:
        """Why a list or its videos are not usable, None if they are."""
        name, split = selection.dataset, selection.split
        memo = ("missing", name, split, selection.classes)
        if memo not in self.memo:
            data = self._dataset(name)
            reason = None
            if not data.buildable:
                reason = data.missing(split)
                if reason is None and selection.classes != "all":
                    reason = data.missing(data.ranked_by())
            if reason:
                self.missing[name] = reason
            else:
                self.notes[name, split] = data.notes(split)
            self.memo[memo] = reason
        return self.memo[memo]  # type: ignore[no-any-return]

    def _data(self, selection: Selection) -> Part:
        """Content of the selected videos; a placeholder that matches no record while the data are not there."""
        if ("data", selection) not in self.memo:
            data = self._dataset(selection.dataset)
            content = f"missing: {selection}"
            if not self._missing(selection):
                content = data.content(select(data, selection), partial(self.hashing, selection.dataset))
            self.memo["data", selection] = content
        return {"content": self.memo["data", selection]}

    def _place(self, selection: Selection) -> Part:
        return {"dataset": selection.dataset, "selection": list(selection), "declared": self._declaration(selection)}

    def _declaration(self, selection: Selection) -> dict[str, Part]:
        """What another process needs to open the dataset: nothing if it is embedded."""
        data = self._dataset(selection.dataset)
        make = lambda: {} if data.buildable else {data.name: data.model_dump(mode="json")}  # noqa: E731
        return self._once(("declaration", data.name), make)

    def _count(self, selection: Selection) -> int:
        """Number of selected videos, or about how many they are while the list is not there."""
        if ("count", selection) not in self.memo:
            data = self._dataset(selection.dataset)
            if not self._missing(selection):
                count = len(select(data, selection))
            else:
                classes = len(self._spelled(data.name)) // (1 if selection.classes == "all" else 2)
                count = selection.shots * classes if selection.shots else data.count(selection.split)
            self.memo["count", selection] = count
        return self.memo["count", selection]  # type: ignore[no-any-return]

    def _fewest(self, selection: Selection) -> int:
        """Number of selected videos of the class that has the fewest; the data have to be there."""
        return self._once(
            ("fewest", selection),
            lambda: min(Counter(entry.label for entry in select(self._dataset(selection.dataset), selection)).values()),
        )

    def _frames(self, selection: Selection, views: TestViews | TrainViews, passes: float) -> Frames:
        key = digest([self._data(selection), self._dump(views)])
        return Frames(key, passes, estimate(views, self._count(selection)))

    def _class_names(self, owner: Selection, labels: str) -> tuple[str, ...]:
        data, names = self._dataset(owner.dataset), self._spelled(owner.dataset, labels)
        if owner.classes == "all" or self._missing(owner):
            return names
        return tuple(names[index] for index in class_ids(data, owner.classes))

    def _spelled(self, name: str, labels: str = "") -> tuple[str, ...]:
        """All class names of a dataset; one unknown if their file is not there, so that all else can be planned."""
        data = self._dataset(name)
        if any(data.missing(split) for split in data.splits) and not data.buildable:
            try:
                return data.class_names(labels)
            except UserError:
                return ("?",)
        return data.class_names(labels)
