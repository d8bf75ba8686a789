"""Every file and name of docs/architecture.md exists, and every room is on the page."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
LINES = [line.strip("| ").split(" | ") for line in PAGE.partition("## To change")[2].splitlines() if "`" in line]


def defined(file: Path) -> set[str]:
    """Names that a module defines at its top, methods as Class.method."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0])
def test_what_to_change_is_where_the_page_says(line: list[str]) -> None:
    files = [ROOT / path for path in re.findall(r"`([^`]+)`", line[1])]
    assert files and all(file.is_file() for file in files)
    names = set(re.findall(r"`([^`]+)`", "".join(line[2:])))
    assert names <= {name for file in files if file.suffix == ".py" for name in defined(file)}


def test_every_room_is_on_the_page() -> None:
    packages = [path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("bench/*/__init__.py")]
    assert [room for room in (*packages, "reports", "methods", "conformance") if f"`{room}/`" not in PAGE] == []
