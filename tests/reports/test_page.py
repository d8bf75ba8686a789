"""The page: every artifact, nothing from outside, nothing unescaped, nothing dropped, every number with its origin."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from base64 import b64decode, b64encode
from dataclasses import replace
from html import unescape
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from reports import page
from reports.facts import FailedStage
from reports.findings import findings, missing, undecodable
from reports.page import SECTIONS, write_report, written
from reports.results import Results
from reports.table import FILES, Column, Table, cells
from tests.reports import synthetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(synthetic.experts(), tmp_path_factory.mktemp("reports") / "suite").parent


def test_all_artifacts_are_there(folder: Path) -> None:
    figures = {"tradeoff", "expert-similarity-mote", "expert-accuracy-mote"}
    figures |= {f"expert-classes-mote-{protocol}" for protocol in ("UCF", "HMDB", "K600")}
    expected = {f"{figure}.{kind}" for figure in figures for kind in ("png", "pdf")}
    expected |= {f"{table}.{kind}" for table in ("table", "experts") for kind in ("csv", "md", "tex")}
    expected |= {"report.html", "results.csv", "expert-classes.csv", "references.bib"}
    assert expected <= {path.name for path in folder.iterdir()}
    assert list(folder.parent.iterdir()) == [folder]


def test_the_page_needs_no_other_file(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.count('<img src="data:image/png;base64,') == text.count("<img") >= 5
    assert text.count("<svg viewBox") >= 1
    assert all(len(alt) > 20 for alt in re.findall(r'alt="([^"]*)"', text))
    assert not re.search(r"https?://|<link|@import|url\((?!#)", text)
    links = [unquote(unescape(link)) for link in re.findall(r'href="([^"]+)"', text)]
    assert len(links) > 50 and {link[0] for link in links} == {"#"}  # the page can be mailed alone
    assert {link[1:] for link in links} <= set(re.findall(r' id="([^"]+)"', text))
    named = [unescape(name) for name in re.findall(r"<code>([^<]+\.(?:png|pdf|csv|md|tex|bib))</code>", text)]
    assert len(named) > 20 and all((folder / name).is_file() for name in named)


def test_embedded_figures_keep_the_colours_of_rows(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    embedded = re.findall(r'base64,([^"]+)".*?<code>([^<]+\.png)</code>', text, re.DOTALL)
    assert len(embedded) >= 5
    for data, name in embedded:
        shown_P3, own_P3 = (
            np.asarray(Image.open(file).convert("RGB")).reshape(-1, 3).astype(int)
            for file in (BytesIO(b64decode(data)), folder / name)
        )
        _, places_P, counts_C = np.unique(own_P3 @ [65536, 256, 1], return_inverse=True, return_counts=True)
        errors_P = np.abs(shown_P3 - own_P3).max(axis=1)
        assert errors_P[counts_C[places_P] > 40].max() <= 16, name


@pytest.mark.parametrize("kind", ["script", "style"])
def test_a_browser_may_run_this_script_and_apply_this_style_only(folder: Path, kind: str) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    (inline,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
    assert f"{kind}-src 'sha256-{b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'" in text
    assert not re.search(r"<\w+[^>]* (on\w+|style)=|unsafe-inline", text)


def test_the_contents_lead_to_every_section_in_order(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    contents = re.findall(r'<li><a href="#(\w+)">([^<]+)</a></li>', text)
    assert contents == re.findall(r'<h2 id="(\w+)">([^<]+)</h2>', text)
    assert [name for name, _ in contents] == [name for name in SECTIONS if name in dict(contents)]
    assert contents[0] == ("tradeoff", "Trade-off") and "published" not in dict(contents)


def test_what_belongs_to_no_section_is_not_dropped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stray = Table("nowhere", "stray", "", (Column("A", True),), (cells("1"),))
    monkeypatch.setattr(page, "TABLES", (lambda results: iter([stray]),))
    with pytest.raises(ValueError, match="nowhere"):
        write_report(synthetic.plain(), tmp_path / "out")


def test_a_number_leads_to_its_results(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    accuracies = text.split('id="sheet-table"')[1].split("</table>")[0]
    (cell,) = re.findall(r'<th scope="row">ST-Adapter</th>.*?href="#(cell-\d+)">45.0', accuracies, re.DOTALL)
    behind = re.findall(rf'<tr data-cell="{cell.removeprefix("cell-")}"(.*?)</tr>', text, re.DOTALL)
    assert len(behind) == 3 and f'id="{cell}"' in behind[0] and f'id="{cell}"' not in behind[1] + behind[2]
    assert all("<td>ST-Adapter</td>" in line and "<td>HMDB</td>" in line for line in behind)
    assert ["adapter::" in line for line in behind] == [True, True, False] and "no record" in behind[2]
    assert accuracies.count('href="#cell-') == 6 * 4


@pytest.mark.usefixtures("without_figures")
def test_a_result_names_its_record_in_the_store(tmp_path: Path) -> None:
    text = write_report(synthetic.plain(), tmp_path / "out").read_text(encoding="utf-8")
    identity = next(iter(synthetic.plain().table["identity"]))
    assert f'<code data-record="evaluate/{identity}">{identity}</code>' in text


@pytest.mark.usefixtures("without_figures")
def test_failures_are_listed_with_their_last_words(tmp_path: Path) -> None:
    said = "bench.core.errors.StageError: the loss is not finite <b>"
    failures = (
        FailedStage("train mote seed 1", 2, 1, "it was killed", True),
        FailedStage("train b seed 0", 3, 3, said, False),
    )
    text = write_report(replace(synthetic.plain(), failures=failures), tmp_path / "out").read_text(encoding="utf-8")
    own = text.split('id="sheet-failures"')[1].split("</figure>")[0]
    assert re.findall(r'<th scope="row">(train [^<]*)</th>', own) == ["train b seed 0"]  # the other one was mended
    assert "the loss is not finite &lt;b&gt;</td>" in own and text.index('id="missing"') < text.index("sheet-failures")


def test_what_can_be_copied_is_what_the_files_hold(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    found = re.findall(r'id="sheet-([^"]+)".*?</figure>', text, re.DOTALL)
    assert {"table", "experts", "protocols"} <= set(found)
    for name in found:
        sheet = text.split(f'id="sheet-{name}"')[1].split("</figure>")[0]
        texts = dict(re.findall(r'<template data-kind="(\w+)">(.*?)</template>', sheet, re.DOTALL))
        assert {kind: (folder / f"{name}.{FILES[kind][0]}").read_text() for kind in FILES} == {
            kind: unescape(text) for kind, text in texts.items()
        }


def test_alarms_overrides_and_the_date_stand_on_top_and_no_place_of_the_machine_anywhere(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "reports" / "suite-1a2b3c4d"
    origin: dict[str, object] = {
        "store": str(tmp_path / "runs"),
        "overrides": ["seeds=[0]", "title=<b>"],
        "written": "2026-01-02 03:04 UTC",
    }
    results = replace(synthetic.plain(), unsound=("not a number: top1 is nan <b>",), provenance=origin)
    text = write_report(results, out).read_text(encoding="utf-8")
    top = text[: text.index('<nav class="contents"')]
    assert "suite-1a2b3c4d, newest record 2026-01-02 03:04 UTC" in top and "<code>seeds=[0]</code>" in top
    assert "<strong>1 alarm:</strong>" in top and "<strong>not a number:</strong> top1 is nan &lt;b&gt;" in top
    assert "title=&lt;b&gt;" in top and 'class="alarms"' not in write_report(synthetic.plain(), out).read_text()
    files = [path for path in out.rglob("*") if path.suffix in (".html", ".csv", ".md", ".tex", ".json")]
    assert len(files) > 10 and not [path for path in files if str(tmp_path) in path.read_text(encoding="utf-8")]


def test_labels_cannot_become_markup(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "R&amp;D &lt;script&gt;alert(1)&lt;/script&gt; 100%_net" in text


def test_nothing_is_dropped_silently(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "ST-Adapter, HMDB: seed 2" in text
    assert "UCF: up to 2 of 200 videos could not be decoded" in text
    identities = [identity for identity in synthetic.experts().table["identity"] if identity]
    assert all(f">{identity}</code>" in text for identity in identities if "hostile" not in identity)
    assert text.count("no record") == 1


def test_the_summary_is_made_of_the_numbers() -> None:
    said = {sentence.split()[0]: sentence for sentence in findings(synthetic.plain())}
    mean = synthetic.plain().summary().set_index("row")["trade_off_mean"].to_dict()
    assert said["6"].startswith("6 rows, 16 trials") and "63 of 64 results" in said["6"]
    assert said["Best"].startswith(f"Best trade-off: MoTE with {mean['mote']:.1f} ±")
    assert f"{mean['mote'] - mean['clip']:.1f} points below the best" in said["Reference:"]


def test_a_suite_without_results_still_has_its_page(tmp_path: Path) -> None:
    results = synthetic.plain()
    empty = dict.fromkeys(("top1", "top5", "mean_class", "videos", "undecodable"), np.nan)
    page = write_report(replace(results, table=results.table.assign(**empty, identity="")), tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert "No row has a complete trade-off yet" in text and "Cells without all their results: 24" in text


def test_protocols_are_shown_with_what_differs(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    differing, shared = text.split('id="protocols"')[1].split("Fields that all columns share: 6")
    assert all(f"<td>c0ffee0{i}</td>" in differing for i in range(4))
    assert "<td>views.clips 3 instead of 4</td>" in differing and "<td>test1, test2, test3</td>" in differing
    assert "<dt>views.resize</dt><dd>240, 320" in shared and "<td>views.frames</td>" not in differing
    assert "<li>HMDB: the list has 6,766 videos" in differing
    assert '<th scope="col" class="number" title="protocol c0ffee01, see Protocols">UCF<small>' in text


@pytest.mark.usefixtures("without_figures")
def test_what_answers_the_question_is_shown_and_the_rest_folded(tmp_path: Path) -> None:
    calm = replace(synthetic.parts(), unsound=("not a number: top1 is nan",))
    text = write_report(calm, tmp_path / "calm").read_text(encoding="utf-8")
    assert [name for name in SECTIONS if _is_folded(text, name)] == [
        "significance",
        "ranks",
        "classes",
        "videos",
        "missing",
        "protocols",
        "provenance",
    ]
    assert not _is_within_details(text, 'class="alarms"') and not _is_within_details(text, 'id="sheet-table"')
    text = write_report(synthetic.plain(), tmp_path / "lacking").read_text(encoding="utf-8")
    assert not _is_folded(text, "missing")  # a result is missing


def _is_within_details(text: str, what: str) -> bool:
    before = text[: text.index(what)]
    return before.count("<details") > before.count("</details>")


def _is_folded(text: str, section: str) -> bool:
    return f'<h2 id="{section}"' in text and _is_within_details(text, f'<h2 id="{section}"')


@pytest.mark.usefixtures("without_figures")
def test_terms_are_explained_once_and_only_those_that_the_page_uses(folder: Path, tmp_path: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<abbr title="([^"]+)">HM_ZS</abbr>', text) == ["harmonic mean of the zero-shot accuracies"]
    assert text.count("<dt>HM_ZS</dt>") == 1 and "<dt>WMR</dt>" not in text
    halves = write_report(synthetic.halves(), tmp_path / "out").read_text(encoding="utf-8")
    assert "<dt>HM</dt>" in halves and "<dt>HM_ZS</dt>" not in halves


@pytest.mark.usefixtures("without_figures")
def test_intervals_and_deciding_columns_are_seen_at_once(tmp_path: Path) -> None:
    write_report(synthetic.plain(), tmp_path / "out")
    text = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    sheet = text.split('id="sheet-table"')[1].split("</table>")[0]
    heads = [head.strip() for head in re.findall(r'<th scope="col"[^>]*>([^<]*)', sheet)]
    assert heads[:2] == ["Method", "Trade-off"]
    line = pd.read_csv(tmp_path / "out/table.csv").set_index("row").loc["mote"]
    assert f"<small>{line['trade_off_low']:.1f}–{line['trade_off_high']:.1f}</small>" in sheet
    assert (tmp_path / "out/table.md").read_text().splitlines()[2].startswith("| Method | Seeds |")


@pytest.mark.usefixtures("without_figures")
def test_the_curve_comes_first_and_beside_it_what_it_says(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    opening = text[text.index('<div class="opening">') : text.index('id="table"')]
    assert text.index("<svg") > text.index('<div class="opening">') and "tradeoff.png" in opening
    assert opening.index("<svg") < opening.index("Best trade-off:") and text.count("Best trade-off:") == 1


def test_deviations_are_explained_on_the_page(tmp_path: Path) -> None:
    text = write_report(synthetic.deviating(), tmp_path / "out").read_text(encoding="utf-8")
    assert "2 cells are measured otherwise than the column says (†)" in text
    assert "<li>† MoTE (UCF): views.clips 1 instead of 3</li>" in text
    assert "not compared†: MoTE has views.clips 1 instead of 3" in text
    assert "<strong>Best trade-off:</strong> R&amp;D" in text
    lines = pd.read_csv(tmp_path / "out" / "results.csv", keep_default_na=False)
    assert set(lines["deviation"]) == {"", "views.clips 1 instead of 3", "views.frames 2 instead of 8"}


@pytest.mark.parametrize(
    ("results", "best"),
    [
        (synthetic.without("closed-set"), "<strong>Best HM_ZS:</strong> MoTE, α 0.6 with"),
        (synthetic.without("zero-shot"), "<strong>Best closed-set top-1, K400:</strong> Text4Vis, α 1 with"),
    ],
)
def test_a_suite_of_one_side_has_no_trade_off(results: Results, best: str, tmp_path: Path) -> None:
    text = write_report(results, tmp_path / "out").read_text(encoding="utf-8")
    assert text.count(best) == 1 and "rade-off" not in text
    assert not (tmp_path / "out" / "tradeoff.png").exists() and (tmp_path / "out" / "curve-alpha.png").exists()


def test_base_and_novel_have_their_report(tmp_path: Path) -> None:
    text = write_report(synthetic.halves(), tmp_path / "out").read_text(encoding="utf-8")
    assert "Best HM hmdb51:" in text and "Reference, HM hmdb51:</strong> Text4Vis" in text and "HM_ZS" not in text
    assert {"tradeoff-HM-hmdb51.png", "tradeoff-HM-ucf101.png"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_missing_parts_and_undecodable_draws_are_named() -> None:
    results = synthetic.parts()
    table = synthetic.missing(results.table, row="mote", part="test2")
    table.loc[table["protocol"] == "HMDB", "undecodable"] = 3
    results = replace(results, table=table)
    assert missing(results) == ["MoTE, UCF, test2: seed 0"]
    assert undecodable(results) == ["HMDB: up to 3 videos could not be decoded and count as wrong (6 results)."]


@pytest.mark.usefixtures("without_figures")
def test_measures_that_a_record_does_not_have_are_dashes(tmp_path: Path) -> None:
    results = synthetic.plain()
    page = write_report(replace(results, table=results.table.assign(top5=None)), tmp_path / "out")
    results_of_records = page.read_text(encoding="utf-8").partition('id="results"')[2]
    assert "<td>–</td>" in results_of_records


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


def test_what_only_the_former_report_had_is_removed(tmp_path: Path) -> None:
    out = write_report(synthetic.experts(), tmp_path / "out").parent
    (out / "notes.txt").write_text("mine")
    former = written(out)
    write_report(synthetic.plain(), out)
    assert {path.name for path in out.iterdir() if path.is_file()} == written(out) | {"notes.txt", ".files.json"}
    assert former - written(out)


def test_reports_do_not_need_torch() -> None:
    code = "import sys, reports.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
