"""Tuned axes: the settings that rows try, rules, and what is unfair or chosen on a column is refused with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from bench.core.errors import UserError
from bench.suite import tuning
from bench.suite.resolve import load_suite
from bench.suite.trial import Suite
from tests.errors import refused

RANGES = "{recipe.lr: {tune: true, range: [1.0e-4, 1.0e-2], scale: log}, recipe.epochs: {tune: true, range: [1, 9]}}"
SUITE = f"""\
title: Tuned
recipe: {{source: glyphs-narrow, backbone: glyph-vit, templates: glyphs, views: {{frames: 4}}}}
protocol: {{templates: glyphs, views: {{frames: 4}}}}
protocols:
  val: {{role: closed-set, dataset: glyphs-narrow, split: validation-even}}
  closed: {{role: closed-set, dataset: glyphs-narrow, split: validation-odd}}
  verbs: {{role: zero-shot, dataset: glyphs-narrow-verbs}}
  objects: {{role: zero-shot, dataset: glyphs-narrow-objects}}
rows:
  dense:
    method: dense_temporal
    axes: {{recipe.lr: {{tune: true, values: [1.0e-3, 1.0e-4]}}, config.layers: [1, 2]}}
  mote:
    method: mote
    axes: {RANGES}
select: {{protocol: val, budget: 2}}
"""


def _suite(folder: Path, *changes: tuple[str, str], overrides: tuple[str, ...] = ()) -> Suite:
    text = SUITE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (file := folder / "tuned.yaml").write_text(text)
    return load_suite(file, overrides)


def test_a_grid_of_values_beside_another_axis(tmp_path: Path) -> None:
    found = [own for own in _suite(tmp_path).trials if own.row == "dense"]
    layers = [(own.config.layers, own.recipe.lr) for own in found]  # type: ignore[attr-defined]
    assert layers == [(1, 1e-3), (1, 1e-4), (2, 1e-3), (2, 1e-4)]
    assert found[0].point == (("layers", 1), ("tuned", "lr 0.001"))


def test_points_of_ranges_are_drawn_together_one_in_each_part(tmp_path: Path) -> None:
    suite = _suite(tmp_path, ("budget: 2", "budget: 8, budgets: {dense: 2}"))
    rates = np.array([own.recipe.lr for own in suite.trials if own.row == "mote"])
    epochs = [own.recipe.epochs for own in suite.trials if own.row == "mote"]
    assert sorted(np.floor(8 * np.log10(rates / 1e-4) / 2)) == [*range(8)]
    assert all(1 <= own <= 9 and own == int(own) for own in epochs) and len({*epochs}) > 5
    again = _suite(tmp_path, ("budget: 2", "budget: 8, budgets: {dense: 2}"))
    assert [own.title for own in again.trials] == [own.title for own in suite.trials]
    other = _suite(tmp_path, ("budget: 2", "seed: 1, budget: 8, budgets: {dense: 2}"))
    assert [own.title for own in other.trials] != [own.title for own in suite.trials]
    drawn = _suite(tmp_path, ("budget: 2", "search: random, budget: 8, budgets: {dense: 2}"))
    assert all(1e-4 <= own.recipe.lr <= 1e-2 for own in drawn.trials)


def test_bundles_and_axes_of_the_suite_are_tuned_as_well(tmp_path: Path) -> None:
    axes = "axes: {speed: {tune: true, values: {fast: {recipe.lr: 0.1, recipe.epochs: 2}, slow: {recipe.lr: 0.01}}}}"
    suite = _suite(
        tmp_path,
        ("recipe.lr: {tune: true, values: [1.0e-3, 1.0e-4]}, ", ""),
        (f"axes: {RANGES}", ""),
        ("select:", f"{axes}\nselect:"),
    )
    found = {(own.row, own.point[-1], own.recipe.lr, own.recipe.epochs) for own in suite.trials}
    assert ("mote", ("tuned", "speed fast"), 0.1, 2) in found and len(found) == 4


def test_an_override_reaches_a_tuned_axis_and_the_choice(tmp_path: Path) -> None:
    suite = _suite(tmp_path, overrides=("rows.dense.axes.recipe.lr.values=[0.5, 0.25]", "select.rule=oracle"))
    assert [own.recipe.lr for own in suite.trials if own.row == "dense"][:2] == [0.5, 0.25]
    assert any("flatter" in note for note in suite.notes)


def test_the_choice_is_part_of_a_suites_identity_and_of_no_trials(tmp_path: Path) -> None:
    one, other = _suite(tmp_path), _suite(tmp_path, overrides=("select.rule=oracle",))
    assert one.identity != other.identity
    assert [own.settings for own in one.trials] == [own.settings for own in other.trials]


@pytest.mark.parametrize(
    ("old", "new", "what", "line"),
    [
        ("budget: 2", "budget: 3", "row 'dense' tries 2 settings and row 'mote' 3", 10),
        ("budget: 2", "budget: 3, budgets: {mote: 3}", "row 'dense' tries 2 settings and row 'mote' 3", 10),
        ("[1.0e-3, 1.0e-4]", "[1.0e-3, 1.0e-4, 1.0e-5]", "tries 3 settings, and its budget is 2", 12),
        ("[1.0e-3, 1.0e-4]", "[1.0e-3]", "row 'dense' tries 1 setting and row 'mote' 2, and they are compared", 10),
        ("protocol: val", "protocol: vall", "unknown protocol 'vall'", 16),
        ("protocol: val,", "", "the rule 'source-validation' needs a protocol", 16),
        ("protocol: val", "protocol: val, rule: orakel", "unknown rule 'orakel'", 16),
        ("protocol: val", "protocol: val, rule: 'nowhere:Rule'", "No module named 'nowhere'", 16),
        ("protocol: val", "protocol: val, rule: 'pathlib:Path'", "the rule has no 'flatters'", 16),
        ("validation-even", "validation-odd", "measures videos of the column 'closed'", 5),
        ("validation-even", "validation", "measures videos of the column 'closed'", 5),
        ("validation-even", "train", "measures videos of the training", 5),
        ("[1.0e-4, 1.0e-2]", "[1.0e-2, 1.0e-4]", "expected a lower and a higher number above 0", 15),
        ("[1.0e-4, 1.0e-2], scale: log", "[1.0e-4, 1.0e-2], scale: logg", "unknown value 'logg'", 15),
        ("tune: true, values: [1.0e-3, 1.0e-4]", "tune: true", "either `values` or a `range`", 12),
        ("tune: true, values", "tune: yess, values", "unknown value 'yess'", 12),
        ("tune: true, range: [1, 9]", "tune: true, range: [1, 9], value: 3", "unknown key 'value'", 15),
        ("config.layers: [1, 2]", "tuned: {a: {recipe.lr: 1}}", "an axis cannot be called 'tuned'", 12),
        ("config.layers: [1, 2]", "protocol.views.frames: {tune: true, values: [4, 2]}", "is a way to measure", 12),
        ("values: [1.0e-3, 1.0e-4]", "values: {a: {protocols.verbs.templates: name}, b: {recipe.lr: 1}}",
         "'protocols.verbs.templates' is a way to measure", 12),
        ("[1.0e-4, 1.0e-2]", "[1.0e-4, .inf]", "a finite number", 15),
        ("[1.0e-3, 1.0e-4]", "[1.0e-3, quick]", "rows.dense.axes.recipe.lr: expected a number", 12),
        ("budget: 2", "budget: 2, budgets: {dense: 3}", "tries 2 settings, and its budget is 3", 12),
        ("select: {protocol: val, budget: 2}", "", "nothing says what chooses", None),
        ("budget: 2", "budget: 0", "greater than or equal to 1", 16),
        ("method: mote", "method: mote\n    protocols: [closed]", "does not measure this row", 15),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_at_its_line(tmp_path: Path, old: str, new: str, what: str, line: int | None) -> None:
    with pytest.raises(UserError) as caught:
        _suite(tmp_path, (old, new))
    assert what in str(caught.value), caught.value
    assert line is None or f"tuned.yaml:{line}:" in caught.value.where


def test_a_choice_without_a_tuned_axis_is_refused(tmp_path: Path) -> None:
    plain = "config.layers: [1, 2]}"
    with refused("no axis is tuned", where="tuned.yaml:16"):
        _suite(
            tmp_path,
            ("recipe.lr: {tune: true, values: [1.0e-3, 1.0e-4]}, config.layers: [1, 2]}", plain),
            (RANGES, "{}"),
        )


def test_rules_look_at_other_columns_only_unless_they_flatter() -> None:
    roles = {"closed": "closed-set", "ucf": "zero-shot", "hmdb": "zero-shot", "k600": "zero-shot"}
    judges = {name: tuning.rule(name).judges("ucf", "val", roles) for name in tuning.RULES}
    assert judges == {"source-validation": ("val",), "leave-one-target-out": ("hmdb", "k600"), "oracle": ("ucf",)}
    assert tuning.rule("leave-one-target-out").judges("closed", "", roles) == ("ucf", "hmdb", "k600")
    assert [name for name in tuning.RULES if tuning.rule(name).flatters] == ["oracle"]


def test_a_range_with_points_is_no_range_of_whole_numbers(tmp_path: Path) -> None:
    suite = _suite(
        tmp_path, ("recipe.epochs: {tune: true, range: [1, 9]}", "recipe.weight_decay: {tune: true, range: [0.0, 1.0]}")
    )
    assert all(0 < own.recipe.weight_decay < 1 for own in suite.trials if own.row == "mote")


def test_fields_with_one_short_name_are_told_apart() -> None:
    both = "config.frames: {tune: true, values: [4]}, recipe.views.frames: {tune: true, values: [4]}"
    data = {"rows": {"a": {"axes": yaml.safe_load(f"{{{both}}}")}}, "select": {"protocol": "val", "budget": 2}}
    (name,) = tuning.bundled(data, str)["rows"]["a"]["axes"]["tuned"]
    assert name == "config.frames 4, recipe.views.frames 4"


def test_what_a_rule_says_is_checked_before_anything_runs(tmp_path: Path) -> None:
    for name, what in (("Nothing", "judges column 'closed' by ()"), ("Breaks", "KeyError"), ("Elsewhere", "('nope',)")):
        with pytest.raises(UserError) as caught:
            _suite(tmp_path, overrides=(f"select.rule={__name__}:{name}",))
        assert what in str(caught.value)


def test_a_target_is_not_judged_by_its_own_videos(tmp_path: Path) -> None:
    again = "  again: {role: zero-shot, dataset: glyphs-narrow-verbs, views: {clips: 2}}\nrows:"
    with refused("'verbs'", "'again'", where="tuned.yaml"):
        _suite(tmp_path, ("rows:", again), ("protocol: val", "protocol: val, rule: leave-one-target-out"))


@pytest.mark.parametrize("rule", ["source-validation", "leave-one-target-out"])
def test_weights_that_are_best_on_a_column_are_refused(tmp_path: Path, rule: str) -> None:
    kept = ("recipe.validation=validation-odd", "recipe.keep=best", f"select.rule={rule}")
    with refused("row 'dense'", "'closed'", hint="recipe.validation"):
        _suite(tmp_path, overrides=kept)


def test_a_list_is_known_under_another_name(tmp_path: Path) -> None:
    """A dataset, and a split, that are the column's by what they list."""
    for name, first in (("train", 0), ("test", 10), ("own", 20)):
        lines = "".join(f"{first + video}.mp4,{video % 2}\n" for video in range(8))
        (tmp_path / f"{name}.csv").write_text("path,label\n" + lines)
    (tmp_path / "classes.csv").write_text("id,name\n0,cat\n1,dog\n")
    splits = "{train: train.csv, test: test.csv, alias: test.csv, own: own.csv}"
    data = "".join(f"  {name}: {{root: here, classes: classes.csv, splits: {splits}}}\n" for name in ("mine", "twins"))
    listed = SUITE.replace("glyphs-narrow, split: validation-odd", "mine, split: test")
    listed = listed.replace("source: glyphs-narrow,", "source: mine,").replace("rows:", f"datasets:\n{data}rows:")
    for choice, said in (("twins, split: test", "the column 'closed'"), ("twins, split: train", "the training of row")):
        (tmp_path / "tuned.yaml").write_text(listed.replace("glyphs-narrow, split: validation-even", choice))
        with refused(said, where="tuned.yaml:5"):
            load_suite(tmp_path / "tuned.yaml")
    (tmp_path / "tuned.yaml").write_text(listed.replace("glyphs-narrow, split: validation-even", "mine, split: own"))
    assert not [note for note in load_suite(tmp_path / "tuned.yaml").notes if "another dataset" in note]
    with refused("row 'dense'", "'closed'", hint="recipe.validation"):
        load_suite(tmp_path / "tuned.yaml", ("recipe.validation=alias", "recipe.keep=best"))


