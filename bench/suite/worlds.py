"""Presets of fidelity and other worlds, written out in a suite before anything is resolved or hashed.

`fidelity: official` or `clean` puts a method's preset (PRESETS beside its Config) below the settings of its rows.
`world: glyphs` replaces data, backbone, prompts, views and schedule by those of bench/assets/worlds.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bench.core.errors import UserError, unknown
from bench.models.backbones import backbone
from bench.models.prompts import TEMPLATES, kinds
from bench.suite.named_protocols import merged, named_protocol
from bench.suite.protocol import Protocol
from bench.suite.recipe import Recipe
from bench.suite.yaml_lines import Where
from methods.registry import method

Settings = dict[str, Any]

FILE = Path(__file__).parents[1] / "assets" / "worlds.yaml"
TOLD: Settings = {"descriptions": ""}  # the place of descriptions, which lie outside the world


def expanded(data: Settings, where: Where) -> tuple[Settings, dict[str, Settings]]:
    """Write presets and world out in a suite's data; `fidelity` and `world` stay as a remark. Raises UserError.

    Also returns the recipe of each row's preset, which lies below the file's.
    """
    data = deepcopy(data)
    recipes = {}
    for name, row in data["rows"].items():
        if fidelity := row.get("fidelity", data.get("fidelity")):
            recipes[name] = _fidelity(row, fidelity, where(("rows", name)))
    if data.get("world"):
        if data["world"] not in worlds():
            raise unknown("world", data["world"], worlds(), where=where(("world",)))
        world = merged(worlds()[data["world"]], data.get("at_toy_scale", {}))
        _check_toy_scale(data, where)
        _Mover(world, data, where).move(recipes)
        recipes = {name: _outside(own, world["recipe"]) for name, own in recipes.items()}
    return data, recipes


@cache
def worlds() -> dict[str, Settings]:
    """The worlds by name."""
    found: dict[str, Settings] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


def _fidelity(row: Settings, fidelity: str, where: str) -> Settings:
    """Write the preset below a row's own settings, but for what has no effect with them. Returns its recipe."""
    kind = method(row["method"], where=where)
    presets = getattr(kind.declared, "PRESETS", {})
    if fidelity not in (presets or ("official", "clean")):
        raise unknown(f"fidelity of '{row['method']}'", fidelity, presets or ("official", "clean"), where=where)
    preset: Settings = deepcopy(presets.get(fidelity, {}))
    for part, choices in (("config", kind.config), ("inference", kind.inference)):
        own = row.get(part, {})
        effective = {
            field: value
            for field, value in preset.get(part, {}).items()
            if all(other not in own or own[other] in values for other, values in choices.needs.get(field, {}).items())
        }
        row[part] = merged(effective, own)
    return dict(preset.get("recipe", {}))


def _check_toy_scale(data: Settings, where: Where) -> None:
    """Refuse keys that no recipe or protocol has, where they stand, and limits that are no numbers."""
    toy, rows = data.get("at_toy_scale", {}), data["rows"]
    kinds = {"recipe": Recipe.model_fields, "protocol": Protocol.model_fields}
    given = [(toy.get(part, {}), known, ["at_toy_scale", part]) for part, known in kinds.items()]
    given += [
        (own.get("at_toy_scale", {}), kinds["recipe"], ["rows", name, "at_toy_scale"]) for name, own in rows.items()
    ]
    for settings, known, place in given:
        if strange := sorted(settings.keys() - known.keys()):
            raise unknown("key", strange[0], known, where=where((*place, strange[0])))
    for path, most in toy.get("at_most", {}).items():
        if not isinstance(most, int):
            raise UserError(f"expected a whole number, got {most!r}", where=where(("at_toy_scale", "at_most", path)))


def _outside(settings: Settings, replaced: Settings) -> Settings:
    """Settings without those that a world replaces."""
    return {key: value for key, value in settings.items() if key not in replaced}


