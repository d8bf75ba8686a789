"""The page in headless Chromium: sorting, copying, links to records; no message of the console, no request.

A test adds a script to a copy of the page, names it in the page's policy, and reads what it wrote into the page. A page
narrower than a window of Chromium can be, 500 pixels, stands in a frame, which tells the page around it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from base64 import b64encode
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

import reports.page
from reports.page import write_report
from reports.table import FILES
from tests.reports import synthetic

FLAGS = [
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
    *("disable-component-update", "disable-sync", "virtual-time-budget=20000", "enable-logging=stderr", "dump-dom"),
]
pytestmark = [pytest.mark.browser, pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not on PATH")]
NARROWEST = 500
AXE = "axe-core@4.14.1"  # from npm
TELL = """
const note = (text) => {
  const told = document.createElement("pre");
  told.id = "told";
  told.textContent = text;
  document.body.append(told);
};
const tell = (what) => parent === window ? note(JSON.stringify(what)) : parent.postMessage(JSON.stringify(what), "*");
const head = (table, text) => [...table.tHead.querySelectorAll("th")].find((th) => th.textContent.startsWith(text));
const column = (table, place) => [...table.tBodies[0].rows].map((row) => row.cells[place].textContent);
"""
FINDINGS = """
for (const folded of document.querySelectorAll("details")) folded.open = true;
const grave = (own) => ["serious", "critical"].includes(own.impact);
axe.run().then(({ violations }) => tell(violations.filter(grave).map((own) => (
  { id: own.id, help: own.help, where: own.nodes.slice(0, 5).map((node) => `${node.target} ${node.failureSummary}`) }
))));"""


class Opened(NamedTuple):
    """What a page became: its elements, what the added script told, and what the console said."""

    dom: str
    told: Any
    console: list[str]


def opened(
    page: Path,
    folder: Path,
    script: str = "",
    fragment: str = "",
    *,
    allowed: bool = True,
    width: int = 1280,
    dark: bool = False,
) -> Opened:
    text, script = page.read_text(encoding="utf-8"), f"{TELL}{script}" if script else ""
    if allowed:
        named = b64encode(hashlib.sha256(script.encode()).digest()).decode()
        text = text.replace("script-src ", f"script-src 'sha256-{named}' ", 1)
    if script:
        text = text.replace("</body>", f"<script>{script}</script>\n</body>")
    copy, frame = folder / "driven.html", folder / "frame.html"
    copy.write_text(text, encoding="utf-8")
    frame.write_text(
        f'<body style="margin:0"><iframe src="driven.html" width="{width}" height="900" style="border:0"></iframe>'
        f'<script>{TELL} addEventListener("message", (event) => note(event.data));</script>',
        encoding="utf-8",
    )
    command = ["chromium", *(f"--{flag}" for flag in FLAGS), f"--user-data-dir={folder / 'profile'}"]
    command += [f"--window-size={width},900", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    shown = frame if width < NARROWEST else copy
    run = subprocess.run([*command, shown.as_uri() + fragment], capture_output=True, text=True, timeout=120, check=True)
    told = re.search(r'<pre id="told">(.*?)</pre>', run.stdout, re.DOTALL)
    console = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    return Opened(run.stdout, json.loads(unescape(told[1])) if told else None, console)


@pytest.fixture(scope="module")
def axe(request: pytest.FixtureRequest) -> str:
    """The source of axe-core, which is fetched once."""
    assert request.config.cache is not None
    file = request.config.cache.mkdir("axe-core") / f"{AXE}.js"
    if not file.is_file():
        if not shutil.which("npm"):
            pytest.skip("npm is not on PATH, so there is no axe-core")
        packed = subprocess.run(["npm", "pack", AXE, "--silent"], cwd=file.parent, capture_output=True, text=True)
        if packed.returncode:
            pytest.skip(f"npm has no {AXE}: {packed.stderr.strip()[-200:]}")
        with tarfile.open(file.parent / packed.stdout.strip()) as archive:
            source = archive.extractfile("package/axe.min.js")
            assert source is not None
            file.write_bytes(source.read())
    return file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every section that synthetic results can fill, one cell without any result."""
    results = replace(synthetic.experts(), published=synthetic.published().published)
    results = replace(results, table=synthetic.missing(results.table, row="dense", protocol="UCF", expert=""))
    return write_report(results, tmp_path_factory.mktemp("reports") / "suite")


def test_the_page_opens_without_a_word(page: Path, tmp_path: Path) -> None:
    found = opened(page, tmp_path)
    assert found.console == []
    headings = re.findall(r"<h2[^>]*>([^<]*)</h2>", found.dom)
    assert headings[:3] == ["Trade-off", "Accuracies", "Experts"]
    assert headings[-3:] == ["Failures and missing results", "Protocols", "Provenance"]
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", found.dom)


