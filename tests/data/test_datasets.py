import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bench.core.errors import UserError
from bench.core.files import cache_dir
from bench.data.datasets import Dataset, Entry, dataset, datasets, declared_fields, embedded, shipped
from bench.data.videos import source_of
from bench.glyphs import datasets as glyph_sets
from bench.glyphs.datasets import Glyphs
from bench.suite.yaml_lines import validate
from tests.data import miniatures
from tests.errors import refused, says
from tests.imports import imported_by

EMBEDDED = embedded()
CLASSES = 'id,name\n0,climb\n1,"push, slowly"\n2,jump\n'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VTB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def declared(
    folder: Path, lines: str = "a.mp4 0\n", classes: str = CLASSES, root: str = "videos", **more: Any
) -> Dataset:
    (folder / "classes.csv").write_text(classes, encoding="utf-8")
    (folder / "test.txt").write_text(lines, encoding="utf-8")
    settings = {"root": root, "classes": "classes.csv", "splits": {"test": "test.txt"}, **more}
    return of("mine", folder, settings)


def of(name: str, folder: Path, settings: dict[str, Any]) -> Dataset:
    return Dataset.model_validate(declared_fields(name, str(folder), settings))


def content(data: Dataset, split: str = "test") -> str:
    return data.content(data.entries(split))


def test_unknown_names_say_what_was_meant(tmp_path: Path) -> None:
    mine = declared(tmp_path)
    with pytest.raises(UserError, match="did you mean 'test'"):
        mine.entries("tets")
    with refused("unknown dataset", where="suite.yaml:3", allowed=["glyphs-narrow"], hint="'glyphs-narrow'"):
        dataset("glyphs-narow", {}, where="suite.yaml:3")
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Dataset.model_validate({**mine.model_dump(), "calsses": "x"})
    with pytest.raises(ValidationError, match="glyphs-' are reserved"):
        Dataset.model_validate({**mine.model_dump(), "name": "glyphs-mine"})
    assert dataset("mine", {"mine": mine}) is mine
    assert set(datasets({"mine": mine})) == {*EMBEDDED, *shipped(), "mine"}


def test_the_root_is_found_from_the_declaring_file_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VTB_TEST_VIDEOS", raising=False)
    assert declared(tmp_path).location() == tmp_path / "videos"
    assert "not found: " in (declared(tmp_path).missing() or "")
    by_variable = declared(tmp_path, root="$VTB_TEST_VIDEOS/k400")
    assert "$VTB_TEST_VIDEOS is not set" in (by_variable.missing() or "")
    (tmp_path / "disk" / "k400").mkdir(parents=True)
    monkeypatch.setenv("VTB_TEST_VIDEOS", str(tmp_path / "disk"))
    assert by_variable.missing() is None and by_variable.location() == tmp_path / "disk" / "k400"
    monkeypatch.setenv("HOME", str(tmp_path / "disk"))
    assert declared(tmp_path, root="~/k400").missing() is None


