"""Seeded mutations of list and class files: each is read as before, read as its bytes say, or refused by name.

A round writes a small dataset, changes one of its files and reads it as the plan does, or calls `plan`. A change
that must not matter (line ends, white space, quotes, encodings) has to give the same videos.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import yaml

from bench.commands.app import main
from bench.core.errors import UserError
from bench.data.datasets import Dataset, declared_fields
from tests.limits import Hang, limited

SECONDS = 10  # of a round; reading takes milliseconds
PLANS = 20  # every so manieth round calls the command
NAMES = ("apply eye makeup", "push, slowly", "jump", "yo-yo")
VIDEOS = [("apply eye makeup/a b.mp4", 0), ("push, slowly/c.mp4", 1), ("jump/d,e.mp4", 2), ("yo-yo/v_1.mp4", 3)]

Random = random.Random
Videos = list[tuple[str, int]]


class Case(NamedTuple):
    """A dataset: its list and class file, how they are declared, and the videos that it names."""

    lines: str
    classes: str
    split: dict[str, Any]
    names: tuple[str, str]  # of the list and the class file
    videos: Videos


def run(seed: int, count: int, folder: Path) -> Counter[str]:
    """Outcomes of `count` rounds: "read", "refused", or "WRONG ..."."""
    found: Counter[str] = Counter()
    for number in range(count):
        place = folder / "round"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        with mock.patch.dict(os.environ, {"VTB_CACHE": str(folder / "cache"), "VTB_LISTS": str(place)}):
            found[_round(Random(f"{seed} {number}"), place, number % PLANS == 0)] += 1
    return found


def _round(chance: Random, folder: Path, planned: bool) -> str:
    case = chance.choice(CASES)()
    neutral = chance.random() < 0.4
    which = chance.randrange(2)
    files = [case.lines.encode(), case.classes.encode()]
    change = chance.choice(_neutral(case, which) if neutral else MUTATIONS)
    files[which] = change(chance, files[which])
    for name, data in zip(case.names, files, strict=True):
        (folder / name).write_bytes(data)
    if not neutral and chance.random() < 0.1:
        _replace(chance, folder / case.names[which])
    (folder / "videos").mkdir()
    settings = {"root": "videos", "classes": case.names[1], "splits": {"test": {"list": case.names[0], **case.split}}}
    try:
        with limited(SECONDS), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as told:
            videos = _plan(folder, settings) if planned and not neutral else _read(folder, settings)
    except UserError as error:
        named = any(name in str(error) for name in (*case.names, "mine"))
        return "WRONG neutral change refused" if neutral else "refused" if named else "WRONG message without place"
    except Hang:
        return "WRONG hang"
    except Exception:
        return "WRONG traceback"
    if videos is None:
        return "refused" if any(name in told.getvalue() for name in (*case.names, "mine")) else "WRONG plan"
    if neutral and videos != case.videos:
        return "WRONG other videos"
    sound = all(not os.path.isabs(path) and ".." not in path.split("/") and label >= 0 for path, label in videos)
    return "read" if sound else "WRONG videos outside"


def _read(folder: Path, settings: dict[str, Any]) -> Videos:
    """Reads and hashes a split, and asks for what the plan says of it."""
    data = Dataset.model_validate(declared_fields("mine", str(folder), settings))
    if reason := data.missing("test"):
        raise UserError(reason)
    data.notes("test")
    entries = data.entries("test")
    data.content(entries)
    assert len(data.faults(entries)) == len({entry.name for entry in entries})  # no video is there
    assert all(entry.label < len(data.class_names()) for entry in entries)
    return [(entry.path, entry.label) for entry in entries]


def _plan(folder: Path, settings: dict[str, Any]) -> Videos | None:
    """Calls `plan`; None if it refuses the files."""
    protocol = {"role": "zero-shot", "dataset": "mine", "split": "test"}
    rows = {"clip_mean": {"label": "CLIP", "method": "clip_mean"}}
    suite = {"title": "Lists", "datasets": {"mine": settings}, "recipe": {"source": "glyphs-narrow"}}
    text = yaml.safe_dump({**suite, "protocols": {"mine": protocol}, "rows": rows})
    (folder / "suite.yaml").write_text(text)
    with redirect_stdout(io.StringIO()) as printed:
        code = main(["plan", str(folder / "suite.yaml"), "--store", str(folder / "runs")])
    return None if code == 2 and "are not there" not in printed.getvalue() else []


# --- datasets ---------------------------------------------------------------------------------------------------------


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _lines(form: str) -> str:
    return "".join(form.format(path=path, label=label, frames=90 + label) for path, label in VIDEOS)


ID_NAME = _csv([("id", "name"), *enumerate(NAMES)])
CLASS_FILES = {
    "classes.csv": ID_NAME,
    "names.csv": _csv([("name", "id"), *((name, number) for number, name in enumerate(NAMES))]),
    "map.txt": "".join(f"{name}\n" for name in NAMES),
    "labels.json": json.dumps({name: str(number) for number, name in enumerate(NAMES)}, indent=0),
}
LABELLED = {
    "plain.txt": _lines("{path} {label}\n"),
    "plain.csv": _csv(VIDEOS),
    "counted.txt": _lines("{path} {frames} {label}\n"),
    "turned.txt": _lines("{label} {path}\n"),
    "header.csv": _csv([("clip_path", "frames", "label"), *((path, 9, label) for path, label in VIDEOS)]),
}
SSV2 = [{"id": str(label), "template": NAMES[label].replace("jump", "[jump]")} for _, label in VIDEOS]
INSTANCE = {"subset": "x", "annotations": [{"label": NAMES[2], "segment": [0.5, 2]}]}
OFFICIAL: dict[str, tuple[str, dict[str, Any], Videos]] = {
    "trainlist01.txt": (
        "ApplyEyeMakeup/v_1.avi 1\nYoYo/v_2.avi 4\n",
        {"format": "ucf"},
        [("ApplyEyeMakeup/v_1.avi", 0), ("YoYo/v_2.avi", 3)],
    ),
    "jump_test_split1.txt": (
        "#1_[a]_&!.avi 1 \nb.avi 2 \nc.avi 1 \n",
        {"format": "hmdb", "select": "1"},
        [("jump/#1_[a]_&!.avi", 2), ("jump/c.avi", 2)],
    ),
    "kinetics.csv": (
        _csv(
            [("label", "youtube_id", "time_start", "time_end"), (NAMES[1], "abcdefghijk", 1, 11), ("jump", "b", 2, 12)]
        ),
        {"format": "kinetics"},
        [("push, slowly/abcdefghijk_000001_000011.mp4", 1), ("jump/b_000002_000012.mp4", 2)],
    ),
    "train.json": (json.dumps(SSV2, indent=0), {"format": "ssv2"}, [(f"{label}.webm", label) for _, label in VIDEOS]),
    "answers.csv": ("7;jump\n8;yo-yo\n", {"format": "ssv2"}, [("7.webm", 2), ("8.webm", 3)]),
    "activitynet.json": (
        json.dumps({"database": {"abc": INSTANCE}}, indent=0),
        {"format": "activitynet-instances"},
        [("v_abc.mp4", 2)],
    ),
}


def _cases() -> Iterator[Callable[[], Case]]:
    for classes, text in CLASS_FILES.items():
        for name, lines in LABELLED.items():
            yield lambda name=name, lines=lines, classes=classes, text=text: Case(  # type: ignore[misc]
                lines, text, {}, (name, classes), VIDEOS
            )
        for name, (lines, split, videos) in OFFICIAL.items():
            yield lambda name=name, lines=lines, classes=classes, text=text, split=split, videos=videos: Case(  # type: ignore[misc]
                lines, text, split, (name, classes), videos
            )


CASES = tuple(_cases())

# --- changes ----------------------------------------------------------------------------------------------------------

Change = Callable[[Random, bytes], bytes]


def _neutral(case: Case, which: int) -> list[Change]:
    """Changes of a file that must not matter."""
    always: list[Change] = [
        lambda chance, data: data.replace(b"\n", b"\r\n"),
        lambda chance, data: data.replace(b"\n", b"\r"),
        lambda chance, data: b"\xef\xbb\xbf" + data,
        lambda chance, data: data.decode().encode("utf-16"),
        lambda chance, data: data + b"\n" * chance.randrange(4),
        lambda chance, data: data.rstrip(b"\n"),
    ]
    name = case.names[which]
    if name.endswith(".json"):
        return [*always, lambda chance, data: json.dumps(json.loads(data)).encode()]
    if name in ("plain.txt", "counted.txt", "trainlist01.txt", "jump_test_split1.txt"):
        always += [
            lambda chance, data: _each(
                data, lambda text: chance.choice(("\t", "  ", " \t ")).join(text.rstrip().rsplit(" ", 1))
            ),
            lambda chance, data: _each(data, lambda text: f"  {text}\t "),
        ]
    if name in ("plain.txt", "counted.txt", "plain.csv", "turned.txt"):
        always.append(lambda chance, data: _each(data, lambda text: text.replace("/", chance.choice(("//", "/./"))), 1))
    if name in ("plain.csv", "header.csv", "classes.csv", "names.csv"):
        always.append(lambda chance, data: _rewritten(data, quoting=csv.QUOTE_ALL))
    if name in ("plain.csv", "header.csv"):
        always.append(lambda chance, data: _rewritten(data, delimiter=chance.choice(";\t")))
    return always


def _each(data: bytes, change: Callable[[str], str], lines: int | None = None) -> bytes:
    """The text with its (first) lines changed."""
    texts = data.decode().splitlines()
    return "\n".join([*map(change, texts[:lines]), *(texts[lines:] if lines else ())]).encode()


def _rewritten(data: bytes, **how: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", **how).writerows(csv.reader(data.decode().splitlines()))
    return text.getvalue().encode()


def _line(change: Callable[[Random, list[bytes], int], None]) -> Change:
    """A change of a random line, in place."""

    def changed(chance: Random, data: bytes) -> bytes:
        lines = data.split(b"\n")
        change(chance, lines, chance.randrange(len(lines)))
        return b"\n".join(lines)

    return changed


def _cut(chance: Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _put(chance: Random, data: bytes) -> bytes:
    at, new = chance.randrange(len(data) + 1), chance.choice((*INSERTED, chance.randbytes(chance.randrange(1, 5))))
    return data[:at] + new + data[at + chance.randrange(3) :]


def _number(chance: Random, data: bytes) -> bytes:
    places = [place for place, byte in enumerate(data) if chr(byte).isdigit()]
    at = chance.choice(places) if places else 0
    return data[:at] + chance.choice(NUMBERS) + data[at + 1 :]


def _swap(chance: Random, lines: list[bytes], at: int) -> None:
    cells = lines[at].split(chance.choice((b",", b" ", b";")))
    chance.shuffle(cells)
    lines[at] = chance.choice((b",", b" ", b"\t")).join(cells)


def _twice(chance: Random, lines: list[bytes], at: int) -> None:
    lines.insert(chance.randrange(len(lines) + 1), lines[at])


def _removed(chance: Random, lines: list[bytes], at: int) -> None:
    del lines[at]


INSERTED = (
    b'"',
    b"'",
    b",",
    b";",
    b"\t",
    b"\0",
    b"\n",
    b"\r",
    b"/",
    b"../",
    b"[",
    b"{",
    b"}",
    b"\xff",
    b"\xff\xfe",
    b"\xe2\x80\xa8",
)
NUMBERS = (
    b"-1",
    b"999",
    b"1e9",
    b"0.5",
    b"nan",
    b"Infinity",
    b"9" * 5000,
    b"\xd9\xa1",
    b"0x1",
    b"",
    b"1 2",
    b"null",
    b"[]",
)
MUTATIONS: list[Change] = [
    *(_cut, _put, _put, _number, _number, _line(_swap), _line(_twice), _line(_removed)),
    lambda chance, data: chance.randbytes(chance.randrange(200)),
    lambda chance, data: data.decode().encode(chance.choice(("utf-16-le", "utf-32", "utf-7"))),
    lambda chance, data: data + b"x" * 300_000 + b" 0\n",
    lambda chance, data: b"[" * 100_000,
]


def _replace(chance: Random, file: Path) -> None:
    """Puts something that is no regular file in the place of a file."""
    file.unlink()
    kind = chance.randrange(4)
    if kind == 0:
        os.mkfifo(file)
    elif kind == 1:
        file.mkdir()
    else:
        file.symlink_to("/dev/zero" if kind == 2 else file.name)
