"""Processes that end with their parent, whatever they are at."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process ends once Python gets a turn")

ROOT = Path(__file__).parents[2]
DEAF = "import ctypes\nprint('imported', flush=True)\nctypes.PyDLL(None).sleep(600)\n"  # keeps the interpreter
FORK_SERVER = """\
import time
from multiprocessing import forkserver
from bench.core.processes import preload
preload(["deaf"])
forkserver.ensure_running()
print(forkserver._forkserver._forkserver_pid, flush=True)
time.sleep(600)
"""
CHILD = """\
import time
from multiprocessing import get_context
from bench.core.processes import end_with_parent

def body():
    end_with_parent()
    import deaf

if __name__ == "__main__":
    child = get_context("spawn").Process(target=body)
    child.start()
    print(child.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("program", [FORK_SERVER, CHILD], ids=["fork server", "child"])
def test_a_process_that_listens_to_nobody_ends_with_its_parent(tmp_path: Path, program: str) -> None:
    (tmp_path / "deaf.py").write_text(DEAF)
    (tmp_path / "program.py").write_text(program)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "program.py"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
    )
    assert parent.stdout is not None
    said = {parent.stdout.readline().strip() for _ in range(2)}
    pid = int((said - {"imported"}).pop())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while _works(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _works(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
