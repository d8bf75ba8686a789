"""The page: every artifact, nothing from outside, nothing unescaped, nothing dropped; and it opens in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports.findings import findings, missing, undecodable
from reports.page import write_report
from reports.results import Results
from tests.reports import synthetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(synthetic.experts(), tmp_path_factory.mktemp("reports") / "suite").parent


def test_all_artifacts_are_there(folder: Path) -> None:
    figures = {"tradeoff", "expert-similarity-mote", "expert-accuracy-mote"}
    figures |= {f"expert-classes-mote-{protocol}" for protocol in ("UCF", "HMDB", "K600")}
    expected = {f"{figure}.{kind}" for figure in figures for kind in ("png", "pdf")}
    expected |= {f"{table}.{kind}" for table in ("table", "experts") for kind in ("csv", "md", "tex")}
    assert {path.name for path in folder.iterdir()} == expected | {"report.html", "results.csv", "expert-classes.csv"}
    assert list(folder.parent.iterdir()) == [folder]


def test_the_page_needs_no_other_file(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count('<img src="data:image/png;base64,') == page.count("<img") == 6
    assert all(len(alt) > 20 for alt in re.findall(r'alt="([^"]*)"', page))
    assert not re.search(r"https?://|<script|<link|@import", page)
    assert all((folder / unescape(name)).is_file() for name in re.findall(r'href="([^"]+)"', page))


def test_labels_cannot_become_markup(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "R&amp;D &lt;script&gt;alert(1)&lt;/script&gt; 100%_net" in page


def test_nothing_is_dropped_silently(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "ST-Adapter, HMDB: seed 2" in page
    assert "UCF: up to 2 of 200 videos could not be decoded" in page
    identities = [identity for identity in synthetic.experts().table["identity"] if identity]
    assert all(f"<code>{identity}</code>" in page for identity in identities if "hostile" not in identity)
    assert page.count("no record") == 1


def test_the_summary_is_made_of_the_numbers() -> None:
    trials, best, reference = findings(synthetic.plain())
    mean = synthetic.plain().summary().set_index("row")["trade_off_mean"].to_dict()
    assert trials.startswith("6 rows, 16 trials") and "63 of 64 results" in trials
    assert best.startswith(f"Best trade-off: MoTE with {mean['mote']:.1f} ±")
    assert reference.endswith(f"{mean['mote'] - mean['clip']:.1f} points below the best.")


def test_a_suite_without_results_still_has_its_page(tmp_path: Path) -> None:
    results = synthetic.plain()
    empty = dict.fromkeys(("top1", "top5", "mean_class", "videos", "undecodable"), np.nan)
    page = write_report(replace(results, table=results.table.assign(**empty, identity="")), tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert "No row has a complete trade-off yet" in text and "Cells without all their results: 24" in text


def test_protocols_are_shown_with_what_differs(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    differing, shared = page.split('id="protocols"')[1].split("Fields that all columns share: 6")
    assert all(f"<code>c0ffee0{i}</code>" in differing for i in range(4))
    assert "<td>views.clips 3 instead of 4</td>" in differing and "<td>test1, test2, test3</td>" in differing
    assert "<dt>views.resize</dt><dd>240, 320" in shared and "<td>views.frames</td>" not in differing
    assert "What differs from the known copies" in shared and "HMDB: the list has 6,766 videos" in shared
    assert '<th scope="col" class="number" title="protocol c0ffee01, see Protocols">UCF<small>' in page


def test_deviations_are_explained_on_the_page(tmp_path: Path) -> None:
    text = write_report(synthetic.deviating(), tmp_path / "out").read_text(encoding="utf-8")
    assert "2 cells are measured otherwise than the column says (†)" in text
    assert "<li>† MoTE (UCF): views.clips 1 instead of 3</li>" in text
    assert "not compared†: MoTE has views.clips 1 instead of 3" in text
    assert "Best trade-off: R&amp;D" in text
    lines = pd.read_csv(tmp_path / "out" / "results.csv", keep_default_na=False)
    assert set(lines["deviation"]) == {"", "views.clips 1 instead of 3", "views.frames 2 instead of 8"}


@pytest.mark.parametrize(
    ("results", "best"),
    [
        (synthetic.without("closed-set"), "Best HM_ZS: MoTE, α 0.6 with"),
        (synthetic.without("zero-shot"), "Best closed-set top-1, K400: Text4Vis, α 1 with"),
    ],
)
def test_a_suite_of_one_side_has_no_trade_off(results: Results, best: str, tmp_path: Path) -> None:
    text = write_report(results, tmp_path / "out").read_text(encoding="utf-8")
    assert best in text and "rade-off" not in text
    assert not (tmp_path / "out" / "tradeoff.png").exists() and (tmp_path / "out" / "curve-alpha.png").exists()


def test_base_and_novel_have_their_report(tmp_path: Path) -> None:
    text = write_report(synthetic.halves(), tmp_path / "out").read_text(encoding="utf-8")
    assert "Best HM hmdb51:" in text and "Reference, HM hmdb51: Text4Vis" in text and "HM_ZS" not in text
    assert {"tradeoff-HM-hmdb51.png", "tradeoff-HM-ucf101.png"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_missing_parts_and_undecodable_draws_are_named() -> None:
    results = synthetic.parts()
    table = synthetic.missing(results.table, row="mote", part="test2")
    table.loc[table["protocol"] == "HMDB", "undecodable"] = 3
    results = replace(results, table=table)
    assert missing(results) == ["MoTE, UCF, test2: seed 0"]
    assert undecodable(results) == ["HMDB: up to 3 videos could not be decoded and count as wrong (6 results)."]


def test_measures_that_a_record_does_not_have_are_dashes(tmp_path: Path) -> None:
    results = synthetic.plain()
    page = write_report(replace(results, table=results.table.assign(top5=None)), tmp_path / "out")
    assert '<td class="number">–</td>' in page.read_text(encoding="utf-8")


def test_a_failing_report_leaves_the_former_one(tmp_path: Path) -> None:
    def broken(identity: str) -> pd.DataFrame:
        raise OSError(f"no predictions of {identity}")

    out = tmp_path / "out"
    out.mkdir()
    (out / "tradeoff.png").write_text("former")
    with pytest.raises(OSError, match="no predictions"):
        write_report(replace(synthetic.plain(), predictions=broken), out)
    assert [path.read_text() for path in out.iterdir()] == ["former"]
    assert list(tmp_path.iterdir()) == [out]


def test_reports_do_not_need_torch() -> None:
    code = "import sys, reports.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


@pytest.mark.browser
@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not on PATH")
def test_the_page_opens_in_a_browser(folder: Path, tmp_path: Path) -> None:
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
    flags += ["disable-component-update", "disable-sync", f"user-data-dir={tmp_path}", "dump-dom"]
    command = ["chromium", *(f"--{flag}" for flag in flags), (folder / "report.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.findall(r"<h2[^>]*>([^<]*)</h2>", dom) == [
        *("Trade-off", "Accuracies", "Experts", "Paired tests"),
        *("Missing results and undecodable videos", "Protocols", "Provenance"),
    ]
    assert "<script" not in dom
    assert dom.count("<tr>") == 2 + 6 + 5 + (1 + 8) + (1 + 6) + (1 + 124)
