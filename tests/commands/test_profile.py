"""The command `profile`: a fresh process per method, records that are found again, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.commands.app import main

TINY = ["--backbone", "glyph-vit", "--frames", "2", "--classes", "5", "--seconds", "0.001", "--device", "cpu"]


def test_methods_are_measured_once_each_in_a_process_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", str(tmp_path)]
    assert main(["profile", "dense_temporal", "clip_mean", *TINY, *store]) == 0
    printed = capsys.readouterr().out
    for expected in ("dense_temporal, glyph-vit", "clip_mean, glyph-vit", "feed-forward", "GMACs", "Videos/s"):
        assert expected in printed
    events = [json.loads(line) for log in (tmp_path / "attempts").iterdir() for line in log.read_text().splitlines()]
    assert len({event["pid"] for event in events if event["event"] == "start"}) == 2
    assert main(["profile", "clip_mean", *TINY, *store]) == 0
    assert "feed-forward" not in capsys.readouterr().out
    logs = (tmp_path / "attempts").iterdir()
    assert sum(len(log.read_text().splitlines()) for log in logs) == len(events)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "unknown method 'nothing'"),
        (["mote", "--backbone", "ViT-B-17"], "did you mean 'ViT-B-1"),
        (["mote", "--precision", "fp64"], "--precision: unknown value 'fp64'"),
        (["mote", "--batch", "0"], "--batch"),
        (["mote", "--device", "tpu"], "--device"),
        (["mote", "--set", "layers=2"], "config.FIELD=value"),
        (["mote", "--set", "config.layer=2"], "did you mean 'layers'"),
        (["mote", "--set", "inference.expert=7"], "allowed: 0 to 3"),
        (["mote", "--plugin", "no_such_package"], "no_such_package"),
    ],
)
def test_mistakes_end_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VTB_PLUGINS", "")
    assert main(["profile", *arguments]) == 2
    assert message in capsys.readouterr().err
