"""Where listed videos are found below a root, and which files are refused before they are read."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UserError
from bench.data.datasets import Dataset, declared_fields
from bench.data.places import OUTSIDE, Fault, Places, below
from bench.data.selection import Selection, select
from bench.data.videos import source_of
from bench.video.reader import Video
from bench.video.source import VideoError
from tests.errors import refused, says

NAMES = ("Apply Eye Makeup", "hurling (sport)", "take off", "take-off", "YoYo")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VTB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def put(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(file))


def places(root: Path, *patterns: str, links: Sequence[Path] = (), frames: bool = False) -> Places:
    return Places(root, patterns, links, lambda: NAMES, frames)


def declared(root: Path, lines: str, **more: Any) -> Dataset:
    """A dataset of three classes whose list has these lines."""
    (root.parent / "classes.csv").write_text("id,name\n0,playing\n1,running\n2,dancing\n")
    (root.parent / "list.txt").write_text(lines)
    settings = {"root": str(root), "classes": "classes.csv", "splits": {"test": "list.txt"}, **more}
    return Dataset.model_validate(declared_fields("mine", str(root.parent), settings))


def faults(data: Dataset) -> dict[str, tuple[str, str]]:
    """Name of a video -> kind and details of its fault, as the plan finds them."""
    entries = data.entries("test")
    data.content(entries)
    return {name: (fault.kind, fault.detail) for name, fault in data.faults(entries).items()}


# --- paths ------------------------------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_root_whatever_their_form(root: Path, tmp_path: Path) -> None:
    put(root / "a" / "b.mp4")
    (tmp_path / "link").symlink_to(root)
    forms = ["a/b.mp4", "./a/b.mp4", "a//b.mp4", "a/../a/b.mp4", "../root/a/b.mp4", f"{root}/a/b.mp4"]
    for form in (*forms, f"{root}//a/./b.mp4", f"{tmp_path}/link/a/b.mp4", f"{tmp_path}/other/../root/a/b.mp4"):
        assert below(root, form, "") == "a/b.mp4"
        assert below(tmp_path / "link", form.replace("../root", "../link"), "") == "a/b.mp4"
    assert below(Path("/"), f"{root}/a/b.mp4", "") == f"{root}/a/b.mp4"[1:]


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secret.mp4", "a/../../secret.mp4", ".", "..", "/", "a\0b", "\ud800"]
)
def test_other_paths_are_refused_at_their_line(root: Path, path: str) -> None:
    for own in (root, None):
        with refused(where="list.txt:7"):
            below(own, path, "list.txt:7")
    with pytest.raises(UserError, match=r"the root is .*root"):
        below(root, f"{root}-other/a.mp4", "list.txt:7")


# --- patterns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["Apply Eye Makeup", "ApplyEyeMakeup", "apply_eye_makeup", "Apply-Eye-Makeup"])
def test_a_class_folder_is_found_in_any_spelling(root: Path, folder: str) -> None:
    put(root / folder / "v_1.AVI", root / "YoYo" / "v_1.avi")
    found = places(root, "{path}", "{class}/{stem}.*")
    assert found.find("v_1.avi", 0) == (f"{folder}/v_1.AVI", None)
    assert found.find("v_1.avi", 4) == ("YoYo/v_1.avi", None)
    assert found.find("v_1.avi", 1)[1] is not None


def test_the_own_spelling_comes_first_and_tells_classes_apart(root: Path) -> None:
    put(root / "ApplyEyeMakeup" / "a.mp4", root / "Apply Eye Makeup" / "a.mp4", root / "apply_eye_makeup" / "b.mp4")
    put(root / "take-off" / "c.mp4", root / "yoyo" / "d.mp4", root / "YOYO" / "d.mp4")
    found = places(root, "{class}/{stem}.*")
    assert (
        found.find("a.mp4", 0)[0] == "Apply Eye Makeup/a.mp4" and found.find("b.mp4", 0)[0] == "apply_eye_makeup/b.mp4"
    )
    assert found.find("c.mp4", 3)[0] == "take-off/c.mp4" and found.find("c.mp4", 2)[1] is not None
    assert found.find("d.mp4", 4)[0] == "YOYO/d.mp4"  # the first in the alphabet


def test_any_suffix_and_case_have_a_fixed_order(root: Path) -> None:
    put(root / "a.webm", root / "a.mkv", root / "a.txt", root / "A.mp4", root / "b.c.mov", root / "x" / "D.Avi")
    assert places(root, "{stem}.*").find("a.mp4", 0)[0] == "a.mkv"
    assert places(root, "(?i){stem}.*").find("A.avi", 0)[0] == "A.mp4"
    assert places(root, "{stem}.*").find("b.c.mp4", 0)[0] == "b.c.mov"
    assert places(root, "(?i){path}").find("X/d.avi", 0)[0] == "x/D.Avi"
    assert places(root, "{path}").find("X/d.avi", 0)[1] is not None


def test_halves_of_the_classes_keep_their_folders(root: Path) -> None:
    """Labels of a half count within it; two folders have files of one name."""
    put(root / "playing" / "1.mp4", root / "running" / "2.mp4", root / "dancing" / "1.mp4", root / "running" / "1.mp4")
    data = declared(root, "2.mp4 1\n1.mp4 2\n", places=["{class}/{stem}.*"], ranking="test")
    chosen = {entry.path: data.file(entry).relative_to(root).as_posix() for entry in data.entries("test")}
    assert chosen == {"2.mp4": "running/2.mp4", "1.mp4": "dancing/1.mp4"}
    base = select(data, Selection("mine", "test", "base"))
    assert [(entry.label, data.file(entry).relative_to(root).as_posix()) for entry in base] == [
        (0, "running/2.mp4"),
        (1, "dancing/1.mp4"),
    ]


def test_lists_of_bare_names_fit_the_official_folders(tmp_path: Path) -> None:
    root = tmp_path / "UCF-101"
    put(
        root / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g01_c01.avi",
        root / "HandStandPushups" / "v_HandstandPushups_g01_c01.avi",
    )
    (tmp_path / "few.txt").write_text("v_ApplyEyeMakeup_g01_c01.avi 0\nv_HandStandPushups_g01_c01.avi 36\n")
    for above in (root, tmp_path):
        settings = {"root": str(above), "lists": str(tmp_path), "splits": {"train1": "few.txt"}}
        data = Dataset.model_validate(declared_fields("ucf101", str(tmp_path), settings))
        assert all(data.file(entry).is_file() for entry in data.entries("train1"))
    for name, folder, video, label in (
        ("hmdb51", "brush_hair", "April_09_brush_hair_u_nm_np1_ba_goo_0.avi", 0),
        ("kinetics-400", "train/air_drumming", "-0BPTUNpMrQ.mp4", 1),
    ):
        put(tmp_path / name / folder / video)
        (tmp_path / "bare.txt").write_text(f"{video} {label}\n")
        settings = {"root": str(tmp_path / name), "lists": str(tmp_path), "splits": {"own": "bare.txt"}}
        data = Dataset.model_validate(declared_fields(name, str(tmp_path), settings))
        assert data.file(data.entries("own")[0]).is_file()


# --- faults -----------------------------------------------------------------------------------------------------------


def test_what_is_no_regular_file_is_never_opened(root: Path) -> None:
    put(root / "a.mp4")
    os.mkfifo(root / "pipe.mp4")
    (root / "folder.mp4").mkdir()
    (root / "zero.mp4").symlink_to("/dev/zero")
    (root / "loop.mp4").symlink_to("loop.mp4")
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(root / "socket.mp4"))
    names = ("a", "pipe", "folder", "zero", "loop", "socket", "none", "x" * 300)
    data = declared(root, "".join(f"{name}.mp4 0\n" for name in names), links={"follow": ["/dev"]})
    found = {name.removesuffix(".mp4"): " ".join(fault) for name, fault in faults(data).items()}
    assert set(found) == set(names) - {"a"}
    for name, told in {"pipe": "a named pipe", "folder": "a folder", "zero": "a device", "socket": "a socket"}.items():
        assert told in found[name]
    assert "are not there" in found["none"] and str(root / "none.mp4") in found["none"]
    assert "lead out" in faults(declared(root, "zero.mp4 0\n"))["zero.mp4"][0]


def test_links_lead_into_the_root_or_declared_folders_alone(root: Path, tmp_path: Path) -> None:
    put(tmp_path / "blobs" / "aa", tmp_path / "blobs-other" / "bb", root / "c.mp4")
    (root / "a.mp4").symlink_to("../blobs/aa")
    (root / "b.mp4").symlink_to(tmp_path / "blobs-other" / "bb")
    (root / "d.mp4").symlink_to("c.mp4")
    (root / "more").symlink_to(tmp_path / "blobs")
    lines = "a.mp4 0\nb.mp4 0\nc.mp4 0\nd.mp4 0\nmore/aa 0\n"
    data = declared(root, lines)
    assert list(faults(data)) == ["a.mp4", "b.mp4", "more/aa"]
    assert faults(data)["a.mp4"] == ("lead out of the root by a link", f"to {tmp_path}/blobs/aa")
    with refused(
        "'a.mp4'", f"{tmp_path}/blobs/aa", where="dataset 'mine'", hint=f"links: {{follow: [{tmp_path}/blobs]}}"
    ):
        data.file(data.entries("test")[0])
    for links in ("blobs", ["blobs"], [str(tmp_path / "blobs")]):
        declares = declared(root, lines, links={"follow": links}, known_bad=["b.mp4"])
        assert list(faults(declares)) == ["b.mp4"]  # known_bad excuses no link
        assert declares.content(declares.entries("test")) != data.content(data.entries("test"))


def test_only_folders_of_what_can_be_read_are_suggested(root: Path, tmp_path: Path) -> None:
    put(tmp_path / "blobs" / "aa")
    suggested: dict[object, object] = {tmp_path / "blobs" / "aa": tmp_path / "blobs", tmp_path / "blobs": tmp_path}
    for target, folder in {**suggested, "/dev/zero": "", "/gone/a": "", "/etc": "", "/": ""}.items():
        assert Fault(OUTSIDE, f"to {target}").folder == str(folder)
        assert ("follow" in Fault(OUTSIDE, f"to {target}").advice("mine")) == bool(folder)


def test_folders_of_links_have_to_exist(root: Path) -> None:
    says(declared(root, "a.mp4 0\n", links={"follow": "gone"}).missing() or "", "'gone' in links", root.parent / "gone")


def test_frames_that_are_links_are_checked_as_well(root: Path, tmp_path: Path) -> None:
    put(root / "a" / "img_00001.jpg", tmp_path / "blobs" / "aa")
    (root / "a" / "img_00002.jpg").symlink_to(tmp_path / "blobs" / "aa")
    (root / "a" / "img_00003.jpg").symlink_to("/dev/zero")
    data = {links: declared(root, "a 3 0\n", frames="img_{:05d}.jpg", links=links) for links in ((), ("blobs",))}
    found = {links: faults(own) for links, own in data.items()}
    assert found[()] == {"a": ("lead out of the root by a link", "to /dev/zero")} == found["blobs",]
    (root / "a" / "img_00003.jpg").unlink()
    assert not faults(declared(root, "a 3 0\n", frames="img_{:05d}.jpg", links={"follow": "blobs"}))
    assert faults(data[()]) == {"a": ("lead out of the root by a link", f"to {tmp_path}/blobs/aa")}  # known or not


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "nothing"])
def test_frames_that_are_no_regular_files_are_never_opened(root: Path, tmp_path: Path, kind: str) -> None:
    put(root / "a" / "img_00001.jpg", root / "b" / "img_00001.jpg", root / "c" / "other.jpg")
    (root / "c" / "img_00001.jpg").symlink_to("other.jpg")
    wrong = root / "a" / "img_00002.jpg"
    if kind in ("device", "nothing"):
        wrong.symlink_to("/dev/zero" if kind == "device" else "none.jpg")
    else:
        os.mkfifo(wrong) if kind == "pipe" else wrong.mkdir()
    data = declared(root, "a 3 0\nb 3 0\nc 3 0\n", frames="img_{:05d}.jpg", links={"follow": "/dev"})
    for _ in range(2):
        assert list(faults(data)) == ["a"] and "img_00002.jpg is not a regular file" in faults(data)["a"][1]
    with refused("img_00002.jpg", kind=VideoError):
        Video(source_of(data, data.entries("test")[0]))


def test_declared_videos_may_be_absent(root: Path) -> None:
    put(root / "a.mp4")
    lines = f"{root}/a.mp4 0\n./b.mp4 1\n"
    assert list(faults(declared(root, lines))) == ["b.mp4"]
    for name in ("b.mp4", "./b.mp4", f"{root}/b.mp4"):
        assert not faults(declared(root, lines, known_bad=[name]))


def test_list_and_class_files_are_regular(root: Path, tmp_path: Path) -> None:
    data = declared(root, "a.mp4 0\n")
    for name in ("list.txt", "classes.csv"):
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        assert "named pipe" in (data.missing("test") or "")
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
        assert "a folder" in (data.missing("test") or "")
        (tmp_path / name).rmdir()
        (tmp_path / name).write_text("id,name\n0,a\n")
    os.mkfifo(tmp_path / "bad.txt")
    with refused("named pipe", where="bad.txt"):
        declared(root, "a.mp4 0\n", known_bad="bad.txt")
