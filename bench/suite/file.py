"""Keys of a suite file as users write them; `bench.suite.resolve` reads and expands them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictInt, StringConstraints

from bench.core.identity import Count, Distinct, Few, Identified, Seed, setting
from bench.suite.resources import JobResources, Megabytes, StageResources

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_+-]*$", max_length=100)]
Settings = dict[str, Any]
Axis = Annotated[list[Any], MinLen(1), Distinct] | Annotated[dict[str, Settings], MinLen(1)]


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Row(_Declared):
    """One line of the tables: a method with its settings, multiplied by its axes."""

    label: str | None = setting(None, "name in tables and figures; none: the row's key")
    method: str = Field(description="method by name: `run_suite.py list methods`")
    fidelity: Name | None = setting(None, "preset below this row's settings; none: the suite's")
    init_from: Name | None = setting(
        None,
        "row further up, of the same method, config and backbone. This row's training begins with the weights of "
        "that row's training of the same seed and the same values on common axes; class-bound weights begin anew",
    )
    config: Settings = setting({}, "method settings that change training: the method's Config")
    inference: Settings = setting({}, "method settings of the test alone: the method's Inference")
    recipe: Settings = setting({}, "recipe keys of this row, on top of the suite's")
    at_toy_scale: Settings = setting({}, "recipe keys of this row in another world, on top of the world's own")
    protocol: Settings = setting({}, "protocol keys of this row, on top of every protocol's")
    protocols: Annotated[list[Name], Distinct] | dict[Name, str] = setting(
        [], "protocols that measure this row, none: all of the suite's; or a named protocol in the place of each"
    )
    axes: dict[str, Axis] = setting(
        {},
        "axes of this row: a field (`config.layers`, `recipe.lr`, `inference.tfm`, `protocol.templates`, "
        "`protocols.<name>.views.frames`) and its values, or a name and named bundles of fields",
    )
    resources: StageResources = setting({}, "what this row's jobs ask of Slurm, on top of the suite's")


class Measurement(Identified):
    """Settings of a profile's measurements."""

    batches: Annotated[tuple[Count, ...], Distinct] = setting((1,), "videos at once; none: nothing is timed")
    precisions: Annotated[tuple[Literal["fp32", "bf16", "fp16"], ...], MinLen(1), Distinct] = setting(
        ("fp32",), "of matrix products, each measured"
    )
    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = setting(
        "auto", "cpu, cuda, cuda:1 ...; auto: that of the launch"
    )
    threads: Annotated[int, Ge(0), Le(1000)] = setting(0, "CPU threads; 0: those of the launch")
    seconds: Annotated[float, Gt(0), Le(3600)] = setting(0.5, "of each measurement, about")


class Profile(Measurement):
    """Profiles of rows: the costs of their methods."""

    frames: Count | None = setting(None, "frames of a view; none: as under the first closed-set protocol")
    views: Few | None = setting(None, "views of a video; none: as under the first closed-set protocol")
    rows: Annotated[list[Name], Distinct] = setting([], "rows that are profiled; none: all")

    @property
    def measurement(self) -> Measurement:
        return Measurement.model_validate(self.model_dump(include=set(Measurement.model_fields)))


class Published(_Declared):
    """A selector: published numbers that belong to a row of a suite, or to a method that nobody can run again.

    Of the lines of results.csv that agree with `where`, a cell gets those of its dataset, role and, if any, protocol.
    """

    row: str = setting("", "row that the numbers belong to")
    label: str = setting("", "name of numbers without a row, which tables append with a mark and nothing else counts")
    where: Annotated[dict[str, str | int], MinLen(1)] = Field(description="column of results.csv -> value, as printed")
    point: dict[str, Any] = setting({}, "axis -> value of the points that they belong to")


class Report(_Declared):
    """Contents of the report besides the tables."""

    join: str | None = setting(None, "axis along which points of the trade-off plot are joined")
    reference: Name | None = setting(None, "row drawn as the reference point")
    experts: Annotated[list[Name], Distinct] = setting([], "rows whose experts are evaluated and compared one by one")
    feature: Literal["t", "z", "last_ffn_branch"] = setting(
        "t",
        "feature that the similarity heatmap compares: `t` temporal feature, `z` video embedding, "
        "`last_ffn_branch` what the last expert layer adds (MoTE, Fig. 7)",
    )
    maps: Annotated[int, Ge(0), Le(1000)] = setting(
        0, "number of videos for which the page shows what each expert looks at (MoTE, Fig. 6)"
    )
    experts_protocol: Name | None = setting(None, "protocol whose videos the similarity heatmap uses")
    published: list[Published] = setting([], "published numbers that belong to the rows")
    tolerance: Annotated[float, Ge(0)] = setting(
        0.5, "points by which a measured number may differ from a published one and still reproduce it; or both spreads"
    )
    compare: Annotated[list[Annotated[tuple[Name, Name], Distinct]], Distinct] = setting(
        [], "pairs of rows that are tested against each other, also class by class"
    )
    profile: Profile | None = setting(None, "costs of the rows; `{}` measures with all defaults, none does not measure")

    def profiles(self, row: str) -> bool:
        """Tells whether a row is profiled."""
        return self.profile is not None and (not self.profile.rows or row in self.profile.rows)


