"""Words for people: numbers with their nouns, and texts without the places of one machine."""

from __future__ import annotations

import re
import shlex
import sys
import time
from pathlib import Path
from shutil import which
from typing import Any

# A quoted path may have spaces; elsewhere it ends at one. A fraction, a URL and "ViT-B/16" are no paths.
ABSOLUTE = re.compile(
    r"(?<=['\"])/[^'\"\n]+(?=['\"])"
    r"|(?:file://|(?<![\w./…}~])(?!(?<=:)//))(?:/+[\w.$-][^\s/'\"`,;:=()\[\]{}<>|]*)+/?"
)


def program() -> str:
    """The name that this program was started by: `vtb`, or `run_suite.py`."""
    return "vtb" if Path(sys.argv[0]).name == "vtb" else "run_suite.py"


def typed(*arguments: object) -> str:
    """A command of this program as it can be pasted into the shell that this one was typed into."""
    if program() == "vtb":
        return shlex.join(["vtb" if which("vtb") == sys.argv[0] else sys.argv[0], *map(str, arguments)])
    python = "python" if which("python") == sys.executable else sys.executable
    script = sys.argv[0] if sys.argv[0].endswith("run_suite.py") else program()
    return shlex.join([python, script, *map(str, arguments)])


def now() -> str:
    """Date and time, as reports tell it."""
    return when(time.time())


def when(seconds: float) -> str:
    """Date and time of so many seconds since 1970, as reports tell it."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def counted(count: int, thing: str) -> str:
    """A number with its noun in singular or plural."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def portable(value: Any) -> Any:
    """A text, or the texts inside a JSON value, with absolute paths cut to their last part: "…/list.txt"."""
    if isinstance(value, str):
        return ABSOLUTE.sub(lambda found: f"…/{found[0].rstrip('/').rpartition('/')[2]}", value)
    if isinstance(value, dict):
        return {name: portable(own) for name, own in value.items()}
    return [portable(own) for own in value] if isinstance(value, list | tuple) else value
