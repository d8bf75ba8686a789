"""The file of published numbers: its check, and selectors that find nothing or too much."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from bench.core.errors import UserError
from bench.published.numbers import FILE, Number, load, lookup, one_value
from bench.suite.file import Published
from tests.errors import refused

LINE = "MoTE,,ViT-L/14,8,3x1,UCF-101,mean of 3 splits,zero-shot,top1,,88.7,0.6,MoTE,2410.10589,Table 3,a note"


def _file(folder: Path, *lines: str, head: str = ",".join(Number._fields)) -> Path:
    path = folder / "results.csv"
    path.write_text("\n".join([head, *lines, ""]))
    return path


def test_the_shipped_file_is_whole() -> None:
    assert len(load()) == 1615 == len(set(load()))
    assert f"{len(load()):,} in all" in (FILE.parent / "README.md").read_text(encoding="utf-8")
    assert sum(number.second_hand for number in load()) == 182


def test_a_number_in_print() -> None:
    (number,) = lookup({"method": "MoTE", "table": "Table 3", "backbone": "ViT-L/14", "dataset": "UCF-101"})
    assert number.text == "88.7 ± 0.6"
    second_hand = lookup({"source": "SFAR", "method": "Text4Vis", "dataset": "UCF-101"})[0]
    assert second_hand.text == "85.8 (2nd hand)"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((LINE, LINE.replace("88.7", "88.8")), "results.csv:3: the same number as in line 2"),
        ((LINE, LINE.replace("88.7", "about 88")), "results.csv:3: value 'about 88' is not a number"),
        ((LINE.replace("0.6", "?"),), "results.csv:2: std '?' is not a number"),
        ((LINE.replace(",MoTE,", ","),), "results.csv:2: 15 cells instead of 16"),
    ],
)
def test_mistakes_in_a_file_have_their_line(lines: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load(_file(tmp_path, *lines))
    assert message in str(error.value)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    with refused("method, value", where="results.csv:1", allowed=["method", "variant"]):
        load(_file(tmp_path, LINE, head="method,value"))


def test_settings_need_not_be_numbers(tmp_path: Path) -> None:
    assert len(load(_file(tmp_path, LINE, LINE.replace("top1,,88.7", "hparam:crop,,3/4")))) == 2


def test_a_table_is_found_by_its_number_alone() -> None:
    found = {number.table for number in lookup({"source": "MoTE", "table": "Table 2b"})}
    assert found == {"Table 2b (number of temporal experts)"}


@pytest.mark.parametrize(
    ("where", "what", "hint"),
    [
        ({"metod": "MoTE"}, "unknown column of published numbers 'metod'", "did you mean 'method'?"),
        ({"method": "MoTe"}, "no published number has method 'MoTe'", "did you mean 'MoTE'?"),
        (
            {"method": "MoTE", "table": "Table 2b", "variant": "experts=7"},
            "no published number with method MoTE, table Table 2b has variant 'experts=7'",
            "did you mean 'experts=6'?",
        ),
        (
            {"method": "CLIP", "frames": 64},
            "no published number with method CLIP has frames '64'",
            "did you mean '16'?",
        ),
    ],
)
def test_selectors_that_find_nothing_say_what_is_near(where: dict[str, str | int], what: str, hint: str) -> None:
    with pytest.raises(UserError) as error:
        lookup(where, place="suite.yaml:7")
    assert error.value.what == what and error.value.hint == hint and error.value.where == "suite.yaml:7"


def test_what_tells_several_values_apart_is_named() -> None:
    numbers = lookup({"method": "MoTE", "table": "Table 4", "dataset": "Kinetics-400", "metric": "top1", "frames": 8})
    with refused(
        "3 published", "K400 of row 'mote'", "81.8, 83.0, 86.8", hint="backbone or views: 'ViT-B/16', 'ViT-L/14'"
    ):
        one_value(numbers, "K400 of row 'mote'")


def test_equal_values_are_one() -> None:
    numbers = lookup({"method": "MoTE", "backbone": "ViT-B/16", "metric": "hm"})
    assert len(numbers) == 2 and one_value(numbers, "HM_ZS").value == "67.9"


def test_a_selector_needs_columns() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        Published.model_validate({"row": "mote", "where": {}})
