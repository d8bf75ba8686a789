"""Figures show the right numbers at the right places, and missing ones by name."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from reports import style
from reports.curves import curve_axes, curve_figure, curve_measures
from reports.experts import accuracy_figures, similarity_figures
from reports.results import Results
from reports.tradeoff import tradeoff_figure
from tests.reports import synthetic


def _drawn(figure: Figure) -> set[tuple[float, float]]:
    """All marked points of a figure, in data units rounded to 3 digits."""
    lines = [line for axes in figure.axes for line in axes.lines if line.get_marker() not in ("None", "", "_", "|")]
    return {(round(x, 3), round(y, 3)) for line in lines for x, y in np.asarray(line.get_xydata()).tolist()}


def _texts(figure: Figure) -> str:
    artists = [text for axes in figure.axes for text in (*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label)]
    return "\n".join(text.get_text() for text in artists) + figure.get_supxlabel()


def _nothing_measured(results: Results) -> Results:
    return replace(results, table=results.table.assign(top1=np.nan, identity=""))


def test_tradeoff_points_are_the_means() -> None:
    results = synthetic.plain()
    figure = tradeoff_figure(results)
    assert figure
    means = results.summary()[["K400_mean", "hm_zs_mean"]].to_numpy(float).round(3)
    assert {tuple(point) for point in means.tolist()} <= _drawn(figure)
    assert "n = 2–3" in _texts(figure) and "Single run, no bars: CLIP (frozen)" in _texts(figure)
    assert all(label in _texts(figure) for label in results.labels.values())


def test_tradeoff_joins_points_in_axis_order() -> None:
    results = synthetic.joined()
    figure = tradeoff_figure(replace(results, table=results.table.sample(frac=1, random_state=0)))
    assert figure
    mote = results.summary().query("row == 'mote'").sort_values("alpha")[["K400_mean", "hm_zs_mean"]].to_numpy(float)
    chains = [line.get_xydata() for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    assert any(np.shape(chain) == (6, 2) and np.allclose(chain, mote) for chain in chains)


@pytest.mark.parametrize("spread", [8, 22])
def test_twenty_labels_neither_touch_nor_leave_their_axes(spread: int) -> None:
    rng = np.random.default_rng(0)
    base = synthetic.plain().table.query("row == 'mean'")
    rows = [
        base.assign(
            row=f"row{i}", label=f"Method {'of a long name '[: 3 * (i % 6)]}{i}",
            top1=base["top1"] + np.where(base["role"] == "closed-set", *rng.uniform(-spread, spread, 2)),
        )
        for i in range(20)
    ]  # fmt: skip
    table = pd.concat([own.assign(model=model, point=f"model={model}") for own in rows for model in ("B/16", "L/14")])
    figure = tradeoff_figure(synthetic.suite(table, {"model": "model"}))
    assert figure
    figure.draw_without_rendering()
    for axes in figure.axes:
        labels = [text for text in axes.texts if not isinstance(text, Annotation)]
        boxes, frame = [text.get_window_extent() for text in labels], axes.get_window_extent()
        assert len(labels) == 20 and not [1 for a, b in combinations(boxes, 2) if a.overlaps(b)]
        assert all(frame.contains(*corner) for box in boxes for corner in (box.min, box.max))


def test_isolines_have_constant_tradeoff() -> None:
    figure = tradeoff_figure(synthetic.plain())
    assert figure
    lines = [line.get_xydata() for line in figure.axes[0].lines if line.get_color() == style.GRID]
    assert len(lines) >= 3
    for line in lines:
        x, y = np.asarray(line).T
        assert np.ptp(2 * x * y / (x + y)) < 1e-9


def test_tradeoff_names_what_it_cannot_draw() -> None:
    figure = tradeoff_figure(synthetic.layered())
    assert figure
    near = [f"world {name}, without CLIP (frozen)" for name in ("narrow", "broad")]
    assert [axes.get_title() for axes in figure.axes] == [*near, "world narrow, all", "world broad, all"]
    assert "results missing: Text4Vis, layers=6, world=broad" in _texts(figure)


def test_without_results_there_is_no_figure() -> None:
    results = _nothing_measured(synthetic.layered())
    assert tradeoff_figure(results) is None
    assert curve_figure(results, "layers") is None
    assert list(accuracy_figures(_nothing_measured(synthetic.experts()))) == []


def test_curves_only_along_numeric_axes() -> None:
    assert curve_axes(synthetic.layered()) == ["layers"]
    assert curve_axes(synthetic.plain()) == []


def test_curve_points_are_the_means_per_facet() -> None:
    results = synthetic.layered()
    figure = curve_figure(results, "layers")
    assert figure and len(figure.axes) == 4
    broad = results.summary().query("world == 'broad' and row == 'mote'")
    assert {tuple(p) for p in broad[["layers", "hm_zs_mean"]].to_numpy(float).round(3).tolist()} <= _drawn(figure)
    assert "Text4Vis, layers=6, world=broad" in _texts(figure)


def test_deviating_numbers_are_left_out_by_name() -> None:
    results = synthetic.deviating()
    figure = tradeoff_figure(results)
    assert figure and len(_drawn(figure)) == 4
    assert "measured otherwise than the column says: Mean pooling; MoTE" in _texts(figure)
    experts = synthetic.experts()
    table = experts.table.assign(deviation=(experts.table["protocol"] == "UCF").map({True: "x", False: ""}))
    figure = next(accuracy_figures(replace(experts, table=table))).figure
    assert [axes.get_ylabel() for axes in figure.axes] == ["Zero-shot top-1, HMDB (%)", "Zero-shot top-1, K600 (%)"]


def test_base_against_novel_has_its_figure() -> None:
    results = synthetic.halves()
    (first, measure), _ = results.trade_offs.items()
    figure = tradeoff_figure(results, first)
    assert figure and tradeoff_figure(results) is None
    means = results.summary()[[f"{side}_mean" for side in measure.needs]].to_numpy(float).round(3)
    assert {tuple(point) for point in means.tolist()} == _drawn(figure)
    assert "Novel top-1, hmdb51-novel (%)" in _texts(figure)
    curves = curve_figure(results, "shots")
    assert curves and len(curves.axes) == 4


@pytest.mark.parametrize(("role", "measures"), [("closed-set", ["hm_zs"]), ("zero-shot", ["K400"])])
def test_one_side_alone_has_curves_but_no_tradeoff(role: str, measures: list[str]) -> None:
    results = synthetic.without(role)
    assert tradeoff_figure(results) is None and curve_measures(results) == measures
    figure = curve_figure(results, "alpha")
    assert figure and len(figure.axes) == 1


def test_values_of_a_protocol_axis_are_never_joined() -> None:
    results = synthetic.frames()
    figure = tradeoff_figure(results)
    titles = [f"frames {number}, {which}" for which in ("without CLIP (frozen)", "all") for number in (4, 8)]
    assert figure and [axes.get_title() for axes in figure.axes] == titles
    assert curve_axes(results) == []


def test_similarity_is_the_mean_over_seeds() -> None:
    results = synthetic.experts()
    first = replace(results.probes[0], similarity=results.probes[0].similarity - 0.3)
    (picture,) = similarity_figures(replace(results, probes=(first, *results.probes[1:])))
    assert picture.name == "expert-similarity-mote"
    axes = picture.figure.axes[0]
    assert [text.get_text() for text in axes.texts][:2] == ["0.90", "0.75"]
    assert "100 videos × 3 seeds" in axes.get_title()
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["merged", "expert 0"]
    assert axes.collections[0].get_clim()[1] == 1.0


def test_expert_accuracy_shows_every_expert_against_every_target() -> None:
    (picture,) = accuracy_figures(synthetic.experts())
    assert picture.name == "expert-accuracy-mote"
    figure = picture.figure
    assert len(figure.axes) == 4
    experts = synthetic.experts().summary(experts=True)[["K400_mean", "HMDB_mean"]].to_numpy(float).round(3)
    assert {tuple(point) for point in experts.tolist()} <= _drawn(figure)
    assert all(name in _texts(figure) for name in ("merged", "expert 3", "CLIP (frozen)"))


def test_saved_figures_are_reproducible(tmp_path: Path) -> None:
    for name in ("a", "b"):
        figure = tradeoff_figure(synthetic.plain())
        assert figure
        style.save(figure, tmp_path / name)
    for kind in ("png", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("rows", [3, 12])
def test_every_row_has_its_own_mark(rows: int) -> None:
    marks = style.marks([f"row {i}" for i in range(rows)], "row 1")
    assert len(set(marks.values())) == rows and marks["row 1"].marker == "*"


def test_a_method_has_one_colour_and_marker_in_every_report() -> None:
    several, alone = style.marks(["clip", "dense", "mote", "mote_base", "own"], "clip"), style.marks(["mote"])
    assert several["mote"] == alone["mote"] and len({mark.colour for mark in several.values()}) == 5
    many = style.marks(["mote", "mote_base", *(f"row {number}" for number in range(8))])
    assert many["mote_base"].colour == alone["mote"].colour != many["row 0"].colour
    assert len(set(many.values())) == 10
    assert style.marks(["dense"]) == {"dense": style.marks(["dense_temporal"])["dense_temporal"]}


def test_faces_darken_along_the_axis_that_is_joined() -> None:
    figure = tradeoff_figure(synthetic.joined())
    assert figure and "From light to dark: α 0, 0.2, 0.4, 0.6, 0.8, 1." in " ".join(figure.get_supxlabel().split())
    lines = [own for own in figure.axes[0].lines if own.get_gid() and own.get_color() != style.INK]
    faces = {str(own.get_markerfacecolor()) for own in lines}
    assert len(faces) == 18


def test_of_many_points_the_best_of_each_row_are_named() -> None:
    lines = [
        entry
        for row in ("mean", "dense", "mote")
        for step in range(20)
        for entry in synthetic.cells(row, {"lr": step}, (0.1 * step, 0.2 * step))
    ]
    results = synthetic.suite(pd.DataFrame(lines), {"lr": "lr"}, reference="mean")
    figure = tradeoff_figure(results)
    assert figure is not None
    named = {text.get_text() for text in figure.axes[0].texts if "lr" in text.get_text()}
    summary = results.summary()
    best = summary.loc[summary.groupby("row")["trade_off_mean"].idxmax()]
    assert named == {f"{line['label']}, lr {line['lr']}" for _, line in best.iterrows()} and len(named) == 3
    curve = curve_figure(results, "lr")
    assert curve is not None and len(curve.axes[0].get_xticks()) == 20
    assert "only the best of each row is named" in figure.get_supxlabel()


def test_long_labels_are_cut_wherever_a_figure_has_them() -> None:
    long = [f"{'a long label ' * 12}{letter}" for letter in "ab"]
    figure = Figure()
    axes = figure.subplots()
    axes.set_yticks([0, 1], [long[0], "short"])
    axes.set_title(f"{long[1]}, layers 4")
    axes.text(0, 0, long[0])
    axes.plot([0, 1], [0, 1], label=long[0])
    legend = axes.legend().get_texts()[0]
    style.cut_labels(figure, [*long, "short"])
    figure.draw_without_rendering()
    names = [own.get_text() for own in axes.get_yticklabels()]
    assert names[1] == "short" and names[0] == axes.texts[0].get_text() == legend.get_text()
    assert all(len(text) <= 40 and "…" in text for text in (names[0], axes.get_title().removesuffix(", layers 4")))
    assert names[0] != axes.get_title().removesuffix(", layers 4")


@pytest.mark.filterwarnings("error")
def test_letters_that_the_font_lacks_give_no_warning(tmp_path: Path) -> None:
    figure = style.figure([style.Panel(lambda axes: axes.text(0, 0, "視訊"), title="視訊")], 2, 2)
    style.save(figure, tmp_path / "figure")
