"""Which published number goes beside which measured one: fields that agree, differ, or are not stated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UserError
from bench.published.pairing import Pair, pairs
from bench.suite.file import Published
from bench.suite.resolve import load_suite
from bench.suite.trial import Suite
from tests.errors import refused
from tests.suites import selecting

SUITE = """\
title: Pairs
recipe: {source: kinetics-400, backbone: ViT-L-14-quickgelu, pretrained: openai}
protocols:
  K400: {use: mote/k400-4x3}
  K400-1x1: {use: mote/k400-1x1}
  UCF: {use: mote/ucf101-3split}
  HMDB: {use: mote/hmdb51-3split}
  K600: {use: mote/k600-3split}
rows:
  clip: {method: clip_mean}
  mote: {method: mote}
"""
ONE = """\
title: One protocol
recipe: {source: kinetics-400, backbone: ViT-B-16, pretrained: openai}
protocols: {only: {use: PROTOCOL}}
rows: {clip: {method: clip_mean}, mote: {method: mote}}
"""
PLACED = """\
report:
  published:
    - {row: mote, where: {method: MoTE}}
"""
FULL = "+Temporal Experts +L_WMR +L_MSE +Temporal Feature Modulation (full)"


def _suite(folder: Path, text: str = SUITE, *overrides: str) -> Suite:
    path = folder / "suite.yaml"
    path.write_text(text)
    return load_suite(path, overrides)


def _pairs(suite: Suite, row: str = "mote", point: dict[str, Any] | None = None, **where: Any) -> list[Pair]:
    return list(pairs(selecting(suite, Published(row=row, where=where, point=point or {}))))


def _found(found: list[Pair]) -> dict[str, str]:
    return {pair.measure or pair.number.dataset: "; ".join(pair.differs) or pair.number.text for pair in found}


def test_a_row_of_a_main_table(tmp_path: Path) -> None:
    suite = _suite(tmp_path)
    found = _pairs(suite, method="MoTE", table="Table 4", backbone="ViT-L/14", frames=8)
    views = "views: 1x1 here, 4x3 published"
    assert _found(found) == {"K400": "86.8", "K400-1x1": views, "hm_zs": "74.4", "trade_off": "80.1"}
    assert {pair.measure: pair.unstated for pair in found if pair.comparable} == {
        **{"K400": (), "hm_zs": ("views",), "trade_off": ("split",)}
    }
    zero_shot = _pairs(suite, method="MoTE", table="Table 3", backbone="ViT-L/14")
    assert _found(zero_shot) == {"UCF": "88.7 ± 0.6", "HMDB": "61.4 ± 1.3", "K600": "78.4 ± 0.9"}
    assert not any(pair.unstated for pair in zero_shot)


def test_of_several_numbers_the_one_measured_alike_is_taken(tmp_path: Path) -> None:
    found = _pairs(_suite(tmp_path, SUITE, "recipe.backbone=ViT-B-16"), method="MoTE", table="Table 4")
    assert _found(found) == {"K400": "83.0", "K400-1x1": "81.8", "hm_zs": "67.9", "trade_off": "74.7"}


def test_an_ablation_states_little(tmp_path: Path) -> None:
    found = _pairs(_suite(tmp_path), method="MoTE", table="Table 1", variant=FULL)
    assert _found(found) == {
        **{"K400": "86.8", "K400-1x1": "86.8", "UCF": "88.7", "HMDB": "61.4"},
        **{"K600": "split: mean of 3 here, 1 published"},
    }
    assert found[0].unstated == ("frames", "views") and found[2].unstated == ("frames", "views", "split")


def test_several_values_for_a_cell_are_refused(tmp_path: Path) -> None:
    hint = "variant: '+Temporal Experts', '+Temporal Experts +L_WMR'"
    with refused("4 published", "K400", "row 'mote'", "85.5, 86.8, 86.8, 86.8", hint=hint):
        _pairs(_suite(tmp_path), method="MoTE", table="Table 1")


@pytest.mark.parametrize(
    ("selector", "where", "message"),
    [
        ({"row": "motte", "where": {"method": "MoTE"}}, ("report", "published", 0), "unknown row 'motte'"),
        ({"row": "mote", "where": {"method": "MoTE"}, "point": {"x": 1}}, (), "unknown axis 'x'"),
        ({"row": "mote", "where": {"metric": "gflops"}}, (), "no number that a report compares"),
        ({"where": {"method": "OTI"}}, (), "published numbers without a row have no name"),
        ({"row": "mote", "label": "OTI", "where": {"method": "OTI"}}, (), "row 'mote' has a label of its own"),
        ({"label": "mote", "where": {"method": "OTI"}}, (), "'mote' is the name of a row"),
    ],
)
def test_mistakes_are_found_at_the_selector(
    selector: dict[str, Any], where: tuple[str | int, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        pairs(selecting(_suite(tmp_path, SUITE + PLACED), Published.model_validate(selector)))
    assert error.value.what == message and error.value.where.endswith("suite.yaml:14: report.published.0")


@pytest.mark.parametrize(
    ("protocol", "where", "differs"),
    [
        ("bike/ucf101-half", {"method": "BIKE", "source": "BIKE repo"}, "backbone: ViT-B/16 here, ViT-L/14 published"),
        ("open-vclip/ucf101-full", {"method": "FROSTER"}, ""),
        (
            "mote/ucf101-full",
            {"method": "MoTE", "source": "MoTE", "backbone": "ViT-B/16"},
            "split: all videos here, mean of 3 published",
        ),
        ("mote/k600-validation-3split", {"method": "MoTE", "backbone": "ViT-B/16"}, "Kinetics-600 videos: validation"),
        ("open-vclip/k600-validation-3split", {"method": "FROSTER", "source": "FROSTER repo"}, ""),
        ("mote/ucf101-mixed", {"method": "MoTE", "backbone": "ViT-B/16"}, "candidates: mixed with others here"),
        ("mote/k400-1x1", {"method": "MoTE", "table": "Table 4", "views": "4x3"}, "views: 1x1 here, 4x3 published"),
        ("xclip/k400", {"method": "X-CLIP", "table": "Table 6", "variant": "+video-specific prompt"}, ""),
    ],
)
def test_fields_that_differ(protocol: str, where: dict[str, Any], differs: str, tmp_path: Path) -> None:
    suite = _suite(tmp_path, ONE.replace("PROTOCOL", protocol))
    pair = next(pair for pair in _pairs(suite, metric="top1", **where) if pair.measure)
    assert any(text.startswith(differs) for text in pair.differs) if differs else not pair.differs


def test_few_shot_numbers_go_to_their_shots(tmp_path: Path) -> None:
    text = ONE.replace("PROTOCOL", "mote/hmdb51") + "axes: {recipe.shots: [2, 4]}\n"
    suite = _suite(tmp_path, text, "recipe.source=hmdb51", "recipe.split=train1")
    found = _pairs(suite, method="MoTE", table="Table 5", dataset="HMDB-51")
    assert [(pair.point, pair.number.text, pair.comparable) for pair in found] == [
        ("shots 2", "61.3", True),
        ("shots 4", "63.9", True),
    ]
    assert found[0].unstated == ("backbone", "frames", "split")
    assert [pair.point for pair in _pairs(suite, point={"shots": 4}, method="MoTE", table="Table 5", shots=4)] == [
        *("shots 4", "shots 4", "shots 4")
    ]


def test_training_data_and_weights_count(tmp_path: Path) -> None:
    text = ONE.replace("PROTOCOL", "mote/hmdb51-3split")
    where: dict[str, Any] = {"method": "MoTE", "table": "Table 3", "backbone": "ViT-B/16", "dataset": "HMDB-51"}
    (pair,) = _pairs(_suite(tmp_path, text, "recipe.source=ucf101", "recipe.split=train1"), **where)
    assert pair.differs == ("training data: UCF-101 here, Kinetics-400 published",)
    (pair,) = _pairs(_suite(tmp_path, text, "recipe.pretrained=random:0"), **where)
    assert pair.differs == ("backbone: ViT-B/16 (random:0) here, ViT-B/16 published",)
    (pair,) = _pairs(_suite(tmp_path, text, "recipe.shots=16"), **where)
    assert pair.differs == ("videos per class: 16 here, all published",)


def test_what_is_not_trained_is_alike_in_every_role(tmp_path: Path) -> None:
    text = ONE.replace("PROTOCOL", "mote/ucf101").replace("ViT-B-16", "ViT-L-14")
    (pair,) = _pairs(_suite(tmp_path, text), row="clip", method="CLIP", table="Table 7e", dataset="UCF-101")
    assert pair.comparable and pair.number.protocol == "zero-shot" and pair.number.text == "80.9"


def test_second_hand_numbers_are_shown_but_not_compared(tmp_path: Path) -> None:
    text = ONE.replace("PROTOCOL", "bike/k400-4x3")
    found = _pairs(_suite(tmp_path, text), method="BIKE", backbone="ViT-B/16", views="4x3", metric="top1")
    assert [(pair.number.text, pair.comparable) for pair in found] == [("84.0", True), ("83.9 (2nd hand)", False)]


def test_base_and_novel(tmp_path: Path) -> None:
    text = ONE.replace("PROTOCOL", "vifi/ucf101-base").replace("}}\nrows", "}, novel: {use: vifi/ucf101-novel}}\nrows")
    suite = _suite(tmp_path, text, "recipe.classes=base", "recipe.source=ucf101", "recipe.split=train1")
    found = _pairs(suite, method="ViFi-CLIP", source="ViFi-CLIP repo", dataset="UCF-101", protocol="base-to-novel")
    assert _found(found) == {"only": "92.9", "novel": "67.7", "hm_only_novel": "78.3"}
    assert all(pair.comparable for pair in found)


def test_stand_ins_show_the_numbers_of_what_they_stand_for(tmp_path: Path) -> None:
    found = _pairs(_suite(tmp_path, SUITE, "world=glyphs"), method="MoTE", table="Table 3", backbone="ViT-L/14")
    assert {pair.measure: pair.number.text for pair in found} == {
        **{"UCF": "88.7 ± 0.6", "HMDB": "61.4 ± 1.3", "K600": "78.4 ± 0.9"}
    }
    assert all(pair.differs == ("other data",) and not pair.comparable for pair in found)


def test_numbers_without_a_row_stand_below_the_columns_of_the_points_that_they_name(tmp_path: Path) -> None:
    axes = "axes: {model: {B/16: {recipe.backbone: ViT-B-16}, L/14: {recipe.backbone: ViT-L-14}}}\n"
    where: dict[str, Any] = {"method": "OTI", "backbone": "ViT-L/14"}
    own = Published(label="OTI", where=where, point={"model": "L/14"})
    found = pairs(selecting(_suite(tmp_path, SUITE + axes), own))
    assert {(pair.row, pair.label, pair.point, pair.comparable) for pair in found} == {("", "OTI", "model L/14", False)}
    assert {pair.measure: pair.number.value for pair in found} == {"UCF": "88.1", "HMDB": "59.3", "K600": "70.6"}
    assert not any(pair.differs for pair in found)


def test_numbers_without_a_column_are_not_dropped(tmp_path: Path) -> None:
    suite = _suite(tmp_path, ONE.replace("PROTOCOL", "mote/ucf101"))
    found = _pairs(suite, method="MoTE", table="Table 3", backbone="ViT-B/16")
    assert _found(found) == {"UCF-101": "not measured here", "HMDB-51": "other data", "Kinetics-600": "other data"}
    assert {pair.measure for pair in found} == {""}
