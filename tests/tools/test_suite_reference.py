from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from tools import suite_reference


def test_the_page_is_up_to_date_and_every_key_has_a_description() -> None:
    assert suite_reference.main(["--check"]) == 0


def test_a_stale_page_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite_reference, "PAGE", tmp_path / "suite_reference.md")
    assert suite_reference.main(["--check"]) == 1
    assert "tools.suite_reference" in capsys.readouterr().err
    assert suite_reference.main([]) == 0 == suite_reference.main(["--check"])


class Held(BaseModel):
    """A model that another one holds."""

    rate: float = Field(default=0.5, gt=0, description="learning rate (MoTE, Sec. 4.1)")


class Silent(BaseModel):
    key: int = 1


class Holding(BaseModel):
    held: Held = Field(default=Held(), description="a model (of this file) with keys")
    pair: tuple[int, str] | None = Field(description="two values")
    rule: str = Field(default="", description="one rule (MoTE) or another (BIKE)")


def test_a_key_has_type_default_meaning_and_source() -> None:
    own, held = suite_reference._tables(Holding)
    assert "| `held` | [Held](#held) | its defaults | a model (of this file) with keys | – |" in own
    assert "| `pair` | list [integer, text] or *none* | **required** | two values | – |" in own
    assert "| `rule` | text | empty | one rule (MoTE) or another (BIKE) | – |" in own
    assert "| `rate` | number > 0 | `0.5` | learning rate | MoTE, Sec. 4.1 |" in held


def test_a_key_without_a_description_is_named() -> None:
    with pytest.raises(ValueError, match="'key' of Silent"):
        list(suite_reference._tables(Silent))
