"""Imports of code, for tests of what planning and readers do without."""

from __future__ import annotations

import subprocess
import sys


def imported_by(code: str) -> set[str]:
    """Top-level modules in a new interpreter after it has run `code`."""
    script = f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(done.stdout.split())
