"""BibTeX entries of the papers of methods, datasets and backbones (bench/assets/references.bib)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from bench.core.files import ASSETS

SAME = {"dense_temporal": "mote"}  # methods of another's paper
CLIP, VICLIP = "clip_mean", "viclip"


def references(methods: Iterable[str], datasets: Iterable[str], backbones: Iterable[str] = ()) -> dict[str, str]:
    """Entries by key, in the order of the file; what is not in it, such as data of one's own, has none."""
    wanted = {SAME.get(name, name) for name in methods}
    wanted |= {re.sub(r"-split\d+$", "", name) for name in datasets}
    wanted |= {CLIP} | {VICLIP for name in backbones if name.startswith("ViCLIP")}
    return {key: entry for key, entry in known().items() if key in wanted}


@cache
def known() -> dict[str, str]:
    """All entries by key."""
    text = (ASSETS / "references.bib").read_text(encoding="utf-8")
    return {own[1]: own[0] for own in re.finditer(r"^@\w+\{([\w-]+),\n.*?^\}$", text, re.DOTALL | re.MULTILINE)}
