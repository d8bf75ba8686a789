"""Settings without effect: whatever reads them finds another one in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from bench.core.errors import UserError
from bench.suite.file import Axis, Row, Settings, SuiteFile
from bench.suite.named_protocols import named_protocol
from bench.suite.recipe import Execution, Training
from bench.suite.trial import Suite
from bench.suite.yaml_lines import KeyPath

TRAINED = {*Training.model_fields, *Execution.model_fields, "parts", "draw", "repeat", "validation"} - {
    "compile"
}  # nothing else reads; compiled blocks encode as well
MOVED = object()  # the values of an axis, which no fixed value equals
# Field of a recipe or protocol -> when nothing reads it, and why.
IDLE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "views.stride": (lambda own: "strided" not in own.views.sampler, "the sampler is not strided"),
    "views.rate": (lambda own: "strided" not in own.views.sampler, "the sampler is not strided"),
    "views.spacing": (lambda own: own.views.sampler != "strided", "the sampler is not `strided`"),
    "views.short_clip": (
        lambda own: own.views.sampler != "segment_start" or own.views.clips == 1,
        "it is for several clips of the sampler `segment_start`",
    ),
    "views.positions": (lambda own: own.views.augmentation != "multi_scale", "it is for augmentation `multi_scale`"),
    "views.short_side": (lambda own: own.views.augmentation != "short_side", "it is for augmentation `short_side`"),
    "views.rand_augment_n": (lambda own: own.views.rand_augment == "none", "there is no RandAugment"),
    "views.rand_augment_m": (lambda own: own.views.rand_augment == "none", "there is no RandAugment"),
    "repeat": (lambda own: not own.shots, "no shots are drawn"),
    "micro_steps": (lambda own: own.schedule != "vifi", "only the schedule `vifi` counts them"),
    "floor_of": (lambda own: not (own.schedule == "vifi" if own.floor is None else own.floor), "the floor is 0"),
    "warmup_start": (lambda own: not own.warmup_epochs, "there is no warm-up"),
    "validate_every": (lambda own: not own.validation, "there is no validation split"),
}


class _Setting(NamedTuple):
    field: str  # such as views.frames of a recipe
    key: KeyPath  # where it gets the value
    value: Any


def refuse_idle(suite: Suite, origin: Callable[[KeyPath], str]) -> Iterator[str]:
    """Notes about settings without effect. Raises UserError for an override that has none at all.

    `origin` of a key: "file", "override", or "" if a preset or world wrote it.
    """
    found: dict[tuple[str, KeyPath], list[_Setting | None]] = {}
    for row_id, row in suite.file.rows.items():
        for settings in _layered(suite.file, row_id, row):
            for index, own in enumerate(settings):
                over = next((each for each in settings[:index:-1] if f"{own.field}.".startswith(f"{each.field}.")), own)
                # An override is meant to take the place of what the file says.
                meant = origin(own.key) == "file" and origin(over.key) == "override"
                if origin(own.key) and own.key[-1] != "use":
                    found.setdefault(own[:2], []).append(None if meant or over.value == own.value else over)
    for (_, key), places in found.items():
        winners = [over for over in places if over]
        by = " and ".join(dict.fromkeys(".".join(map(str, over.key)) for over in winners))
        asked, beaten = origin(key) == "override", any(over.key[-1] == "use" for over in winners)
        if asked and winners == places:
            raise UserError(f"has no effect: {by} is in its place", where=suite.where(key), hint=f"override {by}")
        if beaten or winners == places or (asked and winners):
            yield f"{suite.where(key)}: has no effect where {by} is in its place"
    for key, why in _unread(suite):
        if origin(key) == "override":
            raise UserError(f"has no effect: {why}", where=suite.where(key))
        if origin(key):
            yield f"{suite.where(key)}: has no effect: {why}"


def _unread(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    """Keys of recipes that no row reads to which they belong, and why. A profile reads those of a training too."""
    rows = suite.file.rows
    trained = {own.row for own in suite.trials if own.config.trains}
    told = {own.row for own in suite.trials if own.config.description_sets or suite.kinds(own.recipe.templates)}
    if not trained:
        yield ("seeds",), "nothing is trained"
    for name in {*rows} - {own.row for own in suite.trials if own.config.interpolates}:
        for part, field in (("inference", "clip_alpha"), ("axes", "inference.clip_alpha")):
            if getattr(rows[name], part).get(field, 1) != 1:
                yield ("rows", name, part, field), "no tensor that CLIP has is trained"
    recipes: list[tuple[KeyPath, Settings, set[str]]] = [(("recipe",), suite.file.recipe, {*rows})]
    recipes += [(("rows", row_id, "recipe"), row.recipe, {row_id}) for row_id, row in rows.items()]
    for place, settings, own in recipes:
        for field, key, _ in _flat(settings, place):
            if field == "descriptions" and not own & told:
                yield key, "no method and no templates here ask for descriptions"
            elif (
                field.partition(".")[0] in TRAINED
                and not own & trained
                and not any(map(suite.file.report.profiles, own))
            ):
                yield key, "nothing is trained"
            elif field in IDLE and all(IDLE[field][0](each.recipe) for each in suite.trials if each.row in own):
                yield key, IDLE[field][1]
    protocols: list[tuple[KeyPath, Settings, set[str], set[str]]]
    protocols = [(("protocol",), suite.file.protocol, {*rows}, {*suite.file.protocols})]
    protocols += [(("protocols", name), own, {*rows}, {name}) for name, own in suite.file.protocols.items()]
    protocols += [
        (("rows", name, "protocol"), row.protocol, {name}, {*suite.file.protocols}) for name, row in rows.items()
    ]
    for place, settings, own, names in protocols:
        for field, key, _ in _flat(settings, place):
            if field != "descriptions" and field not in IDLE:
                continue
            measured = [p for each in suite.trials if each.row in own for name, p in each.protocols if name in names]
            if field in IDLE and all(map(IDLE[field][0], measured)):
                yield key, IDLE[field][1]
            if field == "descriptions" and not any(suite.kinds(each.templates) for each in measured):
                yield key, "no templates here ask for descriptions"


def _layered(file: SuiteFile, row_id: str, row: Row) -> Iterator[list[_Setting]]:
    """A row's settings, each before those that take its place: recipe and the like, then under each protocol."""

    def axes(start: str) -> list[_Setting]:
        return [*_axes(file.axes, ("axes",), start), *_axes(row.axes, ("rows", row_id, "axes"), start)]

    for part in ("config", "inference", "recipe"):
        below = _flat(file.recipe, ("recipe",)) if part == "recipe" else []
        yield [*below, *_flat(getattr(row, part), ("rows", row_id, part)), *axes(f"{part}.")]
    for name in row.protocols or file.protocols:
        own = file.protocols[name]
        used = _flat(named_protocol(own["use"]), ()) if "use" in own else []
        below = [
            *_flat(file.protocol, ("protocol",)),
            *(each._replace(key=("protocols", name, "use")) for each in used),
        ]
        mine = [*_flat(own, ("protocols", name)), *axes(f"protocols.{name}.")]
        yield [*below, *mine, *_flat(row.protocol, ("rows", row_id, "protocol")), *axes("protocol.")]


def _axes(axes: Mapping[str, Axis], place: KeyPath, start: str) -> Iterator[_Setting]:
    """The fields that begin so and that an axis sets at each of its points."""
    for path, axis in axes.items():
        fields = {path} if isinstance(axis, list) else set.intersection(*map(set, axis.values()))
        for field in sorted(field for field in fields if field.startswith(start)):
            yield _Setting(field.removeprefix(start), (*place, path), MOVED)


def _flat(settings: Settings, place: KeyPath) -> list[_Setting]:
    found = []
    for key, value in settings.items():
        if isinstance(value, dict) and key != "templates":  # those of classes are one value
            found += [each._replace(field=f"{key}.{each.field}") for each in _flat(value, (*place, key))]
        else:
            found.append(_Setting(key, (*place, key), value))
    return found
