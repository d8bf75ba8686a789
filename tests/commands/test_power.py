"""What a plan says of the differences that a suite finds: from which variances, on which videos, with which seeds."""

from __future__ import annotations

import re
from math import inf
from pathlib import Path

import numpy as np
import pytest
from pyarrow.parquet import read_table

from bench.commands.app import main
from bench.commands.power import BOTH_SD, SEEDS_SD, VIDEOS_SD, power_lines
from bench.graph.build import build_graph
from bench.measure.power import Variances, measured, needed_seeds, smallest
from bench.store.records import Store
from bench.suite.resolve import SUITES, load_suite
from tests.reports.synthetic import many_records
from tests.suites import many_trials, write_suite

PRIOR = Variances(VIDEOS_SD**2, (SEEDS_SD**2, SEEDS_SD**2), (BOTH_SD**2, BOTH_SD**2))


def lines_of(suite: Path, store: Path, *overrides: str) -> list[str]:
    loaded = load_suite(suite, overrides)
    return [line.strip() for line in power_lines(loaded, build_graph(loaded), Store.create(store))]


def points(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def test_without_records_it_rests_on_priors_that_it_names(tmp_path: Path) -> None:
    """Of a row of two seeds and one without chance."""
    lines = lines_of(write_suite(tmp_path), tmp_path / "runs")
    prior = Variances(VIDEOS_SD**2, (SEEDS_SD**2, 0.0), (BOTH_SD**2, 0.0))
    for name, videos in {"closed-set": 512, "new-verbs": 512}.items():
        (own,) = (line for line in lines if line.startswith(name))
        assert f"({videos} videos, 2 seeds)" in own
        assert f"{points(smallest(prior, videos, (2, 1)))} points for dense and clip_mean" in own
        limit = points(smallest(prior, videos, (inf, inf)))
        assert f"no number of seeds finds 1 point: the videos alone allow {limit} points" in own
    assert lines[0].startswith("power: ") and "before Holm" in lines[0]
    assert lines[-1] == (
        "priors: s.d. over seeds 1; of a difference on a video or group 40; of what a seed does to one 15"
    )


def test_seeds_that_would_find_a_point_are_told_where_there_are_videos_enough(tmp_path: Path) -> None:
    lines = lines_of(SUITES / "mote-table3.yaml", tmp_path / "runs")  # its lists are not there: known copies' counts
    (k600,) = (line for line in lines if line.startswith("K600"))
    assert "taken as independent: the lists that tell their groups are not here" in k600
    found = re.search(r"\(([\d,]+) videos, .*, 3 seeds\): .* 1 point takes (\d+) seeds", k600)
    assert found and int(found[2]) == needed_seeds(1.0, PRIOR, int(found[1].replace(",", "")))


def test_one_seed_says_nothing_about_methods(tmp_path: Path) -> None:
    lines = lines_of(write_suite(tmp_path), tmp_path / "runs", "seeds=[0]")
    assert "with one seed nothing can be said about methods" in lines[1]
    assert not any("points for" in line for line in lines)


def test_variances_are_those_of_the_suites_own_records(tmp_path: Path) -> None:
    suite, graph, store = many_records(tmp_path, trials=12, protocols=2, seeds=3)
    lines = [line.strip() for line in power_lines(suite, graph, store)]
    first = suite.trials[0].point
    for protocol in suite.columns:
        rows = []
        for row in ("text4vis", "dense"):
            own = [c.stage for c in graph.cells if (c.protocol, c.trial.row, c.trial.point) == (protocol, row, first)]
            files = [store.folder(*stage.key) / "predictions.parquet" for stage in own]
            rows.append(100 * np.array([read_table(file)["correct"].to_numpy() for file in files], dtype=float))
        variances, videos = measured(*rows), rows[0].shape[1]
        (told,) = (line for line in lines if line.startswith(f"{protocol} ("))
        found = points(smallest(variances, videos, (3, 3)))
        assert f"({videos} videos, 3 seeds): {found} points for text4vis and dense" in told
    assert lines[-1].startswith("from 12 records of this suite: ")


def test_a_suite_without_records_asks_those_of_the_same_methods_and_datasets(tmp_path: Path) -> None:
    suite, graph, store = many_records(tmp_path, trials=12, protocols=2, seeds=3)
    other = tmp_path / "other.yaml"
    other.write_text((tmp_path / "many.yaml").read_text().replace("batch: 48", "batch: 24"))
    lines = lines_of(other, store.root)
    assert "the first from 24 records of the same methods and datasets, else priors" in lines[-1]
    for protocol in suite.columns:
        pooled = []
        for row in ("text4vis", "dense"):
            runs: dict[object, list[float]] = {}
            for cell in graph.cells:
                if (cell.protocol, cell.trial.row) == (protocol, row):
                    runs.setdefault(cell.trial.point, []).append(store.read(*cell.stage.key)["result"]["top1"])
            pooled.append(float(np.mean([np.var(own, ddof=1) for own in runs.values()])))
        (told,) = (line for line in lines if line.startswith(f"{protocol} ("))
        videos = int(told.partition("(")[2].split()[0])
        first, second = (max(0.0, own - BOTH_SD**2 / videos) for own in pooled)
        expected = smallest(Variances(VIDEOS_SD**2, (first, second), PRIOR.both), videos, (3, 3))
        assert f"3 seeds): {points(expected)} points for text4vis and dense" in told


def test_groups_count_in_the_place_of_videos(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text("id,name\n0,cat\n1,dog\n")
    (tmp_path / "test.csv").write_text(
        "path,label,group\n" + "".join(f"{video}.mp4,{video % 2},film {video // 4}\n" for video in range(80))
    )
    declared = "datasets:\n  mine: {root: nowhere, classes: classes.csv, splits: {test: test.csv}}\nrows:"
    suite = write_suite(
        tmp_path,
        ("  new-verbs: {role: zero-shot, dataset: glyphs-narrow-verbs}", "  new: {role: zero-shot, dataset: mine}"),
        ("rows:", declared),
    )
    (own,) = (line for line in lines_of(suite, tmp_path / "runs") if line.startswith("new "))
    assert own.startswith("new (80 videos in 20 groups, 2 seeds): ")
    prior = Variances(VIDEOS_SD**2, (SEEDS_SD**2, 0.0), (BOTH_SD**2, 0.0))
    assert f"{points(smallest(prior, 20, (2, 1)))} points" in own


def test_videos_of_one_group_and_pairs_that_are_declared(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text("id,name\n0,cat\n1,dog\n")
    (tmp_path / "test.csv").write_text(
        "path,label,group\n" + "".join(f"{video}.mp4,{video % 2},film\n" for video in range(80))
    )
    declared = "datasets:\n  mine: {root: nowhere, classes: classes.csv, splits: {test: test.csv}}\n"
    suite = write_suite(
        tmp_path,
        ("  new-verbs: {role: zero-shot, dataset: glyphs-narrow-verbs}", "  new: {role: zero-shot, dataset: mine}"),
        ("rows:", f"{declared}rows:"),
    )
    assert "power: new: its 80 videos are one group, which tells nothing of others" in lines_of(
        suite, tmp_path / "runs"
    )


def test_any_two_rows_and_two_points_of_a_single_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compared = "report:\n  reference: clip_mean\n  experts: [mote]\n  compare: [[dense, clip_mean]]\n"
    lines = lines_of(write_suite(tmp_path, (compared, "")), tmp_path / "runs")
    assert all("over 6 pairs, most for " in line for line in lines if "seeds): " in line)
    reference = compared.replace("  compare: [[dense, clip_mean]]\n", "")
    lines = lines_of(write_suite(tmp_path, (compared, reference)), tmp_path / "runs")
    assert all("over 3 pairs, most for " in line for line in lines if "seeds): " in line)
    single = write_suite(tmp_path, text=many_trials(2000))
    assert main(["plan", str(single), "--store", str(tmp_path / "runs")]) == 0
    assert "points for two points of mote" in capsys.readouterr().out.replace("\n", " ")
