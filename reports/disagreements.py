"""The videos that the best row and the reference, or the next best row, disagree on most, with pictures of them."""

from __future__ import annotations

from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from reports.confusion import NO_ANSWER, answers, evaluated, of_note
from reports.results import Results
from reports.table import Column, Table, cells, columns

VIDEO = ["protocol", "class", "video"]
SIDE = 6  # videos that one of the two has right, and that the other one has


@dataclass(frozen=True)
class PicturedTable(Table):
    """A table whose rows have pictures on the page: JPEG in base64, empty for a row without one."""

    pictures: tuple[str, ...] = ()


def disagreement_tables(results: Results) -> Iterator[Table]:
    """The videos on which the two rows of note differ in most seeds, from all protocols and classes in turn."""
    noted = of_note(results)
    if len(noted) < 2 or results.sides:
        return
    first, second = (_by_video(results, line) for line in noted)
    both = first.add_suffix("_a").join(second.add_suffix("_b"), how="inner").reset_index()
    both["lead"] = both["correct_a"] - both["correct_b"]
    chosen = pd.concat([_most(both[both["lead"] * sign > 0]) for sign in (1, -1)])
    if chosen.empty:
        return
    names = [results.name(line) for line in noted]
    rows = [
        cells(
            *(line["video"], line["class"], line["answer_a"], line["answer_b"]),
            *(f"{line['seeds_a']} / {line['seeds_b']}", line["protocol"]),
        )
        for line in chosen.to_dict("records")
    ]
    caption = (
        f"{results.title}: videos that {names[0]} has right and {names[1]} has not, then the reverse. At most {SIDE} "
        "each, those on which most seeds differ, from all protocols and classes in turn; the most frequent answer over "
        "seeds, and in how many seeds the row is right. They show what to look at; how often the two differ, the "
        "accuracies tell."
    )
    heads = (*columns({"Video": False, "Class": False}), *(Column(name) for name in names), Column("Seeds right"))
    shown = ("videos", "disagreements", caption, (*heads, Column("Protocol")), tuple(rows))
    yield PicturedTable(*shown, pictures=_pictures(results, chosen))


def _by_video(results: Results, line: pd.Series) -> pd.DataFrame:
    """By `VIDEO`: mean `correct`, the most frequent `answer`, how many `seeds` are right, an `identity`."""
    found = [
        answers(results, own["identity"]).assign(protocol=own["protocol"], identity=own["identity"])
        for own in evaluated(results, line.to_frame().T).to_dict("records")
    ]
    table = pd.concat(found)
    table = table[table["answer"] != NO_ANSWER]
    groups = table.groupby(VIDEO, sort=False)
    right, of = groups["correct"].sum(), groups.size()
    counts = table.groupby([*VIDEO, "answer"], sort=False).size().sort_values(ascending=False, kind="stable")
    return pd.DataFrame(
        {
            "correct": right / of,
            "answer": counts.reset_index("answer").groupby(VIDEO, sort=False)["answer"].first(),
            "seeds": right.map("{:.3g}".format) + " of " + of.astype(str),
            "identity": groups["identity"].first(),
        },
        index=right.index,
    )


def _most(lines: pd.DataFrame) -> pd.DataFrame:
    """The largest leads; among equal ones the first of each class, and the protocols in turn."""
    lines = lines.assign(size=-lines["lead"].abs().round(6))
    lines["of_class"] = lines.groupby(["size", "protocol", "class"], sort=False).cumcount()
    lines["of_protocol"] = lines.groupby(["size", "of_class", "protocol"], sort=False).cumcount()
    return lines.sort_values(["size", "of_class", "of_protocol"], kind="stable").head(SIDE)


def _pictures(results: Results, chosen: pd.DataFrame) -> tuple[str, ...]:
    keys = list(zip(chosen["identity_a"], chosen["video"], strict=True))
    wanted = defaultdict[str, list[str]](list)
    for identity, video in keys:
        wanted[identity].append(video)
    found = {identity: results.stills(identity, videos) for identity, videos in wanted.items()}
    return tuple(b64encode(found[identity].get(video, b"")).decode() for identity, video in keys)
