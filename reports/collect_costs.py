"""From the store to what methods cost: profiles of rows, and what their trainings took."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bench.graph.build import Cell, ProbeCell
from bench.graph.stage import Stage
from bench.store.records import Store
from bench.suite.trial import Trial
from reports.costs import Cost, Training


@dataclass
class _Shared:
    """A training, and the trials that use it."""

    stage: Stage
    trials: list[Trial] = field(default_factory=list)


def collect_costs(cells: Iterable[ProbeCell], store: Store) -> Iterator[Cost]:
    """A cost for each row and point of which a profile is done: what it costs does not depend on the seed."""
    found: set[tuple[str, str]] = set()
    for cell in cells:
        trial, key = cell.trial, (cell.trial.row, _text(cell.trial.point))
        if key not in found and store.done(*cell.stage.key):
            found.add(key)
            result = store.read(*cell.stage.key)["result"]
            yield Cost(trial.row, trial.label, key[1], result, result["machine"], cell.stage.identity)


def collect_trainings(cells: Iterable[Cell | ProbeCell], store: Store) -> Iterator[Training]:
    """Each finished training behind the cells once, whatever shares it; imported checkpoints were not trained here."""
    for shared in _trainings(cells).values():
        stage, first = shared.stage, shared.trials[0]
        if "imported" in stage.spec or not store.done(*stage.key):
            continue
        record = store.read(*stage.key)
        agreed = [value for value in first.point if all(value in trial.point for trial in shared.trials)]
        yield Training(
            row=first.row,
            label=first.label,
            point=_text(agreed),
            seed=first.seed,
            seconds=record["result"].get("seconds", record["cost"]["seconds"]),
            devices=record["context"]["execution"]["processes"],
            device=record["provenance"]["device"],
            identity=stage.identity,
            sharing=tuple(dict.fromkeys(trial.row for trial in shared.trials if trial.row != first.row)),
        )


def _trainings(cells: Iterable[Cell | ProbeCell]) -> dict[str, _Shared]:
    """By identity, in the order of the suite; a cell's stage is a training or has one among its inputs."""
    found: dict[str, _Shared] = {}
    for cell in cells:
        stage = cell.stage if cell.stage.kind == "train" else cell.stage.inputs.get("train")
        if stage is not None:
            trials = found.setdefault(stage.identity, _Shared(stage)).trials
            if not any(trial is cell.trial for trial in trials):
                trials.append(cell.trial)
    return found


def _text(point: Iterable[tuple[str, object]]) -> str:
    return ", ".join(f"{name} {value}" for name, value in point)