class _Mover:
    """Moves a suite into another world."""

    def __init__(self, world: Settings, data: Settings, where: Where) -> None:
        self.world, self.data, self.where = world, data, where

    def move(self, presets: Mapping[str, Settings]) -> None:
        data, world = self.data, self.world
        recipe, below = data.get("recipe", {}), data.get("protocol", {})
        moved = {**recipe, **deepcopy(world["recipe"]), **self._tower(recipe.get("backbone")), **self._told(recipe)}
        data["recipe"] = self._recipe(moved, ("recipe",))
        data["protocol"] = _outside({**below, **deepcopy(world["protocol"])}, TOLD)
        for name, protocol in data["protocols"].items():
            data["protocols"][name] = self._protocol(protocol, below, ("protocols", name))
        every = [(data.get("axes", {}), ("axes",)), *_axes_of_rows(data)]
        self._keep_points(every)
        for axes, place in every:
            for path, axis in axes.items():
                if isinstance(axis, dict):
                    axes[path] = {label: self._bundle(bundle, (*place, path)) for label, bundle in axis.items()}
                elif isinstance(axis, list) and (fitting := [self._fitting(path, value) for value in axis]) != axis:
                    axes[path] = [value for i, value in enumerate(fitting) if value not in fitting[:i]]
        for name, row in data["rows"].items():
            own, measured = row.get("recipe", {}), row.get("protocol", {})
            if isinstance(named := row.get("protocols"), dict):
                row["protocols"] = dict.fromkeys(named, "")  # the world has one way of measuring
            told = self._told(merged({} if "templates" in recipe else presets.get(name, {}), own))
            if "templates" in own and not told and self._told(recipe):
                told = {"templates": world["recipe"]["templates"]}
            tower = self._tower(own.get("backbone"), data["recipe"])
            own = {**_outside(own, world["recipe"]), **tower, **told, **row.get("at_toy_scale", {})}
            row["recipe"] = self._recipe(own, ("rows", name, "recipe"))
            row["protocol"] = {**_outside(_outside(measured, TOLD), world["protocol"]), **self._told(measured)}
            row["config"] = self._fitting("config", row.get("config", {}))
            plain = method(row["method"]).config()
            if plain.has_head and plain.tower == "frozen":  # a method that is a tuned CLIP stays one
                row["config"] = {**row["config"], **deepcopy(world["config"])}
            if merged(merged(presets.get(name, {}), recipe), own).get("mix") and _shares(row):
                row["recipe"]["views"] = {"copies": 0}  # what is blended are pixels, not stored features

    def _keep_points(self, every: list[tuple[Settings, tuple[str, ...]]]) -> None:
        """Leave only those points on axes that `at_toy_scale.points` names; null: all."""
        for path, kept in self.world.get("points", {}).items():
            where, there = self.where(("at_toy_scale", "points", path)), [own for own in every if path in own[0]]
            if not there:
                raise unknown("axis", path, {other for axes, _ in every for other in axes}, where=where)
            known = [*dict.fromkeys(str(label) for axes, _ in there for label in axes[path])]
            names = [*map(str, kept)] if isinstance(kept, list) else known if kept is None else []
            hint = f"at_toy_scale.points.{path}: the points of the axis that stay in the world; null: all"
            if not names or not {*names} <= {*known}:
                raise UserError(f"expected points of the axis, got {kept!r}", where=where, allowed=known, hint=hint)
            for axes, place in there:
                if not (left := [label for label in axes[path] if str(label) in names]):
                    raise UserError(f"has none of {', '.join(names)}", where=self.where((*place, path)), hint=hint)
                axes[path] = {label: axes[path][label] for label in left} if isinstance(axes[path], dict) else left

    def _recipe(self, recipe: Settings, place: tuple[str, ...]) -> Settings:
        recipe = {key: value for key, value in recipe.items() if key != "imported"}
        if "source" not in recipe:
            return recipe
        found = self._place("learn", str(recipe["source"]), (*place, "source"))
        return {**recipe, "source": found["dataset"], "split": found[_kind(recipe.get("split", "train"))]}

    def _tower(self, name: object, below: Settings | None = None) -> Settings:
        """The world's tower for a backbone that a suite names, as far as it is not the one `below`."""
        video = False
        with suppress(UserError):
            video = name is not None and backbone(str(name)).video
        found = self.world["video"] if video else {key: self.world["recipe"][key] for key in self.world["video"]}
        return {} if name is None else {key: own for key, own in found.items() if own != (below or {}).get(key)}

    def _fitting(self, place: str, value: Any) -> Any:
        """A setting at a dotted place, within what the world's towers have room for."""
        if isinstance(value, dict):
            return {key: self._fitting(f"{place}.{key}", own) for key, own in value.items()}
        most = self.world["at_most"].get(place)
        return value if most is None or not isinstance(value, int) else min(value, most)

    def _told(self, settings: Settings) -> Settings:
        """The world's prompts with descriptions for settings whose own ask for descriptions.

        Spatial and temporal sentences stand alone, since they leave its texts no room for more.
        """
        given = settings.get("templates", ())
        patterns = TEMPLATES.get(given, [given]) if isinstance(given, str) else given
        asked = kinds(map(str, patterns)) if isinstance(patterns, list | tuple) else ()
        alone = {"templates": [f"{{{kind}}}" for kind in asked]} if asked and "description" not in asked else {}
        return {**deepcopy(self.world["described"]), **alone} if asked else {}

    def _protocol(self, own: Settings, below: Settings, place: tuple[str, ...]) -> Settings:
        """A protocol's own settings with data and views of the world; `use` stays, so that reports can compare."""
        named = named_protocol(str(own["use"]), where=self.where((*place, "use"))) if "use" in own else {}
        told = merged(named, own)
        moved = merged(_outside(own, TOLD), deepcopy(self.world["protocol"]))  # an override must not reach the others
        moved |= self._told(merged(below, told))
        moved |= {"role": told["role"]} if "role" in told else {}
        if "dataset" in told:
            moved["dataset"], moved["split"] = self._measured(told, place)
        if isinstance(told.get("vocabulary"), list):
            others = [self._place("unseen", name, (*place, "vocabulary"))["dataset"] for name in told["vocabulary"]]
            moved["vocabulary"] = list(dict.fromkeys(name for name in others if name != moved.get("dataset")))
        return moved

    def _measured(self, protocol: Settings, place: tuple[str, ...]) -> tuple[str, str]:
        if absent := [key for key in ("role", "dataset") if key not in protocol]:
            raise UserError(f"key '{absent[0]}' is required", where=self.where(place))
        unseen = protocol["role"] == "zero-shot"
        found = self._place("unseen" if unseen else "learn", protocol["dataset"], (*place, "dataset"))
        return found["dataset"], found["split" if unseen else "test"]

    def _bundle(self, bundle: Settings, place: tuple[str, ...]) -> Settings:
        """Settings that move together, without those that the world replaces."""
        rest = {dotted: value for dotted, value in bundle.items() if not self._replaces(dotted)}
        tower = self._tower(bundle.get("recipe.backbone"), self.data["recipe"])
        rest |= {f"recipe.{key}": value for key, value in tower.items()}
        for dotted, value in bundle.items():
            start, _, field = dotted.rpartition(".")
            told = self._told({field: value})
            rest |= {f"{start}.{key}": own for key, own in told.items()}
        if "recipe.source" in rest:
            found = self._place("learn", str(rest["recipe.source"]), place)
            rest["recipe.source"], rest["recipe.split"] = (
                found["dataset"],
                found[_kind(rest.get("recipe.split", "train"))],
            )
        for dotted in [dotted for dotted in rest if dotted.startswith("protocols.") and dotted.endswith(".dataset")]:
            name, split = dotted.split(".")[1], dotted.removesuffix("dataset") + "split"
            told = {**self.data["protocols"].get(name, {}), "dataset": rest[dotted]}
            rest[dotted], rest[split] = self._measured(told, place)
        return {dotted: self._fitting(dotted, value) for dotted, value in rest.items()}

    def _replaces(self, dotted: str) -> bool:
        """Tells whether the world has a value of its own for the field of an axis."""
        part, *path = dotted.split(".")
        if part == "protocols":
            part, path = "protocol", path[1:]
        replaced = {*self.world.get(part, ()), *self.world["described"]}
        return part in ("recipe", "protocol") and any(field in replaced for field in path[:1])

    def _place(self, use: str, name: object, place: tuple[str, ...]) -> Settings:
        known = self.world[use]
        if not isinstance(name, str):
            raise UserError(f"expected the name of a dataset, got {name!r}", where=self.where(place))
        if name.startswith("glyphs-"):
            raise UserError(f"'{name}' is in this world already", where=self.where(place), hint="leave `world` out")
        if name not in known:
            raise unknown(
                f"dataset with a counterpart in world '{self.data['world']}'", name, known, where=self.where(place)
            )
        found: Settings = known[name]
        return found


def _shares(row: Settings) -> bool:
    """Tells whether a row's frames are encoded once; False for a config that is refused later."""
    with suppress(ValidationError):
        return bool(method(row["method"]).config.model_validate(row.get("config", {})).shares_encodings)
    return False


def _axes_of_rows(data: Settings) -> list[tuple[Settings, tuple[str, ...]]]:
    return [(row.get("axes", {}), ("rows", name, "axes")) for name, row in data["rows"].items()]


def _kind(split: object) -> str:
    return "train" if str(split).startswith("train") else "test"
