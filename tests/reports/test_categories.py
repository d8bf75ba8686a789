"""Classes by name over splits that number them otherwise, and the few of them that a figure has room for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from reports.categories import SHOWN, category_figures, category_table
from reports.results import Results
from tests.reports import synthetic

CHOICES = ("merged", "expert 0", "expert 1")
CLASSES, EACH = 20, 10


def _predictions(identity: str) -> pd.DataFrame:
    """Every class has ten videos; choice e is right on 10 - e * class / 4 of them, and all seeds lose one more."""
    _, _, expert, seed, _, _, _ = identity.split(":")
    label = np.repeat(np.arange(CLASSES), EACH)
    right = EACH - CHOICES.index(expert) * label // 4 - int(seed)
    correct = np.tile(np.arange(EACH), CLASSES) < right
    videos = [f"v{n}" for n in range(len(label))]
    return pd.DataFrame({"video": videos, "label": label, "prediction": label, "correct": correct})


def _names(identity: str) -> list[str]:
    """The second split of UCF has the classes of the first in another order."""
    names = [f"class {n}" for n in range(CLASSES)]
    return names[::-1] if ":test2:" in identity else names


def _results(*lines: dict) -> Results:
    base = synthetic.suite(pd.DataFrame([*synthetic.cells("mote", {}, (0, 0)), *lines]))
    return replace(base, predictions=_predictions)


def _lines(protocol: str, part: str = "") -> list[dict]:
    return [synthetic.line("mote", {}, seed, protocol, 50.0, expert, part) for expert in CHOICES for seed in (0, 1)]


def test_accuracy_of_a_class_is_the_mean_over_parts_and_seeds() -> None:
    results = _results(*_lines("UCF", "test1"), *_lines("UCF", "test2"), *_lines("K400"))
    table = category_table(results, _names)
    assert set(table["protocol"]) == {"UCF"} and len(table) == CLASSES * len(CHOICES)  # K400 is seen in training
    line = table[(table["class"] == "class 4") & (table["expert"] == "expert 0")].iloc[0]
    own = [100 - 10 * (4 // 4), 100 - 10 * (15 // 4)]  # as class 4 of test1 and class 15 of test2
    assert line["mean"] == pytest.approx(np.mean(own) - 5) and line["std"] == pytest.approx(np.std([0, 10], ddof=1))
    assert (line["videos"], line["seeds"]) == (2 * EACH, 2)


def test_spread_is_the_largest_difference_between_choices() -> None:
    table = category_table(_results(*_lines("UCF")), _names)
    spread = table.drop_duplicates("class").set_index("class")["spread"]
    assert spread["class 0"] == 0 and spread["class 19"] == pytest.approx(10 * (2 * 19 // 4))


def test_the_figure_has_the_classes_of_the_largest_spread_and_says_of_how_many() -> None:
    figures = category_figures(_results(*_lines("UCF")), _names)
    assert list(figures) == [("mote", "", "UCF")]
    axes = figures["mote", "", "UCF"].axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) == SHOWN and labels[0] == "class 18 (10)" and "class 0 (10)" not in labels
    note = figures["mote", "", "UCF"].get_supxlabel()
    assert f"The {SHOWN} of {CLASSES} classes" in note and "over 2 seeds" in note


def test_a_seed_without_all_its_parts_is_left_out() -> None:
    lines = [*_lines("UCF", "test1"), *_lines("UCF", "test2")]
    lost = [line | {"identity": ""} if line["seed"] == 1 and line["part"] == "test2" else line for line in lines]
    assert set(category_table(_results(*lost), _names)["seeds"]) == {1}


def test_only_seen_classes_are_better_than_nothing() -> None:
    results = replace(_results(), table=pd.DataFrame(_lines("K400")))
    assert set(category_table(results, _names)["protocol"]) == {"K400"}


def test_without_experts_there_is_nothing() -> None:
    assert category_table(_results(), _names).empty and category_figures(_results(), _names) == {}
