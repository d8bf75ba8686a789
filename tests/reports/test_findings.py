"""The opening sentences: which row is best on balance, by how much, whether that is significant, what it costs."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from reports.comparisons import column_tests, comparisons, lacking
from reports.costs import digits
from reports.findings import findings, headline
from reports.results import place_of
from tests.reports import costly, synthetic


def test_the_first_sentences_are_the_answer() -> None:
    best, following, reference, counts = findings(synthetic.plain())
    mean = synthetic.plain().summary().set_index("row")["trade_off_mean"].to_dict()
    assert best.startswith(f"Best trade-off: MoTE with {mean['mote']:.1f} ±")
    assert following.startswith(f"Next: {synthetic.HOSTILE} with {mean['hostile']:.1f} %, ")
    assert f"{mean['mote'] - mean['hostile']:.1f} points below the best (significant over videos and seeds" in following
    assert "after Holm over 4 tests; 95 % interval" in following  # one row is incomplete
    assert reference.startswith("Reference: CLIP (frozen)") and "p < 0.0001" in reference
    assert counts.startswith("6 rows, 16 trials") and "63 of 64 results" in counts


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain", "On trade-off, MoTE is significantly better than "),
        (
            "joined",
            "On trade-off, MoTE, Mean pooling and Text4Vis tie (not enough seeds or videos to tell); CLIP (frozen) is ",
        ),
        ("parts", "On trade-off, 5 rows tie, MoTE first; CLIP (frozen) is significantly worse, by one run each."),
        ("halves", "On HM hmdb51, MoTE, Text4Vis and ST-Adapter tie (not enough seeds or videos to tell): none is "),
        ("frames", "On trade-off (frames 4), MoTE is significantly better"),  # one for each panel
    ],
)
def test_the_headline_says_who_ties_and_who_is_worse(name: str, said: str) -> None:
    found = headline(getattr(synthetic, name)())
    assert found.startswith(said) and bool(found) == bool(said)


def test_the_headline_has_the_verdicts_of_the_table() -> None:
    results, judged = synthetic.halves(), 0
    for own in comparisons(results):
        gap = column_tests(results).get((own.measure, frozenset(map(place_of, own.lines))))
        if gap:
            assert lacking(results, own.measure, own.lines, gap) == own.verdict
            judged += bool(own.verdict)
    assert judged > 1


def test_single_runs_say_that_another_seed_may_differ() -> None:
    following = findings(synthetic.parts())[1]
    assert "not significant over videos alone: one run" in following


def test_the_next_best_is_another_row_and_the_reference_is_not_compared_with_itself() -> None:
    sentences = findings(replace(synthetic.halves()))
    ucf = [sentence for sentence in sentences if "HM ucf101" in sentence]
    assert ucf[0].startswith("Best HM ucf101: Text4Vis, shots 16") and ucf[1].startswith("Next, HM ucf101: MoTE")
    assert len(ucf) == 2  # Text4Vis is the reference


def test_costs_of_the_named_rows_follow() -> None:
    costs = tuple(
        costly.cost(row, gflops=gflops, trainable=trainable)
        for row, gflops, trainable in (("mote", 649, 88.1), ("clip", 611.2, 0), ("adapter", 700, 1e-6))
    )
    sentence = findings(replace(synthetic.plain(), costs=costs))[3]
    texts = [f"MoTE {digits(649)} GFLOPs per video, {digits(88.1)} M trainable parameters"]
    texts += [f"CLIP (frozen) {digits(611.2)} GFLOPs per video, {digits(0)} M trainable parameters"]
    assert sentence == f"Cost: {'; '.join(texts)}."


@pytest.mark.parametrize(
    ("top1", "said"),
    [
        ({"mote": 70.0}, "No best closed-set top-1, K400: only MoTE has all results, 70.0 % (1 seed)."),
        ({"mote": 70.0, "dense": 70.02, "mean": 70.0}, "No best closed-set top-1, K400: all 3 have 70.0 % (1 seed)."),
        ({"mote": 70.0, "dense": 60.0}, "Best closed-set top-1, K400: MoTE with 70.0 % (1 seed)."),
    ],
)
def test_nothing_is_best_alone_or_where_everything_ties(top1: dict[str, float], said: str) -> None:
    lines = [synthetic.line(row, {}, 0, "K400", number) for row, number in top1.items()]
    sentences = findings(synthetic.suite(pd.DataFrame(lines).assign(top1=list(top1.values())), reference="mote"))
    assert sentences[0] == said
    assert ("Next" in " ".join(sentences)) == said.startswith("Best")


def test_a_single_number_has_its_noun_in_the_singular() -> None:
    single = findings(synthetic.suite(pd.DataFrame([synthetic.line("mote", {}, 0, "K400", 70.0)])))
    assert single[-1] == "1 row, 1 trial (rows × points × seeds) on 1 protocol; 1 of 1 result is there."


def test_a_suite_without_results_says_so() -> None:
    results = synthetic.plain()
    empty = results.table.assign(top1=float("nan"), identity="")
    assert findings(replace(results, table=empty))[0] == "No row has a complete trade-off yet."