def test_no_other_script_runs(page: Path, tmp_path: Path) -> None:
    found = opened(page, tmp_path, "tell('ran');", allowed=False)
    assert found.told is None and any("Content Security Policy" in line for line in found.console)


def test_a_click_on_a_head_sorts(page: Path, tmp_path: Path) -> None:
    script = """
    const table = document.querySelector("#sheet-table table"), states = [];
    for (const text of ["UCF", "UCF", "UCF", "Method"]) {
      const th = head(table, text);
      th.querySelector("button").click();
      states.push({ order: column(table, 0), numbers: column(table, head(table, "UCF").cellIndex),
                    sorted: th.getAttribute("aria-sort"),
                    others: table.querySelectorAll("[aria-sort]").length });
    }
    tell(states);"""
    found = opened(page, tmp_path, script)
    down, up, back, names = found.told
    assert [state["sorted"] for state in found.told] == ["descending", "ascending", None, "ascending"]
    assert [state["others"] for state in found.told] == [1, 1, 0, 1]
    for state, sign in ((down, -1), (up, 1)):
        *present, last = state["numbers"]
        means = [float(text.split()[0]) for text in present]
        assert means == sorted(means, key=lambda mean: sign * mean) and len(set(means)) > 3
        assert last.startswith("missing") and state["order"][-1] == "Text4Vis"
    assert back["order"] == [label for label, *_ in synthetic.ROWS.values()]
    assert names["order"] == sorted(back["order"], key=str.casefold)
    assert found.console == []


def test_ten_thousand_lines_sort_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports.page, "FIGURES", ())
    base = synthetic.plain().table
    lines = pd.concat([base.assign(part=f"draw {draw}", top1=base["top1"] + draw % 7 / 10) for draw in range(160)])
    page = write_report(synthetic.suite(lines), tmp_path / "out")
    script = """
    const details = document.getElementById("results"), table = details.querySelector("table"), times = {};
    const timed = (name, act) => {
      const started = performance.now();
      act();
      table.offsetHeight;
      times[name] = performance.now() - started;
    };
    const sorted = (text) => head(table, text).querySelector("button").click();
    timed("open", () => { details.open = true; });
    timed("number", () => sorted("Top-1"));
    const numbers = column(table, head(table, "Top-1").cellIndex);
    timed("text", () => sorted("Part"));
    const shown = () => [...table.tBodies[0].rows].filter((row) => row.offsetHeight > 0).length, first = shown();
    timed("all", () => document.getElementById("all").click());
    tell({ times, numbers, first, whole: shown(), parts: column(table, head(table, "Part").cellIndex) });"""
    told = opened(page, tmp_path, script).told
    present = [float(text) for text in told["numbers"] if text != "missing"]
    assert len(told["numbers"]) == len(lines) == 10_240 and present == sorted(present, reverse=True)
    assert told["numbers"][len(present) :] == ["missing"] * 160
    assert list(dict.fromkeys(told["parts"])) == [f"draw {draw}" for draw in range(160)]  # by number, not by letter
    assert (told["first"], told["whole"]) == (500, 10_240)
    print({name: f"{time / 1000:.2f} s" for name, time in told["times"].items()})
    assert (
        max(told["times"][name] for name in ("open", "number", "text")) < 30_000
    )  # two seconds; a quadratic sort: minutes


@pytest.mark.parametrize("clipboard", ["works", "refuses", "refuses all"])
def test_tables_can_be_copied(page: Path, clipboard: str, tmp_path: Path) -> None:
    script = (
        f"const how = {json.dumps(clipboard)};"
        + """
    for (const folded of document.querySelectorAll("details")) folded.open = true;
    const copied = [], write = async (text) => { if (how !== "works") throw new Error(); copied.push(text); };
    Object.defineProperty(navigator, "clipboard", { value: { writeText: write } });
    document.execCommand = () => {
      if (how === "refuses") copied.push(getSelection().toString() || document.activeElement.value);
      return how === "refuses";
    };
    (async () => {
      const found = {};
      for (const sheet of document.querySelectorAll("figure.sheet")) {
        for (const button of sheet.querySelectorAll(".tools button")) {
          button.click();
          await new Promise((done) => setTimeout(done));
          const shown = sheet.querySelector("textarea");
          const text = shown ? shown.value.slice(shown.selectionStart, shown.selectionEnd) : copied.pop();
          found[`${sheet.id} ${button.textContent}`] = [text, sheet.querySelector("[role=status]").textContent];
        }
      }
      tell(found);
    })();"""
    )
    found = opened(page, tmp_path, script)
    status = "selected; copy it with the keyboard" if clipboard == "refuses all" else "copied"
    assert {"sheet-table LaTeX", "sheet-published CSV", "sheet-protocols Markdown"} <= set(found.told)
    for name, (text, said) in found.told.items():
        sheet, kind = name.removeprefix("sheet-").split()
        assert text == (page.parent / f"{sheet}.{FILES[kind][0]}").read_text(encoding="utf-8") and said == status
    assert found.console == []


