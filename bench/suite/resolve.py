"""Suites: a YAML declaration of methods, axes, recipes, protocols, seeds and reports, expanded into trials.

Everything is validated before anything runs; a mistake is a UserError with file and line. A protocol starts from the
file's `protocol:` defaults, then from a named one (`use: mote/k400-4x3`), then come its own settings. Axes address any
field by its path (`config.layers`, `inference.tfm`, `recipe.lr`, `protocol.views.frames`, `protocols.closed.split`); an
axis whose values are named bundles of such settings moves several fields together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bench.core.errors import UserError, closest, refuse_all, unknown
from bench.core.identity import digest
from bench.data.datasets import Dataset, dataset, declared_fields
from bench.data.descriptions import GLYPHS, refuse_source
from bench.models.backbones import backbone
from bench.models.prompts import TEMPLATES
from bench.models.weights import missing_weights, weights_file
from bench.suite import tuning
from bench.suite.agreement import disagreements
from bench.suite.base import KEY as BASE
from bench.suite.base import SUITES, merged_suite
from bench.suite.effects import refuse_idle
from bench.suite.file import Axis, Row, Settings, SuiteFile
from bench.suite.measures import RESERVED
from bench.suite.named_protocols import merged, named_protocol
from bench.suite.protocol import Protocol
from bench.suite.recipe import Recipe
from bench.suite.stored import refuse_others
from bench.suite.subset import restricted
from bench.suite.templates import check_classes, read_templates
from bench.suite.trial import DEFAULT_BACKBONE, Suite, Trial, with_size
from bench.suite.worlds import expanded
from bench.suite.yaml_lines import KeyPath, Where, load_value, validate
from bench.video.decoders import known_decoder
from bench.video.views import TestViews, TrainViews
from methods.registry import method, refuse_video
from methods.settings import Config

MOST_TRIALS = 1_000_000  # their plan takes minutes and gigabytes
LONGEST_NAME = 100  # of a suite; folders and jobs are named after it
PACKAGES = {"pyav": "av"}  # decoder -> its module, where the two differ
PARTS = ("config", "inference", "recipe", "protocol", "protocols")
Point = tuple[tuple[str, Any], ...]  # axis name -> value
RENAMED = {"start": "init_from"}  # keys of rows: earlier name -> present one


def suite_path(name: str) -> Path:
    """A suite by path, or by name among the shipped ones. Raises UserError with the closest name."""
    for candidate in (Path(name), SUITES / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    if Path(name).exists():
        raise UserError("not a regular file", where=name, hint="a suite is a YAML file")
    if "/" in name or name.endswith((".yaml", ".yml")):
        raise UserError("no such suite file", where=name)
    raise unknown("suite", name, (path.stem for path in SUITES.glob("*.yaml")))


def load_suite(path: Path, overrides: tuple[str, ...] = (), folder: Path | None = None) -> Suite:
    """Read, override, validate and expand a suite. Raises UserError on the first mistake.

    Paths in it are relative to `folder`, which is that of the file unless this is a copy. Published numbers that it
    selects are looked up by `bench.published.pairing.pairs`.
    """
    if len(path.stem) > LONGEST_NAME:
        raise UserError(
            f"the name of the suite has {len(path.stem)} characters", where=str(path), allowed=[f"up to {LONGEST_NAME}"]
        )
    read = merged_suite(path)
    data, asked = restricted(read.data, overrides)
    changed: list[tuple[str, KeyPath]] = []

    def where(key: KeyPath) -> str:
        dotted = ".".join(map(str, key))
        for given, at in changed:
            if key and (key[: len(at)] == at or at[: len(key)] == key):
                return f"override {given}: {dotted}"
        known = next((read.places[key[:n]] for n in range(len(key), 0, -1) if key[:n] in read.places), f"{path}:1")
        return f"{known}: {dotted}" if dotted else known

    def origin(key: KeyPath) -> str:
        # A world has written over what was there; and settings of a file may be for rows that are left out.
        written = "file" if key in read.places and "world" not in data and len(asked) == len(overrides) else ""
        return "override" if any(key[: len(at)] == at for _, at in changed) else written

    # What is written out must not undo an override, so overrides that ask for it come first and all others last.
    points = [text for text in asked if text.startswith("at_toy_scale.points")]
    first = [t for t in asked if _comes_first(t.partition("=")[0].split("."), bool(points) or tuning.tunes(data))]
    changed += [_override(data, text) for text in first]
    data = tuning.bundled(data, where) if tuning.tunes(data) else data
    renamed = [*_rename(data, where)]
    presets: dict[str, Settings] = {}
    if "world" in data or "fidelity" in data or any("fidelity" in row for row in _rows(data)):
        validate(SuiteFile, data, where)
        data, presets = expanded(data, where)
    if "world" not in data and (idle := [text for text in first if "at_toy_scale" in text.partition("=")[0]]):
        raise UserError("has no effect without a world", where=f"override {idle[0]}", hint="world=glyphs")
    changed += [_override(data, text) for text in asked if text not in first]
    _refuse_unknown(data, read.places, changed)
    renamed += _rename(data, where)
    for index, (text, at) in enumerate(changed):
        if over := [later for later, key in changed[index + 1 :] if at[: len(key)] == key]:
            raise UserError("has no effect: a later one takes its place", where=f"override {text}", hint=over[0])
    file = validate(SuiteFile, data, where)
    folder = folder or path.parent
    declared = {name: _declared(name, folder, settings, where) for name, settings in file.datasets.items()}
    suite = Suite(path.stem, file, declared, _axis_names(file, where), (), where, overrides=overrides)
    _check_report(suite, where)
    resolve = _Resolver(suite, folder, presets, where)
    suite = replace(suite, trials=tuple(_trials(resolve)))
    if resolve.misfits:
        refuse_all([*resolve.misfits.values(), *resolve.problems.values()])
    refuse_all(refuse_others(suite))
    notes = [*renamed, *tuning.check(suite), *refuse_idle(suite, origin), *disagreements(suite), *_stretched(suite)]
    notes += [*_worded(suite), *_apart(suite)]
    return replace(suite, notes=tuple(notes), problems=tuple(resolve.problems.values()), bases=read.changes)


def _comes_first(key: list[str], tuned: bool) -> bool:
    """True for overrides of what the rest of a suite is written out from; `tuned`: axes are, too."""
    parts = {"world", "fidelity", "at_toy_scale", *(("select", "axes") if tuned else ())}
    return key[-1] in ("world", "fidelity") or not parts.isdisjoint((key[0], *key[2:3]))


def _declared(name: str, folder: Path, settings: Settings, where: Where) -> Dataset:
    fields = declared_fields(name, str(folder.resolve()), settings)
    return validate(Dataset, fields, lambda key: where(("datasets", name, *key)))


def _rename(data: Settings, where: Where) -> Iterator[str]:
    """Gives keys of rows that have an earlier name their present one; yields a note for each."""
    rows = data.get("rows")
    for row, own in rows.items() if isinstance(rows, dict) else ():
        for old in [old for old in RENAMED if isinstance(own, dict) and old in own]:
            place, new = where(("rows", row, old)), RENAMED[old]
            if new in own:
                raise UserError(f"'{old}' is the earlier name of '{new}', and both are given", where=place)
            own[new] = own.pop(old)
            yield f"{place} is now called {new}"


def _refuse_unknown(data: Settings, places: Iterable[KeyPath], changed: list[tuple[str, KeyPath]]) -> None:
    """Raise UserError for an override of a row or protocol that is not there, is named almost like one, and is none."""
    for section, kind, needed in (("rows", "row", {"method"}), ("protocols", "protocol", {"use", "role", "dataset"})):
        known = [str(key[1]) for key in places if key[0] == section and len(key) == 2]
        for text, key in changed:
            if key[0] == section and len(key) > 1 and key[1] not in known and isinstance(data[section], dict):
                new = data[section].get(key[1])
                if isinstance(new, dict) and not needed & {*new} and closest(str(key[1]), known):
                    raise unknown(kind, str(key[1]), known, where=f"override {text}")


def _rows(data: Settings) -> list[Settings]:
    """Rows that are mappings; validation refuses the others."""
    rows = data.get("rows")
    return [row for row in rows.values() if isinstance(row, dict)] if isinstance(rows, dict) else []


def _override(data: Settings, text: str) -> tuple[str, KeyPath]:
    """Apply one `dotted.path=value`; the value is YAML."""
    dotted, equals, value = text.partition("=")
    if not equals or not dotted:
        raise UserError("an override is written key=value", where=f"override {text}", hint="e.g. recipe.epochs=5")
    if dotted == BASE:
        hint = "write it into the suite's file; overrides apply to what both are merged to"
        raise UserError("the base of a suite is no override", where=f"override {text}", hint=hint)
    return text, _set(data, dotted, load_value(value, f"override {text}"))


def _set(data: Settings, dotted: str, value: Any, above: KeyPath = ()) -> KeyPath:
    """Set a value in nested mappings; keys that contain dots are matched whole, and a field below `axes` is one key."""
    for key in sorted(data, key=len, reverse=True):
        if dotted == key:
            data[key] = value
            return (key,)
        if dotted.startswith(f"{key}.") and isinstance(data[key], dict):
            return (key, *_set(data[key], dotted[len(key) + 1 :], value, (*above, key)))
    key, _, rest = dotted.partition(".")
    if key in PARTS and "axes" in (above[:1] + above[2:3]):
        key, rest = dotted, ""
    if not rest:
        data[key] = value
        return (key,)
    data[key] = {} if not isinstance(data.get(key), dict) else data[key]
    return (key, *_set(data[key], rest, value, (*above, key)))


def _axis_names(file: SuiteFile, where: Where) -> dict[str, str]:
    """Short names of all axes: the last part of the path, or the bundle's name."""
    names: dict[str, str] = {}
    for path in (path for axes in (file.axes, *(row.axes for row in file.rows.values())) for path in axes):
        name = path.rpartition(".")[2]
        if name in RESERVED or name in file.protocols:
            raise UserError(
                f"axis '{path}' has the name of a column of the results",
                where=where(("axes",)),
                hint=f"an axis of another name: {name}s: {{one: {{KEY: VALUE}}, other: {{KEY: VALUE}}}}",
            )
        if names.setdefault(name, path) != path:
            raise UserError(
                f"axes '{names[name]}' and '{path}' have the same short name '{name}'", where=where(("axes",))
            )
    return names


