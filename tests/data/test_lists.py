import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UserError
from bench.core.files import read_json
from bench.data.class_files import Classes, read_classes
from bench.data.lists import Entry, Listing, Split, read_list, read_names
from tests.errors import refused

CLASSES = 'id,name\n0,climb\n1,"push, slowly"\n2,jump\n'
NAMES = ("climb", "push, slowly", "jump")


def listing(folder: Path, text: str, names: Sequence[str] = NAMES, name: str = "test.txt", **split: Any) -> Listing:
    (folder / name).write_text(text, encoding="utf-8")
    return read_list(Split.model_validate({"list": name, **split}), [folder / name], Classes(tuple(names)))


def classes(folder: Path, text: str, name: str = "classes.csv") -> tuple[str, ...]:
    (folder / name).write_text(text, encoding="utf-8")
    return read_classes(folder / name).names


def test_classes_and_lists_are_read(tmp_path: Path) -> None:
    lines = "a.mp4 0\nb c [d]/e!.mp4 2\nf,g.mp4,1\nh.mp4,2\n\nclip 7.mp4,0\n"
    assert classes(tmp_path, CLASSES) == NAMES
    assert listing(tmp_path, lines).entries == (
        Entry("a.mp4", 0),
        Entry("b c [d]/e!.mp4", 2),
        Entry("f,g.mp4", 1),
        Entry("h.mp4", 2),
        Entry("clip 7.mp4", 0),
    )


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    assert classes(tmp_path, "\ufeff" + CLASSES)[0] == "climb"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "classes.csv: lists no classes"),
        ("nr,title\n0,climb\n1,jump\n", "classes.csv:1: 'nr,title' is not id, name\n  allowed: id,name"),
        ("id,name\n", "classes.csv: lists no classes"),
        ("id,name\n0,a\n2,b\n", "classes.csv:3: class id '2', expected 1"),
        ("id,name\n1,a\n", "classes.csv:2: class id '1', expected 0"),
        ("id,name\n0,a\n1,a\n", "classes.csv:3: class 'a' appears twice\n  hint: the first is in line 2"),
        ("id,name\n0,push, slowly\n", "classes.csv:2: expected id,name"),
        ("id,name\n0,\n", "classes.csv:2: expected id,name"),
    ],
)
def test_a_wrong_class_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        classes(tmp_path, text)
    assert message in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = tmp_path / "test.txt"
    file.write_bytes(b"caf\xe9.mp4 0\n")
    with pytest.raises(UserError, match=r"test\.txt: is not UTF-8"):
        read_names(file)
    file.unlink()
    with refused("No such file", where="test.txt"):
        read_names(file)
    file.write_text("[1,\n")
    with pytest.raises(UserError, match=r"test\.txt:2: not valid JSON"):
        read_json(file, list)
    file.write_text("{}")
    with pytest.raises(UserError, match=r"test\.txt: expected a JSON list"):
        read_json(file, list)


# --- labelled lists ---------------------------------------------------------------------------------------------------


def test_paths_hold_the_characters_of_hmdb(tmp_path: Path) -> None:
    path = "catch/#20_[A]_&_B!_(x),y_0.avi"
    assert listing(tmp_path, f"{path} 1\n").entries == (Entry(path, 1),)
    assert listing(tmp_path, f"{path},1\n").entries == (Entry(path, 1),)


def test_numbers_of_frames_count_only_if_every_line_has_one(tmp_path: Path) -> None:
    """`clip 7.mp4 2` is a path with a space; `clip 7 2` in a list of folders is a path and a number of frames."""
    counted = listing(tmp_path, "a b/c 30 0\nd 0 1\ne 5 2\n")
    left_out = ("entries of 0 frames left out: 1",)
    assert counted == ((Entry("a b/c", 0), Entry("e", 2)), left_out, ("read as path, frames, label",))
    assert listing(tmp_path, "a b/c 30 0\nd.mp4 1\n").entries[0] == Entry("a b/c 30", 0)
    dropped = listing(tmp_path, "a 7 0\nb 8 0\nc 0 0\n", min_frames=8)
    assert dropped.entries == (Entry("b", 0),)
    assert dropped.left_out == ("entries of fewer than 8 frames left out: 1", "entries of 0 frames left out: 1")
    with pytest.raises(UserError, match=r"test\.txt: lists no videos"):
        listing(tmp_path, "a 0 0\n")


