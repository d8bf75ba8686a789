"""Paths as users write them, and files that are written whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.core.files import expanded, not_found, write_atomically


@pytest.mark.parametrize(
    ("text", "unset"),
    [("/a/b", ""), ("$SET/b", ""), ("$SET/$UNSET/b", "$UNSET"), ("${UNSET}/b", "${UNSET}"), ("a$UNSET.b", "$UNSET")],
)
def test_the_first_variable_that_is_not_set(text: str, unset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET", "/x")
    monkeypatch.delenv("UNSET", raising=False)
    reason = not_found("the file", expanded(text)) or ""
    assert (f"variable {unset} is not set" in reason) if unset else reason.startswith("the file not found: ")


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_as_a_whole(durable: bool, tmp_path: Path) -> None:
    for data in (b"old", b"new"):
        write_atomically(tmp_path / "file", data, durable=durable)
        assert (tmp_path / "file").read_bytes() == data
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError("disk full")

    write_atomically(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
