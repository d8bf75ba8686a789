"""The tables of a suite with tuned axes: what each row tried, what was chosen, and what the best would have been."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import nan

import numpy as np
import pandas as pd

from reports.accuracies import DIGITS, accuracy_table
from reports.comparisons import signed
from reports.results import Results
from reports.selection import Tried, Tuning
from reports.table import Column, Table, cells, frame


def tuning_tables(results: Results) -> Iterator[Table]:
    """What was chosen beside the first setting and the best in hindsight; and the accuracies of all settings."""
    if tuning := results.tuning:
        yield _choices(results, tuning)
        tried = accuracy_table(tuning.full)
        note = "All settings that were tried. The best of a column was found on the column itself, so it flatters."
        yield replace(tried, section="tuning", name="tried", notes=(*tried.notes, note))


def _choices(results: Results, tuning: Tuning) -> Table:
    measures = {name: results.measures[name] for name in results.headlines}
    full = tuning.full.summary().set_index(["row", "point"])
    summary = results.summary().set_index(["row", "point"])
    heads = [Column("Method"), Column("Setting"), Column("Tried", True), Column("Chosen"), Column("Seeds", True)]
    for measure in measures.values():
        heads += [Column(f"{measure.title}{what}", True) for what in ("", ", first", ", best", ", best − chosen")]
    rows, values = [], []
    for own in tuning.tried:
        if len(own.points) > 1:
            label, numbers = results.labels[own.row], dict[str, float]()
            for name in measures:
                mean_P = np.array([full[f"{name}_mean"][own.row, point] for point in own.points], float)
                best = float(mean_P.max()) if not np.isnan(mean_P).any() else nan
                chosen = float(summary[f"{name}_mean"][own.row, own.rest])
                told = {"chosen": chosen, "first": float(mean_P[0]), "best": best, "lost": best - chosen}
                numbers |= {f"{name}_{what}": number for what, number in told.items()}
            picked, agreeing = _picked(tuning, own)
            texts = [
                signed(value) if key.endswith("_lost") else f"{value:.{DIGITS}f}" for key, value in numbers.items()
            ]
            texts = ["missing" if pd.isna(value) else text for text, value in zip(texts, numbers.values(), strict=True)]
            rows.append(cells(label, own.rest or "–", str(len(own.points)), picked or "missing", agreeing, *texts))
            about = {"row": own.row, "setting": own.rest, "tried": len(own.points), "chosen": picked, "seeds": agreeing}
            values.append({**about, **numbers})
    headed = [head for head in heads if head.head != "Setting" or any(own.rest for own in tuning.tried)]
    if len(headed) < len(heads):
        rows = [(row[0], *row[2:]) for row in rows]
    seeds = max(len(own.seeds) for own in tuning.tried)
    across = (
        "Each seed is measured at the setting that the other seeds choose, so no number was chosen by its own luck. "
    )
    alone = "There is one seed, which chooses and is measured, so these numbers flatter a little. "
    how = "" if tuning.rule.flatters else across if seeds > 1 else alone
    caption = (
        f"{results.title}: what tuning changed. {tuning.sentence} Chosen: the setting that all seeds together choose, "
        f"and how many seeds are measured at it. {how}First: the first setting of the list, or of those drawn. Best: "
        "the one setting with the best mean on the column itself (the oracle); what it is above the chosen one is "
        "what choosing on the test data would have added."
    )
    return Table("tuning", "tuning", caption, tuple(headed), tuple(rows), values=frame(values))


def _picked(tuning: Tuning, own: Tried) -> tuple[str, str]:
    """The setting that all seeds choose, and how many of them are measured at it, "2 of 3"; nothing if unknown.

    Where a rule chooses another one for each column, they are named with their columns.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for column in tuning.columns:
        best, chosen_S = tuning.best(column, own), tuning.choices(column, own)
        if best is None or chosen_S is None:
            return "", "–"
        agreeing = f"{(chosen_S == best).sum()} of {len(own.seeds)}"
        found.setdefault((own.settings[best], agreeing), []).append(column)
    if len(found) == 1:
        return next(iter(found))
    parts = [(f"{', '.join(columns)}: {setting}", agreeing) for (setting, agreeing), columns in found.items()]
    return "; ".join(text for text, _ in parts), "; ".join(agreeing for _, agreeing in parts)
