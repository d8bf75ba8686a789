"""Accuracies of classes, confusions and their matrix, from answers that are written down here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from reports.confusion import class_accuracy_tables, confusion_figures, confusion_tables, of_note
from reports.results import Results
from tests.reports import synthetic

CLASSES = ("run", "walk", "<jump>")
LABELS = (0, 0, 1, 1, 2, 2)
ANSWERS = {  # row -> by seed, the answers to the six videos
    "mote": ([0, 0, 1, 0, 2, 2], [0, 0, 1, 1, 2, 1]),
    "clip": ([1, 1, 1, 1, 2, 2],),
    "mean": ([1, 1, 0, 0, 0, 0],),
}


def written(protocols: tuple[str, ...] = ("K400",), failed: tuple[int, ...] = ()) -> Results:
    """Three rows, of which `mote` is the best and `clip` the reference; some videos could not be decoded."""
    lines = [
        synthetic.line(row, {}, seed, protocol, 100 * np.mean(np.array(own) == LABELS))
        for row, seeds in ANSWERS.items()
        for seed, own in enumerate(seeds)
        for protocol in protocols
    ]

    def predictions(identity: str) -> pd.DataFrame:
        row, _, _, seed, *_ = identity.split(":")
        answer_N = np.array(ANSWERS[row][int(seed)])
        table = pd.DataFrame({"video": [f"v{i}" for i in range(6)], "label": LABELS, "prediction": answer_N})
        failure = pd.Series(["cut file" if place in failed else None for place in range(6)])
        return table.assign(correct=(answer_N == LABELS) & ~np.isin(range(6), failed), failure=failure)

    found = synthetic.suite(pd.DataFrame(lines))
    return replace(found, predictions=predictions, class_names=lambda identity: CLASSES)


def test_the_rows_of_note_are_the_best_and_the_reference_or_the_next_best() -> None:
    assert [line["row"] for line in of_note(written())] == ["mote", "clip"]
    for reference in (None, "mote"):
        settings = replace(written().settings, reference=reference)
        assert [line["row"] for line in of_note(replace(written(), settings=settings))] == ["mote", "clip"]
    settings = replace(written().settings, reference="mean")
    assert [line["row"] for line in of_note(replace(written(), settings=settings))] == ["mote", "mean"]


def test_accuracies_of_classes_are_those_over_all_seeds() -> None:
    (table,) = class_accuracy_tables(written())
    assert synthetic.heads(table) == ["Class", "Protocol", "Videos", "MoTE", "CLIP (frozen)", "Mean pooling"]
    assert synthetic.texts(table) == [
        ("run", "K400", "2", "100.0", "0.0", "0.0"),
        ("walk", "K400", "2", "75.0", "100.0", "0.0"),
        ("<jump>", "K400", "2", "75.0", "100.0", "0.0"),
    ]
    assert table.values is not None and list(table.values.loc[1, ["mote", "clip"]]) == [75.0, 100.0]


def test_the_page_has_the_classes_that_are_hardest_for_the_best_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reports.confusion.LINES", 3)
    (table,) = class_accuracy_tables(written(("K400", "UCF")))
    assert [row[:2] for row in synthetic.texts(table)] == [(name, own) for own in ("K400", "UCF") for name in CLASSES]
    monkeypatch.setattr("reports.confusion.FEWEST", 1)
    (table,) = class_accuracy_tables(written(("K400", "UCF")))
    assert [row[:2] for row in synthetic.texts(table)] == [("walk", "K400"), ("walk", "UCF")]
    assert table.values is not None and len(table.values) == 6 and "hardest" in table.caption


def test_confusions_stand_beside_those_of_the_other_row() -> None:
    (table,) = confusion_tables(written())
    assert synthetic.texts(table) == [
        ("run", "walk", "K400", "0 of 4 (0 %)", "2 of 2 (100 %)"),
        ("walk", "run", "K400", "1 of 4 (25 %)", "0 of 2 (0 %)"),
        ("<jump>", "walk", "K400", "1 of 4 (25 %)", "0 of 2 (0 %)"),
    ]
    assert "<jump>" not in table.texts["Markdown"] and "&lt;jump&gt;" in table.texts["Markdown"]


def test_what_could_not_be_decoded_is_wrong_but_no_confusion() -> None:
    (table,) = confusion_tables(written(failed=(0, 3)))
    assert synthetic.texts(table)[0] == ("run", "walk", "K400", "0 of 4 (0 %)", "1 of 2 (50 %)")
    assert ("walk", "run") not in [row[:2] for row in synthetic.texts(table)]
    (accuracies,) = class_accuracy_tables(written(failed=(0, 3)))
    assert [row[3] for row in synthetic.texts(accuracies)] == ["50.0", "50.0", "75.0"]


def test_the_matrix_has_the_shares_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    (picture,) = confusion_figures(written(("K400", "UCF")))
    best, reference = (axes.images[0].get_array() for axes in picture.figure.axes[:2])
    assert best is not None and best.tolist() == [[100, 0, 0], [25, 75, 0], [0, 25, 75]]
    assert reference is not None and reference.tolist() == [[0, 100, 0], [0, 100, 0], [0, 0, 100]]
    monkeypatch.setattr("reports.confusion.LARGEST", 2)
    assert not list(confusion_figures(written()))


def test_nothing_is_said_without_results() -> None:
    results = written()
    empty = replace(results, table=results.table.assign(top1=np.nan, identity=""))
    assert not [*class_accuracy_tables(empty), *confusion_tables(empty), *confusion_figures(empty)]
