"""Prompts of one's own: in a suite or in a file, as patterns or as the texts of each class."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bench.data.datasets import dataset
from bench.graph.build import Graph, build_graph
from bench.models.prompts import TEMPLATES, texts_of
from bench.suite.resolve import load_suite
from bench.suite.trial import Suite
from tests.errors import refused
from tests.suites import write_suite

VERBS = "dataset: glyphs-narrow-verbs}"
NAMES = dataset("glyphs-narrow-verbs", {}).class_names()
ABOUT = {name: [f"{name}, seen once", f"again {name}"][: 1 + len(name) % 2] for name in NAMES}


def planned(folder: Path, templates: str) -> tuple[Suite, Graph]:
    """The suite with these templates under one of its protocols, which stands in line 13."""
    changed = VERBS.replace("}", f", templates: {templates}}}")
    suite = load_suite(
        write_suite(folder, (VERBS, changed), ("protocol:\n  templates: glyphs\n  views: {frames: 4}\n", ""))
    )
    return suite, build_graph(suite)


def texts(graph: Graph) -> tuple[str, list[list[str]]]:
    """Identity and prompts of the candidates of the protocol."""
    cells = [cell for cell in graph.cells if cell.protocol == "new-verbs" and cell.trial.row == "clip_mean"]
    stage = cells[0].stage.inputs["texts"]
    return stage.identity, texts_of(stage.context)


def test_a_list_a_pattern_and_files_give_the_same_prompts_and_identity(tmp_path: Path) -> None:
    patterns = ["a photo of a person doing {}.", "a clip of {}."]
    (tmp_path / "p.txt").write_bytes("\ufeffa photo of a person doing {}.\r\n\r\n  a clip of {}.  \r\n".encode())
    (tmp_path / "p.json").write_text(json.dumps(patterns))
    (tmp_path / "p.yaml").write_text("- a photo of a person doing {}.\n- a clip of {}.\n")
    found = [texts(planned(tmp_path, given)[1]) for given in (json.dumps(patterns), "p.txt", "p.json", "p.yaml")]
    assert all(each == found[0] for each in found)
    assert found[0][1] == [[f"a photo of a person doing {name}.", f"a clip of {name}."] for name in NAMES]
    suite, graph = planned(tmp_path, "'a clip of {}.'")
    assert texts(graph)[1] == [[f"a clip of {name}."] for name in NAMES] and texts(graph)[0] != found[0][0]
    assert suite.columns["new-verbs"].templates == "a clip of {}."


def test_content_decides_the_hash_of_a_protocol_and_the_identity(tmp_path: Path) -> None:
    sets = ('["a {}", "b {}"]', '["b {}", "a {}"]', '["a {}", "c {}"]', "mote28")
    plans = [planned(tmp_path, given) for given in sets]
    assert len({graph.protocols["new-verbs"]["hash"] for _, graph in plans}) == 4
    assert len({texts(graph)[0] for _, graph in plans}) == 4
    first, second = (suite.columns["new-verbs"] for suite, _ in plans[:2])
    assert "templates 2 patterns" in first.differences(second)
    assert not isinstance(first.fields()["templates"], list | dict)  # a cell of a table


def test_patterns_that_are_shipped_have_the_shipped_name_and_identity(tmp_path: Path) -> None:
    (own, graph), (_, shipped) = planned(tmp_path, json.dumps(TEMPLATES["mote28"])), planned(tmp_path, "mote28")
    assert own.columns["new-verbs"].templates == "mote28" and not own.templates
    assert texts(graph) == texts(shipped)
    assert planned(tmp_path, "'a photo of a {}.'")[0].columns["new-verbs"].templates != "vifi"  # which changes names


def test_texts_of_classes_are_matched_by_name(tmp_path: Path) -> None:
    spelt = {name.title().replace(" ", "_"): own for name, own in ABOUT.items()}
    (tmp_path / "c.json").write_text(json.dumps(spelt))
    found = [texts(planned(tmp_path, given)[1]) for given in ("c.json", json.dumps(ABOUT))]
    assert found[0] == found[1] and found[0][1] == [ABOUT[name] for name in NAMES]


def test_an_axis_over_lists_has_short_labels_and_a_recipe_takes_them_too(tmp_path: Path) -> None:
    long = json.dumps([f"pattern number {number} of {{}}" for number in range(9)])
    axis = (
        "config: {layers: 1}}",
        f'config: {{layers: 1}}, axes: {{recipe.templates: [glyphs, ["a {{}}"], {long}]}}}}',
    )
    trials = [trial for trial in load_suite(write_suite(tmp_path, axis)).trials if trial.row == "dense"]
    labels = list(dict.fromkeys(dict(trial.point)["templates"] for trial in trials))
    assert labels[:2] == ["glyphs", "['a {}']"] and len(labels[2]) <= 40
    assert [trial.recipe.templates for trial in trials][::2][:2] == ["glyphs", "a {}"]


LINE = "small.yaml:13: protocols.new-verbs.templates"


@pytest.mark.parametrize(
    ("templates", "named", "hint"),
    [
        ("mote82", ["'mote82'"], "'mote28'"),
        ("missing.txt", ["missing.txt"], ""),
        ("folder/prompts", ["prompts"], ""),
        ("[]", ["1 to 1,000"], ""),
        ("7", ["1 to 1,000"], ""),
        ("['a {}', 'no hole']", ["number 2", "no hole"], ""),
        ("['{} and {}']", ["number 1"], ""),
        ("['a {} {0}']", ["number 1"], "no brace"),
        ("'a {name}'", ["a {name}"], ""),
        ("['a {}', 'a {}']", ["number 2"], "twice"),
        ("['a {}', ' ']", ["number 2"], ""),
        ("['a {}', [b]]", ["number 2"], ""),
        ("{swimming: [text]}", ["'swimming'"], ""),
        (json.dumps({**ABOUT, NAMES[0] + "s": ["text"]}), [NAMES[0] + "s"], NAMES[0]),
        (json.dumps({name: own for name, own in ABOUT.items() if name != NAMES[3]}), [NAMES[3], "1 classes"], ""),
        (json.dumps({**ABOUT, NAMES[0].upper(): ["text"]}), [NAMES[0]], ""),
        (json.dumps({**ABOUT, NAMES[0]: []}), [NAMES[0], "1 to 1,000 texts"], ""),
        (json.dumps({**ABOUT, NAMES[0]: ["a {}"]}), [NAMES[0], "a {}"], ""),
    ],
)
def test_other_values_are_refused_with_place_and_reason(
    tmp_path: Path, templates: str, named: list[str], hint: str
) -> None:
    with refused(*named, where=LINE, hint=hint):
        planned(tmp_path, templates)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", b""),
        ("p.txt", b"\xff\xfe"),
        ("p.json", b'["a {}"'),
        ("p.json", b"7"),
        ("p.json", b"[" * 100_000),
        ("p.yaml", b"- 'a {}\n"),
        ("p.yaml", b"a: [&x b]\nc: *x\n"),
        ("p.txt", b"a {}\n" + b"".join(b"%d {}\n" % number for number in range(1_000))),
    ],
)
def test_files_that_hold_something_else_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with refused(where=""):
        planned(tmp_path, name)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    for name in ("pipe.txt", "zero.txt", f"{'n' * 300}.txt"):
        with refused(where=LINE):
            planned(tmp_path, name)
