"""Tables of a report: one type, with a rendering for Markdown, LaTeX, CSV and the terminal; the page has a template.

A table is texts; the same numbers unrounded go into its CSV file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from textwrap import fill

import pandas as pd
from rich.console import Group
from rich.table import Table as TerminalTable

GREEK = {
    **{"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "η": "eta", "θ": "theta"},
    **{"κ": "kappa", "λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "varphi"},
    **{"χ": "chi", "ψ": "psi", "ω": "omega", "Δ": "Delta", "Σ": "Sigma", "Ω": "Omega"},
}
LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    **{letter: f"$\\{name}$" for letter, name in GREEK.items()},
    **{"−": "$-$", "≥": r"$\ge$", "≤": r"$\le$", "→": r"$\to$"},
}
SIGNS = {"±": r"$\pm$", "–": "--", "†": r"$^\dagger$", "‡": r"$^\ddagger$", "×": r"$\times$"}  # in cells and notes
MARKDOWN = {**{character: f"\\{character}" for character in "\\|*_`[]#~$"}, "&": "&amp;", "<": "&lt;", ">": "&gt;"}

LETTERS = 32  # of a text in LaTeX from which on its column is broken into lines
SHORT = 16  # letters of a line of small print below a head
WIDE = 100  # letters of a line of notes
LINES = 36  # of a table that fits on a page below its caption
TEXTS = r">{\raggedright\arraybackslash}p{17em}"

BREAKS = re.compile(r"[\n\r\t\v\f\x00-\x1f\x7f\u2028\u2029]+")
UNKNOWN = re.compile(r"[^\x20-\x7e\xa0-\xff‘’“”„†‡–—…]")  # to LaTeX without packages

Origin = str | tuple[str, str, str, str]  # a record's identity, or row, point, expert and measure of its results


@dataclass(frozen=True)
class Column:
    """A column: its head, True if it holds numbers, the small print below the head, and the head's tooltip.

    A `deciding` one stands next to the first column on the page, where a narrow screen still shows it.
    """

    head: str
    number: bool = False
    below: tuple[str, ...] = ()
    title: str = ""
    deciding: bool = False


@dataclass(frozen=True)
class TableCell:
    """A text in a table; `top` is the best of its column, `bold` ties with it.

    `small` is small print below it on the page, `title` its tooltip, `origin` the results that a number comes from.
    """

    text: str
    bold: bool = False
    top: bool = False
    missing: bool = False
    title: str = ""
    origin: Origin = ""
    small: str = ""


TableRow = tuple[TableCell, ...]


@dataclass(frozen=True)
class Table:
    """A table for a section of the page; its files have the stem `name`.

    The page shows the first sentence of the caption and folds the others, which say how to read the table; `warnings`
    are never folded. `protocols` stands in the files, where heads have no tooltips. `values` are the unrounded numbers
    for the CSV file, which else has the texts.
    """

    section: str
    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()
    values: pd.DataFrame | None = None
    protocols: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """Caption and warnings, for media that fold nothing."""
        return " ".join([self.caption, *self.warnings])

    @property
    def shown(self) -> list[int]:
        """The places of the columns in their order on the page: the first one, the deciding ones, the others."""
        places = range(len(self.columns))
        return sorted(places, key=lambda place: (place > 0, not self.columns[place].deciding))

    @cached_property
    def texts(self) -> dict[str, str]:
        """The contents of the files, by kind."""
        return {kind: render(self) for kind, (_, render) in FILES.items()}

    @property
    def files(self) -> dict[str, str]:
        """File name -> content."""
        return {f"{self.name}.{FILES[kind][0]}": text for kind, text in self.texts.items()}

    @property
    def columns_shown(self) -> list[Column]:
        return [self.columns[place] for place in self.shown]


def columns(heads: Mapping[str, bool]) -> tuple[Column, ...]:
    """Columns from heads; True: the column holds numbers."""
    return tuple(Column(head, number) for head, number in heads.items())


def cells(*texts: str, origin: Origin = "") -> TableRow:
    """Plain cells."""
    return tuple(TableCell(text, missing=text.startswith("missing"), origin=origin) for text in texts)


def frame(lines: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """Lines of values as a frame; whole numbers stay whole beside gaps."""
    return pd.DataFrame(list(map(dict, lines)), dtype=object)


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, caption first; text is escaped, so a label can't become markup."""
    heads = [
        f"{own.head} ({', '.join(filter(None, own.below))})" if any(own.below) else own.head for own in table.columns
    ]
    rows = [[escape(head, MARKDOWN) for head in heads]]
    for row in table.rows:
        marks = [("**<ins>", "</ins>**") if cell.top else ("**", "**") if cell.bold else ("", "") for cell in row]
        rows.append([f"{start}{escape(own.text, MARKDOWN)}{end}" for own, (start, end) in zip(row, marks, strict=True)])
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    rule = f"| {' | '.join('---:' if own.number else '---' for own in table.columns)} |"
    below = [f"\n{escape(text, MARKDOWN)}" for text in filter(None, (*table.notes, table.protocols))]
    return "\n".join([escape(table.said, MARKDOWN), "", head, rule, *body, *below, ""])


