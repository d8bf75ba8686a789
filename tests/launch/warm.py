"""Start commands of `run_suite.py` at once, in forks of a process that has everything loaded.

Each is a process group of its own, as in a shell, and finds its mark in the environment, which all that it starts
inherits. Reports have no figures, which take most of a small suite's time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MARK = "VTB_MARK"


class Warm:
    """The process with everything loaded, and a suite planned once; a context."""

    def __init__(self, suite: Path, cache: Path) -> None:
        own = {"VTB_CACHE": str(cache), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | own
        command = [sys.executable, "-m", "tests.launch.warm", str(suite)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate()

    def start(self, log: Path, *arguments: str) -> Started:
        mark = uuid.uuid4().hex
        return Started(self, self.ask({"arguments": arguments, "log": str(log), "mark": mark}), mark, log)

    def ask(self, question: dict[str, Any]) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@dataclass
class Started:
    """A command that was started."""

    warm: Warm
    pid: int
    mark: str
    log: Path
    code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self.code is None:
            self.code = self.warm.ask({"poll": self.pid})
        return self.code

    def wait(self, seconds: float) -> bool:
        """True if it ends within this time."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def family(self) -> list[int]:
        """The processes that it has started, directly or through others, and that still work."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_own(pid)]

    def _is_own(self, pid: int) -> bool:
        try:
            marked = f"{MARK}={self.mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
            return marked and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def alone_within(self, seconds: float) -> bool:
        """True if nothing that it started is left after this time; else all of that is ended."""
        deadline = time.monotonic() + seconds
        while left := self.family():
            if time.monotonic() > deadline:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                return False
            time.sleep(0.05)
        return True


def _forked(arguments: list[str], log: str, mark: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    os.environ[MARK] = mark
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, own in ((0, nothing), (1, file), (2, file)):
        os.dup2(own, number)
    from bench.commands.app import main

    code = 70
    try:
        code = main(arguments)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve(suite: Path) -> None:
    """Answer questions, one a line, until there are no more."""
    from bench.commands import app  # noqa: F401
    from bench.graph.build import build_graph
    from bench.launch import work  # noqa: F401
    from bench.stages import encode, evaluate, maps, probe, texts, train, weights  # noqa: F401
    from bench.suite.resolve import load_suite
    from reports import collect, page  # noqa: F401

    page.FIGURES = ()
    build_graph(load_suite(suite))
    codes: dict[int, int] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "poll" in question:
            pid = question["poll"]
            if pid not in codes and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                codes[pid] = os.waitstatus_to_exitcode(ended[1])
            answer = codes.get(pid)
        else:
            answer = _forked(**question)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
