"""Claims: of launches that share a store, exactly one carries out a stage."""

from __future__ import annotations

import errno
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from bench.launch.claims import holder, release, take
from bench.store.records import Store

KEY = ("train", "a")


def test_a_claim_holds_while_its_launch_lives_and_is_outbid_afterwards(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    assert take(store, KEY, "first", ()) is None
    assert take(store, KEY, "first", ()) is None  # one's own
    assert take(store, KEY, "second", {"first"}) == "first"
    assert take(store, KEY, "second", ()) is None
    assert take(store, KEY, "third", {"second"}) == "second"
    assert holder(store, KEY) == "second"


def test_only_its_holder_gives_a_claim_up_for_others(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    take(store, KEY, "first", ())
    take(store, KEY, "second", ())
    release(store, KEY, "first")
    assert holder(store, KEY) == "second"
    release(store, KEY, "second")
    assert take(store, KEY, "third", {"first", "second"}) is None


def test_a_finished_stage_is_given_up_by_anyone(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    take(store, KEY, "first", ())
    release(store, KEY)
    assert holder(store, KEY) is None


def test_a_full_disk_leaves_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.create(tmp_path)

    def write(path: Path, text: str) -> int:
        path.write_bytes(b"")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full, pytest.raises(OSError, match="No space"):
        full.setattr(Path, "write_text", write)
        take(store, KEY, "first", {"first"})
    assert not list((tmp_path / "claims").iterdir())


def _bid(task: tuple[Path, str]) -> list[bool]:
    """Claim fifty stages that a dead launch holds; True for each success."""
    root, name = task
    return [take(Store.create(root), ("train", f"{n}"), name, {"a", "b", "c"}) is None for n in range(50)]


def test_of_launches_that_outbid_at_once_exactly_one_gets_each_stage(tmp_path: Path) -> None:
    for number in range(50):
        take(Store.create(tmp_path), ("train", f"{number}"), "dead", ())
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        won = list(pool.map(_bid, [(tmp_path, name) for name in "abc"]))
    assert [sum(bids) for bids in zip(*won, strict=True)] == [1] * 50


def test_a_hole_below_the_claim_that_counts_is_no_way_in(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    take(store, KEY, "dead", ())
    take(store, KEY, "alive", ())
    (tmp_path / "claims" / "train-a.1.json").unlink()
    assert take(store, KEY, "third", {"alive"}) == "alive"


@pytest.mark.parametrize("text", ["", "[]", '{"launch"'])
def test_a_damaged_claim_is_outbid(tmp_path: Path, text: str) -> None:
    store = Store.create(tmp_path)
    assert take(store, KEY, "first", ["first"]) is None
    (claim,) = (tmp_path / "claims").iterdir()
    claim.write_text(text)
    assert take(store, KEY, "second", ["first", "second"]) is None
    assert holder(store, KEY) == "second"
