"""Trials: a suite with all settings resolved, as planning and reports read it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from bench.core.errors import UserError
from bench.core.identity import digest
from bench.data.datasets import Dataset
from bench.models.backbones import backbone
from bench.models.prompts import TEMPLATES, kinds, prompts
from bench.suite.file import Settings, SuiteFile
from bench.suite.named_protocols import named_protocol
from bench.suite.protocol import Protocol
from bench.suite.recipe import Recipe
from bench.suite.templates import Templates, Told, filled
from bench.suite.yaml_lines import Where
from methods.settings import Config, Inference

DEFAULT_BACKBONE: str = Recipe.model_fields["backbone"].default


@dataclass(frozen=True, eq=False)
class Trial:
    """One method with all settings resolved, and one seed."""

    row: str
    label: str
    method: str
    config: Config
    inference: Inference
    recipe: Recipe
    protocols: tuple[tuple[str, Protocol], ...]
    point: tuple[tuple[str, Any], ...]  # axis name -> value
    seed: int
    columns: Mapping[str, Protocol]  # protocols of the tables' columns, at this point of the suite's axes
    init_from: Trial | None = None  # its training begins with the weights of this trial's

    @cached_property
    def title(self) -> str:
        """Row, values on its axes, and seed."""
        return self.title_at([axis for axis, _ in self.point])

    def title_at(self, axes: Container[str]) -> str:
        """The title with these axes only."""
        return " ".join([self.row_at(axes), *([f"seed {self.seed}"] if self.config.trains else [])])

    def row_at(self, axes: Container[str]) -> str:
        """The row with its values on these axes."""
        return " ".join([self.row, *(f"{axis}={value}" for axis, value in self.point if axis in axes)])

    @property
    def settings(self) -> list[Any]:
        """All that tells the trial from others, as JSON values."""
        named = [self.row, self.label, self.method, [*map(list, self.point)], self.seed]
        own = [each.fingerprint for each in (self.config, self.inference, self.recipe)]
        measured = [[name, each.fingerprint] for name, each in (*self.protocols, *self.columns.items())]
        return [*named, *own, measured, self.init_from and self.init_from.settings]

    @property
    def deviations(self) -> dict[str, str]:
        """Column -> fields that differ, where this row is measured otherwise than its column says."""
        changed = [(name, own) for name, own in self.protocols if own is not self.columns[name]]
        return {name: text for name, own in changed if (text := own.differences(self.columns[name]))}


@dataclass(frozen=True)
class Suite:
    """A validated suite."""

    name: str
    file: SuiteFile
    datasets: dict[str, Dataset]
    axes: dict[str, str]  # name -> path or bundle name
    trials: tuple[Trial, ...]
    where: Where  # the place of a key path, for errors
    templates: dict[str, Templates] = field(default_factory=dict)  # its own: name -> patterns or texts
    notes: tuple[str, ...] = ()  # what the plan says of its settings: earlier names, differences of training and test
    problems: tuple[UserError, ...] = ()  # reasons why it cannot run
    overrides: tuple[str, ...] = ()  # as they were given
    bases: tuple[str, ...] = ()  # a sentence for each suite below it: what is added, replaced, removed

    @cached_property
    def identity(self) -> str:
        """Hash of all that a report shows: two suites of one name with one identity are the same suite.

        Settings count as they are resolved, so comments, the order of keys and defaults that are written out do not.
        """
        report = self.file.report.model_dump(mode="json", exclude_defaults=True)
        data = {name: own.model_dump(mode="json", exclude_defaults=True) for name, own in self.datasets.items()}
        choice = [self.file.select.model_dump(mode="json")] if self.file.select else []
        shown = [self.file.title, self.file.description, report, data, *choice]
        return digest([*shown, *(trial.settings for trial in self.trials)])

    @property
    def columns(self) -> dict[str, Protocol]:
        """The protocol of every column, at the first point that is measured under it."""
        first = {name: own for trial in reversed(self.trials) for name, own in trial.columns.items()}
        return {name: first[name] for name in self.file.protocols}

    @property
    def shown(self) -> list[str]:
        """The protocols that are columns of the report: all but the one that chooses among tuned points."""
        return [name for name in self.file.protocols if not (self.file.select and name == self.file.select.protocol)]

    def prompts(self, templates: str, class_names: Sequence[str], told: Told | None = None) -> list[list[str]]:
        """The prompts of each class under templates of its own or shipped ones, [C][P]; `told` as in `filled`."""
        own = self.templates.get(templates) or (TEMPLATES.get(templates) if told else None)
        return filled(own, class_names, told) if own else prompts(templates, class_names)

    def kinds(self, templates: str) -> tuple[str, ...]:
        """The kinds of sentences about classes that templates ask for."""
        own = self.templates.get(templates) or TEMPLATES.get(templates, ())
        return kinds(own) if isinstance(own, tuple) else ()

    def changes(self, name: str, protocol: Protocol) -> str:
        """Fields of a protocol that differ from the named one that it uses; "" if none does or if it uses none."""
        use = self.file.protocols[name].get("use")
        if not use:
            return ""
        settings = with_size(named_protocol(use), self.trials[0].recipe.backbone, 1.0, "")
        return protocol.differences(Protocol.model_validate(settings))


@cache
def _image_size(name: str, where: str) -> int:
    try:
        return backbone(name).image_size
    except UserError as error:
        raise error.at(where) from error


def with_size(data: Settings, backbone_name: str, short_side: float, where: str) -> Settings:
    """Views without a size get the backbone's input size; the short side keeps MoTE's proportion to it."""
    views = data.get("views", {})
    if not isinstance(views, dict):
        return data  # validation says what is wrong
    size = _image_size(backbone_name, where)
    return {**data, "views": {"size": size, "resize": round(size * short_side), **views}}
