"""Protocols by name: every pair makes a valid protocol, and a suite says where it departs from one."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UserError
from bench.data.datasets import dataset
from bench.models.prompts import TEMPLATES
from bench.suite.named_protocols import _file, named_protocol, named_protocols
from bench.suite.protocol import Protocol
from bench.suite.resolve import load_suite
from bench.suite.trial import Suite
from tests.suites import write_suite

PAIRS = [f"{how}/{what}" for how, what in product(_file()["how"], _file()["what"])]


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_is_a_protocol_of_known_data(name: str) -> None:
    protocol = Protocol.model_validate(named_protocol(name))
    assert protocol.templates in TEMPLATES
    for part in protocol.parts().values():
        found = dataset(part.dataset, {})
        assert part.split in found.splits
        if part.labels:
            assert len(found.class_names(part.labels)) == len(found.class_names())


def test_what_the_papers_say() -> None:
    mote = Protocol.model_validate(named_protocol("mote/ucf101-3split"))
    assert (mote.views.frames, mote.views.clips, mote.views.crops, mote.fusion) == (8, 3, 1, "double_softmax")
    assert list(mote.parts()) == ["test1", "test2", "test3"]
    assert Protocol.model_validate(named_protocol("mote/k400-4x3")).views.count == 12
    assert named_protocol("mote/ucf101-half")["fusion"] == "cos_mean"
    text4vis = Protocol.model_validate(named_protocol("text4vis/ucf101-full"))
    assert (text4vis.labels, text4vis.views.resize, text4vis.fusion) == ("camel", 256, "feature_mean")
    assert named_protocol("open-vclip/ucf101-half")["half"] == "open-vclip"
    assert Protocol.model_validate(named_protocol("vifi/ucf101-novel")).classes == "novel"
    k600 = Protocol.model_validate(named_protocol("mote/k600-3split"))
    assert [part.dataset for part in k600.parts().values()] == [f"kinetics-600-split{n}" for n in (1, 2, 3)]
    assert "labels" not in named_protocol("text4vis/hmdb51-full")
    vidprism = Protocol.model_validate(named_protocol("vidprism/k400-4x3"))
    assert (vidprism.views.frames, vidprism.views.count, vidprism.fusion) == (32, 12, "logit_sum")


@pytest.mark.parametrize(
    ("what", "clips", "crops", "resize"),
    [
        *((f"k400{half}", 4, 3, 224) for half in ("", "-4x3", "-base", "-novel")),
        *((f"ucf101{half}", 5, 3, 224) for half in ("", "-base", "-novel")),
        *((f"hmdb51{half}", 10, 3, 224) for half in ("", "-base", "-novel")),
        *((f"ssv2{half}", 2, 3, 224) for half in ("", "-base", "-novel")),
        *((what, 1, 1, 256) for what in ("k400-1x1", "ucf101-3split", "hmdb51-3split", "k600-3split")),
    ],
)
def test_msta_looks_at_more_clips_of_smaller_data(what: str, clips: int, crops: int, resize: int) -> None:
    protocol = Protocol.model_validate(named_protocol(f"msta/{what}"))
    views = protocol.views
    assert (views.frames, views.clips, views.crops, views.resize) == (8, clips, crops, resize)
    assert (views.sampler, views.normalise, protocol.fusion) == ("mmaction", "imagenet", "softmax_sum")
    assert (views.three_crop == "long_side") == (crops == 3)
    assert (protocol.templates, protocol.labels) == ("msta", "camel" if "ucf101" in what else "")


@pytest.mark.parametrize(
    ("name", "views"),
    [
        ("st-adapter/k400", {"sampler": "strided", "spacing": "step", "frames": 8, "stride": 16, "clips": 3}),
        ("st-adapter/ucf101-full", {"sampler": "strided", "spacing": "step", "frames": 8, "stride": 16, "clips": 3}),
        ("aim/k400", {"sampler": "mmaction_strided", "frames": 32, "stride": 4, "clips": 3}),
        *(
            (f"{how}/ssv2{half}", {"sampler": "segments_inclusive", "frames": 8, "clips": 1, "crops": 3})
            for how in ("st-adapter", "aim")
            for half in ("", "-base", "-novel")
        ),
        ("actionclip/k400", {"sampler": "segment_centre", "frames": 8, "clips": 1}),
    ],
)
def test_adapters_are_measured_on_the_frames_of_their_official_code(name: str, views: dict[str, Any]) -> None:
    """`tests/golden/` holds the frames that these samplers have to give."""
    assert Protocol.model_validate(named_protocol(name)).views.model_dump().items() >= views.items()


def test_the_list_shows_every_way_and_every_target() -> None:
    shown = dict(named_protocols())
    assert shown["mote/..."] and "mean over test1, test2, test3" in shown[".../ucf101-3split"]
    assert len(shown) == len(_file()["how"]) + len(_file()["what"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mote", "has no '/'"),
        ("mot/k400-4x3", "did you mean 'mote'"),
        ("mote/ucf-3split", "did you mean 'ucf101-3split'"),
    ],
)
def test_unknown_names_say_what_was_meant(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        named_protocol(name, where="suite.yaml:3")


def _with(tmp_path: Path, protocol: str, row: str = "") -> Suite:
    return load_suite(
        write_suite(
            tmp_path,
            ("  new-verbs: {role: zero-shot, dataset: glyphs-narrow-verbs}", f"  new-verbs: {protocol}"),
            ("method: clip_mean}", f"method: clip_mean{row}}}"),
        )
    )


def test_a_named_protocol_wins_over_the_files_defaults_and_its_own_keys_over_it(tmp_path: Path) -> None:
    suite = _with(
        tmp_path, "{use: mote/k600-split1, dataset: glyphs-narrow-verbs, views: {clips: 2, size: 64, resize: 64}}"
    )
    protocol = dict(suite.trials[0].protocols)["new-verbs"]
    assert protocol.templates == "mote28"  # the file's default is glyphs
    assert (protocol.views.frames, protocol.views.clips, protocol.views.short_clip) == (8, 2, "wrap")
    changes = suite.changes("new-verbs", protocol)
    assert "views.clips 2 instead of 3" in changes and "dataset glyphs-narrow-verbs instead of kinetics" in changes
    assert "templates" not in changes


def test_an_unknown_named_protocol_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"small.yaml:\d+: protocols.new-verbs.use: unknown target"):
        _with(tmp_path, "{use: mote/k600}")


VERBS = "{role: zero-shot, dataset: glyphs-narrow-verbs}"


def test_a_row_that_is_measured_otherwise_says_where(tmp_path: Path) -> None:
    suite = _with(tmp_path, VERBS, ", protocol: {views: {clips: 3}, fusion: cos_mean}")
    mean, dense = (next(trial for trial in suite.trials if trial.row == row) for row in ("clip_mean", "dense"))
    text = "views.clips 3 instead of 1, fusion cos_mean instead of double_softmax"
    assert mean.deviations == {"closed-set": text, "new-verbs": text}
    assert dense.deviations == {}


def test_a_row_may_have_named_protocols_in_the_place_of_the_columns(tmp_path: Path) -> None:
    suite = _with(tmp_path, VERBS, ", protocols: {new-verbs: open-vclip/k600-split1}, protocol: {views: {size: 64}}")
    mean, dense = (next(trial for trial in suite.trials if trial.row == row) for row in ("clip_mean", "dense"))
    (own,) = dict(mean.protocols).values()
    assert (own.fusion, own.views.clips, own.dataset) == ("logit_sum", 3, "kinetics-600-split1")
    assert "fusion logit_sum instead of double_softmax" in mean.deviations["new-verbs"]
    assert dense.deviations == {} and [*dict(dense.protocols)] == ["closed-set", "new-verbs"]
    with pytest.raises(UserError, match=r"small.yaml:\d+: rows.clip_mean.protocols.new-verbs: unknown target"):
        _with(tmp_path, VERBS, ", protocols: {new-verbs: mote/k600}")
    with pytest.raises(UserError, match="unknown protocol 'verbs'"):
        _with(tmp_path, VERBS, ", protocols: {verbs: mote/k600-split1}")


def test_a_rows_own_axis_over_a_protocol_deviates_and_the_suites_axis_does_not(tmp_path: Path) -> None:
    suite = _with(tmp_path, VERBS, ", axes: {protocol.views.clips: [1, 2]}")
    told = [trial.deviations for trial in suite.trials if trial.row == "clip_mean"]
    assert told == [{}, dict.fromkeys(("closed-set", "new-verbs"), "views.clips 2 instead of 1")]
    path = write_suite(tmp_path, ("rows:", "axes: {protocol.views.clips: [1, 2]}\nrows:"))
    assert not any(trial.deviations for trial in load_suite(path).trials)


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        (
            "{role: zero-shot, dataset: glyphs-narrow-verbs, over: [{split: tset}]}",
            "unknown split .*did you mean 'test'",
        ),
        ("{role: zero-shot, dataset: glyphs-narrow-verbs, labels: camel}", "unknown label variant"),
        ("{role: zero-shot, dataset: glyphs-narrow-verbs, vocabulary: [glyphs-narow]}", "did you mean 'glyphs-narrow"),
        ("{role: zero-shot, dataset: glyphs-narrow-verbs, half: text4viz}", "half"),
        ("{role: zero-shot, dataset: glyphs-narrow-verbs, views: {decoder: decrd}}", "decord"),
    ],
)
def test_mistakes_in_a_protocol(tmp_path: Path, protocol: str, message: str) -> None:
    with pytest.raises(UserError, match=f"(?s)small.yaml:.*{message}"):
        _with(tmp_path, protocol)


def test_ucf_names_are_camel_case_where_the_official_code_has_them_so() -> None:
    camel = ("text4vis", "bike", "xclip", "vifi", "msta", "actionclip", "ost")
    assert {named_protocol(f"{how}/{what}")["labels"] for how in camel for what in ("ucf101", "ucf101-full")} == {
        "camel"
    }
    assert "labels" not in named_protocol("actionclip/hmdb51-full") and "labels" not in named_protocol("mote/ucf101")