def test_duplicates_name_both_places(tmp_path: Path) -> None:
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text("b.mp4 0\n" if name == "one.txt" else "a.mp4 0\nb.mp4 0\n")
    with refused("'b.mp4'", "twice", where="two.txt:2", hint="one.txt:1"):
        read_list(Split(list=("one.txt", "two.txt")), [tmp_path / "one.txt", tmp_path / "two.txt"], Classes(NAMES))


# --- official lists ---------------------------------------------------------------------------------------------------

UCF = ("Apply Eye Makeup", "Handstand Pushups", "YoYo")


def test_ucf_lists(tmp_path: Path) -> None:
    train = "ApplyEyeMakeup/v_a_g08_c01.avi 1\r\nHandstandPushups/v_HandStandPushups_g01_c01.avi 2\r\n"
    assert listing(tmp_path, train, UCF, format="ucf").entries == (
        Entry("ApplyEyeMakeup/v_a_g08_c01.avi", 0),
        Entry("HandstandPushups/v_HandStandPushups_g01_c01.avi", 1),
    )
    assert listing(tmp_path, "YoYo/v_YoYo_g01_c01.avi\n", UCF, format="ucf").entries[0].label == 2
    assert listing(tmp_path, "Swing/a.avi 9\nYoYo/b.avi 3\n", UCF, format="ucf", subset=True).entries == (
        Entry("YoYo/b.avi", 2),
    )


def test_hmdb_lists(tmp_path: Path) -> None:
    text = "April_#1_[x]_&!_0.avi 1 \nB_1.avi 2 \nC_2.avi 0 \n"
    names, file = ("brush hair", "catch"), "brush_hair_test_split1.txt"
    assert listing(tmp_path, text, names, file, format="hmdb", select=1).entries == (
        Entry("brush_hair/April_#1_[x]_&!_0.avi", 0),
    )
    assert listing(tmp_path, text, names, file, format="hmdb", select="2").entries == (Entry("brush_hair/B_1.avi", 0),)
    assert len(listing(tmp_path, text, names, file, format="hmdb").entries) == 3
    for wrong, message in (("a.avi 3 \n", "split1.txt:1: 'a.avi 3'"), ("a.avi\n", "split1.txt:1: 'a.avi'")):
        with pytest.raises(UserError, match=message):
            listing(tmp_path, wrong, names, file, format="hmdb")
    with pytest.raises(UserError, match=r"jump_test_split1\.txt: unknown class 'jump'"):
        listing(tmp_path, text, names, "jump_test_split1.txt", format="hmdb")
    with pytest.raises(UserError, match=r"<class>_test_split<N>\.txt"):
        listing(tmp_path, text, names, "brush_hair.txt", format="hmdb")


K600 = ("arguing", "backflip (human)")
K600_HEAD = "label,youtube_id,time_start,time_end,split,is_cc\n"


def test_kinetics_lists(tmp_path: Path) -> None:
    text = f'{K600_HEAD}"backflip (human)",-ab_cdefghi,7,17,test,0\nzumba,{"z" * 11},1,11,val,0\n'
    only = (Entry("backflip (human)/-ab_cdefghi_000007_000017.mp4", 1),)
    assert listing(tmp_path, text, K600, format="kinetics", subset=True) == (only, (), ())
    assert listing(tmp_path, text, (*K600, "zumba"), format="kinetics", select="test").entries == only
    with pytest.raises(UserError, match=r"test\.txt:3: unknown class 'zumba'"):
        listing(tmp_path, text, K600, format="kinetics")
    with refused("no videos", where="test.txt"):
        listing(tmp_path, text, ("other",), format="kinetics", subset=True)


