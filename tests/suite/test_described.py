"""Prompts that ask for descriptions of classes: in recipes and protocols, refused without a source, in other worlds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.data.datasets import dataset
from bench.glyphs.descriptions import sentences
from bench.graph.build import Graph, build_graph
from bench.models.prompts import TEMPLATES, kinds, prompts, texts_of
from bench.suite.protocol import Protocol
from bench.suite.resolve import load_suite
from bench.suite.templates import filled
from tests.errors import refused, says
from tests.suites import write_suite

VERBS = "dataset: glyphs-narrow-verbs}"
NAMES = dataset("glyphs-narrow-verbs", {}).class_names()
TOLD = [f"{name.title()}: it is {number}" for number, name in enumerate(NAMES)]


def planned(folder: Path, keys: str, *overrides: str) -> Graph:
    """The plan with these keys in a protocol."""
    return build_graph(load_suite(write_suite(folder, (VERBS, VERBS.replace("}", f", {keys}}}"))), overrides))


def texts(graph: Graph) -> tuple[str, list[list[str]]]:
    """Identity and prompts of the candidates of the protocol."""
    (cell,) = [cell for cell in graph.cells if (cell.protocol, cell.trial.row) == ("new-verbs", "clip_mean")]
    stage = cell.stage.inputs["texts"]
    return stage.identity, texts_of(stage.context)


def test_shipped_sets_of_froster_and_taco() -> None:
    mote = TEMPLATES["mote28"]
    told = {"description": {"air drumming": ["Air Drumming: The video showcases it."]}}
    (rephrased,) = filled(TEMPLATES["rephrased29"], ["air drumming"], told)
    assert rephrased[0] == "a photo of Air Drumming. Air Drumming: The video showcases it."
    assert rephrased[1:3] == [
        f"{pattern.format('Air Drumming')} Air Drumming: The video showcases it." for pattern in mote[1:3]
    ]
    assert (len(rephrased), rephrased[-1]) == (29, "Air Drumming: The video showcases it.")
    (described,) = filled(TEMPLATES["described28"], ["air drumming"], told)
    assert described == prompts("mote28", ["Air Drumming: The video showcases it."])[0]


def test_a_pattern_becomes_a_prompt_for_each_sentence() -> None:
    patterns = ("This is a video about {spatial}", "A video of {} usually includes {temporal}", "a {}")
    told = {"spatial": {"x": ["s1", "s2"]}, "temporal": {"x": ["t: 1", "t: 2"]}}
    assert filled(patterns, ["x"], told) == [
        [
            *("This is a video about s1", "This is a video about s2"),
            *("A video of x usually includes t: 1", "A video of x usually includes t: 2", "a x"),
        ]
    ]
    assert kinds(patterns) == ("spatial", "temporal")


def test_only_if_all_texts_are_named_does_the_name_come_from_them() -> None:
    told = {"description": {"x": ["X Y: one"], "z": ["Z: two"]}}
    assert filled(("{}. {description}",), ["x"], told) == [["X Y. X Y: one"]]
    told["description"]["z"] = ["two"]
    assert filled(("{}. {description}",), ["x"], told) == [["x. X Y: one"]]


def test_a_protocol_reads_a_file_and_identities_follow_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(TOLD))
    (tmp_path / "b.json").write_text(json.dumps(dict(zip(NAMES, TOLD, strict=True))))
    (tmp_path / "c.json").write_text(json.dumps([*TOLD[:-1], "Another: text"]))
    keys = "templates: described28, descriptions: '{}'"
    plans = [planned(tmp_path, keys.format(tmp_path / name)) for name in ("a.json", "b.json", "c.json")]
    found = [texts(graph) for graph in plans]
    assert found[0] == found[1] and found[0][0] != found[2][0]
    assert found[0][1] == prompts("mote28", TOLD)
    says(plans[0].stages[found[0][0]].title, "32 classes, described by", "a.json")
    column = plans[0].protocols["new-verbs"]
    assert column["fields"]["descriptions"] == str(tmp_path / "a.json")
    assert column["hash"] != plans[1].protocols["new-verbs"]["hash"]


def test_other_names_in_descriptions_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([*TOLD[:-1], "Another: text"]))
    keys = f"templates: rephrased29, descriptions: '{tmp_path / 'a.json'}'"
    graph = planned(tmp_path, keys)
    said = f"have other names of 1 classes: 'Another' for '{NAMES[-1]}'"
    says("\n".join(note for notes in graph.notes.values() for note in notes), said)
    says("\n".join(graph.protocols["new-verbs"]["notes"]), said)
    assert not any("other names" in note for note in graph.protocols["closed-set"]["notes"])


def test_without_descriptions_a_protocol_is_what_it_was(tmp_path: Path) -> None:
    protocol = Protocol(role="zero-shot", dataset="ucf101")
    assert "descriptions" not in protocol.fields() and "descriptions" not in protocol.settings
    other = Protocol(role="zero-shot", dataset="ucf101", descriptions="glyphs")
    assert other.differences(protocol) == "descriptions glyphs instead of none"
    assert protocol.differences(other) == "descriptions none instead of glyphs"
    plain = texts(planned(tmp_path, "fusion: cos_mean"))
    assert texts(planned(tmp_path, "descriptions: glyphs")) == plain  # its templates do not ask for them


def test_candidates_of_other_datasets_are_described_as_well(tmp_path: Path) -> None:
    keys = "vocabulary: [glyphs-narrow], templates: '{description}', descriptions: glyphs"
    more = dataset("glyphs-narrow", {}).class_names()
    assert texts(planned(tmp_path, keys))[1] == [sentences("description", name) for name in (*NAMES, *more)]


def test_a_recipe_has_them_too(tmp_path: Path) -> None:
    described = "recipe.templates=glyphs-described", "recipe.descriptions=glyphs"
    graph = planned(tmp_path, "fusion: cos_mean", *described)
    train = next(stage for stage in graph.stages.values() if stage.kind == "train")
    own = texts_of(train.inputs["source_texts"].context)
    name = train.inputs["source_texts"].context["class_names"][0]
    (h,) = sentences("description", name)
    assert own[0][0] == f"a photo of a {name.capitalize()} {h}" and own[0][-1] == h


def test_what_is_missing_leaves_the_rest_of_the_plan(tmp_path: Path) -> None:
    graph = planned(tmp_path, f"templates: rephrased29, descriptions: '{tmp_path}/absent.json'")
    assert "absent.json" in graph.missing["descriptions of glyphs-narrow-verbs"]
    lacking = {cell.protocol for cell in graph.cells if cell.stage.missing}
    assert lacking == {"new-verbs"}


LINE = "small.yaml:16: protocols.new-verbs"


@pytest.mark.parametrize(
    ("keys", "named", "where"),
    [
        ("templates: rephrased29", "ask for {description}", f"{LINE}.templates"),
        ("templates: ['a {}', 'of {spatial}']", "ask for {spatial}", f"{LINE}.templates"),
        ("templates: rephrased29, descriptions: 'a#b'", "'a#b' is not a source", f"{LINE}.descriptions"),
        ("templates: '{spatial} and {temporal}'", "number 1", f"{LINE}.templates"),
        ("templates: '{description} {description}'", "number 1", f"{LINE}.templates"),
        ("templates: '{descriptions}'", "number 1", f"{LINE}.templates"),
        ("templates: {a: ['{}']}", "class 'a'", LINE),
    ],
)
def test_mistakes_are_refused_with_their_place(tmp_path: Path, keys: str, named: str, where: str) -> None:
    with refused(named, where=where):
        planned(tmp_path, keys)


def test_a_recipe_without_a_source_is_refused(tmp_path: Path) -> None:
    with refused("ask for {description}", where="templates", hint="docs/add_a_dataset.md"):
        load_suite(write_suite(tmp_path), ("recipe.templates=rephrased29",))
    with refused("ask for descriptions", "rephrased29"):
        prompts("rephrased29", ["x"])


def test_descriptions_that_nothing_reads_are_told(tmp_path: Path) -> None:
    said = "protocols.new-verbs.descriptions: has no effect: no templates here ask for descriptions"
    suite = load_suite(write_suite(tmp_path, (VERBS, VERBS.replace("}", ", descriptions: glyphs}"))))
    says("\n".join(suite.notes), said)
    with refused("no templates here ask", where="override"):
        load_suite(write_suite(tmp_path), ("protocol.descriptions=glyphs",))


def test_training_and_test_with_other_descriptions_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    path = write_suite(
        tmp_path,
        (
            "  templates: glyphs\n  views: {frames: 4, copies: 1}",
            "  templates: rephrased29\n  descriptions: glyphs\n  views: {frames: 4, copies: 1}",
        ),
        ("protocol:\n  templates: glyphs", f"protocol:\n  templates: rephrased29\n  descriptions: '{tmp_path}/a.json'"),
    )
    said = "unlike_training: [descriptions]"
    says("\n".join(load_suite(path).notes), "trains with descriptions glyphs", said)
    alike = load_suite(path, ("protocol.descriptions=glyphs",))
    assert not [note for note in alike.notes if said in note]


# ---------------------------------------------------------------------------------------------------------------------
# In the embedded world

REAL = """title: Real
seeds: [0]
recipe: {source: kinetics-400, backbone: ViT-B-16, pretrained: openai, templates: TEMPLATES, descriptions: k400.json}
protocols:
  UCF: {use: mote/ucf101-3split, templates: rephrased29, descriptions: ucf.json}
  plain: {use: mote/hmdb51-3split}