def _check_report(suite: Suite, where: Where) -> None:
    report, rows = suite.file.report, suite.file.rows
    named = [
        ("reference", report.reference),
        *(("experts", name) for name in report.experts),
        *(("profile", name) for name in (report.profile.rows if report.profile else ())),
        *(("compare", name) for pair in report.compare for name in pair),
    ]
    for key, name in named:
        if name is not None and name not in rows:
            raise unknown("row", name, rows, where=where(("report", key)))
    for row, own in rows.items():
        for name in [name for name in own.protocols if name not in suite.file.protocols]:
            raise unknown("protocol", name, suite.file.protocols, where=where(("rows", row, "protocols")))
    for name in suite.file.protocols:
        if not any(name in own.protocols or not own.protocols for own in rows.values()):
            raise UserError("no row is measured under this protocol", where=where(("protocols", name)))
    if report.join is not None and report.join not in (shown := suite.axes.keys() - {tuning.TUNED}):
        raise unknown("axis", report.join, shown, where=where(("report", "join")))
    if report.experts_protocol is not None:
        for measured in [rows[name].protocols for name in report.experts] or [[]]:
            known = measured or list(suite.file.protocols)
            if report.experts_protocol not in known:
                raise unknown("protocol", report.experts_protocol, known, where=where(("report", "experts_protocol")))


