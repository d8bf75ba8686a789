"""Miniatures of the public datasets as they lie on a disk: official folders, file names, list files and oddities.

Every function fills a folder and returns what a suite's `datasets:` section says about it. Videos have 4 to 12 frames
of 64x48 and bytes of their own. With `leak`, a test video has the bytes of a training video.
"""

from __future__ import annotations

import csv
import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from tests.video.clips import write_clip

Settings = dict[str, Any]
Layout = Literal["flat", "folders", "underscores"]

UCF_CLASSES = ("ApplyEyeMakeup", "Archery", "HandstandPushups", "JumpRope", "TaiChi", "YoYo")
HMDB_CLASSES = ("brush_hair", "catch", "fencing", "shoot_bow", "situp", "wave")
K400_CLASSES = (
    "abseiling",
    "air drumming",
    "hurling (sport)",
    "massaging person's head",
    "passing American football (not in game)",
    "zumba",
)
K600_CLASSES = ("arguing", "assembling bicycle", "backflip (human)", "curling (sport)")  # of split 2; some of 1 and 3
SSV2_CLASSES = (
    "Approaching [something] with your camera",
    "Lifting up one end of [something], then letting it drop down",
    "Moving [something] up",
    "Putting [number of] [something] onto [something]",
    "Putting [something], [something] and [something] on the table",
    "Tilting [something] with [something] on it slightly so it doesn't fall down",
)
ACTIVITYNET_CLASSES = ("Applying sunscreen", "Archery", "Having an ice cream", "Zumba")


def ucf101(
    folder: Path, classes: Sequence[str] = UCF_CLASSES, clips: int = 2, *, leak: bool = False, stray: bool = False
) -> Settings:
    """Four groups of clips per class: one tests in a split and three train; every other class has a clip more.

    The files of HandstandPushups are spelled as in the archive. With `stray`, test split 1 begins with a line too many.
    """
    videos, lists = folder / "UCF-101", folder / "ucfTrainTestlist"
    numbers = {name.replace(" ", ""): number for number, name in _shipped("ucf101").items()}
    train: dict[str, list[str]] = {}
    test: dict[str, list[str]] = {}
    for index, name in enumerate(classes):
        spelled = name.replace("HandstandPushups", "HandStandPushups")
        for group, split in ((1, 1), (8, 2), (15, 3), (22, 0)):
            for clip in range(1, clips + 1 + index % 2):
                path = f"{name}/v_{spelled}_g{group:02d}_c{clip:02d}.avi"
                _video(videos / path)
                for other in (1, 2, 3):
                    if other == split:
                        test.setdefault(f"testlist0{other}.txt", []).append(path)
                    else:
                        train.setdefault(f"trainlist0{other}.txt", []).append(f"{path} {numbers[name] + 1}")
    if stray:
        test["testlist01.txt"].insert(0, test["testlist01.txt"][-1])
    if leak:
        _leak(videos / test["testlist01.txt"][-1], videos / train["trainlist01.txt"][-1].rpartition(" ")[0])
    for file, lines in {**train, **test}.items():
        _write(lists / file, lines)
    _write(lists / "classInd.txt", (f"{number + 1} {name}" for name, number in numbers.items()))
    return {"root": str(videos), "lists": str(lists)}