def test_content_follows_bytes_and_list_but_not_place_or_time(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    for folder, stamp in ((first, 1000), (second, 2000)):
        (folder / "videos").mkdir(parents=True)
        (folder / "videos" / "a.mp4").write_bytes(b"same")
        os.utime(folder / "videos" / "a.mp4", (stamp, stamp))
    base = content(declared(first))
    assert content(declared(second)) == base
    assert content(declared(first, "a.mp4,0\n\n")) == base
    assert content(declared(first, "a.mp4 1\n")) != base
    (second / "videos" / "a.mp4").write_bytes(b"else")
    changed = content(declared(second))
    (second / "videos" / "a.mp4").unlink()
    assert len({base, changed, content(declared(second))}) == 3


def test_videos_are_hashed_once(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "videos").mkdir()
    video = tmp_path / "videos" / "a.mp4"
    video.write_bytes(b"1234")
    mine = declared(tmp_path)
    base, stamp = content(mine), video.stat().st_mtime_ns
    assert len(list((cache / "content").iterdir())) == 1
    video.write_bytes(b"5678")
    os.utime(video, ns=(stamp, stamp))
    assert content(mine) == base  # same size and time: not read again
    os.utime(video, ns=(stamp, stamp + 1))
    renewed = content(mine)
    assert renewed != base
    for file in (cache / "content").iterdir():
        file.write_text("{ cut")
    assert content(mine) == renewed  # a damaged cache is only slower


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_sets_are_consistent(name: str) -> None:
    embedded = EMBEDDED[name]
    classes = embedded.class_names()
    for split in embedded.splits:
        assert {entry.label for entry in embedded.entries(split)} == set(range(len(classes)))
        assert embedded.missing(split) and not embedded.notes(split)
        assert embedded.count(split) == len(embedded.entries(split))
        same = content(embedded, split) == content(EMBEDDED["glyphs-narrow"], "train")
        assert same == ((name, split) == ("glyphs-narrow", "train"))
    assert "not built" in (embedded.missing() or "")


def test_embedded_sets_have_the_splits_that_suites_use() -> None:
    assert set(EMBEDDED) == {
        f"glyphs-{world}{tail}" for world in ("narrow", "broad") for tail in ("", "-objects", "-verbs", "-both")
    }
    assert set(EMBEDDED["glyphs-broad"].splits) == {"train", "validation", "validation-even", "validation-odd"}
    assert set(EMBEDDED["glyphs-broad-both"].splits) == {"test"}


def test_building_is_for_the_whole_world(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(glyph_sets, "rendered", lambda *arguments: arguments)
    embedded = EMBEDDED["glyphs-narrow-verbs"]
    assert isinstance(embedded, Glyphs) and embedded.build(print, 2) == ("narrow", cache, print, 2)


def test_the_cache_folder_can_be_chosen(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == cache
    monkeypatch.delenv("VTB_CACHE")
    assert cache_dir().name == "video-transfer-bench"


def test_lists_are_read_without_torch_or_decoders() -> None:
    code = "from bench.data.datasets import embedded; embedded()['glyphs-narrow'].entries('train')"
    assert imported_by(code).isdisjoint({"torch", "decord", "numpy", "av", "pandas"})


# --- shipped declarations ---------------------------------------------------------------------------------------------

MINIATURES: dict[str, Callable[..., dict[str, Any]]] = {
    "ucf101": miniatures.ucf101,
    "hmdb51": miniatures.hmdb51,
    "kinetics-400": miniatures.kinetics400,
    "ssv2": miniatures.ssv2,
    "activitynet": miniatures.activitynet,
}
SIZES = {  # split -> videos of the miniature
    "ucf101": {"train1": 45, "train2": 45, "train3": 45, "test1": 15, "test2": 15, "test3": 15, "full": 60},
    "hmdb51": {"train1": 18, "train2": 18, "train3": 18, "test1": 12, "test2": 12, "test3": 12}
    | {"split1": 30, "full": 36},
    "kinetics-400": {"train": 21, "validation": 12, "test": 6},
    "kinetics-600-split1": {"test": 6, "validation": 6},
    "kinetics-600-split2": {"test": 8, "validation": 8},
    "kinetics-600-split3": {"test": 8, "validation": 8},
    "ssv2": {"train": 21, "validation": 12},
    "activitynet": {"train": 16, "validation": 4, "full": 12},
}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Settings of a miniature of every shipped dataset."""
    folder = tmp_path_factory.mktemp("miniatures")
    made = {name: make(folder / name) for name, make in MINIATURES.items()}
    return made | miniatures.kinetics600(folder / "kinetics-600")


@pytest.mark.parametrize("name", SIZES)
def test_a_shipped_dataset_is_read_as_it_was_downloaded(
    name: str, worlds: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    data = of(name, tmp_path, worlds[name])
    for split, videos in SIZES[name].items():
        assert data.missing(split) is None
        entries = data.entries(split)
        assert len(entries) == len({entry.name for entry in entries}) == data.count(split) == videos
        for entry in entries:
            source = source_of(data, entry)
            assert source.path.is_file() and source.span == entry.span
    assert set(data.splits) == set(SIZES[name])


def test_every_shipped_declaration_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VTB_DATA", raising=False)
    assert set(shipped()) == set(SIZES)
    for name, data in shipped().items():
        assert "$VTB_DATA is not set" in (data.missing() or "")
        for split, known in data.splits.items():
            assert data.count(split) == known.videos[0] > 0 and data.notes(split) == []
        if data.classes.startswith("shipped:"):
            assert len(data.class_names()) == {"kinetics-400": 400, "ucf101": 101, "hmdb51": 51}.get(name, 160)
        else:
            with pytest.raises(UserError, match="No such file"):
                data.class_names()


def test_a_folder_of_datasets_needs_no_declaration(
    worlds: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ucf101").mkdir()
    (tmp_path / "ucf101" / "videos").symlink_to(worlds["ucf101"]["root"])
    monkeypatch.setenv("VTB_DATA", str(tmp_path))
    data = dataset("ucf101", {})
    assert data.missing() is None
    says(data.missing("train1") or "", "'trainlist01.txt'", "'ucf101'")
    (tmp_path / "ucf101" / "lists").symlink_to(worlds["ucf101"]["lists"])
    assert data.missing("train1") is None and data.count("train1") == 45
    assert source_of(data, data.entries("train1")[0]).path.is_file()


def test_label_variants_are_other_spellings_of_the_same_classes(tmp_path: Path) -> None:
    data = dataset("ucf101", {})
    assert [data.class_names(variant)[0] for variant in ("", *data.variants)] == [
        "Apply Eye Makeup",
        "ApplyEyeMakeup",
        "Apply Eye Makeup",
    ]
    assert [data.class_names(variant)[100] for variant in ("", *data.variants)] == ["YoYo", "YoYo", "Yoyo"]
    with pytest.raises(UserError, match="did you mean 'camel'"):
        data.class_names("camle")
    (tmp_path / "short.csv").write_text("id,name\n0,one\n")
    with refused("1 classes", "'mine' has 3", where="short.csv"):
        declared(tmp_path, variants={"short": "short.csv"}).class_names("short")


@pytest.mark.parametrize(
    ("name", "video", "group"),
    [
        ("ucf101", "Archery/v_Archery_g01_c07.avi", "v_Archery_g01"),
        ("ucf101", "v_HandStandPushups_g25_c01", "v_HandStandPushups_g25"),
        ("hmdb51", "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "April_09"),
        ("hmdb51", "TheBoondockSaints_fall_floor_u_cm_np1_ba_bad_82.avi", "TheBoondockSaints"),
        ("hmdb51", "shoot_gun/TheBoondockSaints_shoot_gun_u_cm_np1_fr_med_107", "TheBoondockSaints"),
        ("hmdb51", "handstand/Gymnastic_handstand_handstand_f_nm_np1_le_med_1.avi", "Gymnastic_handstand"),
        ("hmdb51", "kick_ball/Two_[HD]_(1)_kick_ball_l_cm_np6_ri_med_12.avi", "Two_[HD]_(1)"),
        ("kinetics-400", "abseiling/-47ZoDXy_P0_000095_000105.mp4", "-47ZoDXy_P0"),
        ("kinetics-600-split2", "0347ZoDXyP0", "0347ZoDXyP0"),
        ("activitynet", "v_0347ZoDXyP0.mp4@1.5-9", "0347ZoDXyP0"),
    ],
)
def test_names_tell_what_a_video_comes_from(name: str, video: str, group: str) -> None:
    found = re.search(str(shipped()[name].grouping()), video)
    assert found is not None and found[1] == group


def test_the_actions_in_names_of_hmdb51_are_its_classes() -> None:
    data = shipped()["hmdb51"]
    for action in (own.replace(" ", "_") for own in data.class_names()):
        found = re.search(data.groups, f"{action}/A_film_{action}_h_nm_np2_le_bad_3.avi")
        assert found is not None and found[1] == "A_film"


def test_the_shipped_patterns_fit_all_names_of_the_lists(tmp_path: Path, worlds: dict[str, dict[str, Any]]) -> None:
    for name, settings in worlds.items():
        data = of(name, tmp_path, settings)
        assert not [note for split in data.splits for note in data.notes(split) if "`groups`" in note]
        assert bool(data.groups) == (name != "ssv2")


def test_groups_are_a_pattern_with_one_bracket_or_a_column_and_no_part_of_the_content(tmp_path: Path) -> None:
    for groups in ("film", "(a)(b)", "(a"):
        with pytest.raises(ValidationError, match=r"bracket|no regular expression"):
            declared(tmp_path, groups=groups)
    data, grouped = declared(tmp_path), declared(tmp_path, groups=r"^(.)")
    assert data.grouping() == {} and grouped.grouping() == "^(.)"
    assert content(data) == content(grouped) and not [note for note in grouped.notes("test") if "groups" in note]
    note = next(note for note in declared(tmp_path, groups="(film)").notes("test") if "groups" in note)
    assert "does not fit" in note and data.entries("test")[0].name in note
    assert any("does not fit" in note for note in declared(tmp_path, groups="(x?)").notes("test"))  # an empty bracket
    told = declared(tmp_path, lines="path,label,group\na.mp4,0,film 0\n")
    assert content(told) == content(data) and told.grouping() == {"a.mp4": "film 0"}


def test_settings_lie_on_top_of_the_shipped_ones(tmp_path: Path, worlds: dict[str, dict[str, Any]]) -> None:
    """A plain string is a labelled list of the same videos: its known numbers stay."""
    (tmp_path / "mine.txt").write_text("a.avi 120 0\nb.avi 3 1\n")
    settings = {**worlds["ucf101"], "splits": {"test1": "mine.txt", "train1": "mine.txt", "own": "mine.txt"}}
    data = of("ucf101", tmp_path, settings)
    assert data.entries("test1") == (Entry("a.avi", 0), Entry("b.avi", 1))
    assert data.entries("train1") == (Entry("a.avi", 0),)  # official training readers want 8 frames
    assert data.count("test2") == 15 and data.count("own") == 2
    assert "ucf101/test1: 2 videos; known copies have 3,783" in data.notes("test1")
    assert "ucf101/train1: entries of fewer than 8 frames left out: 1" in data.notes("train1")
    assert of("my-copy", tmp_path, {**worlds["ucf101"], "like": "ucf101"}).entries("test2") == data.entries("test2")
    fields = declared_fields("my-copy", str(tmp_path), {"like": "ucf", "root": "x"})
    with refused("'ucf'", where="at like"):
        validate(Dataset, fields, lambda key: f"at {'.'.join(map(str, key))}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"splits": {"test1": {"formt": "ucf"}}}, r"at splits\.test1\.formt: unknown key 'formt'(.|\n)*'format'"),
        ({"splits": {"test1": {"format": "ufc"}}}, r"at splits\.test1\.format: unknown value 'ufc'(.|\n)*'ucf'"),
        ({"splits": {"test1": 3}}, r"at splits\.test1: "),
        ({"splits": {"own": {"format": "ucf"}}}, r"at splits\.own: key 'list' is required"),
        ({"splits": ["test1"]}, r"at splits: "),
        ({"rot": "/x"}, r"at rot: unknown key 'rot'(.|\n)*did you mean 'root'"),
        ({"places": ["{clas}/{path}"]}, r"at places: '\{clas\}/\{path\}' may contain \{path\}, \{folder\}.*\{class\}"),
        ({"places": ["{stem:>9999999999}"]}, r"at places: '\{stem:>9999999999\}' may contain"),
        ({"places": ["{path.real}"]}, r"at places: "),
        ({"places": "{path}"}, r"at places: "),
        ({"frames": "img.jpg"}, r"at frames: .*img_\{:05d\}"),
        ({"frames": "frame%06d.png"}, r"at frames: .*frame\{:06d\}\.png"),
        ({"frames": "{:>9999999999}"}, r"at frames: "),
        ({"frames": "{0.real:05d}.jpg"}, r"at frames: "),
        ({"frames": "{:05d}/{:05d}.jpg"}, r"at frames: "),
        ({"first": -1}, r"at first: "),
        ({"splits": {"test1": {"format": "ucf", "columns": ["path", "label"]}}}, r"at splits\.test1: .*labelled"),
        ({"splits": {"test1": {"format": "labelled", "columns": ["path"]}}}, r"at splits\.test1: .*one label"),
        ({"ranking": "trian1"}, r"unknown split 'trian1' in ranking or disjoint; allowed: train"),
    ],
)
def test_a_mistake_is_reported_at_its_key(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(Dataset, declared_fields("ucf101", "", settings), lambda key: f"at {'.'.join(map(str, key))}")


@pytest.mark.parametrize("name", SIZES)
def test_a_declaration_survives_being_written_out(name: str, worlds: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("x #1.avi\n\ny.avi\n")
    data = of(name, tmp_path, {**worlds[name], "known_bad": "bad.txt"})
    again = Dataset.model_validate(json.loads(json.dumps(data.model_dump(mode="json"))))
    assert again == data and again.known_bad == ("x #1.avi", "y.avi")


def test_a_declaration_means_the_same_in_another_process_and_folder(
    worlds: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    code = (
        "import json, sys; from bench.data.datasets import Dataset; "
        "data = Dataset.model_validate(json.load(sys.stdin)); "
        "print(json.dumps({s: data.content(data.entries(s)) for s in data.splits}))"
    )
    data = of("hmdb51", tmp_path, worlds["hmdb51"])
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(data.model_dump(mode="json")),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {split: content(data, split) for split in data.splits}


def test_a_list_of_bad_videos_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"bad\.txt: cannot be read"):
        declared(tmp_path, known_bad="bad.txt")


# --- where videos lie -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["flat", "folders", "underscores"])
def test_kinetics_is_found_in_every_usual_layout(layout: miniatures.Layout, tmp_path: Path) -> None:
    data = of("kinetics-400", tmp_path, miniatures.kinetics400(tmp_path, layout=layout))
    for split in data.splits:
        assert all(source_of(data, entry).path.is_file() for entry in data.entries(split))
    assert data.entries("train")[0].path.startswith("abseiling/")


def test_layouts_do_not_change_the_content(tmp_path: Path) -> None:
    found = set()
    layouts: tuple[miniatures.Layout, ...] = ("flat", "folders")
    for layout in layouts:
        settings = miniatures.kinetics400(tmp_path / layout, layout=layout)
        found.add(content(of("kinetics-400", tmp_path, settings), "validation"))
    assert len(found) == 1


def test_places_are_tried_in_order_with_few_looks_at_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = of("kinetics-400", tmp_path, miniatures.kinetics400(tmp_path, layout="underscores"))
    tried: list[str] = []
    is_file = os.path.isfile

    def counted(path: str | Path) -> bool:
        tried.extend([str(path)] if "k400" in str(path) else [])
        return is_file(path)

    monkeypatch.setattr(os.path, "isfile", counted)
    for entry in data.entries("train"):
        source_of(data, entry)
    assert len(data.entries("train")) <= len(tried) <= 2 * len(data.entries("train"))


def test_ucf_is_found_whatever_the_case(tmp_path: Path) -> None:
    """Copies of the archive spell the folder as its files, or the files as their folder."""
    data = of("ucf101", tmp_path, miniatures.ucf101(tmp_path))
    folder = tmp_path / "UCF-101" / "HandstandPushups"
    listed = [entry for entry in data.entries("test1") if "Handstand" in entry.path]
    assert listed and listed[0].path.startswith("HandstandPushups/v_HandStandPushups_g01")
    folder.rename(folder.with_name("HandStandPushups"))
    for video in folder.with_name("HandStandPushups").iterdir():
        video.rename(video.with_name(video.name.replace("HandStand", "Handstand")))
    data = of("ucf101", tmp_path, {"root": str(tmp_path), "lists": str(tmp_path / "ucfTrainTestlist")})
    assert all(source_of(data, entry).path.is_file() for entry in data.entries("test1"))
    absent = Entry("HandstandPushups/v_none.avi", 36)
    assert source_of(data, absent).path == tmp_path / absent.path


def test_a_path_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "out").symlink_to(tmp_path)
    for data, path in ((declared(tmp_path), "out/test.txt"), (declared(tmp_path, places=["../{path}"]), "test.txt")):
        with pytest.raises(UserError, match=r"dataset 'mine'.*leads out"):
            source_of(data, Entry(path, 0))


def test_folders_of_frames_are_videos(tmp_path: Path) -> None:
    data = declared(
        tmp_path,
        "climb/a.avi 3 0\nclimb/none.avi 3 0\n",
        frames="img_{:05d}.jpg",
        first=0,
        places=["{path}", "{folder}/{stem}.*"],
    )
    folder = tmp_path / "videos" / "climb" / "a"
    folder.mkdir(parents=True)
    (folder / "img_00000.jpg").write_bytes(b"one")
    (folder.parent / "a.avi").touch()  # no folder
    assert source_of(data, data.entries("test")[0]) == (folder, None, "img_{:05d}.jpg", 0)
    base = content(data)
    assert content(data.model_copy(update={"first": 1})) != base
    (folder / "img_00001.jpg").write_bytes(b"two")
    assert content(data) != base


@pytest.mark.parametrize(
    ("starts", "first", "told"),
    [
        ([0, 0, 0, 1], 1, ["begins at 0", "say first: 0"]),
        ([1, 1], 0, ["begins at 1", "say first: 1"]),
        ([0], 1, ["say first: 0"]),
        ([0, 1, 1], 1, []),  # one folder's own fault
        ([1, 1, 1, 0], 1, []),
    ],
)
def test_first_is_compared_with_the_first_folders(
    tmp_path: Path, starts: list[int], first: int, told: list[str]
) -> None:
    names = [f"v{number}" for number in range(len(starts))]
    lists = "absent 3 0\n" + "".join(f"{name} 3 0\n" for name in names)
    data = declared(tmp_path, lists, frames="img_{:05d}.jpg", first=first)
    for name, start in zip(names, starts, strict=True):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for number in range(start, start + 3):
            (tmp_path / "videos" / name / f"img_{number:05d}.jpg").touch()
    if not told:
        for _ in range(2):  # also of folders that are known
            content(data)
            own = {name for name, start in zip(names, starts, strict=True) if start != first}
            assert {name for name, fault in data.faults(data.entries("test")).items() if "say" in fault.detail} == own
        return data.require_numbering(data.entries("test"))
    with refused(*told, where="dataset 'mine': v0"):
        data.require_numbering(data.entries("test"))


# --- content and notes ------------------------------------------------------------------------------------------------


def test_content_is_of_any_selection_and_counts_what_it_reads(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for name in "ab":
        (tmp_path / "videos" / f"{name}.mp4").write_text(name)
    data = declared(tmp_path, "a.mp4 0\nb.mp4 1\nc.mp4 1\n")
    a, b, c = data.entries("test")
    told: list[tuple[int, int]] = []
    whole = data.content([a, b], lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    part = data.content([a], lambda done, total: told.append((done, total)))
    assert len(told) == 2 and len({whole, part, data.content([b, a]), data.content([a, b, c])}) == 4
    spans = {data.content([a._replace(span=span)]) for span in (None, (0.0, 1.0), (0.0, 2.0))}
    assert part in spans and len(spans) == 3


def test_content_follows_how_videos_were_prepared(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    data = declared(tmp_path)
    base = content(data)
    (tmp_path / "videos" / "prepared.json").write_text('{"crf": 18}')
    prepared = content(data)
    (tmp_path / "videos" / "prepared.json").write_text("{")
    with pytest.raises(UserError, match=r"prepared\.json:1: not valid JSON"):
        content(data)
    assert base != prepared


def test_planted_leaks_are_equal_bytes_under_other_names(tmp_path: Path) -> None:
    pairs = {"ucf101": ("train1", "test1"), "hmdb51": ("train1", "test1"), "activitynet": ("train", "validation")}
    for name, make in MINIATURES.items():
        train, test = pairs.get(name, ("train", "validation"))
        for leak in (False, True):
            data = of(name, tmp_path, make(tmp_path / f"{name}-{leak}", leak=leak))
            assert (train, test) in data.disjoint
            learnt, measured = (
                {source_of(data, entry).path.read_bytes() for entry in data.entries(split)} for split in (train, test)
            )
            assert len(learnt & measured) == leak
            assert not {e.path for e in data.entries(train)} & {e.path for e in data.entries(test)}


def test_notes_say_what_differs_from_known_copies(tmp_path: Path, worlds: dict[str, dict[str, Any]]) -> None:
    data = of("ucf101", tmp_path, worlds["ucf101"])
    assert data.notes("test1") == [
        "ucf101/test1: 15 videos; known copies have 3,783",
        "ucf101/test1: no videos of 95 of the 101 classes",
        "ucf101/test1: videos per class: 2 to 3; known copies have 28 to 49",
    ]
    known = {"list": "testlist01.txt", "format": "ucf", "videos": [3, 15], "per_class": [2, 3]}
    assert of("ucf101", tmp_path, {**worlds["ucf101"], "splits": {"test1": known}}).notes("test1") == [
        "ucf101/test1: no videos of 95 of the 101 classes"
    ]
    assert (
        "known copies have 14,858, 14,119 or 14,084"
        in of("kinetics-600-split1", tmp_path, worlds["kinetics-600-split1"]).notes("test")[0]
    )
    stray = of("ucf101", tmp_path, miniatures.ucf101(tmp_path / "stray", stray=True))
    assert "testlist01.txt:16: video 'YoYo/" in stray.notes("test1")[0] and "in line 1" in stray.notes("test1")[0]


def test_empty_videos_of_a_list_with_frame_counts_are_dropped(tmp_path: Path) -> None:
    data = of("hmdb51", tmp_path, miniatures.hmdb51(tmp_path, counted=True))
    assert data.count("full") == 36 and "hmdb51/full: entries of 0 frames left out: 2" in data.notes("full")
