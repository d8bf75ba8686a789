"""Columns of lists without a format of their own: as other tools write them, in any order that can be told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UserError
from bench.data.class_files import Classes
from bench.data.lists import Entry, Listing, Split, read_list
from tests.errors import refused

NAMES = ("climb", "push, slowly", "jump")
PLAIN = (Entry("v/clip,b.mp4", 1), Entry("v/clip a.mp4", 0), Entry("c.mp4", 2))


def read(folder: Path, text: str | bytes, names: Sequence[str] = NAMES, first: int = 0, **split: Any) -> Listing:
    name = split.pop("name", "test.txt")
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    chosen = Split.model_validate({"list": name, **split})
    return read_list(chosen, [folder / name], Classes(tuple(names), first), folder)


@pytest.mark.parametrize(
    "text",
    [
        "v/clip,b.mp4 1\nv/clip a.mp4 0\nc.mp4 2\n",
        "v/clip,b.mp4\t1\n  v/clip a.mp4 \t 0\nc.mp4   2  ",
        "v/clip,b.mp4 1\r\n\r\nv/clip a.mp4 0\rc.mp4 2\r\n",
        "\ufeffv/clip,b.mp4 1\nv/clip a.mp4 0\nc.mp4 2\n",
        '"v/clip,b.mp4",1\r\nv/clip a.mp4,0\r\nc.mp4,2\r\n',
        '"v/clip,b.mp4","1"\n"v/clip a.mp4","0"\n"c.mp4","2"\n',
        'v/clip,b.mp4 1\n"v/clip a.mp4" 0\nc.mp4 2\n',
        "v/clip,b.mp4, 1\nv/clip a.mp4, 0\nc.mp4, 2\n",
        "v/clip,b.mp4;1\nv/clip a.mp4;0\nc.mp4;2;\n",
        'path,label\n"v/clip,b.mp4",1\nv/clip a.mp4,0\nc.mp4,2\n',
        "./v/clip,b.mp4 1\nv//clip a.mp4 0\nv/../c.mp4 2\n",
    ],
)
def test_white_space_quotes_and_line_ends_do_not_matter(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == (PLAIN, (), ())


def test_windows_text_is_read(tmp_path: Path) -> None:
    text = "v/clip,b.mp4 1\r\nv/clip a.mp4 0\r\nc.mp4 2\r\n"
    assert read(tmp_path, text.encode("utf-16")).entries == PLAIN
    with refused("UTF-8", where="test.txt"):
        read(tmp_path, "caf\xe9.mp4 0\n".encode("latin-1"))


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("v/clip,b.mp4 90 1\nv/clip a.mp4 300 0\nc.mp4 2 2\n", "path, frames, label"),
        ("v/clip,b.mp4,90,1\nv/clip a.mp4,300,0\nc.mp4,2,2\n", "path, frames, label"),
        ("v/clip,b.mp4 1 90\nv/clip a.mp4 0 300\nc.mp4 2 9\n", "path, label, frames"),
        ("1 v/clip,b.mp4\n0 v/clip a.mp4\n2 c.mp4\n", "label, path"),
        ('1,"v/clip,b.mp4"\n0,v/clip a.mp4\n2,c.mp4\n', "label, path"),
        ("1\tv/clip,b.mp4\t90\n0\tv/clip a.mp4\t300\n2\tc.mp4\t9\n", "label, path, frames"),
        ('label,path\n1,"v/clip,b.mp4"\n0,v/clip a.mp4\n2,c.mp4\n', "label, path"),
        ('num_frames,Video Path,class_id\n9,"v/clip,b.mp4",1\n9,v/clip a.mp4,0\n9,c.mp4,2\n', "frames, path, label"),
        (
            ',clip_path,label\n0,"v/clip,b.mp4","push, slowly"\n1,v/clip a.mp4,climb\n2,c.mp4,Jump\n',
            "other, path, label",
        ),
    ],
)
def test_columns_are_told_by_values_or_a_header(tmp_path: Path, text: str, columns: str) -> None:
    assert read(tmp_path, text) == (PLAIN, (), (f"read as {columns}",))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("v/c.mp4 0 2\nv/clip a.mp4 1 2\n", "test.txt:1"),
        ("v/c.mp4 0\nv/clip a.mp4 1 2\n", "test.txt:2"),
        ("v/c.mp4,0,1\nv/d.mp4,1,2\n", "test.txt:1"),
        ("v/c.mp4 0 1 2\nv/d.mp4 1 0 2\n", "test.txt:1"),
        ("v/c.mp4 0 1\nv/d.mp4 0 1 2\n", "test.txt:2"),
        ("v/c.mp4 0;2\n", "test.txt:1"),
        ("v/d.mp4 1\nv/c.MP4 0,2\n", "test.txt:2"),
        ("v/c.mp4,0 2;1\n", "test.txt:1"),
        ("path label\nv/c.mp4 0 2\n", "test.txt:2"),
        ("climb/x 0 2\npush slowly/y 1\n", "test.txt:1"),
    ],
)
def test_several_labels_are_refused_with_the_reason(tmp_path: Path, text: str, where: str) -> None:
    with refused("numbers", where=where, hint="several labels"):
        read(tmp_path, text)
    with refused("numbers", where=where, hint="columns: [path, frames, label]"):
        read(tmp_path, text)


@pytest.mark.parametrize("label", ['"[0, 2]"', "[0, 2]", "0|2", '"0;2"', "(0 2)"])
@pytest.mark.parametrize("header", ["", "path label\n"])
def test_labels_in_one_cell_are_refused_with_the_reason(tmp_path: Path, header: str, label: str) -> None:
    with refused(where="test.txt:", hint="several labels"):
        read(tmp_path, f"{header}v/a.mp4 {label}\n")


def test_folders_tell_numbers_of_frames_from_labels(tmp_path: Path) -> None:
    assert read(tmp_path, "climb/a.avi 2 0\njump/b.avi 1 2\n").read_as == ("read as path, frames, label",)
    assert read(tmp_path, "frames/a 2 0\nframes/b 1 2\n").read_as == ("read as path, frames, label",)
    many, entries = (*NAMES, *map(str, range(400))), (Entry("climb/x", 0), Entry("jump/y", 2), Entry("climb/z", 0))
    for text, columns in (
        ("climb/x 0 250\njump/y 2 300\nclimb/z 0 290\n", "path, label, frames"),
        ("climb/x 250 0\njump/y 300 2\nclimb/z 290 0\n", "path, frames, label"),
        ("0 climb/x 250\n2 jump/y 300\n0 climb/z 290\n", "label, path, frames"),
    ):
        assert read(tmp_path, text, many) == (entries, (), (f"read as {columns}",))
    assert read(tmp_path, "0 climb/x 0\n2 jump/y 2\n").entries == (Entry("0 climb/x", 0), Entry("2 jump/y", 2))
    with refused("numbers", where="test.txt:1", hint="columns: [path, frames, label]"):
        read(tmp_path, "climb/x 7 250\njump/y 9 300\n", many)


def test_a_column_may_name_the_group_of_a_video(tmp_path: Path) -> None:
    entries = (Entry("a.mp4", 1, group="film 1"), Entry("b c.mp4", 0))
    assert read(tmp_path, "label,group,path\n1,film 1,a.mp4\n0,,b c.mp4\n").entries == entries
    found = read(tmp_path, "a.mp4,1,film 1\nb c.mp4,0,\n", columns=["path", "label", "group"])
    assert found.entries == entries


def test_declared_columns_are_not_guessed(tmp_path: Path) -> None:
    text = "v/c d.mp4 0 2\nv/clip a.mp4 1 2\n"
    found = read(tmp_path, text, columns=["path", "frames", "label"])
    assert found == ((Entry("v/clip a.mp4", 2),), ("entries of 0 frames left out: 1",), ())
    assert read(tmp_path, text, columns=["path", "label", "other"]).entries == (
        Entry("v/c d.mp4", 0),
        Entry("v/clip a.mp4", 1),
    )
    assert read(tmp_path, "jump 7 a b.mp4\n", columns=["label", "frames", "path"]).entries == (Entry("a b.mp4", 2),)
    with refused("'v/c.mp4 0'", where="test.txt:1", hint="other"):
        read(tmp_path, "v/c.mp4 0\n", columns=["path", "frames", "label"])
    with refused("'many'", where="test.txt:1"):
        read(tmp_path, "v/c.mp4 many 0\n", columns=["path", "frames", "label"])
    with refused("'hop'", where="test.txt:1"):
        read(tmp_path, "v/c.mp4 hop\n", columns=["path", "label"])


@pytest.mark.parametrize(
    ("text", "name", "format"),
    [
        ("label,youtube_id,time_start,time_end,split\nclimb,abcdefghijk,1,11,val\n", "test.csv", "kinetics"),
        ("climb,abcdefghijk,1,11\n", "test.csv", "kinetics"),
        ('[{"id": "1", "template": "climb"}]', "test.json", "ssv2"),
        ("74225;push slowly\n", "answers.csv", "ssv2"),
        ('{"version": "1.3", "database": {}}', "test.json", "activitynet"),
        ("Jump/v_Jump_g01_c01.avi\n", "testlist01.txt", "ucf"),
        ("a.avi 1\n", "push_slowly_test_split1.txt", "hmdb"),
    ],
)
def test_another_format_is_named(tmp_path: Path, text: str, name: str, format: str) -> None:
    with refused(format, where=f"{name}:1", hint=f"format: {format}"):
        read(tmp_path, text, name=name)


def test_labels_from_1_are_told_or_refused(tmp_path: Path) -> None:
    with refused("from 1", where="test.txt", hint="format: ucf"):
        read(tmp_path, "Climb/a.avi 1\nPushSlowly/b.avi 2\n")
    told = ("labels count from 1, as the class file",)
    assert read(tmp_path, "a.avi 1\nb.avi 3\n", first=1) == ((Entry("a.avi", 0), Entry("b.avi", 2)), (), told)
    assert read(tmp_path, "Climb/a.avi 1\n", first=1).read_as == told
    assert read(tmp_path, "a.avi 0\nb.avi 2\n", first=1) == ((Entry("a.avi", 0), Entry("b.avi", 2)), (), ())
    with refused("0 or 1", where="test.txt", hint="id,name"):
        read(tmp_path, "a.avi 1\nb.avi 2\n", first=1)


@pytest.mark.parametrize(
    "text",
    [
        "a.mp4 0\n./a.mp4 1\n",
        "b/a.mp4 0\nb//a.mp4 0\n",
        "a.mp4 0\n{root}/a.mp4 0\n",
        "a\0.mp4 0\n",
        "a.mp4 " + "9" * 5000 + "\n",
        "a.mp4 \u0661\n",
        "path,label\na.mp4\n",
        "path,label\n",
        '"a.mp4 0\n" 0',
    ],
)
def test_mistakes_are_named_in_short(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text.replace("{root}", str(tmp_path)))
    assert "test.txt" in str(caught.value) and len(str(caught.value)) < 600


def test_json_that_cannot_be_held_is_refused(tmp_path: Path) -> None:
    for text in ("[" * 100_000, f'[{{"id": {"9" * 5000}, "template": "climb"}}]'):
        with refused("JSON", where="test.json"):
            read(tmp_path, text, name="test.json", format="ssv2")
    video = '{"database": {"a": {"subset": "x", "annotations": [{"label": "climb", "segment": [0, NaN]}]}}}'
    with refused("video 'a'", where="test.json"):
        read(tmp_path, video, name="test.json", format="activitynet-instances")
    for row in ("climb,a,1,inf", 'climb,"a,1,2', f"climb,{'a' * 200_000},1,2"):
        with refused(where="test.csv"):
            read(tmp_path, f"label,youtube_id,time_start,time_end\n{row}\n", name="test.csv", format="kinetics")
