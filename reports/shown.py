"""What a report shows: pictures and grids of text, each for a section of the page, whose business is how they look.

A grid is rendered as HTML (templates), Markdown, LaTeX and CSV from the same texts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from reports.markup import LATEX, MARKDOWN, booktabs, escape, pipes

SIGNS = {"±": r"$\pm$", "–": "--", "†": r"$^\dagger$", "×": r"$\times$"}


@dataclass(frozen=True)
class Picture:
    """A figure, the section of the page it belongs to, its file's stem, and what it shows in words."""

    section: str
    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Grid:
    """A table of texts.

    `heads` maps a column's head to whether it holds numbers; `rows` are texts, one per head. `bold` and `links` name
    cells by (row, column): what stands out, and the identity of the record that a cell comes from. `values`: the same
    numbers unrounded under machine-readable names, for the CSV file; without it the texts are written.
    """

    section: str
    name: str
    caption: str
    heads: Mapping[str, bool]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    bold: frozenset[tuple[int, int]] = frozenset()
    links: Mapping[tuple[int, int], str] = field(default_factory=dict)
    values: tuple[Mapping[str, object], ...] = ()


def markdown(grid: Grid) -> str:
    """The grid in GitHub's Markdown, caption first; text is escaped."""
    rows = [[escape(head, MARKDOWN) for head in grid.heads]]
    for index, row in enumerate(grid.rows):
        texts = [escape(text, MARKDOWN) for text in row]
        rows.append([f"**{text}**" if (index, place) in grid.bold else text for place, text in enumerate(texts)])
    notes = [f"\n{escape(note, MARKDOWN)}" for note in grid.notes]
    return "\n".join([escape(grid.caption, MARKDOWN), "", *pipes(rows, list(grid.heads.values())), *notes, ""])


def latex(grid: Grid) -> str:
    """A booktabs `tabular` with the caption as a comment, notes below; needs \\usepackage{booktabs}."""
    signs = LATEX | SIGNS
    rows = [[escape(head, signs) for head in grid.heads]]
    for index, row in enumerate(grid.rows):
        texts = [escape(text, signs) for text in row]
        rows.append(
            [rf"\textbf{{{text}}}" if (index, place) in grid.bold else text for place, text in enumerate(texts)]
        )
    notes = [rf"\par{{\footnotesize {escape(note, signs)}\par}}" for note in grid.notes]
    caption = f"% {' '.join(grid.caption.split())}"
    return "\n".join([caption, *booktabs(rows, 1, list(grid.heads.values())), *notes, ""])


def comma_separated(grid: Grid) -> str:
    """The grid's values, or its texts, as CSV with a line of names; nan and None are empty."""
    lines = grid.values or tuple(dict(zip(grid.heads, row, strict=True)) for row in grid.rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else list(grid.heads), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value != value else value for name, value in line.items()} for line in lines)
    return text.getvalue()
