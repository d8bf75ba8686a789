"""Opening a suite: what every command that takes one refuses or says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.commands.app import main
from tests.suites import write_suite


def test_a_selector_of_published_numbers_that_finds_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    selector = "report:\n  published:\n    - {row: mote, where: {method: MoTEE}}\n"
    suite = write_suite(tmp_path, ("report:\n", selector))
    assert main(["plan", str(suite), "--store", str(tmp_path / "runs")]) == 2
    message = capsys.readouterr().err
    assert "small.yaml:" in message and "report.published.0" in message and "did you mean 'MoTE'" in message
    assert not (tmp_path / "runs").exists()


def test_an_earlier_name_of_a_key_is_named_with_its_successor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = "  more: {method: dense_temporal, config: {layers: 1}, start: dense}\n  mote:"
    suite = write_suite(tmp_path, ("  mote:", more))
    assert main(["plan", str(suite), "--store", str(tmp_path / "runs")]) == 0
    assert "rows.more.start is now called init_from" in capsys.readouterr().err
