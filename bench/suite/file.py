"""The keys of a suite file, as they are written; `bench.suite.resolve` reads and expands them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from bench.graph.profiles import Measurement
from bench.suite.published import Published
from bench.suite.resources import JobResources, StageResources

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_+-]*$")]
Fidelity = Literal["official", "clean", "log", "paper"]
Settings = dict[str, Any]
Axis = Annotated[list[Any], MinLen(1)] | Annotated[dict[str, Settings], MinLen(1)]


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Row(_Declared):
    """One line of the tables: a method with its settings, multiplied by its axes."""

    label: str | None = None
    method: str
    fidelity: Fidelity | None = None
    start: Name | None = Field(
        default=None,
        description="row further up, of the same method, config and backbone: its training, with the same seed and the "
        "same values on the axes of both, is what this one's begins with, but for what is bound to its classes",
    )
    config: Settings = {}
    inference: Settings = {}
    recipe: Settings = {}
    protocol: Settings = {}
    protocols: list[Name] = Field(default=[], description="those that it is measured under; none: all of the suite's")
    axes: dict[str, Axis] = {}
    resources: StageResources = Field(default={}, description="what its Slurm jobs ask for, on top of the suite's")


class Profile(Measurement):
    """Profiles of rows: what their methods cost."""

    frames: Annotated[int, Ge(1)] | None = Field(
        default=None, description="of a view; none: as under the first closed-set protocol"
    )
    views: Annotated[int, Ge(1)] | None = Field(default=None, description="of a video; none: likewise")
    rows: list[Name] = Field(default=[], description="rows that are profiled; none: all")

    @property
    def measurement(self) -> Measurement:
        return Measurement.model_validate(self.model_dump(include=set(Measurement.model_fields)))


class Report(_Declared):
    """What the report shows besides the tables."""

    join: str | None = Field(default=None, description="axis along which points of the trade-off plot are joined")
    reference: Name | None = Field(default=None, description="row drawn as the reference point")
    experts: list[Name] = Field(default=[], description="rows whose experts are evaluated and compared one by one")
    feature: Literal["t", "z", "last_ffn_branch"] = Field(
        default="t", description="what the similarity heatmap compares: temporal feature, embedding, last expert branch"
    )
    maps: Annotated[int, Ge(0)] = Field(default=0, description="videos on which it is shown what experts look at")
    experts_protocol: Name | None = Field(default=None, description="protocol whose videos the similarity heatmap uses")
    published: list[Published] = Field(default=[], description="published numbers that belong to the rows")
    compare: list[tuple[Name, Name]] = Field(
        default=[], description="pairs of rows for paired tests and gains by class"
    )
    profile: Profile | None = Field(default=None, description="what rows cost: {} with all defaults; none: not shown")

    def profiles(self, row: str) -> bool:
        """Whether a row is profiled."""
        return self.profile is not None and (not self.profile.rows or row in self.profile.rows)


class SuiteFile(_Declared):
    """The keys of a suite file."""

    title: str
    description: str = ""
    fidelity: Fidelity | None = Field(default=None, description="preset below the rows' settings: official or clean")
    world: str | None = Field(default=None, description="another world in the place of data, backbone and schedule")
    seeds: Annotated[list[Annotated[int, Ge(0)]], MinLen(1)] = [0]
    datasets: dict[Name, Settings] = {}
    recipe: Settings = {}
    protocol: Settings = Field(default={}, description="defaults of every protocol")
    protocols: Annotated[dict[Name, Settings], MinLen(1)]
    rows: Annotated[dict[Name, Row], MinLen(1)]
    axes: dict[str, Axis] = Field(default={}, description="axes of every row")
    report: Report = Report()
    resources: JobResources = Field(default={}, description="what Slurm jobs ask for, on top of the site's")