rows:
  row: {method: dense_temporal}
"""


def test_a_world_has_descriptions_of_its_own(tmp_path: Path) -> None:
    row = "  plain: {method: dense_temporal, recipe: {templates: mote28}}\n"
    suite = load_suite(write_suite(tmp_path, ("TEMPLATES", "rephrased29"), text=REAL + row), ("world=glyphs",))
    trial, plain = suite.trials
    assert (plain.recipe.templates, plain.row) == ("glyphs", "plain")
    measured = {name: (own.templates, own.descriptions) for name, own in trial.protocols}
    assert measured == {"UCF": ("glyphs-described", "glyphs"), "plain": ("glyphs", "")}
    assert (trial.recipe.templates, trial.recipe.descriptions) == ("glyphs-described", "glyphs")
    assert not [stage for stage in build_graph(suite).stages.values() if stage.missing]


def test_spatial_and_temporal_sentences_stand_alone_in_a_world(tmp_path: Path) -> None:
    path = write_suite(tmp_path, ("TEMPLATES", "ost"), ("rephrased29", "'{temporal} of {}'"), text=REAL)
    suite = load_suite(path, ("world=glyphs",))
    (trial,) = suite.trials
    train = next(stage for stage in build_graph(suite).stages.values() if stage.kind == "train")
    own = train.inputs["source_texts"].context
    name = own["class_names"][0]
    assert texts_of(own)[0] == [*sentences("spatial", name), *sentences("temporal", name)]
    measured = {name: (own.templates, own.descriptions) for name, own in trial.protocols}
    assert measured == {"UCF": ("{temporal}", "glyphs"), "plain": ("glyphs", "")}


def test_rows_and_axes_keep_asking_for_descriptions_in_a_world(tmp_path: Path) -> None:
    names = (
        "names: {plain: {recipe.templates: mote28, protocol.templates: mote28}, "
        "told: {recipe.templates: rephrased29, protocol.templates: described28, protocol.descriptions: x.json}}"
    )
    path = write_suite(
        tmp_path,
        ("TEMPLATES", "mote28"),
        (", templates: rephrased29, descriptions: ucf.json", ""),
        ("{method: dense_temporal}", f"{{method: dense_temporal, axes: {{{names}}}}}\n"
         "  own: {method: dense_temporal, recipe: {templates: ['{description}']}}"),
        text=REAL,
    )  # fmt: skip
    found = {
        trial.row_at(dict(trial.point)): (trial.recipe.templates, trial.protocols[0][1].templates)
        for trial in load_suite(path, ("world=glyphs",)).trials
    }
    assert found == {
        "row names=plain": ("glyphs", "glyphs"),
        "row names=told": ("glyphs-described", "glyphs-described"),
        "own": ("glyphs-described", "glyphs"),
    }
