"""Class files as UCF-101, mmaction2, Kinetics, SSv2 and others publish them."""

import json
from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.data.class_files import Classes, read_classes
from tests.errors import refused

NAMES = ("climb", "push, slowly", "jump 2")


def read(folder: Path, text: str, name: str = "classes.csv") -> Classes:
    (folder / name).write_text(text, encoding="utf-8")
    return read_classes(folder / name)


@pytest.mark.parametrize(
    ("text", "first", "read_as"),
    [
        ('id,name\n0,climb\n1,"push, slowly"\n2,jump 2\n', 0, ""),
        ('id,name\r\n2,jump 2\r\n0,climb\r\n1,"push, slowly"\r\n', 0, ""),
        ('name,id\nclimb,0\n"push, slowly",1\njump 2,2\n', 0, "name, id"),
        ('label,name\n0,climb\n1,"push, slowly"\n2,jump 2\n', 0, "id, name"),
        ('"index","mid","display_name"\n0,/m/1,climb\n1,/m/2,"push, slowly"\n2,/m/3,jump 2\n', 0, "id, name"),
        ("id\tname\n0\tclimb\n1\tpush, slowly\n2\tjump 2\n", 0, ""),
        ("id name\n0 climb\n1 push, slowly\n2 jump 2\n", 0, ""),
        ("0,climb\n1,push, slowly\n2,jump 2\n", 0, "id, name, from 0"),
        ('climb,0\n"push, slowly",1\njump 2,2\n', 0, "name, id, from 0"),
        ("1 climb\n2 push, slowly\n3 jump 2\n", 1, "id, name, from 1"),
        ("climb\npush, slowly\njump 2\n", 0, "one name a line, ids from 0"),
        ("name\nclimb\npush, slowly\njump 2\n", 0, "one name a line, ids from 0"),
        (json.dumps({"jump 2": "2", '"push, slowly"': 1, "climb": 0}), 0, ""),
        (json.dumps({"0": "climb", "2": "jump 2", "1": "push, slowly"}), 0, "id, name"),
        (json.dumps(NAMES), 0, "names in order"),
    ],
)
def test_class_files_of_others(tmp_path: Path, text: str, first: int, read_as: str) -> None:
    for name in ("classes.csv", "labels.json"):
        assert read(tmp_path, text, name) == (NAMES, first, read_as)


@pytest.mark.parametrize(
    ("text", "where", "named"),
    [
        ("0,climb\n2,jump\n", "classes.csv:2", "expected 1"),
        ("2 climb\n3 jump\n", "classes.csv:1", "expected 0"),
        ("id,name\n1,climb\n2,jump\n", "classes.csv:2", "expected 0"),
        ("0,climb\n0,jump\n", "classes.csv:2", "twice"),
        ("climb\njump\nclimb\n", "classes.csv:3", "twice"),
        ("0,climb\nx,jump\n1,hop\n", "classes.csv:2", "x,jump"),
        ("nr,title\n0,climb\n1,jump\n", "classes.csv:1", "nr,title"),
        ("id,name\n0\n", "classes.csv:2", "id,name"),
        ('{"climb": 0, "climb": 1}', "classes.csv", "twice"),
        ('{"climb": 0, "jump": 2}', "classes.csv", "expected 1"),
        ('{"1": "climb", "2": "jump"}', "classes.csv", "expected 0"),
        ('{"0": "1", "1": "0"}', "classes.csv", "name and the id"),
        ('{"climb": [0]}', "classes.csv", "name and the id"),
        ('{"climb": true}', "classes.csv", "name and the id"),
        ("[0, 1]", "classes.csv", "name and the id"),
        ("[]", "classes.csv", "no classes"),
        ("[1,", "classes.csv:1", "JSON"),
        ('{"database": {"a": 3}}', "classes.csv", "annotations"),
        ('{"database": {"a": {"annotations": [{}]}}}', "classes.csv", "annotations"),
        (f"0,{'9' * 200_000}\n\u2028,x\n", "classes.csv:2", "id, name"),
    ],
)
def test_holes_duplicates_and_mixtures_are_refused(tmp_path: Path, text: str, where: str, named: str) -> None:
    with refused(named, where=where):
        read(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert len(str(caught.value)) < 600