SSV2 = ("Lifting up one end of something, then letting it drop down", "Putting number of something onto something")


def test_ssv2_lists(tmp_path: Path) -> None:
    assert classes(tmp_path, json.dumps({SSV2[1]: "1", SSV2[0]: "0"}), "labels.json") == SSV2
    videos = [
        {"id": "74225", "label": "spinning", "template": "Putting [number of] [something] onto [something]"},
        {"id": "9", "template": "Lifting up one end of [something], then letting it drop down"},
    ]
    expected = (Entry("74225.webm", 1), Entry("9.webm", 0))
    assert listing(tmp_path, json.dumps(videos), SSV2, "train.json", format="ssv2").entries == expected
    answers = f"74225;{SSV2[1]}\n9;{SSV2[0]}\n"
    assert listing(tmp_path, answers, SSV2, "test-answers.csv", format="ssv2").entries == expected
    for text, message in (
        ('[{"id": "1420"}]', r"train\.json: entry 0: video '1420' has no 'template'(.|\n)*`id;label`"),
        ('[{"template": "x"}]', r"train\.json: entry 0: has no 'id'"),
        ("[]", r"train\.json: lists no videos"),
        ("{}", r"train\.json: expected a JSON list"),
    ):
        with pytest.raises(UserError, match=message):
            listing(tmp_path, text, SSV2, "train.json", format="ssv2")
    with pytest.raises(UserError, match=r"answers\.csv:1: '74225' is not `id;label`"):
        listing(tmp_path, "74225\n", SSV2, "answers.csv", format="ssv2")
    with refused("from 0", where="labels.json"):
        classes(tmp_path, '{"a": "1", "b": "2"}', "labels.json")


def test_activitynet_lists(tmp_path: Path) -> None:
    def video(subset: str, *instances: tuple[str, float, float]) -> dict[str, Any]:
        annotations = [{"segment": [start, end], "label": label} for label, start, end in instances]
        return {"subset": subset, "duration": 100.0, "annotations": annotations}

    database = {
        "abc": video("training", ("Zumba", 0.5, 9.25), ("Archery", 20, 30), ("Zumba", 5, 5), ("Zumba", 0.5, 9.25)),
        "-de": video("validation", ("Archery", 1, 2), ("Zumba", 3, 4)),
        "xyz": video("testing"),
    }
    text = json.dumps({"database": database, "version": "VERSION 1.3"})
    names = classes(tmp_path, text, "activity_net.json")
    assert names == ("Archery", "Zumba")
    train = listing(tmp_path, text, names, "a.json", format="activitynet-instances", select="training")
    assert train.entries == (Entry("v_abc.mp4", 1, (0.5, 9.25)), Entry("v_abc.mp4", 0, (20.0, 30.0)))
    assert train.left_out == ("instances without duration left out: 1",)
    assert [entry.name for entry in train.entries] == ["v_abc.mp4@0.5-9.25", "v_abc.mp4@20-30"]
    whole = listing(tmp_path, text, names, "a.json", format="activitynet")
    assert whole.entries == (Entry("v_abc.mp4", 1), Entry("v_-de.mp4", 0))
    only = listing(tmp_path, text, names, "a.json", format="activitynet", select="validation")
    assert only.entries == (Entry("v_-de.mp4", 0),)
    with refused("video 'abc'", "'Zumba'", where="a.json"):
        listing(tmp_path, text, ("Archery",), "a.json", format="activitynet")
    for wrong, message in (
        ('{"taxonomy": []}', "has no 'database'"),
        ('{"database": {"abc": {"subset": "training"}}}', "video 'abc': expected subset and annotations"),
        ('{"database": {"abc": {"subset": "x", "annotations": [{"label": "Zumba", "segment": 1}]}}}', "video 'abc'"),
    ):
        with pytest.raises(UserError, match=message):
            listing(tmp_path, wrong, names, "a.json", format="activitynet-instances")


