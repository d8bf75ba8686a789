"""Classes: gains and losses of compared rows, and choices of experts; by name over splits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.classes import (
    FEWEST,
    PICTURES,
    SHOWN,
    SIDE,
    category_figures,
    category_table,
    class_differences,
    class_figures,
    class_tables,
)
from reports.results import Results
from tests.reports import synthetic

CLASSES, EACH = 20, 12


def _predictions(identity: str) -> pd.DataFrame:
    """MoTE is right on 6 of 12 videos of each class, Text4Vis on 0 to 12, by class; the last class has 3 videos."""
    label_N = np.repeat(np.arange(CLASSES), EACH)[: -EACH + 3]
    right = 6 if identity.startswith("mote") else label_N * EACH // (CLASSES - 1)
    correct = np.tile(np.arange(EACH), CLASSES)[: len(label_N)] < right
    videos = [f"v{n}" for n in range(len(label_N))]
    return pd.DataFrame({"video": videos, "label": label_N, "prediction": label_N, "correct": correct})


def _names(identity: str) -> list[str]:
    """The second split of UCF numbers the classes otherwise."""
    names = [f"name {n}" for n in range(CLASSES)]
    return names[::-1] if ":test2:" in identity else names


def _results(base: Results) -> Results:
    return replace(base, predictions=_predictions, class_names=_names)


def test_differences_are_known_and_sorted() -> None:
    first = class_differences(_results(synthetic.plain()))[0]
    assert (first.a, first.b, first.protocol, first.seeds) == ("MoTE", "Text4Vis", "K400", (3, 3))
    own = first.classes.set_index("class")
    assert own["difference"].is_monotonic_decreasing and len(own) == CLASSES
    for label in (0, 7, 18):
        assert own.loc[f"name {label}", "difference"] == pytest.approx(100 * (6 - label * 12 // 19) / 12)
    assert own.loc["name 19", "videos"] == 3 < FEWEST and np.isnan(own["low"]["name 19"])


def test_the_interval_is_a_bootstrap_over_the_videos_of_the_class() -> None:
    own = class_differences(_results(synthetic.plain()))[0].classes.set_index("class").loc["name 5"]
    values = 100 * ((np.arange(EACH) < 6).astype(float) - (np.arange(EACH) < 3))
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    assert (own["low"], own["high"]) == pytest.approx((theirs.low, theirs.high), abs=9)  # a video is 8.3 points


def _in_groups(size: int) -> Results:
    """Each `size` videos are of one film."""
    films = {f"v{number}": f"film {number // size}" for number in range(CLASSES * EACH)}
    base = _results(synthetic.plain())
    return replace(base, groups=dict.fromkeys(base.table["dataset"], films))


def test_groups_of_a_class_are_resampled_with_the_tails_of_their_number() -> None:
    """MoTE is right on the first six videos of a class and Text4Vis on the first three: groups of two are 0, 1 or 2."""
    own = class_differences(_in_groups(2))[0].classes.set_index("class").loc["name 5"]
    sum_U = np.array([0, 0.5, 1, 0, 0, 0]) * 100  # the second group has one video of each kind
    error = sum_U.std(ddof=1) / np.sqrt(6)
    assert (own["videos"], own["groups"]) == (12, 6)
    assert own["high"] - own["low"] == pytest.approx(2 * stats.t.ppf(0.975, 5) * error, rel=0.2)
    alone = class_differences(_results(synthetic.plain()))[0].classes.set_index("class").loc["name 5"]
    assert own["high"] - own["low"] > 1.3 * (alone["high"] - alone["low"]) and alone["groups"] == 12


def test_the_table_says_how_many_groups_the_videos_are() -> None:
    (table,), (alone,) = class_tables(_in_groups(2)), class_tables(_results(synthetic.plain()))
    assert synthetic.texts(table)[0][4] == "12 (6)" and "over the class's groups of videos" in table.caption
    assert synthetic.texts(alone)[0][4] == "12" and "groups" not in alone.caption
    assert "groups of videos" in next(class_figures(_in_groups(2))).figure.get_supxlabel()


def test_a_class_of_few_groups_has_no_interval() -> None:
    own = class_differences(_in_groups(4))[0].classes
    assert set(own["groups"]) == {3, 1} and own["low"].isna().all() and own["high"].isna().all()


def test_classes_of_splits_are_known_by_name() -> None:
    ucf = next(own for own in class_differences(_results(synthetic.parts())) if own.protocol == "UCF")
    assert set(ucf.classes["class"]) == {f"name {n}" for n in range(CLASSES)}
    assert ucf.classes["videos"].sum() == 2 * len(_predictions("mote"))  # v0 is of another class in the second split


def test_figures_are_few_and_show_the_largest_gains_and_losses() -> None:
    figures = list(class_figures(_results(synthetic.layered())))
    assert len(figures) == PICTURES and {picture.section for picture in figures} == {"classes"}
    labels = [label.get_text() for label in figures[0].figure.axes[0].get_yticklabels()]
    assert len(labels) == 2 * SIDE and labels[0] == "name 0 (12)" and labels[-1] == "name 18 (12)"
    assert "12 of 20 classes" in figures[0].figure.get_supxlabel()


def test_the_table_shows_the_same_and_its_file_has_every_class() -> None:
    results = _results(synthetic.plain())
    (table,) = class_tables(results)
    assert len(table.rows) == PICTURES * 2 * SIDE and table.values is not None and len(table.values) == 8 * CLASSES
    assert synthetic.texts(table)[0][3:6] == ("name 0", "12", "+50.0")


def test_a_deviating_or_missing_side_and_a_single_class_have_nothing() -> None:
    changes = class_differences(_results(synthetic.deviating()))
    assert "UCF" not in {own.protocol for own in changes} and len(changes) == 6
    assert list(class_tables(synthetic.plain())) == [] == list(class_figures(synthetic.plain()))


# --- choices of experts ----------------------------------------------------------------------------------------------

CHOICES = ("merged", "expert 0", "expert 1")
TEN = 10  # videos of a class


def _choices(identity: str) -> pd.DataFrame:
    """Every class has ten videos; choice e is right on 10 - e * class / 4 of them, and all seeds lose one more."""
    _, _, expert, seed, _, _, _ = identity.split(":")
    label = np.repeat(np.arange(CLASSES), TEN)
    right = TEN - CHOICES.index(expert) * label // 4 - int(seed)
    correct = np.tile(np.arange(TEN), CLASSES) < right
    videos = [f"v{n}" for n in range(len(label))]
    return pd.DataFrame({"video": videos, "label": label, "prediction": label, "correct": correct})


def _reversed_names(identity: str) -> list[str]:
    """The second split of UCF has the classes of the first in another order."""
    names = [f"class {n}" for n in range(CLASSES)]
    return names[::-1] if ":test2:" in identity else names


def _of_choices(*lines: dict) -> Results:
    base = synthetic.suite(pd.DataFrame([*synthetic.cells("mote", {}, (0, 0)), *lines]))
    return replace(base, predictions=_choices, class_names=_reversed_names)


def _choice_lines(protocol: str, part: str = "") -> list[dict]:
    return [synthetic.line("mote", {}, seed, protocol, 50.0, expert, part) for expert in CHOICES for seed in (0, 1)]


def test_accuracy_of_a_class_is_the_mean_over_parts_and_seeds() -> None:
    results = _of_choices(*_choice_lines("UCF", "test1"), *_choice_lines("UCF", "test2"), *_choice_lines("K400"))
    table = category_table(results)
    assert set(table["protocol"]) == {"UCF"} and len(table) == CLASSES * len(CHOICES)  # K400 is seen in training
    line = table[(table["class"] == "class 4") & (table["expert"] == "expert 0")].iloc[0]
    own = [100 - 10 * (4 // 4), 100 - 10 * (15 // 4)]  # as class 4 of test1 and class 15 of test2
    assert line["mean"] == pytest.approx(np.mean(own) - 5) and line["std"] == pytest.approx(np.std([0, 10], ddof=1))
    assert (line["videos"], line["seeds"]) == (2 * TEN, 2)


def test_spread_is_the_largest_difference_between_choices() -> None:
    table = category_table(_of_choices(*_choice_lines("UCF")))
    spread = table.drop_duplicates("class").set_index("class")["spread"]
    assert spread["class 0"] == 0 and spread["class 19"] == pytest.approx(10 * (2 * 19 // 4))


def test_the_figure_has_the_classes_of_the_largest_spread_and_says_of_how_many() -> None:
    (picture,) = category_figures(_of_choices(*_choice_lines("UCF")))
    assert picture.name == "expert-classes-mote-UCF"
    axes = picture.figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) == SHOWN and labels[0] == "class 18 (10)" and "class 0 (10)" not in labels
    note = picture.figure.get_supxlabel()
    assert f"The {SHOWN} of {CLASSES} classes" in note and "over 2 seeds" in note


def test_a_seed_without_all_its_parts_is_left_out() -> None:
    lines = [*_choice_lines("UCF", "test1"), *_choice_lines("UCF", "test2")]
    lost = [line | {"identity": ""} if line["seed"] == 1 and line["part"] == "test2" else line for line in lines]
    assert set(category_table(_of_choices(*lost))["seeds"]) == {1}


def test_only_seen_classes_are_better_than_nothing() -> None:
    results = replace(_of_choices(), table=pd.DataFrame(_choice_lines("K400")))
    assert set(category_table(results)["protocol"]) == {"K400"}


def test_without_experts_there_is_nothing() -> None:
    assert category_table(_of_choices()).empty and list(category_figures(_of_choices())) == []
