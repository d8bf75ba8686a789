"""Texts and tables in Markdown and LaTeX: what has to be escaped, and how rows are set."""

from __future__ import annotations

from collections.abc import Sequence

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
MARKDOWN = {**{character: f"\\{character}" for character in "\\|*_`[]#"}, "&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escape(text: str, characters: dict[str, str]) -> str:
    """`text` with each of the `characters` replaced."""
    return "".join(characters.get(character, character) for character in text)


def pipes(rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> list[str]:
    """Lines of a Markdown table of escaped texts, the head first; numeric columns are flush right."""
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return [head, f"| {' | '.join('---:' if right else '---' for right in numeric)} |", *body]


def booktabs(rows: Sequence[Sequence[str]], head: int, numeric: Sequence[bool]) -> list[str]:
    """Lines of a booktabs `tabular` of escaped texts, `head` of its rows above the rule."""
    body = [" & ".join(row) + r" \\" for row in rows]
    columns = "".join("r" if right else "l" for right in numeric)
    top = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    return [*top, *body[:head], r"\midrule", *body[head:], r"\bottomrule", r"\end{tabular}"]