def test_names_that_differ_in_punctuation_alone_are_never_mixed_up(tmp_path: Path) -> None:
    names = ("take off", "take-off", "Jump!")
    text = f"{K600_HEAD}take-off,a,0,1,x,0\njump,b,0,1,x,0\n"
    assert [entry.label for entry in listing(tmp_path, text, names, format="kinetics").entries] == [1, 2]
    with pytest.raises(UserError, match="unknown class 'TakeOff'"):
        listing(tmp_path, f"{K600_HEAD}TakeOff,a,0,1,x,0\n", names, format="kinetics")


# --- lists with a mistake ---------------------------------------------------------------------------------------------

LABELLED, UCF_LIST, KINETICS = (NAMES, "labelled"), (UCF, "ucf"), (K600, "kinetics")


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (LABELLED, "a.mp4 0\nb.mp4 12\n", "test.txt:2: class id 12 out of range 0..2"),
        (LABELLED, "a.mp4 -1\n", "test.txt:1: class id -1 out of range 0..2"),
        (LABELLED, "a.mp4 0\nb.mp4 one\n", "test.txt:2: label 'one' is not an integer"),
        (LABELLED, "a.mp4 1.5\n", "test.txt:1: label '1.5' is not an integer"),
        (LABELLED, "a.mp4\n", "test.txt:1: label 'a.mp4' is not an integer"),
        (LABELLED, " 3\n", "test.txt:1: label '3' is not an integer"),
        (LABELLED, "a.mp4 0\nb.mp4 1\na.mp4 1\n", "txt:3: video 'a.mp4' appears twice\n  hint: the first is in line 1"),
        (LABELLED, "\n \n", "test.txt: lists no videos"),
        (LABELLED, "a.mp4 0\n/b.mp4 1\n", "test.txt:2: path '/b.mp4' leads out"),
        (LABELLED, "a.mp4 0\nc/../../b.mp4,1\n", "test.txt:2: path 'c/../../b.mp4' leads out"),
        (UCF_LIST, "YoYo/a.avi 2", "test.txt:1: class number 2, but 'YoYo' is class 3\n  hint: official lists"),
        (UCF_LIST, "Yo-Yos/a.avi", "test.txt:1: unknown class 'Yo-Yos'\n  hint: did you mean 'YoYo'?"),
        (UCF_LIST, "Swimming/a.avi", "test.txt:1: unknown class 'Swimming'\n  hint: the dataset has 3 classes"),
        (UCF_LIST, "a.avi 1", "test.txt:1: 'a.avi' has no class folder"),
        (UCF_LIST, "YoYo/../../a.avi", "test.txt:1: unknown class '..'"),
        (UCF_LIST, "/x/YoYo/a.avi", "test.txt:1: path '/x/YoYo/a.avi' leads out"),
        (KINETICS, "youtube_id,time_start,time_end,split\nx,1,2,test\n", "1: has no column 'label'\n  allowed: label,"),
        (KINETICS, "youtube_id,time_start,time_end,split\nx,1,2,test\n", "hint: use a list with labels"),
        (KINETICS, "label,youtube_id\narguing,x\n", "test.txt:1: has no column 'time_start'"),
        (KINETICS, "", "test.txt:1: has no column 'label'"),
        (KINETICS, f"{K600_HEAD},x,1,2,test,0\n", "test.txt:2: video 'x' has no label"),
        (KINETICS, f"{K600_HEAD}arguing,x,one,2,test,0\n", "test.txt:2: expected label,youtube_id,time_start,time_end"),
        (KINETICS, f"{K600_HEAD}arguing,x\n", "test.txt:2: expected label,youtube_id,time_start,time_end"),
        (KINETICS, K600_HEAD, "test.txt: lists no videos"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path: Path, kind: tuple[Sequence[str], str], text: str, message: str) -> None:
    names, format = kind
    with pytest.raises(UserError) as caught:
        listing(tmp_path, text, names, format=format)
    assert message in str(caught.value)
