import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from bench.data import glyphs
from bench.data.datasets import EMBEDDED, Dataset, Entry, Glyphs, cache_dir, dataset, datasets, opened
from bench.errors import StageError, UserError

CLASSES = 'id,name\n0,climb\n1,"push, slowly"\n2,jump\n'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VTB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def declared(folder: Path, lines: str = "a.mp4 0\n", classes: str = CLASSES, root: str = "videos") -> Dataset:
    (folder / "classes.csv").write_text(classes, encoding="utf-8")
    (folder / "test.txt").write_text(lines, encoding="utf-8")
    return Dataset(name="mine", folder=str(folder), root=root, classes="classes.csv", splits={"test": "test.txt"})


def test_classes_and_lists_are_read(tmp_path: Path) -> None:
    lines = "a.mp4 0\nb c [d]/e!.mp4 2\nf,g.mp4,1\nh.mp4,2\n\nclip 7.mp4,0\n"
    mine = declared(tmp_path, lines)
    assert mine.class_names() == ("climb", "push, slowly", "jump")
    assert mine.entries("test") == (
        Entry("a.mp4", 0),
        Entry("b c [d]/e!.mp4", 2),
        Entry("f,g.mp4", 1),
        Entry("h.mp4", 2),
        Entry("clip 7.mp4", 0),
    )


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    assert declared(tmp_path, classes="\ufeff" + CLASSES).class_names()[0] == "climb"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a.mp4 0\nb.mp4 12\n", "test.txt:2: class id 12 out of range 0..2"),
        ("a.mp4 -1\n", "test.txt:1: class id -1 out of range 0..2"),
        ("a.mp4 0\nb.mp4 one\n", "test.txt:2: label 'one' is not an integer"),
        ("a.mp4 1.5\n", "test.txt:1: label '1.5' is not an integer"),
        ("a.mp4\n", "test.txt:1: label 'a.mp4' is not an integer"),
        (" 3\n", "test.txt:1: label '3' is not an integer"),
        ("a.mp4 0\nb.mp4 1\na.mp4 1\n", "test.txt:3: video 'a.mp4' appears twice\n  hint: the first is in line 1"),
        ("\n \n", "test.txt: lists no videos"),
        ("a.mp4 0\n/b.mp4 1\n", "test.txt:2: path '/b.mp4' leads out"),
        ("a.mp4 0\nc/../../b.mp4,1\n", "test.txt:2: path 'c/../../b.mp4' leads out"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        declared(tmp_path, lines).entries("test")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("0,climb\n", "classes.csv:1: header is '0,climb'\n  allowed: id,name"),
        ("", "classes.csv:1: header is ''"),
        ("id,name\n", "classes.csv: lists no classes"),
        ("id,name\n0,a\n2,b\n", "classes.csv:3: class id '2' where 1 was expected"),
        ("id,name\n1,a\n", "classes.csv:2: class id '1' where 0 was expected"),
        ("id,name\n0,a\n1,a\n", "classes.csv:3: class 'a' appears twice\n  hint: the first is in line 2"),
        ("id,name\n0,push, slowly\n", "classes.csv:2: expected id,name"),
        ("id,name\n0,\n", "classes.csv:2: expected id,name"),
    ],
)
def test_a_wrong_class_file_is_refused(tmp_path: Path, classes: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        declared(tmp_path, classes=classes).class_names()
    assert message in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    mine = declared(tmp_path)
    (tmp_path / "test.txt").write_bytes(b"caf\xe9.mp4 0\n")
    with pytest.raises(UserError, match=r"test\.txt: is not UTF-8"):
        mine.entries("test")
    (tmp_path / "test.txt").unlink()
    with pytest.raises(UserError, match=r"test\.txt: cannot be read: No such file"):
        mine.entries("test")


def test_unknown_names_say_what_was_meant(tmp_path: Path) -> None:
    mine = declared(tmp_path)
    with pytest.raises(UserError, match="did you mean 'test'"):
        mine.entries("tets")
    with pytest.raises(UserError, match=r"suite\.yaml:3: unknown dataset(.|\n)*did you mean 'glyphs-narrow'"):
        dataset("glyphs-narow", {}, where="suite.yaml:3")
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Dataset.model_validate({**mine.model_dump(), "calsses": "x"})
    with pytest.raises(ValidationError, match="belong to the embedded world"):
        Dataset.model_validate({**mine.model_dump(), "name": "glyphs-mine"})
    assert dataset("mine", {"mine": mine}) is mine
    assert set(datasets({"mine": mine})) == {*EMBEDDED, "mine"}


def test_the_root_is_found_from_the_declaring_file_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VTB_TEST_VIDEOS", raising=False)
    assert declared(tmp_path).location() == tmp_path / "videos"
    assert "is not there" in (declared(tmp_path).missing() or "")
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
    base = declared(first).content("test")
    assert declared(second).content("test") == base
    assert declared(first, "a.mp4,0\n\n").content("test") == base
    assert declared(first, "a.mp4 1\n").content("test") != base
    (second / "videos" / "a.mp4").write_bytes(b"else")
    changed = declared(second).content("test")
    (second / "videos" / "a.mp4").unlink()
    assert len({base, changed, declared(second).content("test")}) == 3


def test_videos_are_hashed_once(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "videos").mkdir()
    video = tmp_path / "videos" / "a.mp4"
    video.write_bytes(b"1234")
    mine = declared(tmp_path)
    base, stamp = mine.content("test"), video.stat().st_mtime_ns
    assert len(list((cache / "content").iterdir())) == 1
    video.write_bytes(b"5678")
    os.utime(video, ns=(stamp, stamp))
    assert mine.content("test") == base  # same size and time: not read again
    os.utime(video, ns=(stamp, stamp + 1))
    renewed = mine.content("test")
    assert renewed != base
    for file in (cache / "content").iterdir():
        file.write_text("{ cut")
    assert mine.content("test") == renewed  # a damaged cache is only slower


def test_a_stage_opens_what_a_plan_declared(tmp_path: Path) -> None:
    mine = declared(tmp_path)
    context = {"dataset": "mine", "declared": {"mine": mine.model_dump(mode="json")}}
    with pytest.raises(StageError, match="is not there"):
        opened(context)
    (tmp_path / "videos").mkdir()
    assert opened(context).entries("test") == mine.entries("test")
    assert opened(context).path("a.mp4") == tmp_path / "videos" / "a.mp4"
    (tmp_path / "videos" / "out").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"dataset 'mine'.*leads out"):
        opened(context).path("out/test.txt")


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_sets_are_consistent(name: str) -> None:
    embedded = EMBEDDED[name]
    classes = embedded.class_names()
    for split in embedded.splits:
        assert {entry.label for entry in embedded.entries(split)} == set(range(len(classes)))
        assert embedded.content(split) != EMBEDDED["glyphs-narrow"].content("train") or (name, split) == (
            "glyphs-narrow",
            "train",
        )
    assert "not built" in (embedded.missing() or "")


def test_embedded_sets_have_the_splits_that_suites_use() -> None:
    assert set(EMBEDDED) == {
        f"glyphs-{world}{tail}" for world in ("narrow", "broad") for tail in ("", "-objects", "-verbs", "-both")
    }
    assert set(EMBEDDED["glyphs-broad"].splits) == {"train", "validation"}
    assert set(EMBEDDED["glyphs-broad-both"].splits) == {"test"}


def test_building_is_for_the_whole_world(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(glyphs, "build", lambda *arguments: arguments)
    embedded = EMBEDDED["glyphs-narrow-verbs"]
    assert isinstance(embedded, Glyphs) and embedded.build(print, 2) == ("narrow", cache, print, 2)


def test_the_cache_folder_can_be_chosen(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == cache
    monkeypatch.delenv("VTB_CACHE")
    assert cache_dir().name == "video-transfer-bench"


def test_lists_are_read_without_torch_or_decoders() -> None:
    code = (
        "import sys; from bench.data.datasets import EMBEDDED; EMBEDDED['glyphs-narrow'].entries('train'); "
        "print([m for m in ('torch', 'decord', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
