"""Identities of stages after edits of the code: `python -m tests.graph.edited FOLDER < edits.json`.

FOLDER holds a copy of the project and a suite; the edits are lists of [file, old text, new text]. Prints, for the copy
as it is and then after each edit alone, a JSON mapping of stage titles to identities. Each is computed in a fork of a
process that has imported no module of the project.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

Edit = tuple[str, str, str]


def identities(folder: Path) -> dict[str, str]:
    """Title -> identity of the stages of the copy's suite."""
    from bench.graph.build import build_graph
    from bench.suite.resolve import load_suite

    return {stage.title: stage.identity for stage in build_graph(load_suite(folder / "suite.yaml")).stages.values()}


def forked(folder: Path) -> dict[str, str]:
    """As `identities`, in a process of its own."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.write(writing, json.dumps(identities(folder)).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    return json.loads(found or b"{}")  # type: ignore[no-any-return]


def edited(folder: Path, edit: Edit) -> dict[str, str]:
    """The identities while the edit holds; an empty old text makes a new file, or adds to the end of one."""
    name, old, new = edit
    file = folder / name
    before = file.read_text(encoding="utf-8") if file.is_file() else None
    assert not old or (before and old in before), f"{name} does not contain {old!r}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text((before or "").replace(old, new) if old else (before or "") + new, encoding="utf-8")
    try:
        return forked(folder)
    finally:
        file.unlink() if before is None else file.write_text(before, encoding="utf-8")


if __name__ == "__main__":
    import annotated_types  # noqa: F401  the libraries of planning, once for all forks
    import numpy  # noqa: F401
    import pydantic  # noqa: F401
    import safetensors  # noqa: F401
    import yaml  # noqa: F401

    sys.dont_write_bytecode = True
    copy = Path(sys.argv[1])
    sys.path.insert(0, str(copy))
    print(json.dumps([forked(copy), *(edited(copy, tuple(edit)) for edit in json.load(sys.stdin))]))