def _trials(resolve: _Resolver) -> Iterator[Trial]:
    suite, where = resolve.suite, resolve.where
    made: dict[str, list[Trial]] = {}
    axes_of = {row_id: {**suite.file.axes, **row.axes} for row_id, row in suite.file.rows.items()}
    counts = {row_id: len(suite.file.seeds) * prod(map(len, axes.values())) for row_id, axes in axes_of.items()}
    if (count := sum(counts.values())) > MOST_TRIALS:
        place = where(("rows", max(counts, key=lambda row_id: counts[row_id])))
        raise UserError(f"the suite has {count:,} trials", where=place, allowed=[f"up to {MOST_TRIALS:,}"])
    for row_id, row in suite.file.rows.items():
        axes = axes_of[row_id]
        # In another world points may fall together; and a row may not be measured where the suite's points differ.
        shared = [axis for axis in suite.file.axes.items() if axis[0] not in row.axes]
        distinct = not suite.file.world and not (row.protocols and any(changes_protocols(*axis) for axis in shared))
        points: dict[object, Trial] = {}
        for chosen in product(*(_values(axis) for axis in axes.values())):
            point = tuple((path.rpartition(".")[2], label) for path, (label, _) in zip(axes, chosen, strict=True))
            changes = [(path, value) for path, (_, value) in zip(axes, chosen, strict=True)]
            seeded = resolve.trial(row_id, row, point, changes)
            trial = seeded(seed=suite.file.seeds[0])
            other = points.setdefault((trial.config, trial.inference, trial.recipe, trial.protocols), trial)
            if distinct and other is not trial:
                place = where(("rows", row_id, "axes") if row.axes else ("axes",))
                raise UserError(
                    f"'{other.row_at(dict(other.point))}' and '{trial.row_at(dict(trial.point))}' are one trial",
                    where=place,
                )
            several = trial.config.trains and not trial.recipe.imported
            seeds = suite.file.seeds if several else suite.file.seeds[:1]
            for seed in seeds:
                own = trial if seed == trial.seed else seeded(seed=seed)
                if row.init_from:
                    place = where(("rows", row_id, "init_from"))
                    own = replace(own, init_from=_first_training(own, row.init_from, made, place))
                made.setdefault(row_id, []).append(own)
                yield own