def test_a_cell_shows_its_results_alone(page: Path, tmp_path: Path) -> None:
    script = """
    const link = [...document.querySelectorAll("#sheet-table td a")].find((a) => a.textContent.startsWith("45.0"));
    link.click();
    setTimeout(() => {
      const shown = () => [...document.querySelectorAll("#results tbody tr")].filter((row) => row.offsetHeight > 0);
      const lines = shown().map((row) => [...row.cells].slice(0, 3).map((cell) => cell.textContent));
      document.getElementById("all").click();
      tell({ lines, after: shown().length, open: document.getElementById("results").open });
    }, 200);"""
    found = opened(page, tmp_path, script)
    assert found.told == {"lines": [["ST-Adapter", "", "HMDB"]] * 3, "after": 124, "open": True}


def test_the_contents_unfold_what_they_lead_to(page: Path, tmp_path: Path) -> None:
    script = """
    const part = document.getElementById("protocols").closest("details"), before = part.open;
    document.querySelector('.contents a[href="#protocols"]').click();
    setTimeout(() => tell([before, part.open, document.getElementById("provenance").closest("details").open]), 200);"""
    assert opened(page, tmp_path, script).told == [False, True, False]


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_wider_than_the_screen(page: Path, width: int, tmp_path: Path) -> None:
    script = """
    for (const folded of document.querySelectorAll("details")) folded.open = true;
    tell([document.documentElement.scrollWidth, document.body.getBoundingClientRect().right, innerWidth]);"""
    needed, right, given = opened(page, tmp_path, script, width=width).told
    assert needed <= given == width and right <= width


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_keeps_a_reader_out(page: Path, axe: str, width: int, dark: bool, tmp_path: Path) -> None:
    found = opened(page, tmp_path, f"{axe};{FINDINGS}", width=width, dark=dark)
    assert found.told == []


def test_a_point_tells_its_numbers_and_a_click_isolates_its_row(page: Path, tmp_path: Path) -> None:
    script = """
    const chart = document.querySelector(".chart"), spot = chart.querySelector('.spot[data-row="mote"]');
    const tip = chart.querySelector(".tip"), seen = {}, faded = () => chart.querySelectorAll(".spot.others").length;
    const key = (name) => spot.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
    seen.before = tip.hidden;
    spot.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
    seen.hover = [tip.hidden, tip.textContent];
    spot.dispatchEvent(new PointerEvent("pointerout", { bubbles: true }));
    seen.out = tip.hidden;
    spot.focus();
    seen.focus = [tip.hidden, tip.textContent];
    key("Escape");
    seen.escaped = tip.hidden;
    key("Enter");
    seen.alone = [faded(), chart.querySelector('button[data-row="mote"]').getAttribute("aria-pressed")];
    chart.querySelector('button[data-row="mote"]').click();
    seen.all = faded();
    tell(seen);"""
    found = opened(page, tmp_path, script)
    told = found.told["hover"][1]
    assert told.startswith("MoTE\n") and "95 % interval" in told and "n = 3; records mote::" in told
    assert found.told["focus"] == found.told["hover"] == [False, told] and found.console == []
    assert (found.told["before"], found.told["out"], found.told["escaped"]) == (True, True, True)
    assert found.told["alone"] == [4, "true"] and found.told["all"] == 0


def test_far_points_can_be_brought_in(tmp_path: Path) -> None:
    page = write_report(synthetic.layered(), tmp_path / "suite")
    script = """
    const shown = () => [...document.querySelectorAll(".chart [data-view]")].filter((plot) => plot.clientWidth > 0);
    const views = () => shown().map((plot) => plot.dataset.view).join(" "), toggle = document.querySelector(".view");
    const first = views();
    toggle.click();
    const second = views();
    toggle.click();
    tell([first, second, views(), toggle.hidden]);"""
    assert opened(page, tmp_path, script).told == ["near near", "whole whole", "near near", False]


def test_a_link_from_elsewhere_shows_its_results(page: Path, tmp_path: Path) -> None:
    script = """setTimeout(() => tell([...document.querySelectorAll("tr.chosen")].map((row) => row.id)), 200);"""
    assert opened(page, tmp_path, script, "#cell-5").told == ["cell-5", "", ""]
