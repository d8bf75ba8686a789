"""Alarms: numbers that are probably not what they seem, and what may well be alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.published.numbers import lookup
from bench.published.pairing import Pair
from reports.alarms import alarms
from reports.results import Results
from tests.reports import synthetic

CLASSES = tuple(f"class {n}" for n in range(10))


def suite(
    rows: dict[str, np.ndarray],
    labels: np.ndarray,
    models: dict[str, str] | None = None,
    classes: int = 10,
    **more: Any,
) -> Results:
    """A closed-set column of rows with these predictions; every row has its own weights, unless `models` says which."""
    answers = {
        row: pd.DataFrame({"video": range(len(labels)), "label": labels, "prediction": own})
        for row, own in rows.items()
    }
    lines = []
    for row, own in answers.items():
        own["correct"] = own["prediction"] == own["label"]
        line = synthetic.line(row, {}, 0, "K400", 0.0)
        numbers = {
            "top1": 100 * own["correct"].mean(),
            "mean_class": 100 * own["correct"].mean(),
            "videos": len(labels),
        }
        lines.append({**line, **numbers, "identity": row, "_weights": (models or {}).get(row, row)})
    results = synthetic.suite(pd.DataFrame(lines), reference=None)
    return replace(results, predictions=answers.__getitem__, class_names=lambda identity: CLASSES[:classes], **more)


def kinds(results: Results) -> list[str]:
    return [alarm.partition(":")[0] for alarm in alarms(results)]


def answers(labels: np.ndarray, wrong: int, seed: int) -> np.ndarray:
    """Predictions of which so many are wrong."""
    generator, found = np.random.default_rng(seed), labels.copy()
    places = generator.choice(len(labels), wrong, replace=False)
    found[places] = (found[places] + generator.integers(1, 10, wrong)) % 10
    return found


LABELS = np.arange(200) % 10
GOOD, OTHER = answers(LABELS, 60, 0), answers(LABELS, 70, 1)


def test_rows_of_other_weights_with_the_same_answers_are_named_with_the_column() -> None:
    (alarm,) = alarms(suite({"mote": GOOD, "dense": GOOD, "mean": OTHER}, LABELS))
    assert all(part in alarm for part in ("identical predictions", "MoTE", "Text4Vis", "K400", "70.0 % of 200 videos"))
    assert "Mean pooling" not in alarm


def test_rows_that_share_their_weights_or_their_record_may_agree() -> None:
    assert not kinds(suite({"mote": GOOD, "dense": GOOD, "mean": OTHER}, LABELS, {"mote": "m", "dense": "m"}))
    base = suite({"mote": GOOD, "mean": OTHER}, LABELS)
    again = base.table[base.table["row"] == "mote"].assign(row="clip", label="CLIP (frozen)")
    assert not kinds(replace(base, table=pd.concat([base.table, again])))


def test_equal_accuracies_of_other_answers_are_no_wonder() -> None:
    assert not kinds(suite({"mote": GOOD, "dense": answers(LABELS, 60, 5), "mean": OTHER}, LABELS))


@pytest.mark.parametrize(("cosines", "found"), [(lambda identity: b"same", True), (str.encode, False)])
def test_perfect_rows_are_alike_if_their_cosines_are(cosines: Callable[[str], bytes], found: bool) -> None:
    results = suite({"mote": LABELS, "dense": LABELS, "mean": OTHER}, LABELS, cosines=cosines)
    assert kinds(results) == ["identical predictions"] * found


def test_seeds_that_answer_alike_are_named() -> None:
    base = suite({"mote": GOOD, "mean": OTHER}, LABELS)
    again = base.table[base.table["row"] == "mote"].assign(seed=1, identity="second", _weights="second")
    results = replace(
        base,
        table=pd.concat([base.table, again]),
        predictions=lambda own: base.predictions("mote" if own == "second" else own),
    )
    (alarm,) = alarms(results)
    assert "MoTE, seed 0 and MoTE, seed 1" in alarm
    other = again.assign(row="dense", label="Text4Vis", identity="third", _weights="third")
    both = replace(
        results,
        table=pd.concat([results.table, other]),
        predictions=lambda own: results.predictions("mote" if own == "third" else own),
    )
    (alarm,) = alarms(both)
    assert "MoTE, seed 0; MoTE, seed 1 and Text4Vis, seed 1" in alarm


@pytest.mark.parametrize(
    ("wrong", "videos", "classes", "found"),
    [
        (180, 200, 10, True),  # as good as guessing
        (200, 200, 10, True),  # worse
        (172, 200, 10, True),  # 14 %: within what guessing gets by chance
        (168, 200, 10, False),
        (6, 10, 3, False),  # ten videos say nothing
        (180, 200, 1, False),  # of one class everything is right
    ],
)
def test_accuracy_at_chance_says_n_and_c(wrong: int, videos: int, classes: int, found: bool) -> None:
    labels = np.arange(videos) % 10
    rows = {"mote": answers(labels, wrong, 2), "mean": answers(labels, 0, 1)}
    results = suite(rows, labels, classes=classes)
    assert kinds(results) == ["accuracy at chance"] * found
    if found:
        (alarm,) = alarms(results)
        assert "MoTE" in alarm and "n = 200" in alarm and "C = 10" in alarm and "10.0 %" in alarm and "14.5 %" in alarm


@pytest.mark.parametrize(("above", "found"), [(3.5, True), (2.5, False), (-20.0, False)])
@pytest.mark.parametrize("differs", [(), ("views: 1x1 here, 4x3 published",)])
def test_a_number_far_above_the_published_one(above: float, found: bool, differs: tuple[str, ...]) -> None:
    where = {"method": "MoTE", "table": "Table 4", "backbone": "ViT-L/14", "frames": "8", "metric": "top1"}
    number = lookup(where)[0]._replace(value="70.0")
    results = suite({"mote": GOOD, "mean": OTHER}, LABELS)
    table = results.table.assign(top1=results.table["top1"] + np.where(results.table["row"] == "mote", above, 0))
    results = replace(results, table=table, published=(Pair("mote", "", "K400", number, differs, ()),))
    assert kinds(results) == ["above the published number"] * (found and not differs)
    if found and not differs:
        assert all(part in alarms(results)[0] for part in ("MoTE", "K400", "73.5 %", "70.0 %", "3.5 points", "Table 4"))


def test_all_rows_tied() -> None:
    perfect = dict.fromkeys(("mote", "dense", "mean"), LABELS)
    (alarm,) = alarms(suite(perfect, LABELS))
    assert all(part in alarm for part in ("all rows tied", "K400", "100.0 % of 200 videos", "MoTE", "Mean pooling"))
    assert kinds(suite({"mote": GOOD, "dense": answers(LABELS, 60, 5)}, LABELS)) == []  # two may tie by chance
    assert not kinds(suite(perfect, LABELS, dict.fromkeys(perfect, "same")))


def test_records_without_numbers_come_first_and_comparisons_have_no_alarm() -> None:
    results = suite({"mote": GOOD, "dense": GOOD}, LABELS, unsound=("not a number: x",))
    assert alarms(results)[0] == "not a number: x"
    assert alarms(replace(results, sides={"mote": "MoTE"})) == ()


@pytest.mark.parametrize(
    "name", ["plain", "experts", "joined", "layered", "parts", "deviating", "halves", "frames", "published"]
)
def test_sound_suites_have_none(name: str) -> None:
    assert alarms(getattr(synthetic, name)()) == ()