def hmdb51(
    folder: Path, classes: Sequence[str] = HMDB_CLASSES, train: int = 3, *, leak: bool = False, counted: bool = False
) -> Settings:
    """Per class and split `train` videos to train on, two to test and one unused; names with characters of the archive.

    With `counted`, `full` is a list with numbers of frames, two of them 0, whose files are empty.
    """
    videos, lists = folder / "hmdb51_org", folder / "testTrainMulti_7030_splits"
    patterns = ("April_09_{}", "#437_How_To_Ride_A_Bike_{}", "AHF_[Mid]_{}", "Hurra!_{}", "Rad_&_Wild_{}", "{}")
    labels = {name.replace(" ", "_"): label for label, name in _shipped("hmdb51").items()}
    full = []
    for name in classes:
        count = train + 3
        names = [f"{patterns[n % len(patterns)].format(name)}_u_nm_np1_ba_goo_{n}.avi" for n in range(count)]
        frames = [_video(videos / name / video) for video in names]
        for split in (1, 2, 3):
            uses = ["1"] * train + ["2"] * 2 + ["0"]
            turned = uses[-split:] + uses[:-split]
            _write(
                lists / f"{name}_test_split{split}.txt",
                (f"{video} {use} " for video, use in zip(names, turned, strict=True)),
            )
            if leak and split == 1 and name == classes[0]:
                _leak(videos / name / names[turned.index("2")], videos / name / names[turned.index("1")])
        full += [f"{name}/{video} {length} {labels[name]}" for video, length in zip(names, frames, strict=True)]
    settings: Settings = {"root": str(videos), "lists": str(lists)}
    if counted:
        for name in classes[:2]:
            (videos / name / "empty_0.avi").touch()
            full.append(f"{name}/empty_0.avi 0 {labels[name]}")
        _write(lists / "full.txt", full)
        settings["splits"] = {"full": "full.txt"}
    return settings


def kinetics400(
    folder: Path, classes: Sequence[str] = K400_CLASSES, train: int = 3, *, layout: Layout = "flat", leak: bool = False
) -> Settings:
    """Per class `train` training, two validation and one test video; every other class has a training video more.

    Layouts: `flat` train/ID.mp4 (CVDF), `folders` train/CLASS/ID.mp4, `underscores` CLASS_NAME/ID.mkv.
    """
    rows: list[list[str]] = []
    files: dict[str, list[Path]] = {}
    for index, name in enumerate(classes):
        for split, count in (("train", train + index % 2), ("val", 2), ("test", 1)):
            for number in range(count):
                rows.append([name, _youtube_id(f"{name} {split} {number}"), str(number), str(number + 10), split, "0"])
                files.setdefault(split, []).append(_kinetics_video(folder / "k400", layout, rows[-1]))
    if leak:
        _leak(files["val"][-1], files["train"][-1])
    _kinetics_lists(folder / "annotations", rows)
    return {"root": str(folder / "k400"), "lists": str(folder / "annotations")}


def kinetics600(
    folder: Path, classes: Sequence[str] = K600_CLASSES, *, layout: Layout = "flat", leak: bool = False
) -> dict[str, Settings]:
    """The settings of all three draws: two test and two validation videos per class, and rows of classes of none."""
    rows: list[list[str]] = []
    files: dict[str, list[Path]] = {}
    for name in (*classes, "abseiling", "zumba"):
        for split in ("val", "test"):
            for number in range(2):
                rows.append([name, _youtube_id(f"{name} {split} {number}"), "7", "17", split, "0"])
                if name in classes:
                    files.setdefault(split, []).append(_kinetics_video(folder / "k600", layout, rows[-1]))
    if leak:
        _leak(files["test"][-1], files["val"][-1])
    _kinetics_lists(folder / "annotations", rows)
    settings = {"root": str(folder / "k600"), "lists": str(folder / "annotations")}
    return {f"kinetics-600-split{number}": dict(settings) for number in (1, 2, 3)}


def ssv2(folder: Path, classes: Sequence[str] = SSV2_CLASSES, train: int = 3, *, leak: bool = False) -> Settings:
    """Per class `train` training videos (every other class one more), two to validate, one test video without label."""
    videos, lists = folder / "20bn-something-something-v2", folder / "labels"
    known: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for index, template in enumerate(classes):
        for split, count in (("train", train + index % 2), ("validation", 2), ("test", 1)):
            for _ in range(count):
                video = {"id": str(1000 + 7 * sum(map(len, known.values())))}
                _video(videos / f"{video['id']}.webm")
                told = {"label": template.replace("[something]", "a cup").lower(), "template": template}
                known[split].append(video if split == "test" else {**video, **told, "placeholders": ["a cup"]})
    if leak:
        _leak(videos / f"{known['validation'][-1]['id']}.webm", videos / f"{known['train'][-1]['id']}.webm")
    for split, listed in known.items():
        _write(lists / f"{split}.json", [json.dumps(listed, indent=0)])
    plain = [template.replace("[", "").replace("]", "") for template in classes]
    _write(lists / "labels.json", [json.dumps({name: str(label) for label, name in enumerate(plain)})])
    _write(lists / "test-answers.csv", (f"{v['id']};{name}" for v, name in zip(known["test"], plain, strict=True)))
    return {"root": str(videos), "lists": str(lists)}