class Budget(_Declared):
    """The most that a run may take for the stages that have no record; a run whose price is higher is refused."""

    device_hours: Annotated[float, Gt(0)] | None = setting(None, "hours x devices, as `plan` prices them")
    disk: Megabytes | None = setting(None, "disk that records, checkpoints and kept frames take: 500M, 200G, 1.5T")


class TunedAxis(_Declared):
    """An axis on which each row's best point is chosen (`select`); either values or a range."""

    tune: Literal[True] = Field(description="marks the axis")
    values: Annotated[list[Any], MinLen(1), Distinct] | Annotated[dict[str, Settings], MinLen(1)] | None = setting(
        None, "values of the field, or named bundles of fields, as of any axis"
    )
    range: Annotated[list[StrictInt | FiniteFloat], MinLen(2), MaxLen(2)] | None = setting(
        None, "lowest and highest value, from which `select.budget` points are drawn; `[1, 9]` draws whole numbers"
    )
    scale: Literal["linear", "log"] = setting("linear", "scale on which points of a range lie evenly")


class Select(_Declared):
    """The choice among the points of tuned axes: what it looks at, and how many points a row may try."""

    protocol: Name | None = setting(None, "protocol that chooses; it is no column of the tables (docs/tuning.md)")
    rule: str = setting(
        "source-validation",
        "`source-validation`: the best under `protocol`; `leave-one-target-out`: for a target, the best on the other "
        "targets; `oracle`: the best on the column itself, which flatters; or a class of yours, `module:Class`",
    )
    budget: Few = Field(description="the most points that a row may try")
    budgets: dict[Name, Few] = setting({}, "rows that are meant to try another number of points: row -> points")
    search: Literal["latin-hypercube", "random"] = setting("latin-hypercube", "how points are drawn from ranges")
    seed: Seed = setting(0, "of the points that are drawn")


class SuiteFile(_Declared):
    """The keys of a suite file."""

    base: str | None = setting(
        None, "suite whose keys this file changes: a path from here, or the name of a shipped one (see above)"
    )
    title: str = Field(description="headline of the report")
    description: str = setting("", "text below the headline")
    fidelity: Name | None = setting(
        None,
        "preset below the settings of all rows: `official`, as the authors' program, or `clean`, for a fair "
        "comparison; `official-192` is MoTE's program with ViT-B/16, of 192 videos a step where `official` has the "
        "paper's 144; `official-ssv2` is that of Something-Something; the error for another name lists a method's own",
    )
    world: str | None = setting(None, "world that replaces data, backbone and schedule: `glyphs` (docs/glyph_world.md)")
    at_toy_scale: dict[Literal["recipe", "config", "protocol", "at_most", "points"], Settings] = setting(
        {}, "on top of the world's own; `points`: axis -> those of its points that stay there, null: all"
    )
    seeds: Annotated[list[Seed], MinLen(1), MaxLen(10_000), Distinct] = setting(
        [0], "seeds of the trainings; each row is trained once for each"
    )
    datasets: dict[Name, Settings] = setting({}, "own datasets, and places of the public ones")
    recipe: Settings = setting({}, "recipe of every row")
    protocol: Settings = setting({}, "defaults of every protocol")
    protocols: Annotated[dict[Name, Settings], MinLen(1)] = Field(
        description="columns of the tables: a named protocol (`use: mote/k400-4x3`), keys of a protocol, or both"
    )
    rows: Annotated[dict[Name, Row], MinLen(1)] = Field(description="lines of the tables")
    axes: dict[str, Axis] = setting({}, "axes of every row")
    select: Select | None = setting(None, "choice among the points of tuned axes (docs/tuning.md)")
    report: Report = setting(Report(), "contents of the report besides the tables")
    resources: JobResources = setting({}, "what Slurm jobs ask for, on top of the site's")
    budget: Budget = setting(Budget(), "limits of the price of a run (docs/pricing.md)")
