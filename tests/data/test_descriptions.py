"""Description files in the published format, and what the embedded world says of its classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.data.descriptions import are_named, descriptions, irregular, missing, renamed
from bench.glyphs.descriptions import STEPS
from bench.glyphs.world import VERBS, WORLDS, class_names
from bench.graph.build import build_graph
from bench.suite.resolve import load_suite
from tests.errors import refused, says
from tests.videos import write_tiny_dataset
from tools.stills import WORDS

FOUR = ("brush hair", "kick", "kick ball", "sword")


def write(folder: Path, name: str, told: object) -> str:
    (folder / name).write_text(json.dumps(told))
    return str(folder)


def numbered(*sentences: list[str] | str) -> dict[str, list[str] | str]:
    return {str(key): own for key, own in enumerate(sentences)}


@pytest.mark.parametrize(
    ("dataset", "kind", "file"),
    [
        ("ucf101", "spatial", "2_s_description_ucf_101.json"),
        ("kinetics-400", "temporal", "2_t_description_k400.json"),
        ("kinetics-600-split2", "temporal", "2_t_description_k600.json"),
        ("ssv2", "spatial", "2_s_description_ssv2.json"),
        ("my-own", "spatial", "2_s_description_my-own.json"),
    ],
)
def test_a_datasets_file_is_found_by_its_published_name(tmp_path: Path, dataset: str, kind: str, file: str) -> None:
    source = write(tmp_path, file, numbered(["a", "b"], ["c", "d"]))
    assert descriptions(source, kind, dataset, ("x", "y")) == [["a", "b"], ["c", "d"]]


def test_the_number_of_sentences_is_chosen_behind_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (2, 8):
        write(tmp_path, f"{count}_s_description_ucf_101.json", numbered([f"one of {count}"]))
    monkeypatch.setenv("SENTENCES", str(tmp_path))
    assert descriptions("$SENTENCES", "spatial", "ucf101", ("x",)) == [["one of 2"]]
    assert descriptions("$SENTENCES#8", "spatial", "ucf101", ("x",)) == [["one of 8"]]


def test_lists_of_any_length_are_taken_and_counted(tmp_path: Path) -> None:
    told = numbered(["a", "b"], ["all in one"], "not even a list", ["a", "b", "c"])
    source = write(tmp_path, "2_t_description_ucf_101.json", told)
    assert descriptions(source, "temporal", "ucf101", FOUR) == [
        ["a", "b"],
        ["all in one"],
        ["not even a list"],
        ["a", "b", "c"],
    ]
    says(irregular(source, "temporal", "ucf101"), "2_t_description_ucf_101.json: 3 classes", "2 sentences", "'1'")
    assert irregular("glyphs", "temporal", "ucf101") == ""


def test_the_plan_says_which_descriptions_are_irregular(tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path)
    source = write(tmp_path, "2_s_description_tiny.json", numbered(["a", "b"], ["c"], ["d", "e"]))
    write(tmp_path, "2_t_description_tiny.json", numbered(["a", "b"], ["c", "d"], ["e", "f"]))
    suite = tmp_path / "tiny.yaml"
    suite.write_text(
        "title: Tiny\n"
        "datasets: {tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}}\n"
        f"recipe: {{source: tiny, templates: glyphs, descriptions: '{source}'}}\n"
        "protocols: {closed-set: {role: closed-set, dataset: tiny, templates: glyphs}}\n"
        "rows: {msta: {method: msta}}\n"
    )
    notes = [note for own in build_graph(load_suite(suite)).notes.values() for note in own]
    says("\n".join(notes), "2_s_description_tiny.json: 1 classes", "2 sentences", "'1'")


def test_exchanged_sentences_of_hmdb51_are_given_back_unless_the_published_order_is_asked_for(tmp_path: Path) -> None:
    names = (*FOUR, "sword exercise")
    published = numbered(["hair"], ["a ball"], ["a leg"], ["training"], ["a fight"])
    source = write(tmp_path, "2_s_description_hmdb.json", published)
    assert [own[0] for own in descriptions(source, "spatial", "hmdb51", names)] == [
        *("hair", "a leg", "a ball", "a fight", "training")
    ]
    for asked in (f"{source},hmdb_label_bug", f"{source}#2,hmdb_label_bug"):
        assert descriptions(asked, "spatial", "hmdb51", names) == list(published.values())


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (numbered(["a"]), "describes 1 classes, but the class list has 2"),
        ({"0": ["a"], "2": ["b"]}, "has no key '1'"),
        (numbered(["a"], []), "key '1': has no sentence"),
        (numbered(["a"], [3]), "key '1': expected a list of sentences"),  # type: ignore[list-item]
        (numbered(["a"], [" "]), "key '1': expected a list of sentences"),
        (["a", "b"], "expected a JSON object"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_key(tmp_path: Path, told: object, message: str) -> None:
    source = write(tmp_path, "2_s_description_ucf_101.json", told)
    with pytest.raises(UserError, match=message) as error:
        descriptions(source, "spatial", "ucf101", ("x", "y"))
    assert "2_s_description_ucf_101.json" in str(error.value)


def test_an_absent_file_names_those_that_are_there(tmp_path: Path) -> None:
    write(tmp_path, "2_s_description_hmdb.json", numbered(["a"]))
    with pytest.raises(UserError, match=r"the folder has 2_s_description_hmdb\.json"):
        descriptions(f"{tmp_path}#4", "spatial", "hmdb51", ("x",))


def test_what_is_no_source_or_kind_is_refused() -> None:
    with pytest.raises(UserError, match="'folder#two' is not a source"):
        descriptions("folder#two", "spatial", "ucf101", ("x",))
    with pytest.raises(UserError, match="did you mean 'spatial'"):
        descriptions("glyphs", "spacial", "ucf101", ("x",))


# ---------------------------------------------------------------------------------------------------------------------
# OST's folders


@pytest.mark.parametrize(
    ("dataset", "kind", "file"),
    [
        ("ucf101", "spatial", "ucf/spatio_descriptors/4_descriptors.json"),
        ("kinetics-400", "temporal", "k400/temporal_descriptors/4_descriptors.json"),
        ("ssv2", "temporal", "sth/temporal_descriptors/4_descriptors.json"),
        ("kinetics-600-split2", "spatial", "k600/split2/spatio_4_descriptors.json"),
        ("my-own", "spatial", "my-own/spatio_descriptors/4_descriptors.json"),
    ],
)
def test_files_of_ost_are_found_where_msta_has_none(tmp_path: Path, dataset: str, kind: str, file: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    write(tmp_path, file, numbered(["a", "b", "c", "d"], ["e", "f", "g", "h"]))
    for source in (str(tmp_path), f"{tmp_path}#4"):
        assert descriptions(source, kind, dataset, ("x", "y"))[1] == ["e", "f", "g", "h"]
        assert irregular(source, kind, dataset) == "" and missing(source, kind, dataset) is None
    assert file.replace("4_", "8_") in (missing(f"{tmp_path}#8", kind, dataset) or "")
    if dataset != "kinetics-600-split2":
        name = {"ucf101": "ucf_101", "kinetics-400": "k400"}.get(dataset, dataset)
        write(tmp_path, f"2_{kind[0]}_description_{name}.json", numbered(["of MSTA"], ["too"]))
        assert descriptions(str(tmp_path), kind, dataset, ("x", "y")) == [["of MSTA"], ["too"]]


def test_exchanged_classes_of_hmdb51_are_given_back_in_files_of_ost_too(tmp_path: Path) -> None:
    (tmp_path / "hmdb/spatio_descriptors").mkdir(parents=True)
    write(
        tmp_path, "hmdb/spatio_descriptors/4_descriptors.json", numbered(["hair"], ["a ball"], ["a leg"], ["a fight"])
    )
    found = descriptions(str(tmp_path), "spatial", "hmdb51", FOUR)
    assert [own[0] for own in found] == ["hair", "a leg", "a ball", "a fight"]


# ---------------------------------------------------------------------------------------------------------------------
# Files of a text for each class

NAMED = ["Brush hair: the video shows a comb", "Kick: a leg", "Kick ball: a ball", "Fencing: two blades"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(NAMED)),
        ("a.json", json.dumps([[text] for text in NAMED])),
        ("a.json", json.dumps({str(key): own for key, own in enumerate(NAMED)})),
        ("a.json", json.dumps({"jump": "Jump: up", **dict(zip(map(str.title, FOUR[::-1]), NAMED[::-1], strict=True))})),
        ("a.csv", "id,name\n" + "".join(f'{key},"{own}"\n' for key, own in enumerate(NAMED))),
        ("a.txt", "".join(f"{own}\n" for own in NAMED)),
    ],
)
def test_a_text_for_each_class_is_read_in_any_form(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert descriptions(str(tmp_path / name), "description", "hmdb51", FOUR) == [[text] for text in NAMED]
    assert irregular(str(tmp_path / name), "description", "hmdb51") == ""


def test_the_path_may_name_the_dataset(tmp_path: Path) -> None:
    for split in ("kinetics-600-split1", "kinetics-600-split2"):
        write(tmp_path, f"{split}.json", [split])
        assert descriptions(f"{tmp_path}/{{dataset}}.json", "description", split, ("x",)) == [[split]]
    assert "ssv2.json" in (missing(f"{tmp_path}/{{dataset}}.json", "description", "ssv2") or "")


@pytest.mark.parametrize(
    ("told", "named", "hint"),
    [
        (NAMED[:3], "describes 3 classes, but the class list has 4", ""),
        (dict(zip(FOUR[:3], NAMED, strict=False)), "describes 1 classes not, such as 'sword'", ""),
        ({**dict(zip(FOUR[:3], NAMED, strict=False)), "swords": "x"}, "such as 'sword'", "'swords'"),
        ({**dict(zip(FOUR, NAMED, strict=True)), "Kick Ball": "x"}, "describes a class twice", ""),
        ({**dict(zip(FOUR, NAMED, strict=True)), "sword": 3}, "key 'sword'", ""),
        ([*NAMED[:3], " "], "key '3': expected a list of sentences", ""),
        ("a text", "expected a JSON list or object", ""),
    ],
)
def test_a_file_that_does_not_describe_the_classes_is_refused(
    tmp_path: Path, told: object, named: str, hint: str
) -> None:
    write(tmp_path, "a.json", told)
    with refused(named, where="a.json", hint=hint):
        descriptions(str(tmp_path / "a.json"), "description", "hmdb51", FOUR)


def test_a_source_of_other_kinds_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.json", NAMED)
    with refused("{spatial} sentences are in a folder", where="a.json"):
        descriptions(str(tmp_path / "a.json"), "spatial", "hmdb51", FOUR)
    with refused("{description} needs a file", where=str(tmp_path)):
        descriptions(str(tmp_path), "description", "hmdb51", FOUR)


def test_texts_with_a_colon_each_name_their_class() -> None:
    told = {name: [text] for name, text in zip(FOUR, NAMED, strict=True)}
    assert are_named(told) and renamed(told) == {"sword": "Fencing"}
    for other in ("no colon", "two: of: them"):
        assert not are_named({**told, "kick": [other]}) and renamed({**told, "kick": [other]}) == {}


def test_it_is_told_without_an_error_why_sentences_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENTENCES", raising=False)
    says(missing("$SENTENCES/here#2", "spatial", "ssv2") or "", "descriptions: ", "$SENTENCES")
    assert "2_s_description_ssv2.json" in (missing(str(tmp_path), "spatial", "ssv2") or "")
    write(tmp_path, "2_s_description_ssv2.json", numbered(["a"]))
    assert missing(str(tmp_path), "spatial", "ssv2") is None
    assert missing("glyphs", "spatial", "ssv2") is None


# ---------------------------------------------------------------------------------------------------------------------
# The embedded world


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", ["spatial", "temporal", "description"])
def test_glyphs_are_described_in_words_that_the_tiny_clip_knows(world: str, kind: str) -> None:
    for subset in ("source", "objects", "verbs", "both"):
        names = class_names(world, subset)
        for name, own in zip(names, descriptions("glyphs", kind, "glyphs-narrow", names), strict=True):
            words = [sentence.lower().replace(",", "").replace(":", "").split() for sentence in own]
            assert len(own) == (1 if kind == "description" else 2)
            assert all(set(each) <= set(WORDS) and len(each) <= 14 for each in words)
            assert all(name.split()[0] in each for each in words)


def test_looks_leave_motions_out_and_motions_differ() -> None:
    spatial, temporal = (
        descriptions("glyphs", kind, "glyphs-narrow", ("flag rising", "flag falling"))
        for kind in ("spatial", "temporal")
    )
    assert spatial[0] == spatial[1]
    assert temporal[0] == ["a video of a flag rising", "a flag at the bottom, a flag at the top"]
    assert temporal[0] != temporal[1]
    assert set(STEPS) == set(VERBS) and len(set(STEPS.values())) == len(VERBS)


def test_real_classes_are_not_in_the_embedded_world() -> None:
    with refused("'brush hair'"):
        descriptions("glyphs", "spatial", "hmdb51", FOUR)
