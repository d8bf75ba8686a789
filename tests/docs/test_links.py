"""Every link, path and module that a document or the header of a suite names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("reports/**/*.md")])
SUITES = sorted(ROOT.glob("suites/*.yaml"))
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
ROOMS = "bench|conformance|docs|methods|reports|suites|tests|tools"
PATH = re.compile(rf"(?<![\w./<-])((?:{ROOMS})/[\w./-]*\w/?)(?![\w*<]|/\*)")
MODULE = re.compile(rf"(?<![\w./-])((?:{ROOMS})(?:\.[a-z_]\w*)+)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for place, anchor in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{page.name} links {place}, which is not there"
        assert not anchor or anchor in anchors(target), f"{page.name} links {place}#{anchor}: no such heading"


@pytest.mark.parametrize("page", [*PAGES, *SUITES], ids=name)
def test_paths_and_modules_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".yaml":
        text = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    for path in PATH.findall(text):
        assert (ROOT / path).exists() or (page.parent / path).exists(), f"{page.name} names {path}, which is not there"
    for module in MODULE.findall(text):
        parts = module.split(".")
        places = [ROOT.joinpath(*parts[:end]) for end in range(2, len(parts) + 1)]  # a room, a module, a name in one
        found = places[-1].is_dir() or any(place.with_suffix(".py").is_file() for place in places)
        assert found, f"{page.name} names {module}, which is not there"
