"""Torture of launches: kills at any moment, two launches at once, parents that vanish.

The suite is tiny, with a training on cached features, one of the tower and one of two processes. A launch is stopped in
every way there is and started again until it is complete; then its records and its table are compared, bit for bit,
with those of a launch that nobody disturbed. Some launches work in processes of their own (slots, decoders), whose
start takes seconds; most work in the launch's own process, so that more kills meet the work itself.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from bench.store.records import Store
from tests.integration.test_interruption import SUITE as KILLED
from tests.launch.warm import Started, Warm
from tests.videos import write_tiny_dataset

LIMIT = 600.0  # seconds of a launch; a busy machine takes its time
GONE = 10.0  # seconds in which everything ends whose parent has vanished
SAVED = 90.0  # seconds in which a launch ends in order; it waits 30 for what it saves

SUITE = KILLED.replace("epochs: 2", "epochs: 4")
PAIR = """\
  pair: {method: dense_temporal, config: {layers: 1}, recipe: {processes: 2, epochs: 40}}
"""

KILLS = {
    "SIGKILL of the group": (signal.SIGKILL, "group"),
    "SIGTERM of the group": (signal.SIGTERM, "group"),
    "Ctrl-C": (signal.SIGINT, "group"),
    "SIGKILL of the parent": (signal.SIGKILL, "parent"),
    "SIGTERM of the parent": (signal.SIGTERM, "parent"),
    "SIGKILL of a child": (signal.SIGKILL, "child"),
    "SIGTERM of a child": (signal.SIGTERM, "child"),
}
IN_PROCESS, IN_SLOTS = ("--jobs", "0", "--workers", "0"), ("--jobs", "2", "--workers", "1")


class Arena:
    """A folder with the suite, a process that starts launches quickly, and the results of an undisturbed launch."""

    def __init__(self, folder: Path, suite: str = SUITE) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        write_tiny_dataset(folder)
        (folder / "tiny.yaml").write_text(suite)
        self.warm = Warm(folder / "tiny.yaml", folder / "cache")

    def __enter__(self) -> Arena:
        for store in ("undisturbed", "again"):  # the first also hashes videos and parses source
            began = time.monotonic()
            launch = self.launch(store)
            assert launch.wait(LIMIT) and launch.code == 0, launch.log.read_text()
            self.seconds = time.monotonic() - began
        self.whole = results(self.folder / "undisturbed")
        assert len(self.whole) > 10
        return self

    def __exit__(self, *error: object) -> None:
        self.warm.__exit__()

    def launch(self, store: str, *options: str) -> Started:
        fixed = ("--store", str(self.folder / store), "--device", "cpu", "--checkpoint-seconds", "0")
        log = self.folder / f"{store}.log"
        return self.warm.start(log, "run", str(self.folder / "tiny.yaml"), *fixed, *(options or IN_PROCESS))

    def judge(self, store: str) -> str:
        """The outcome of a store whose launches have ended well."""
        if "Traceback" in (log := (self.folder / f"{store}.log").read_text()):
            return "WRONG: a traceback: " + log.partition("Traceback")[2].splitlines()[-1]
        return "the same table" if results(self.folder / store) == self.whole else "WRONG: another table"


def results(store: Path) -> dict[str, str]:
    """Hashes of the table and of every file of every record, apart from the records' own times."""
    files = [path for path in (store / "records").rglob("*") if path.is_file() and path.name != "record.json"]
    files += (store / "reports").rglob("table.csv")
    return {str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(seed: int, count: int, folder: Path) -> Counter[str]:
    """Kill launches `count` times, at random moments, each store until it is complete."""
    draw, found, kills, number = random.Random(seed), Counter[str](), 0, 0
    with Arena(folder) as arena:
        while kills < count:
            store, options = f"killed-{number}", IN_SLOTS if number % 4 == 3 else IN_PROCESS
            number += 1
            for _ in range(draw.randint(1, 6)):
                kind = draw.choice(list(KILLS))
                launch = arena.launch(store, *options)
                # The start of slots and decoders takes longer than the work itself.
                seconds = arena.seconds * draw.uniform(0.05, 1.0) * (5 if options is IN_SLOTS else 1)
                if launch.wait(seconds):
                    found["complete before a kill"] += 1
                    break
                kills += 1
                print(f"\r{kills} of {count} kills", end="\r", file=sys.stderr, flush=True)
                found[kind] += 1
                found += _killed(launch, *KILLS[kind], draw)
                if kills == count:
                    break
            launch = arena.launch(store, *options)
            if launch.wait(LIMIT) and launch.code == 0:
                found[arena.judge(store)] += 1
            else:
                found[f"WRONG: exit code {launch.code} of a launch that nobody disturbed"] += 1
    return found


def _killed(launch: Started, number: signal.Signals, whom: str, draw: random.Random) -> Counter[str]:
    """Send a signal and look at the end of the launch and of all that it started."""
    children = launch.family()
    with suppress(ProcessLookupError):  # it has just ended
        if whom == "group":
            os.killpg(launch.pid, number)
        elif whom == "parent" or not children:
            os.kill(launch.pid, number)
            whom = "parent"
        else:
            os.kill(draw.choice(children), number)
    found = Counter[str]()
    if whom == "child":
        # A stage may fail, a slot is replaced; the launch itself goes on.
        if not launch.wait(LIMIT):
            found["WRONG: a launch hangs after a child's end"] += 1
        elif launch.code not in (0, 1):
            found[f"WRONG: exit code {launch.code} after a child's end"] += 1
    elif not launch.wait(GONE if number == signal.SIGKILL else SAVED):
        found[f"WRONG: a launch outlives {number.name}"] += 1
    elif launch.code not in (0, -number, 128 + number):
        found[f"WRONG: exit code {launch.code} after {number.name}"] += 1
    if not launch.alone_within(GONE):
        found[f"WRONG: processes outlive {number.name} of the {whom}"] += 1
    return found


def launches(seed: int, count: int, folder: Path) -> Counter[str]:
    """Two launches on one store, the second a moment after the first: both complete, no stage done by both."""
    draw, found = random.Random(seed), Counter[str]()
    with Arena(folder) as arena:
        for number in range(count):
            store = f"shared-{number}"
            options = [IN_SLOTS if number % 5 == 4 and each == 0 else IN_PROCESS for each in range(2)]
            both = [arena.launch(store, *options[0])]
            both[0].wait(draw.choice([0.0, draw.uniform(0, arena.seconds)]))
            both.append(arena.launch(store, *options[1]))
            if not all(launch.wait(LIMIT) and launch.code == 0 for launch in both):
                found[f"WRONG: exit codes {[launch.code for launch in both]}"] += 1
            else:
                found[arena.judge(store)] += 1
            kept = Store.create(arena.folder / store)
            starts = Counter(event["identity"] for event in kept.events() if event["event"] == "start")
            found["WRONG: a stage was done twice"] += sum(number - 1 for number in starts.values())
            found["WRONG: a claim is left"] += sum(1 for _ in (kept.root / "claims").iterdir())
            found["stages done"] += len(starts)
    return +found


def parents(seed: int, count: int, folder: Path) -> Counter[str]:
    """Kill only the parent of slots, decoders and ranks: all of them end, and the launch can go on."""
    draw, found = random.Random(seed), Counter[str]()
    with Arena(folder, SUITE.replace("report:", PAIR + "report:")) as arena:
        for number in range(count):
            store = f"orphans-{number}"
            launch = arena.launch(store, *IN_SLOTS)
            deadline, wanted = time.monotonic() + LIMIT, draw.randint(2, 9)
            while len(family := launch.family()) < wanted and launch.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            launch.wait(draw.uniform(0.0, 2.0))
            found["processes besides the parent"] += len(family)
            number_sent = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            found[f"{number_sent.name} of the parent"] += 1
            found += _killed(launch, number_sent, "parent", draw)
        launch = arena.launch(store, *IN_SLOTS)
        if not launch.wait(LIMIT) or launch.code != 0:
            found[f"WRONG: exit code {launch.code} of a launch that nobody disturbed"] += 1
        else:
            found[arena.judge(store)] += 1
    return found