def _first_training(trial: Trial, row: str, made: Mapping[str, list[Trial]], place: str) -> Trial:
    """The trial of a row from whose training another starts. Raises UserError unless exactly one fits."""
    if row not in made or row == trial.row:
        raise unknown("row further up", row, (other for other in made if other != trial.row), where=place)
    alone = len({other.seed for other in made[row]}) == 1  # an imported checkpoint has one seed
    point = dict(trial.point)
    found = [
        other
        for other in made[row]
        if (alone or other.seed == trial.seed) and all(point.get(axis, value) == value for axis, value in other.point)
    ]
    if len(found) != 1:
        raise UserError(f"row '{row}' has {len(found)} trainings that could be meant, and one is needed", where=place)
    first, second = ((own.method, own.recipe.backbone, own.recipe.pretrained) for own in (found[0], trial))
    fits = first == second and trial.config.continues(found[0].config)
    if not fits or not trial.config.trains or not found[0].config.trains or trial.recipe.imported:
        raise UserError(
            f"row '{trial.row}' cannot start from the training of row '{row}'",
            where=place,
            hint="both are trained, and have the same method, recipe.backbone and recipe.pretrained; their configs are "
            "the same, or the second continues the first, if the method allows that",
        )
    return found[0]


def _values(axis: list[Any] | dict[str, Settings]) -> list[tuple[Any, Any]]:
    """(label, value or bundle) of every point of an axis."""
    return list(axis.items()) if isinstance(axis, dict) else [(_label(value), value) for value in axis]


def _label(value: Any) -> Any:
    """A value as tables name it: a list or mapping as short text that no other has."""
    text = str(value)
    short = text if len(text) <= 40 else f"{text[:30]}... {digest(text)[:6]}"
    return short if isinstance(value, list | dict) else value


