"""Attacks by chance on a suite's processes, its store, its files and its lists: `python -m tests.torture`.

Each attack counts the outcomes of its rounds. An outcome that begins with WRONG is a fault; then the exit code is 1.
A round is drawn from the seed and its number, so a fault comes back with the same options (kills depend on the clock
too). docs/torture.md says what the attacks are.

`pytest tests/torture.py -m torture` does the same with the default counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from tests.data import torture_lists
from tests.launch import torture_kills
from tests.store import torture_corruption
from tests.suite import torture_yaml

FAULT = "WRONG"


class Attack(NamedTuple):
    """`run(seed, count, folder)` counts the outcomes of so many rounds, carried out in a folder."""

    about: str
    rounds: int  # of the documented run
    run: Callable[[int, int, Path], Counter[str]]


ATTACKS = {
    "yaml": Attack("mutations of the shipped suites are planned", 300, torture_yaml.run),
    "lists": Attack("mutations of lists and class files are read", 300, torture_lists.run),
    "corruption": Attack("a file of a finished store is damaged, then report and run", 60, torture_corruption.run),
    "parents": Attack("only the parent of a launch is killed", 5, torture_kills.parents),
    "launches": Attack("two launches work on one store", 20, torture_kills.launches),
    "kills": Attack("processes of a suite are killed until it is complete", 100, torture_kills.run),
}


def attacked(name: str, seed: int, count: int) -> Counter[str]:
    """Outcomes of an attack, in a folder of its own."""
    with TemporaryDirectory(prefix=f"torture-{name}-") as folder:
        return ATTACKS[name].run(seed, count, Path(folder))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="rounds are drawn from it (default 0)")
    for name, attack in ATTACKS.items():
        parser.add_argument(
            f"--{name}", type=int, default=attack.rounds, metavar="N", help=f"{attack.about} (default {attack.rounds})"
        )
    chosen = parser.parse_args(arguments)
    faults = 0
    for name, attack in ATTACKS.items():
        if count := getattr(chosen, name):
            print(f"{name}: {attack.about}; {count} rounds", flush=True)
            started = time.monotonic()
            outcomes = attacked(name, chosen.seed, count)
            for outcome, times in sorted(outcomes.items()):
                print(f"{times:6}  {outcome}")
            print(f"        {time.monotonic() - started:.0f} s", flush=True)
            faults += _faults(outcomes)
    print(f"{faults} faults")
    return 1 if faults else 0


def _faults(outcomes: Counter[str]) -> int:
    return sum(times for outcome, times in outcomes.items() if outcome.startswith(FAULT))


@pytest.mark.torture
@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str) -> None:
    outcomes = attacked(name, 0, ATTACKS[name].rounds)
    assert outcomes.total() and not _faults(outcomes), outcomes


if __name__ == "__main__":
    sys.exit(main())
