"""Seeds from named axes."""

from __future__ import annotations

from bench.core.seeds import seed_for


def test_a_seed_is_pinned_and_fits_a_signed_integer() -> None:
    """A change here changes every random choice of every finished training."""
    assert seed_for("init", 0) == 1463379153522677130
    assert 0 <= seed_for("init", 0) < 2**63


def test_every_axis_and_its_kind_and_place_count() -> None:
    axes: list[tuple[str | int, ...]] = [("a",), ("b",), ("a", 0), ("a", 1), ("a", "1"), (1, "a"), ("a1",)]
    assert len({seed_for(*each) for each in axes}) == len(axes)
