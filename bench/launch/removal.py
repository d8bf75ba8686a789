"""What a suite alone needs of a store: its records that no suite of another launch needs, and its launches.

A launch lists the stages that had no record when it began. Those that it found are those of its suite, which is planned
again for that; the inputs of all of them are needed too. A suite is known by its file and its overrides.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench.core.errors import UserError
from bench.graph.build import Graph, build_graph
from bench.launch.launches import FORGET, Launch, StageKey, launches
from bench.launch.states import launch_status
from bench.store.garbage import Garbage, whole
from bench.store.records import Store
from bench.suite.resolve import load_suite
from bench.suite.trial import Suite


def needless(suite: Suite, file: Path, graph: Graph, store: Store) -> list[Garbage]:
    """Records, checkpoints and launches that only this suite needs.

    Raises UserError if one of its launches goes on, or if it is unknown what another launch needs.
    """
    known = [*launches(store)]
    own = [launch for launch in known if _is_of(launch, suite, file)]
    others = [launch for launch in known if launch not in own]
    for launch in own:
        if not launch.ended() and launch_status(launch).going_on:
            raise UserError("it is going on", where=launch.name, hint="wait for its end, or `cancel` it first")
    # Under older code, a launch may have found records of this suite's launches, and which ones nobody knows by now.
    shared = {launch.about.get("code") for launch in others if launch.about.get("cached")}
    listed = [stage.key for launch in own if launch.about.get("code") not in shared for stage in launch.stages]
    mine = _with_inputs([*(stage.key for stage in graph.stages.values()), *listed], store)
    only = mine - _needed(others, store)
    reason = f"only {suite.name} needs it"
    places = [("record", store.folder(*key)) for key in sorted(only)]
    places += [("checkpoint", store.checkpoint(*key)) for key in sorted(only)]
    places += [("launch", launch.folder) for launch in own]
    return [whole(kind, path, reason) for kind, path in places if path.is_dir()]


def _is_of(launch: Launch, suite: Suite, file: Path) -> bool:
    same = launch.about["suite"] == suite.name and launch.about.get("file") == str(file.resolve())
    return same and tuple(launch.about.get("overrides", ())) == suite.overrides


def _needed(others: Iterable[Launch], store: Store) -> set[StageKey]:
    """The stages of launches and of their suites as they are planned now, and all inputs of these."""
    found, planned = set[StageKey](), set[tuple[object, ...]]()
    for launch in others:
        found |= {stage.key for stage in launch.stages}
        found |= {key for stage in launch.stages for key in stage.inputs}
        try:
            text = launch.suite_file.read_bytes()
            if (which := (text, launch.about["file"], *launch.about["overrides"])) not in planned:
                planned.add(which)
                folder = Path(launch.about["file"]).parent
                graph = build_graph(load_suite(launch.suite_file, tuple(launch.about["overrides"]), folder))
                found |= {stage.key for stage in graph.stages.values()}
        except (UserError, OSError, KeyError) as error:
            raise UserError(f"what it needs cannot be told: {error}", where=launch.name, hint=FORGET) from error
    return _with_inputs(found, store)


def _with_inputs(keys: Iterable[StageKey], store: Store) -> set[StageKey]:
    """Stages, and the inputs of all that have a record."""
    found, todo = set[StageKey](), [*keys]
    while todo:
        if (key := todo.pop()) not in found:
            found.add(key)
            record = store.find(*key)
            todo += [(kind, identity) for kind, identity in record["inputs"].values()] if record else []
    return found
