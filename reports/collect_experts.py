"""From the store to what is known of experts besides accuracies: what they look at, distances, draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.numpy import load_file

from bench.graph.build import ProbeCell
from bench.store.records import Store
from bench.suite.trial import Trial
from reports.maps import Clip, Maps
from reports.routing import Routing
from reports.weights import Distances


class _Found(NamedTuple):
    """A record, a trial that it belongs to, and `point`: the axis values that all of its trials agree on."""

    cell: ProbeCell
    point: str
    result: dict[str, Any]
    folder: Path

    @property
    def names(self) -> tuple[str, str, str, int]:
        trial = self.cell.trial
        return trial.row, trial.label, self.point, trial.seed


def collect_maps(cells: Iterable[ProbeCell], store: Store) -> Iterator[Maps]:
    """The maps of every finished stage of the kind `maps`."""
    for found in _found(cells, store):
        stage, result = found.cell.stage, found.result
        classes: Sequence[str] = stage.inputs["texts"].context["class_names"]
        tensors = load_file(found.folder / "maps.safetensors")
        clips = tuple(
            Clip(video, classes[label], tuple(classes[label] for label in predicted), pixels, cosines)
            for video, label, predicted, pixels, cosines in zip(
                result["videos"], result["labels"], result["predictions"], tensors["pixels"], tensors["cosines"],
                strict=True,
            )
        )  # fmt: skip
        feature, names = stage.spec["feature"], tuple(result["names"])
        yield Maps(*found.names, found.cell.protocol, feature, names, clips, stage.identity)


def collect_distances(cells: Iterable[ProbeCell], store: Store) -> Iterator[Distances]:
    """The distances of every finished stage of the kind `weights`."""
    for found in _found(cells, store):
        groups, parameters = tuple(found.result["groups"]), tuple(found.result["parameters"])
        tensors = load_file(found.folder / "weights.safetensors")
        identity = found.cell.stage.identity
        yield Distances(*found.names, groups, parameters, tensors["distance"], tensors["cosine"], identity)


def collect_routing(trials: Iterable[tuple[Trial, Any]], store: Store) -> Iterator[Routing]:
    """The counts of every finished training of trials with experts, given with their stages."""
    for found in _found((ProbeCell(trial, "", stage) for trial, stage in trials), store):
        file = found.folder / "counts.safetensors"
        counts = load_file(file) if file.is_file() else {}
        for pool, counts_LE in sorted(counts.items()):
            if pool.startswith("routing") and counts_LE.sum(axis=1).all():
                odds = tuple(found.cell.trial.config.routing_odds)
                yield Routing(*found.names, pool, counts_LE, odds, found.cell.stage.identity)


def _found(cells: Iterable[ProbeCell], store: Store) -> Iterator[_Found]:
    """Each finished stage once, however many trials share it."""
    sharing: dict[str, list[ProbeCell]] = {}
    for cell in cells:
        sharing.setdefault(cell.stage.identity, []).append(cell)
    for own in sharing.values():
        first = own[0]
        if store.done(*first.stage.key):
            agreed = [value for value in first.trial.point if all(value in cell.trial.point for cell in own)]
            point = ", ".join(f"{name} {value}" for name, value in agreed)
            yield _Found(first, point, store.read(*first.stage.key)["result"], store.folder(*first.stage.key))