def latex(table: Table) -> str:
    """Floats of booktabs tables with caption and label, as wide as the text at most; one of many lines has parts.

    Columns of long texts are broken into lines. Bold stands in the columns that decide, if there are any; notes stand
    below the last part. Needs \\usepackage{array,booktabs,graphicx}.
    """
    signs = LATEX | SIGNS
    below = zip_longest(*(own.below for own in table.columns), fillvalue="")
    heads = [[_tex(own.head) for own in table.columns], *([_small(text) for text in row] for row in below)]
    decide = [own.deciding for own in table.columns]
    named = f" Bold in {', '.join(own.head for own in table.columns if own.deciding)} only." * any(decide)
    bold = decide if any(decide) else [True] * len(decide)
    body = []
    for row in table.rows:
        texts = [
            rf"\textbf{{{_tex(own.text, signs)}}}" if own.bold and decides else _tex(own.text, signs)
            for own, decides in zip(row, bold, strict=True)
        ]
        body.append([rf"\underline{{{text}}}" if own.top else text for text, own in zip(texts, row, strict=True)])
    long = [max([len(row[place].text) for row in table.rows], default=0) > LETTERS for place in range(len(decide))]
    kinds = ["r" if own.number else TEXTS if wide else "l" for own, wide in zip(table.columns, long, strict=True)]
    ruled = [r"\toprule", *map(_tex_row, heads), r"\midrule"]
    parts = [*_parts(table)]
    floats = []
    for number, lines in enumerate(parts, start=1):
        part = f" Part {number} of {len(parts)}." if len(parts) > 1 else ""
        notes = [rf"{{\raggedright {_tex(note, signs)}\par}}" for note in table.notes] if number == len(parts) else []
        floats += [
            *(r"\begin{table}[tp]", r"\centering\footnotesize\setlength{\tabcolsep}{4pt}"),
            rf"\caption{{{_tex(table.said + named + part, signs)}}}",
            rf"\label{{tab:{table.name}{f'-{number}' if number > 1 else ''}}}",
            rf"\resizebox{{\ifdim\width>\textwidth\textwidth\else\width\fi}}{{!}}{{\begin{{tabular}}{{{''.join(kinds)}}}",
            *(*ruled, *(_tex_row(body[line]) for line in lines)),
            *(r"\bottomrule", r"\end{tabular}}", *notes, r"\end{table}"),
        ]
    comments = [f"% {' '.join(table.protocols.split())}"] if table.protocols else []
    return "\n".join([*comments, *floats, ""])


def _parts(table: Table) -> Iterator[range]:
    """The rows that fit on a page, and those of the next; the last ones have room for the notes."""
    heights = [max(-(-len(own.text) // LETTERS) for own in row) for row in table.rows]
    notes = sum(-(-len(note) // WIDE) for note in table.notes)
    first, height = 0, 0
    for place, lines in enumerate(heights):
        if height + lines > LINES and place > first:
            yield range(first, place)
            first, height = place, 0
        height += lines
    if height + notes > LINES and len(heights) - first > 1:
        middle = (first + len(heights)) // 2
        yield range(first, middle)
        first = middle
    yield range(first, len(heights))


def _small(text: str) -> str:
    r"""Small print below a head in LaTeX, in short lines."""
    lines = r"\\".join(_tex(line) for line in fill(text, SHORT).splitlines())
    return rf"\scriptsize\shortstack[r]{{{lines}}}" if text else ""


def comma_separated(table: Table) -> str:
    """The table's values, or its texts, as CSV with a line of names; gaps are empty."""
    texts = pd.DataFrame([[own.text for own in row] for row in table.rows], columns=[own.head for own in table.columns])
    return (texts if table.values is None else table.values).to_csv(index=False, lineterminator="\n")


def terminal(table: Table) -> Group:
    """The table for a terminal, caption first; one of a single row stands upright, a line for each column."""
    upright = len(table.rows) == 1
    shown = TerminalTable(show_header=not upright)
    if upright:
        shown.add_column()
        shown.add_column(justify="right")
        for column, own in zip(table.columns, table.rows[0], strict=True):
            shown.add_row(column.head, own.text)
    else:
        for column in table.columns:
            shown.add_column(column.head, justify="right" if column.number else "left")
        for row in table.rows:
            shown.add_row(*(own.text for own in row))
    return Group(table.said, shown, *table.notes)


def escape(text: str, characters: Mapping[str, str]) -> str:
    """`text` in one line, with each of the `characters` replaced."""
    return "".join(characters.get(character, character) for character in BREAKS.sub(" ", text))


def _tex(text: str, characters: Mapping[str, str] = LATEX) -> str:
    """`text` escaped for LaTeX; a sign that its own UTF-8 does not know, which would stop it, becomes its number."""
    return UNKNOWN.sub(lambda sign: f"(U+{ord(sign[0]):04X})", escape(text, characters))


def _tex_row(texts: Sequence[str]) -> str:
    """A row; a bracket or star at its beginning would be the argument or star of the line end before it."""
    return re.sub(r"^\s*([\[*])", r"{\1}", " & ".join(texts)) + r" \\"


# What a table is copied as -> how its file's name ends, and the rendering.
FILES: dict[str, tuple[str, Callable[[Table], str]]] = {
    "LaTeX": ("tex", latex),
    "Markdown": ("md", markdown),
    "CSV": ("csv", comma_separated),
}
