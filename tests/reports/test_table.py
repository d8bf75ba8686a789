"""Renderings of tables: the terminal's; LaTeX compiled where there is a TeX, else read by a strict parser."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

from reports.accuracies import accuracy_table
from reports.page import TABLES
from reports.results import Results
from reports.table import TEXTS, Column, Table, TableCell, cells, latex, markdown, terminal
from tests.reports import synthetic
from tests.reports.planned import planned

TEX = next((name for name in ("tectonic", "pdflatex") if shutil.which(name)), None)
HOSTILE = r"%&_#{}~^\<script>$|“–” é × Δ − α μ ≥ → ²"
LABELS = ("[x] first", "* second", "[1ex]", "two\nlines\n\nand more", "★ 方法 ViT‑B", "`~~a~~` $x$", "]", "-", "\\")
COMMANDS = {
    *("begin", "end", "toprule", "midrule", "bottomrule", "textbf", "underline", "par", "footnotesize", "pm", "dagger"),
    *("varepsilon", "eta", "theta", "kappa", "delta", "pi", "varphi", "chi", "psi", "omega", "Sigma", "Omega"),
    *("textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar", "Delta", "times"),
    *(
        "centering",
        "setlength",
        "tabcolsep",
        "caption",
        "label",
        "resizebox",
        "ifdim",
        "width",
        "textwidth",
        "else",
        "fi",
    ),
    *("scriptsize", "shortstack", "raggedright", "arraybackslash"),
    *("mu", "alpha", "beta", "gamma", "lambda", "ge", "le", "to", "sigma", "tau", "rho"),
}
TEXT = re.compile(r"[\x20-\x7e\xa0-\xff‘’“”„†–—…\n]*")  # what LaTeX's own UTF-8 knows without packages


def suites() -> dict[str, Results]:
    made = {name: getattr(synthetic, name)() for name in ("experts", "layered", "joined", "parts", "halves")}
    made |= {name: getattr(synthetic, name)() for name in ("deviating", "published")}
    base = synthetic.deviating()
    labels = {label: f"{HOSTILE} {label}" for label in base.labels.values()}
    table = base.table.assign(label=base.table["label"].map(labels))
    return made | {"hostile": replace(base, table=table, title=HOSTILE)}


@cache
def texts() -> dict[str, str]:
    return dict(_texts())


def _texts() -> Iterator[tuple[str, str]]:
    for suite, results in suites().items():
        for table in (table for tables in TABLES for table in tables(results)):
            yield f"{suite}/{table.name}", table.texts["LaTeX"]
    yield "hostile", latex(hostile())
    marked = tuple((TableCell(label, True, True), TableCell("1")) for label in LABELS)
    plain = tuple(cells(label, "1") for label in LABELS)
    yield "labels", latex(Table("table", "labels", "", (Column("[head"), Column("n", True)), plain + marked, LABELS))


def hostile() -> Table:
    columns = (Column(HOSTILE), Column("Δ μs", number=True))
    return Table("costs", "hostile", HOSTILE, columns, (cells(HOSTILE, "1"), cells("\\", "−1")), (HOSTILE,))


def check(text: str) -> None:
    """Raises AssertionError where the text is no table of LaTeX with booktabs."""
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert TEXT.fullmatch(body), sorted(set(TEXT.sub("", body)))
    plain = re.sub(r"\\\\|\\[%&_#{}$]", "", body)  # without line ends and what is escaped
    assert set(re.findall(r"\\([A-Za-z]+)", re.sub(r"\\\\", " ", body))) <= COMMANDS
    depth = 0
    for sign in re.findall(r"[{}]", plain):
        depth += 1 if sign == "{" else -1
        assert depth >= 0
    assert depth == 0 and plain.count("$") % 2 == 0
    outside = re.sub(r"\$[^$]*\$", "", plain)  # of mathematics
    assert not re.search(r"[#%~^_]", outside)
    floats = re.findall(r"\\begin\{table\}.*?\\end\{table\}", body, re.DOTALL)
    both = [(which, kind) for kind in ("table", "tabular") for which in ("begin", "end")]
    assert floats and sorted(re.findall(r"\\(begin|end)\{(\w+)\}", body)) == sorted(both * len(floats))
    assert len(set(re.findall(r"\\label\{tab:[\w.-]+\}", body))) == body.count(r"\caption{") == len(floats)
    for own in floats:
        shape = own.replace(TEXTS, "l")
        columns, inside = re.search(r"\\begin\{tabular\}\{([lr]+)\}\n(.*)\\end\{tabular\}\}", shape, re.DOTALL).groups()  # type: ignore[union-attr]
        lines = [line for line in inside.splitlines() if line not in ("\\toprule", "\\midrule", "\\bottomrule")]
        assert lines and all(line.endswith(r" \\") for line in lines)
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(columns) - 1}
        assert [inside.count(f"\\{rule}rule\n") for rule in ("top", "mid", "bottom")] == [1, 1, 1]


def test_the_parser_accepts_every_table() -> None:
    found = texts()
    assert {"hostile/table", "published/published", "experts/experts", "layered/protocols", "hostile"} <= set(found)
    for name, text in found.items():
        try:
            check(text)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}\n{text}") from error


def test_a_label_is_no_argument_of_the_line_end_and_one_line_everywhere() -> None:
    text = texts()["labels"]
    assert not re.search(r"(\\\\|rule)\s*[\[*]", text) and "{[}x] first" in text and "(U+2605) (U+65B9)(U+6CD5)" in text
    table = Table("table", "labels", "", (Column("n"),), tuple(cells(label) for label in LABELS))
    assert len(markdown(table).strip().splitlines()) == 2 + len(LABELS) and r"\~\~a" in markdown(table)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"\%", "%"), (r"\&", "&"), (r"\_", "_"), (r"\{", "{"), (r"\bottomrule", ""), (r"\toprule", r"\hrule"),
        (r"\end{tabular}", ""), (r"$-$", "−"), (r" \\", ""), (r"\textasciicircum{}", "^"), ("p{17em}r}", "p{17em}}"),
    ],
)  # fmt: skip
def test_the_parser_refuses_what_does_not_compile(old: str, new: str) -> None:
    body = latex(hostile())
    check(body)
    assert old in body
    with pytest.raises(AssertionError):
        check(body.replace(old, new))


HEAD = (
    "\\documentclass{article}\n\\usepackage[utf8]{inputenc}\n\\usepackage{array,booktabs,graphicx}\n\\begin{document}\n"
)


@pytest.mark.skipif(TEX is None, reason="neither tectonic nor pdflatex is on PATH: the parser check alone was made")
@pytest.mark.parametrize("suite", ["synthetic", "main-table", "few-shot-table", "base-to-novel-table"])
def test_every_table_compiles_and_fits_the_text(suite: str, tmp_path: Path) -> None:
    tables = [*texts().values()] if suite == "synthetic" else [latex(accuracy_table(planned(suite)))]
    text = "\n\\clearpage\n".join(tables)
    (tmp_path / "tables.tex").write_text(f"{HEAD}{text}\n\\end{{document}}\n", encoding="utf-8")
    command = [str(TEX), *(["-halt-on-error", "-interaction=nonstopmode"] if TEX == "pdflatex" else []), "tables.tex"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]
    if TEX == "pdflatex" and suite != "synthetic":  # whose labels are as long and strange as labels come
        assert "Overfull" not in run.stdout and "too large" not in run.stdout, run.stdout[-3000:]


def test_bold_stands_where_it_decides_and_long_tables_have_parts() -> None:
    columns = Column("Method"), Column("UCF", True), Column("HM_ZS", True, deciding=True)
    rows = tuple((TableCell("a"), TableCell("1", True, True), TableCell("2", True)) for _ in range(100))
    text = latex(Table("table", "own", "Caption.", columns, rows))
    check(text)
    assert r"a & \underline{1} & \textbf{2} \\" in text and "Bold in HM\\_ZS only. Part 1 of 3." in text
    assert text.count(r"\begin{table}") == 3 and r"\label{tab:own-3}" in text and text.count("a & ") == 100


@pytest.mark.parametrize(("rows", "expected"), [(1, ("head", "Δ (%)", "text")), (2, ("head", "text"))])
def test_the_terminal_has_every_text_and_one_row_stands_upright(rows: int, expected: tuple[str, ...]) -> None:
    console = Console(file=io.StringIO(), width=60)
    columns = (Column("head"), Column("Δ (%)", number=True))
    console.print(terminal(Table("costs", "own", "Caption", columns, (cells("text", "+0.1"),) * rows)))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Caption" in printed and all(text in printed for text in expected)
    assert (len({line.find("head") for line in printed.splitlines() if "text" in line}) == 1) and (
        any("head" in line and "text" in line for line in printed.splitlines()) == (rows == 1)
    )
