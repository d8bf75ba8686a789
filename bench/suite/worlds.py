"""Presets of fidelity and other worlds, written out in a suite before anything is resolved or hashed.

`fidelity: official` or `clean` puts a method's preset (PRESETS beside its Config) below the settings of its rows.
`world: glyphs` replaces data, backbone, prompts, views and schedule by those of bench/assets/worlds.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from bench.core.errors import UserError, unknown
from bench.suite.named_protocols import merged, named_protocol
from bench.suite.yaml_lines import Where
from methods.registry import method

Settings = dict[str, Any]

FILE = Path(__file__).parents[1] / "assets" / "worlds.yaml"


def expanded(data: Settings, where: Where) -> Settings:
    """Write presets and world out in a suite's data; `fidelity` and `world` stay as a remark. Raises UserError."""
    data = deepcopy(data)
    for name, row in data["rows"].items():
        if fidelity := row.get("fidelity", data.get("fidelity")):
            _fidelity(row, fidelity, data, where(("rows", name)))
    if data.get("world"):
        if data["world"] not in worlds():
            raise unknown("world", data["world"], worlds(), where=where(("world",)))
        _Mover(worlds()[data["world"]], data, where).move()
    return data


@cache
def worlds() -> dict[str, Settings]:
    """The worlds by name."""
    found: dict[str, Settings] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


def _fidelity(row: Settings, fidelity: str, data: Settings, where: str) -> None:
    """The preset below a row's own settings and, for the recipe, below the file's."""
    presets = getattr(method(row["method"], where=where).declared, "PRESETS", {})
    if presets and fidelity not in presets:
        raise unknown(f"fidelity of '{row['method']}'", fidelity, presets, where=where)
    preset: Settings = deepcopy(presets.get(fidelity, {}))
    recipe = _without(preset.get("recipe", {}), data.get("recipe", {}))
    for part, below in (
        ("config", preset.get("config", {})),
        ("inference", preset.get("inference", {})),
        ("recipe", recipe),
    ):
        row[part] = merged(below, row.get(part, {}))


def _without(settings: Settings, given: Settings) -> Settings:
    """Settings that are not given elsewhere."""
    both = [
        key for key, value in settings.items() if isinstance(value, Mapping) and isinstance(given.get(key), Mapping)
    ]
    rest = {key: value for key, value in settings.items() if key not in given}
    return {**rest, **{key: _without(settings[key], given[key]) for key in both}}


class _Mover:
    """Moves a suite into another world."""

    def __init__(self, world: Settings, data: Settings, where: Where) -> None:
        self.world, self.data, self.where = world, data, where

    def move(self) -> None:
        data, world = self.data, self.world
        data["recipe"] = self._recipe({**data.get("recipe", {}), **world["recipe"]}, ("recipe",))
        data["protocol"] = {**data.get("protocol", {}), **world["protocol"]}
        for name, protocol in data["protocols"].items():
            data["protocols"][name] = self._protocol(protocol, ("protocols", name))
        for axes, place in ((data.get("axes", {}), ("axes",)), *_axes_of_rows(data)):
            for path, axis in axes.items():
                if isinstance(axis, dict):
                    axes[path] = {label: self._bundle(bundle, (*place, path)) for label, bundle in axis.items()}
        for name, row in data["rows"].items():
            recipe = {key: value for key, value in row.get("recipe", {}).items() if key not in world["recipe"]}
            row["recipe"] = self._recipe(recipe, ("rows", name, "recipe"))
            row["protocol"] = {k: v for k, v in row.get("protocol", {}).items() if k not in world["protocol"]}
            if method(row["method"]).config().has_head:
                row["config"] = {**row.get("config", {}), **world["config"]}

    def _recipe(self, recipe: Settings, place: tuple[str, ...]) -> Settings:
        recipe = {key: value for key, value in recipe.items() if key != "imported"}
        if "source" not in recipe:
            return recipe
        found = self._place("learn", recipe["source"], (*place, "source"))
        return {**recipe, "source": found["dataset"], "split": found[_kind(recipe.get("split", "train"))]}

    def _protocol(self, own: Settings, place: tuple[str, ...]) -> Settings:
        """A protocol's own settings with data and views of the world; `use` stays, so that reports can compare."""
        named = named_protocol(str(own["use"]), where=self.where((*place, "use"))) if "use" in own else {}
        told = merged(named, own)
        moved = merged(own, self.world["protocol"])
        moved["dataset"], moved["split"] = self._measured(told, place)
        moved["role"] = told["role"]
        if isinstance(told.get("vocabulary"), list):
            others = [self._place("unseen", name, (*place, "vocabulary"))["dataset"] for name in told["vocabulary"]]
            moved["vocabulary"] = list(dict.fromkeys(name for name in others if name != moved["dataset"]))
        return moved

    def _measured(self, protocol: Settings, place: tuple[str, ...]) -> tuple[str, str]:
        if absent := [key for key in ("role", "dataset") if key not in protocol]:
            raise UserError(f"key '{absent[0]}' is required", where=self.where(place))
        found = self._place(
            "unseen" if protocol["role"] == "zero-shot" else "learn", protocol["dataset"], (*place, "dataset")
        )
        return found["dataset"], found["split"] if protocol["role"] == "zero-shot" else found["test"]

    def _bundle(self, bundle: Settings, place: tuple[str, ...]) -> Settings:
        """Settings that move together, without those that the world replaces."""
        rest = {}
        for dotted, value in bundle.items():
            part, _, field = dotted.partition(".")
            if part != "recipe" or field.partition(".")[0] not in self.world["recipe"]:
                rest[dotted] = value
        if "recipe.source" in rest:
            found = self._place("learn", rest["recipe.source"], place)
            rest["recipe.source"], rest["recipe.split"] = (
                found["dataset"],
                found[_kind(rest.get("recipe.split", "train"))],
            )
        for dotted in [dotted for dotted in rest if dotted.startswith("protocols.") and dotted.endswith(".dataset")]:
            name, split = dotted.split(".")[1], dotted.removesuffix("dataset") + "split"
            told = {**self.data["protocols"].get(name, {}), "dataset": rest[dotted]}
            rest[dotted], rest[split] = self._measured(told, place)
        return rest

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


def _axes_of_rows(data: Settings) -> list[tuple[Settings, tuple[str, ...]]]:
    return [(row.get("axes", {}), ("rows", name, "axes")) for name, row in data["rows"].items()]


def _kind(split: object) -> str:
    return "train" if str(split).startswith("train") else "test"
