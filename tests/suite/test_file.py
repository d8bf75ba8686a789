"""A suite's file: one clear message for every mistake in it; the shipped files and those of the documents are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.commands.app import main
from bench.suite import resolve
from bench.suite.resolve import SUITES, load_suite
from tests.suites import write_suite

MISTAKES = {
    "unknown key": (
        (("  epochs: 1", "  epoch: 1"),),
        ["small.yaml:8: recipe.epoch", "unknown key 'epoch'", "warmup_epochs", "did you mean 'epochs'?"],
    ),
    "unknown key at the top": ((("seeds:", "seed:"),), ["small.yaml:2: seed", "did you mean 'seeds'?"]),
    "unknown key of a method": (
        (("{layers: 1}", "{layer: 1}"),),
        ["small.yaml:19: rows.dense.config.layer", "did you mean 'layers'?"],
    ),
    "unknown key in views": (
        (("views: {frames: 4}", "views: {frame: 4}"),),
        ["unknown key 'frame'", "did you mean 'frames'?"],
    ),
    "wrong type": ((("  batch: 48", "  batch: many"),), ["small.yaml:7: recipe.batch", "'many'"]),
    "out of range": ((("  epochs: 1", "  epochs: -1"),), ["small.yaml:8: recipe.epochs", "greater than 0"]),
    "unknown value": (
        (("role: zero-shot", "role: zeroshot"),),
        ["small.yaml:16: protocols.new-verbs.role", "base, closed-set, novel, zero-shot", "did you mean 'zero-shot'?"],
    ),
    "unknown method": (
        (("method: mote, config: {layers: 1, num_experts: 2}}", "method: motte}"),),
        ["small.yaml:20: rows.mote.method", "unknown method 'motte'", "did you mean 'mote'?"],
    ),
    "duplicate key": (
        (("  lr: 1.0e-3", "  lr: 1.0e-3\n  lr: 2.0e-3"),),
        ["small.yaml:11", "key 'lr' appears twice", "line 10"],
    ),
    "alias": (
        (("seeds: [0, 1]", "seeds: &s [0, 1]"), ("report:\n", "report:\n  compare: *s\n")),
        ["small.yaml:23", "aliases"],
    ),
    "unknown protocol of a row": (
        (("config: {layers: 1}}", "protocols: [closed, new-verbs]}"),),
        ["small.yaml:19: rows.dense.protocols", "unknown protocol 'closed'", "did you mean 'closed-set'?"],
    ),
    "experts under a protocol that their row has not": (
        (
            ("num_experts: 2}", "num_experts: 2}, protocols: [closed-set]"),
            ("experts: [mote]", "experts: [mote]\n  experts_protocol: new-verbs"),
        ),
        ["report.experts_protocol", "unknown protocol 'new-verbs'", "closed-set"],
    ),
    "protocol of no row": (
        (
            ("method: clip_mean}", "method: clip_mean, protocols: [closed-set]}"),
            ("config: {layers: 1}}", "protocols: [closed-set]}"),
            ("num_experts: 2}", "num_experts: 2}, protocols: [closed-set]"),
        ),
        ["small.yaml:16: protocols.new-verbs", "no row is measured under this protocol"],
    ),
    "more frames than positions": (
        (("views: {frames: 4}", "views: {frames: 78}"),),
        ["small.yaml:19: rows.dense", "78 frames, but there are 77 positions in time", "allowed: up to 77"],
    ),
    "frames that do not fit the rates": (
        (
            ("method: dense_temporal", "method: vidprism"),
            ("{layers: 1}}\n  mote", "{classifier: text, rates: [2, 4, 8], keep: 2}}\n  mote"),
        ),
        ["small.yaml:19: rows.dense", "4 frames at rates [2, 4, 8]", "allowed: frames that the slowest rate divides"],
    ),
    "start from a row further down": (
        (("config: {layers: 1}}", "config: {layers: 1}, init_from: mote}"),),
        ["small.yaml:19: rows.dense.init_from", "unknown row further up 'mote'", "clip_mean"],
    ),
    "start from another method": (
        (("method: mote, config: {layers: 1, num_experts: 2}}", "method: mote, init_from: dense}"),),
        [
            "small.yaml:20: rows.mote.init_from",
            "row 'mote' cannot start from the training of row 'dense'",
            "same method",
        ],
    ),
    "start from one of several": (
        (
            ("config: {layers: 1}}", "config: {layers: 1}, axes: {recipe.lr: [0.001, 0.002]}}"),
            ("  mote:", "  more: {method: dense_temporal, config: {layers: 1}, init_from: dense}\n  mote:"),
        ),
        ["small.yaml:20: rows.more.init_from", "row 'dense' has 2 trainings that could be meant"],
    ),
    "head bound to its classes": (
        (("method: dense_temporal, config: {layers: 1}", "method: text4vis, config: {classifier: linear}"),),
        ["protocols.new-verbs", "row 'dense' has a head bound to its classes", "rows.dense.protocols"],
    ),
    "not YAML": ((("seeds: [0, 1]", "seeds: [0, 1"),), ["small.yaml:3", "not valid YAML"]),
    "a seed twice": ((("seeds: [0, 1]", "seeds: [1, 1]"),), ["small.yaml:2: seeds", "given twice"]),
    "a seed twice, once as text": ((("seeds: [0, 1]", "seeds: [1, '1']"),), ["small.yaml:2: seeds", "1 is given"]),
    "a value of an axis twice": (
        (("config: {layers: 1}}", "axes: {config.layers: [1, 2, 1.0]}}"),),
        ["small.yaml:19: rows.dense.axes.config.layers", "1.0 is given twice"],
    ),
    "true beside 1": (
        (("config: {layers: 1}}", "axes: {config.layers: [1, true]}}"),),
        ["small.yaml:19: rows.dense.axes.config.layers", "True is given twice"],
    ),
    "a value of an axis twice, once as text": (
        (("config: {layers: 1}}", "axes: {config.layers: [1, '1']}}"),),
        ["small.yaml:19: rows.dense.axes", "are one trial"],
    ),
    "one bundle under two names": (
        (("config: {layers: 1}}", "axes: {size: {a: {config.layers: 1}, b: {config.layers: 1.0}}}}"),),
        ["small.yaml:19: rows.dense.axes", "'dense size=a'", "'dense size=b'"],
    ),
    "a protocol twice": (
        (("config: {layers: 1}}", "protocols: [new-verbs, new-verbs]}"),),
        ["small.yaml:19: rows.dense.protocols", "new-verbs is given twice"],
    ),
    "a row against itself": ((("[[dense, clip_mean]]", "[[dense, dense]]"),), ["report.compare.0", "given twice"]),
    "a part twice": (
        (("split: validation}", "over: [{split: train}, {split: train}]}"),),
        ["small.yaml:15: protocols.closed-set.over", "given twice"],
    ),
    "a billion experts": ((("num_experts: 2}}", "num_experts: 1000000000}}"),), ["mote.config.num_experts", "1000,"]),
    "a billion layers": ((("{layers: 1}}", "{layers: 1000000000}}"),), ["rows.dense.config.layers", "1000"]),
    "a billion clips": ((("role: zero", "views: {clips: 1000000000}, role: zero"),), ["new-verbs.views.clips", "1000"]),
    "endless epochs": ((("  epochs: 1", "  epochs: 1.0e+300"),), ["small.yaml:8: recipe.epochs", "1000000"]),
    "too many trials": (
        (("report:\n", f"axes: {{recipe.lr: {list(range(1, 1001))}, recipe.eps: {list(range(1, 201))}}}\nreport:\n"),),
        ["small.yaml:18: rows", "1,600,000 trials", "1,000,000"],
    ),
    "a long name": ((("  dense:", f"  {'d' * 300}:"),), ["small.yaml:19", "100 characters"]),
    "views of a size that the tower cannot take": (
        (("role: zero", "views: {size: 224, resize: 224}, role: zero"), ("copies: 1}", "copies: 1, size: 32}")),
        [
            "small.yaml:16: protocols.new-verbs.views.size",
            "224 pixels",
            "allowed: 64",
            "small.yaml:6: recipe.views.size",
        ],
    ),
    "a paper's protocol with another tower": (
        (("dataset: glyphs-narrow-verbs}", "use: mote/ucf101}"), ("role: zero-shot, ", "")),
        ["small.yaml:16: protocols.new-verbs.views.size", "224", "allowed: 64"],
    ),
    "decoders that are not there": (
        (
            ("copies: 1}", "copies: 1, decoder: torchcodec}"),
            ("role: zero", "views: {decoder: 'no.such:Reader'}, role: zero"),
        ),
        ["small.yaml:6: recipe.views.decoder", "torchcodec", "new-verbs.views.decoder", "no.such"],
    ),
    "weights that are not there": (
        (("recipe:\n", "recipe:\n  pretrained: /nowhere/weights.pt\n"),),
        ["small.yaml:4: recipe.pretrained", "/nowhere/weights.pt"],
    ),
    "a rate without bound": ((("recipe:\n", "recipe:\n  eps: .inf\n"),), ["small.yaml:4: recipe.eps", "finite"]),
    "a decay of one": (
        (("recipe:\n", "recipe:\n  betas: [0.9, 1.0]\n"),),
        ["small.yaml:4: recipe.betas", "less than 1"],
    ),
    "unknown split for the validation": (
        (("recipe:\n", "recipe:\n  validation: valid\n"),),
        ["small.yaml:4: recipe.validation", "did you mean 'validation'?"],
    ),
    "empty axis": (
        (("config: {layers: 1}}", "axes: {config.layers: []}}"),),
        ["small.yaml:19: rows.dense.axes", "at least 1 item"],
    ),
    "axis of nothing": (
        (("config: {layers: 1}}", "axes: {layers: [1]}}"),),
        ["rows.dense.axes.layers", "config.<field>"],
    ),
    "wrong value in an axis": (
        (("config: {layers: 1}}", "axes: {config.layers: [0]}}"),),
        ["rows.dense.axes.config.layers", "greater than or equal to 1"],
    ),
    "unknown dataset": (
        (("source: glyphs-narrow", "source: glyph-narrow"),),
        ["small.yaml:4: recipe.source", "did you mean 'glyphs-narrow'?"],
    ),
    "unknown split": (
        (("split: validation", "split: valid"),),
        ["small.yaml:15: protocols.closed-set.split", "did you mean 'validation'?"],
    ),
    "unknown templates": (
        (("  templates: glyphs\n  views: {frames: 4, copies: 1}", "  templates: glyph"),),
        ["small.yaml:5: recipe.templates", "did you mean 'glyphs'?"],
    ),
    "unknown backbone": (
        (("recipe:\n", "recipe:\n  backbone: ViT-B16\n"),),
        ["recipe.backbone", "did you mean 'ViT-B-16'?"],
    ),
    "expert out of range": ((("{tfm: false}", "{expert: 2}"),), ["rows.mote_no_tfm.inference", "expert"]),
    "row of a report": (
        (("reference: clip_mean", "reference: clip"),),
        ["small.yaml:23: report.reference", "did you mean 'clip_mean'?"],
    ),
    "join along no axis": ((("report:\n", "report:\n  join: layers\n"),), ["report.join", "unknown axis 'layers'"]),
    "no protocols": (
        (
            (
                "  closed-set: {role: closed-set, dataset: glyphs-narrow, split: validation}\n"
                "  new-verbs: {role: zero-shot, dataset: glyphs-narrow-verbs}\n",
                "  {}\n",
            ),
        ),
        ["at least 1 item"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gives_one_clear_message_and_exit_code_2(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, expected = MISTAKES[mistake]
    monkeypatch.setattr(resolve, "_unimportable", lambda module: module if module in ("torchcodec", "no.such") else "")
    assert main(["plan", str(write_suite(tmp_path, *changes)), "--store", str(tmp_path / "runs")]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    for part in expected:
        assert part in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_suites_are_valid_and_say_what_they_are(path: Path) -> None:
    suite = load_suite(path)
    assert suite.trials and not suite.problems
    header = [line for line in path.read_text().splitlines() if line.startswith("# ") and not line.startswith("#  ")]
    said = [line.split()[1] for line in header]
    assert [name for name in said if name != "Needs"] == ["Paper", "Expected", "Hardware", "Time", "Command"]


@pytest.mark.parametrize("page", ["README.md", "docs/add_a_dataset.md"])
def test_the_suite_in_the_documents_is_valid(page: str, tmp_path: Path) -> None:
    for text in re.findall(r"```yaml\n(.*?)```", (SUITES.parent / page).read_text(), re.DOTALL):
        part = "" if "rows:" in text else "title: A part of a suite\nrows: {mean: {method: clip_mean}}\n"
        part += "" if "recipe:" in text else "recipe: {backbone: ViT-B-16, pretrained: openai}\n"
        suite = load_suite(write_suite(tmp_path, text=part + text))
        assert suite.trials and not suite.problems