def activitynet(folder: Path, classes: Sequence[str] = ACTIVITYNET_CLASSES, *, leak: bool = False) -> Settings:
    """Per class two training videos of two instances and one validation video; one test video without annotations."""
    videos = folder / "v1-3" / "train_val"
    database: dict[str, dict[str, Any]] = {}
    files: dict[str, list[Path]] = {}
    for name in classes:
        for subset, count in (("training", 2), ("validation", 1)):
            for number in range(count):
                video = _youtube_id(f"{name} {subset} {number}")
                file = videos / f"v_{video}{'.mkv' if number else '.mp4'}"
                seconds = _video(file, 12) / 8
                files.setdefault(subset, []).append(file)
                halves = [[0.0, seconds / 2], [seconds / 2, seconds]]
                database[video] = {
                    "subset": subset,
                    "duration": seconds,
                    "resolution": "64x48",
                    "url": f"https://www.youtube.com/watch?v={video}",
                    "annotations": [{"segment": half, "label": name} for half in halves],
                }
    database[_youtube_id("testing")] = {"subset": "testing", "duration": 60.0, "annotations": []}
    if leak:
        _leak(files["validation"][-1], files["training"][0])
    whole = {"database": database, "taxonomy": [], "version": "VERSION 1.3"}
    _write(folder / "activity_net.v1-3.min.json", [json.dumps(whole)])
    return {"root": str(folder / "v1-3"), "lists": str(folder)}


# ---------------------------------------------------------------------------------------------------------------------


def _video(path: Path, frames: int = 0) -> int:
    """Write a video with bytes of its own; its number of frames, which follows from its name unless given."""
    chosen = frames or 4 + hashlib.sha256(path.name.encode()).digest()[0] % 9
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_encoded(path.suffix, chosen) + _padding(path.suffix, path.name))
    return chosen


@cache
def _encoded(suffix: str, frames: int) -> bytes:
    container = ".mkv" if suffix == ".webm" else suffix  # x264 in Matroska, which decoders tell by its first bytes
    with TemporaryDirectory() as folder:
        return write_clip(Path(folder, f"clip{container}"), frames).read_bytes()


def _padding(suffix: str, text: str) -> bytes:
    """An element that decoders skip, so that files of the same frames differ."""
    data = hashlib.sha256(text.encode()).digest()
    if suffix == ".mp4":
        return (8 + len(data)).to_bytes(4, "big") + b"free" + data
    if suffix == ".avi":
        return b"JUNK" + len(data).to_bytes(4, "little") + data
    return b"\xec" + (0x80 | len(data)).to_bytes(1, "big") + data


def _leak(test: Path, train: Path) -> None:
    test.write_bytes(train.read_bytes())


def _write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _shipped(name: str) -> dict[int, str]:
    file = Path(__file__).parents[2] / "bench" / "assets" / "classes" / f"{name}.csv"
    return {int(row["id"]): row["name"] for row in csv.DictReader(file.read_text().splitlines())}


def _youtube_id(text: str) -> str:
    """11 characters; like real ones, some begin with a dash."""
    return urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()[:11]


def _kinetics_video(root: Path, layout: Layout, row: list[str]) -> Path:
    name, video, start, end, split, _ = row
    file = f"{video}_{int(start):06d}_{int(end):06d}"
    path = {
        "flat": root / split / f"{file}.mp4",
        "folders": root / split / name / f"{file}.mp4",
        "underscores": root / name.replace(" ", "_") / f"{file}.mkv",
    }[layout]
    _video(path)
    return path


def _kinetics_lists(folder: Path, rows: list[list[str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split in {row[4] for row in rows}:
        with open(folder / f"{split}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["label", "youtube_id", "time_start", "time_end", "split", "is_cc"])
            writer.writerows(row for row in rows if row[4] == split)
