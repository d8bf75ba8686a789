"""Refusals in tests: place, named values, allowed values and suggestion are looked at, not the sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from bench.core.errors import UserError


@contextmanager
def refused(
    *named: object, where: str = "", allowed: Iterable[object] = (), hint: str = "", kind: type[Exception] = UserError
) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Asserts that the block raises `kind`: at `where`, with the names and values `named` in its message.

    Of a UserError `allowed` values and a part of the `hint` can be asked for as well.
    """
    with pytest.raises(kind) as caught:
        yield caught
    error = caught.value
    says(str(error), where, *named)
    if isinstance(error, UserError):
        assert {str(value) for value in allowed} <= set(error.allowed)
        assert hint in error.hint, error.hint


def says(text: str, *named: object) -> None:
    """Asserts that a message names all of these."""
    absent = [str(part) for part in named if str(part) not in text]
    assert not absent, f"{absent} not in: {text}"