class _Resolver:
    """Turns a row at a point of its axes into a trial; equal settings are validated once."""

    def __init__(self, suite: Suite, folder: Path, presets: Mapping[str, Settings], where: Where) -> None:
        self.suite = suite
        self.folder = folder
        self.presets = presets  # row -> recipe of its fidelity, below the file's
        self.where = where
        self.seen: dict[Hashable, Any] = {}
        self.axis_of: dict[str, KeyPath] = {}  # field changed by an axis -> where the axis is declared
        # Each is a copy, so that what an axis sets in one protocol does not reach others through common defaults.
        self.protocols = {name: self._started(name, own) for name, own in suite.file.protocols.items()}
        self.misfits: dict[str, UserError] = {}  # mistakes that leave the rest of the suite readable
        self.problems: dict[str, UserError] = {}  # reasons why nothing can run
        self.known_data: set[tuple[str, str, str, str]] = set()

    def _started(self, name: str, own: Settings, place: KeyPath = ()) -> Settings:
        """The file's defaults, the named protocol that this one uses, its own settings."""
        base = self.suite.file.protocol
        if "use" in own:
            base = merged(base, named_protocol(str(own["use"]), where=self.where(place or ("protocols", name, "use"))))
        return merged(base, {key: value for key, value in own.items() if key != "use"})

    def trial(self, row_id: str, row: Row, point: Point, changes: list[tuple[str, Any]]) -> Callable[..., Trial]:
        """The trial without its seed."""
        file = self.suite.file
        uses = row.protocols if isinstance(row.protocols, dict) else {}
        ways = {n: self._started(n, {"use": to}, ("rows", row_id, "protocols", n)) for n, to in uses.items() if to}
        own = {"config": row.config, "inference": row.inference, "protocol": row.protocol}
        trained = merged(merged(self.presets.get(row_id, {}), file.recipe), row.recipe)
        parts = merged({}, {**own, "recipe": trained, "protocols": self.protocols | ways})  # a copy, which axes change
        self.axis_of = {}
        for path, value in changes:
            self._change(row_id, parts, path, value)
        kind = method(row.method, where=self.where(("rows", row_id, "method")))
        config = self._one(kind.config, parts["config"], ("rows", row_id, "config"))
        inference = self._one(kind.inference, parts["inference"], ("rows", row_id, "inference"))
        try:
            config.check(inference)
        except ValueError as error:
            raise UserError(str(error), where=self.where(("rows", row_id, "inference"))) from error
        recipe = self._recipe(row_id, row, self._divided(row, parts["recipe"], config))
        if config.trains and not recipe.imported:
            self._fits(row_id, config, recipe.backbone, recipe.views, ("recipe",))
            if config.depends_on_processes and recipe.parts:
                self._has_its_parts(row_id, row, recipe)
            self._takes_targets(row_id, row, config, recipe)
        if (config.texts_inside or config.per_prompt) and recipe.class_features:
            does = "adapts the text tower" if config.texts_inside else "uses every prompt of a class"
            raise UserError(
                f"row '{row_id}' {does}, which recipe.class_features takes the place of",
                where=self.where(("rows", row_id)),
            )
        if config.description_sets and not recipe.descriptions:
            raise UserError(
                f"row '{row_id}' compares with descriptions of its classes, and recipe.descriptions names none",
                where=self.where(("rows", row_id)),
                hint="a folder of description files, or glyphs for the embedded world",
            )
        self._asks_for(config.prompt_kinds, recipe.templates, row_id, ("rows", row_id, "recipe", "templates"))
        measured = json.dumps([parts["protocol"], parts["protocols"]], default=str)
        if (key := (row_id, config, recipe, measured)) not in self.seen:
            self.seen[key] = self._protocols(row_id, row, parts, recipe, config)
            for name, protocol in self.seen[key].items():
                self._fits(row_id, config, recipe.backbone, protocol.views, ("protocols", name))
                self._learnt_its_frames(row_id, config, recipe, protocol.views, ("protocols", name))
                self._asks_for(config.prompt_kinds, protocol.templates, row_id, ("protocols", name, "templates"))
        protocols = columns = self.seen[key]
        for name, protocol in protocols.items():
            unbound = config.open_vocabulary or config.plain_texts(inference, seen=False)
            if protocol.role in ("zero-shot", "novel") and not unbound:
                raise UserError(
                    f"row '{row_id}' has a head bound to its classes and cannot be measured on others",
                    where=self.where(("protocols", name)),
                    hint=f"rows.{row_id}.protocols names those that it is measured under",
                )
            if (rules := config.fusions(inference)) and protocol.fusion not in rules:
                raise UserError(
                    f"the scores of row '{row_id}' cannot be fused by {protocol.fusion}",
                    where=self._place(("protocols", name, "fusion")),
                    allowed=rules,
                )
        if row.protocol or uses or any(changes_protocols(path, value) for path, value in row.axes.items()):
            columns = self._columns(row_id, row, changes, recipe, config)
        label = row.label or row_id
        if sum(label == (own.label or name) for name, own in self.suite.file.rows.items()) > 1:
            label = f"{label} ({row_id})"
        known = row_id, label, row.method, config, inference, recipe, tuple(protocols.items()), point
        return partial(Trial, *known, columns=columns)

    def _columns(
        self, row_id: str, row: Row, changes: list[tuple[str, Any]], recipe: Recipe, config: Config
    ) -> dict[str, Protocol]:
        """The protocols that the suite's own settings and axes make, without the row's changes."""
        parts = merged({}, {"config": {}, "inference": {}, "recipe": {}, "protocol": {}, "protocols": self.protocols})
        for path, value in changes:
            if path not in row.axes:
                self._change(row_id, parts, path, value)
        return self._protocols(row_id, row, parts, recipe, config)

    def _protocols(self, row_id: str, row: Row, parts: Settings, recipe: Recipe, config: Config) -> dict[str, Protocol]:
        """The protocols that a row is measured under."""
        return {
            name: self._protocol(row_id, name, merged(settings, parts["protocol"]), recipe, config)
            for name, settings in parts["protocols"].items()
            if not row.protocols or name in row.protocols
        }

    def _change(self, row_id: str, parts: Settings, path: str, value: Any) -> None:
        """Apply one axis value, a plain setting or a bundle of them."""
        own = path in self.suite.file.rows[row_id].axes
        place: KeyPath = ("rows", row_id, "axes", path) if own else ("axes", path)
        bundle = value.items() if isinstance(value, dict) else [(path, value)]
        for dotted, setting in bundle:
            if dotted.partition(".")[0] not in PARTS or "." not in dotted:
                raise unknown("axis", dotted, (f"{part}.<field>" for part in PARTS), where=self.where(place))
            _set(parts, dotted, setting)
            self.axis_of[dotted] = (*place[:-1], dotted) if path == tuning.TUNED else place

    def _one(self, model: type[BaseModel], data: Settings, place: KeyPath) -> Any:
        key = f"{model.__module__}:{place}:{json.dumps(data, sort_keys=True, default=str)}"
        if key not in self.seen:
            self.seen[key] = validate(model, data, lambda at: self._place((*place, *at)))
        return self.seen[key]

    def _place(self, key: KeyPath) -> str:
        """Place where a field got its value: its axis, if one sets it."""
        field = key[2:] if key[0] == "rows" else key
        return self.where(self.axis_of.get(".".join(map(str, field)), key))

    def _recipe(self, row_id: str, row: Row, data: Settings) -> Recipe:
        place: KeyPath = ("rows", row_id, "recipe") if row.recipe else ("recipe",)
        data = self._named(data, place)
        recipe: Recipe = self._one(
            Recipe,
            with_size(data, str(data.get("backbone", DEFAULT_BACKBONE)), 256 / 224, self._place((*place, "backbone"))),
            place,
        )
        for key in ("split", "validation"):
            if split := getattr(recipe, key):
                self._known_data(recipe.source, split, recipe.labels, recipe.classes, place, "source", key)
        self._known_decoder(recipe.views.decoder, place)
        self._has_texts(recipe.templates, {recipe.source: recipe.labels}, place)
        self._has_descriptions(recipe, recipe, place)
        try:
            if not missing_weights(recipe.pretrained):
                weights_file(recipe.backbone, recipe.pretrained)
        except UserError as error:
            raise UserError(str(error), where=self._place((*place, "pretrained"))) from error
        return recipe

    def _divided(self, row: Row, data: Settings, config: Config) -> Settings:
        """The recipe with the `accumulate` that its `parts` ask for, unless the suite chooses one itself."""
        parts, processes = data.get("parts"), data.get("processes", 1)
        chosen = "accumulate" in {**self.suite.file.recipe, **row.recipe} or "recipe.accumulate" in self.axis_of
        if chosen or not config.depends_on_processes or not all(type(n) is int and n > 0 for n in (parts, processes)):
            return data
        return {**data, "accumulate": max(1, parts // processes)}

    def _has_its_parts(self, row_id: str, row: Row, recipe: Recipe) -> None:
        parts, key = recipe.parts or 1, "processes" if recipe.processes > 1 else "accumulate"
        ways = [count for count in range(1, min(parts, recipe.batch) + 1) if parts % count == 0]
        if recipe.shards != parts:
            raise UserError(
                f"row '{row_id}' draws in each of {parts} parts, not in {recipe.processes} x {recipe.accumulate}",
                where=self._place(("rows", row_id, "recipe", key) if key in row.recipe else ("recipe", key)),
                allowed=[f"processes {count} x accumulate {parts // count}" for count in ways],
                hint="recipe.parts=null allows any number, as another training",
            )

    def _takes_targets(self, row_id: str, row: Row, config: Config, recipe: Recipe) -> None:
        """Refuse soft targets where the loss needs labels, and blends of videos where no pixels are read."""
        key = "mix" if recipe.mix else "smoothing"
        place = self._place(("rows", row_id, "recipe", key) if key in row.recipe else ("recipe", key))
        if recipe.soft_targets and not config.soft_targets:
            raise UserError(
                f"recipe.{key} makes shares of all classes, and the loss of row '{row_id}' needs a label of each video",
                where=place,
                hint=f"leave recipe.{key} out, for this row as `recipe: {{{key}: {'null' if recipe.mix else 0}}}`",
            )
        if recipe.mix and config.shares_encodings and recipe.views.copies:
            raise UserError(
                f"row '{row_id}' reads features that were encoded once, and recipe.mix blends pixels",
                where=place,
                hint="recipe.views.copies: 0 encodes in every step",
            )

    def _protocol(self, row_id: str, name: str, data: Settings, recipe: Recipe, config: Config) -> Protocol:
        place: KeyPath = ("protocols", name)
        data = self._named(data, place)
        protocol: Protocol = self._one(Protocol, with_size(data, recipe.backbone, 1.0, self.where(place)), place)
        for part in protocol.parts().values():
            self._known_data(part.dataset, part.split, part.labels, part.classes, place, "dataset")
        for other in protocol.vocabulary:
            dataset(other, self.suite.datasets, where=self._place((*place, "vocabulary")))
        self._known_decoder(protocol.views.decoder, place)
        named = {part.dataset: part.labels for part in protocol.parts().values()}
        self._has_texts(protocol.templates, {**dict.fromkeys(protocol.vocabulary, ""), **named}, place)
        self._has_descriptions(protocol, recipe, place)
        if protocol.role == "novel" and config.trains and protocol.dataset == recipe.source and recipe.classes == "all":
            raise UserError(
                f"row '{row_id}' is trained on all classes of '{recipe.source}', so none is novel",
                where=self.where(place),
                hint="base-to-novel trains with recipe.classes: base",
            )
        return protocol

    def _fits(
        self, row_id: str, config: Config, backbone_name: str, views: TestViews | TrainViews, place: KeyPath
    ) -> None:
        tower, where = backbone(backbone_name), self.where(("rows", row_id))
        try:
            refuse_video(self.suite.file.rows[row_id].method, config, tower)
            config.fits(tower, views.frames)
        except UserError as error:
            self.misfits.setdefault(str(error) + where, error.at(where))
        except ValueError as error:
            self.misfits.setdefault(str(error) + where, UserError(str(error), where=where))
        if tower.video and config.experts and row_id in self.suite.file.report.experts and self.suite.file.report.maps:
            what = f"there are no maps of single frames, because {backbone_name} reads a clip as one sequence"
            maps = self.where(("report", "maps"))
            self.problems.setdefault(what, UserError(what, where=maps, hint="report.maps: 0"))
        if views.size != tower.image_size:
            what = f"the tower of {backbone_name} takes no pictures of {views.size} pixels"
            where, hint = self._place((*place, "views", "size")), "leave `size` and `resize` out"
            self.problems.setdefault(what + where, UserError(what, where=where, allowed=[tower.image_size], hint=hint))

    def _learnt_its_frames(self, row_id: str, config: Config, recipe: Recipe, views: TestViews, place: KeyPath) -> None:
        """Refuse a test with more frames than were trained, where single frames have weights of their own."""
        most = recipe.views.frames
        if config.binds_frames and config.trains and not recipe.imported and views.frames > most:
            what = f"row '{row_id}' learns weights for each of {most} frames, and this test shows {views.frames}"
            where = self._place((*place, "views", "frames"))
            self.misfits.setdefault(what + where, UserError(what, where=where, allowed=[f"up to {most} frames"]))

    def _known_data(
        self, name: str, split: str, labels: str, classes: str, place: KeyPath, key: str, at: str = "split"
    ) -> None:
        if (name, split, labels, classes) in self.known_data:
            return
        self.known_data.add((name, split, labels, classes))
        data = dataset(name, self.suite.datasets, where=self._place((*place, key)))
        if split not in data.splits:
            raise unknown(f"split of dataset '{name}'", split, data.splits, where=self._place((*place, at)))
        if labels and labels not in data.variants:
            raise unknown(
                f"label variant of dataset '{name}'", labels, data.variants, where=self._place((*place, "labels"))
            )
        if classes != "all":
            try:
                data.ranked_by()
            except UserError as error:
                raise error.at(self._place((*place, key))) from error

    def _named(self, data: Settings, place: KeyPath) -> Settings:
        """Settings with their templates by name; the suite keeps what the name stands for."""
        if "templates" not in data:
            return data
        key = repr(data["templates"])
        if key not in self.seen:
            name, own = read_templates(data["templates"], self.folder, self._place((*place, "templates")))
            self.seen[key] = name
            self.suite.templates.update({} if name in TEMPLATES else {name: own})
        return {**data, "templates": self.seen[key]}

    def _has_texts(self, templates: str, labels: dict[str, str], place: KeyPath) -> None:
        """Refuse texts of other classes than those of these datasets; labels: dataset -> label variant."""
        own, key = self.suite.templates.get(templates), f"{templates} {labels}"
        if not isinstance(own, dict) or key in self.seen:
            return
        self.seen[key] = own
        try:
            names = [each for name in labels for each in dataset(name, self.suite.datasets).class_names(labels[name])]
        except UserError:
            return  # the plan says what is missing
        check_classes(own, names, self._place((*place, "templates")))

    def _has_descriptions(self, own: Recipe | Protocol, recipe: Recipe, place: KeyPath) -> None:
        """Refuse templates that ask for descriptions of which nothing says where they are, and what is no source."""
        asked = self.suite.kinds(own.templates)
        if asked and not own.descriptions and not recipe.class_features:
            raise UserError(
                f"templates '{own.templates}' ask for {{{asked[0]}}}, and `descriptions` beside them names no source",
                where=self._place((*place, "templates")),
                hint="a file of a text for each class, a folder of description files, or glyphs: docs/add_a_dataset.md",
            )
        try:
            refuse_source(own.descriptions or GLYPHS)
        except UserError as error:
            raise error.at(self._place((*place, "descriptions"))) from error

    def _asks_for(self, kinds: tuple[str, ...], templates: str, row_id: str, place: KeyPath) -> None:
        """Refuse templates without one of the kinds of sentences that prompts of a row's method are made of."""
        if absent := [f"{{{kind}}}" for kind in kinds if kind not in self.suite.kinds(templates)]:
            lacks = f"templates '{templates}' ask for no {' and no '.join(absent)}"
            raise UserError(
                f"row '{row_id}' compares with sentences, and {lacks}",
                where=self._place(place),
                allowed=[name for name in TEMPLATES if {*kinds} <= {*self.suite.kinds(name)}],
            )

    def _known_decoder(self, decoder: str, place: KeyPath) -> None:
        try:
            known_decoder(decoder)
        except UserError as error:
            raise error.at(self._place((*place, "views", "decoder"))) from error
        if reason := _unimportable(PACKAGES.get(decoder, decoder.partition(":")[0])):
            what, where = f"the decoder {decoder} cannot be used: {reason}", self._place((*place, "views", "decoder"))
            self.problems.setdefault(what + where, UserError(what, where=where))


@cache
def _unimportable(module: str) -> str:
    """The reason why a module cannot be imported, as far as that is known before; "" if it can."""
    try:
        return "" if find_spec(module) else f"there is no module {module}"
    except (Exception, SystemExit) as error:  # importing the packages around it runs their code
        return f"{type(error).__name__}: {error}"


def _apart(suite: Suite) -> Iterator[str]:
    """Pairs of rows that are declared to be compared and have no point in common."""
    points: dict[str, set[tuple[tuple[str, str], ...]]] = {}
    for trial in suite.trials:
        point = tuple((axis, repr(own)) for axis, own in trial.point if axis != tuning.TUNED)
        points.setdefault(trial.row, set()).add(point)
    for a, b in suite.file.report.compare:
        first, second = points.get(a, set()), [dict(own) for own in points.get(b, set())]
        if a != b and not any(all(own.get(axis, at) == at for axis, at in point) for point in first for own in second):
            where = suite.where(("report", "compare"))
            yield f"{where}: rows '{a}' and '{b}' have no point of their axes in common, so they are not compared"


def _stretched(suite: Suite) -> Iterator[str]:
    """A sentence for each place where a video tower reads more or fewer frames than it has positions for."""
    seen: dict[tuple[KeyPath, str, int], None] = {}
    for trial in suite.trials:
        if trial.config.trains and not trial.recipe.imported:
            seen[("rows", trial.row), trial.recipe.backbone, trial.recipe.views.frames] = None
        for name, protocol in trial.protocols:
            seen[("protocols", name), trial.recipe.backbone, protocol.views.frames] = None
    for place, name, frames in seen:
        rows = backbone(name).clip_frames
        if rows and frames != rows:
            fewer = "their mean is" if frames == 1 else f"the first {frames} are"
            how = fewer if frames < rows else "interpolated ones are"
            yield f"{suite.where(place)} reads {frames} frames, and {name} has {rows} positions in time: {how} used"


def _worded(suite: Suite) -> Iterator[str]:
    """A sentence for each set of templates with words of its own where a row learns the words beside class names."""
    seen: dict[tuple[str, str], None] = {}
    for trial in suite.trials if not suite.file.world else ():  # a world has templates of its own
        if trial.config.name_room(backbone(trial.recipe.backbone)) is None:
            continue
        plain = partial(trial.config.plain_texts, trial.inference)
        read = (p.templates for _, p in trial.protocols if not all(plain(own.seen) for own in p.parts().values()))
        for name in (trial.recipe.templates, *read):
            own = suite.templates.get(name) or TEMPLATES.get(name, ())
            if isinstance(own, tuple) and any(re.search(r"\w", re.sub(r"\{\w*\}", "", pattern)) for pattern in own):
                seen[trial.row, name] = None
    for row, name in seen:
        what = f"learns the words beside class names, and the words of templates '{name}' count as parts of the names"
        yield f"{suite.where(('rows', row))} {what}: templates: name has none"


def changes_protocols(path: str, axis: Axis) -> bool:
    """Tells whether an axis changes a protocol."""
    paths = [path] if isinstance(axis, list) else [dotted for bundle in axis.values() for dotted in bundle]
    return any(dotted.startswith(("protocol.", "protocols.")) for dotted in paths)