def test_a_choice_on_another_dataset_than_the_source_is_told(tmp_path: Path) -> None:
    own = _suite(tmp_path, ("glyphs-narrow, split: validation-even", "glyphs-broad, split: validation"))
    assert any("'val' measures 'glyphs-broad', and the rows learn another dataset" in note for note in own.notes)


def test_pairs_without_a_point_in_common_are_told(tmp_path: Path) -> None:
    layers = ("axes: {recipe.lr: {tune: true, range:", "axes: {config.layers: [3], recipe.lr: {tune: true, range:")
    own = _suite(tmp_path, layers, ("select:", "report: {compare: [[dense, mote]]}\nselect:"))
    assert any("rows 'dense' and 'mote' have no point of their axes in common" in note for note in own.notes)


def test_no_figure_joins_what_is_no_axis_of_the_page(tmp_path: Path) -> None:
    with refused("unknown axis 'tuned'", allowed=["layers"]):
        _suite(tmp_path, overrides=("report.join=tuned",))


def test_a_rule_of_somebody_elses() -> None:
    own = tuning.rule(f"{__name__}:ByTheFirst")
    assert own.judges("ucf", "val", {"closed": "closed-set", "ucf": "zero-shot"}) == ("closed",)


class Nothing:
    """No judge at all."""

    flatters, validates = False, False

    def judges(self, column: str, validation: str, roles: dict[str, str]) -> tuple[str, ...]:
        return ()


class Breaks(Nothing):
    """A mistake."""

    def judges(self, column: str, validation: str, roles: dict[str, str]) -> tuple[str, ...]:
        return (roles["boom"],)


class Elsewhere(Nothing):
    """A protocol that is not there."""

    def judges(self, column: str, validation: str, roles: dict[str, str]) -> tuple[str, ...]:
        return ("nope",)


class ByTheFirst:
    """The best on the first column."""

    flatters, validates = False, False

    def judges(self, column: str, validation: str, roles: dict[str, str]) -> tuple[str, ...]:
        return (next(iter(roles)),)


def test_budgets_of_rows_that_are_left_out_go_with_them(tmp_path: Path) -> None:
    suite = _suite(tmp_path, ("budget: 2", "budget: 3, budgets: {dense: 2}"), overrides=("rows.dense=null",))
    assert {own.row for own in suite.trials} == {"mote"} and len(suite.trials) == 3
