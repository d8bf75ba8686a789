"""Every public dataset as it lies on a disk, at toy scale, through the protocols that are named after it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.commands.app import main
from bench.data.datasets import shipped
from bench.store.records import Store
from bench.suite.named_protocols import _file
from tests.data import miniatures
from tests.errors import says

SMALL: dict[str, Any] = {"templates": "name", "views": {"frames": 2, "resize": 64, "size": 64}}
MEAN = {"mean": {"method": "clip_mean"}}
UCF = [name.replace(" ", "") for name in shipped()["ucf101"].class_names()]


pytestmark = pytest.mark.usefixtures("without_figures")


def run(
    folder: Path, datasets: dict[str, Any], used: list[str], rows: dict[str, Any] | None = None, **more: Any
) -> dict[str, dict[str, Any]]:
    """Records of the evaluations by title. Protocols are named ones with fewer pixels and prompts."""
    protocols = {name.replace("/", "-"): {"use": name, **more.get("fields", SMALL)} for name in used}
    recipe = {"templates": "name", "pretrained": "random:0", "views": {**SMALL["views"], "copies": 1}, "batch": 8,
              "epochs": 1, "warmup_epochs": 0, **more.get("recipe", {})}  # fmt: skip
    suite = {"title": "Miniature", "datasets": datasets, "recipe": recipe, "protocols": protocols, "rows": rows or MEAN}
    path = folder / "miniature.yaml"
    path.write_text(json.dumps(suite, indent=1))  # YAML as well, without aliases
    code = main(
        [str(path), "--store", str(folder / "runs"), "--device", "cpu", "--jobs", "0", *more.get("options", ())]
    )
    assert code == more.get("code", 0)
    store = Store(folder / "runs")
    return {store.read("evaluate", i)["title"]: store.read("evaluate", i) for i in store.known("evaluate")}


def videos(found: dict[str, dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """(videos, candidate classes) of every evaluation."""
    return {
        title.removeprefix("evaluate "): (record["result"]["videos"], record["result"]["classes"])
        for title, record in found.items()
    }


INPLACE = ("--workers", "0")


def test_kinetics_400_closed_set_with_the_counts_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = {"kinetics-400": miniatures.kinetics400(tmp_path, layout="underscores")}
    names = ["mote/k400-1x1", "mote/k400-4x3", "text4vis/k400-4x3", "vifi/k400-4x3", "aim/k400", "mote/k400-zero-shot"]
    found = videos(run(tmp_path, places, names))  # in a watched worker
    assert found == {f"mean on {name.replace('/', '-')}": (12, 400) for name in names}
    assert "kinetics-400/validation: 12 videos; known copies have 19,877" in capsys.readouterr().out
    page = (tmp_path / "runs/reports/miniature/report.html").read_text()
    assert "known copies have 19,877" in page


@pytest.mark.parametrize("layout", ["flat", "folders"])
def test_kinetics_600_three_splits(tmp_path: Path, layout: Any) -> None:
    places = miniatures.kinetics600(tmp_path, layout=layout)
    found = videos(run(tmp_path, places, ["mote/k600-3split", "open-vclip/k600-validation-3split"], options=INPLACE))
    assert {classes for _, classes in found.values()} == {160}
    assert found["mean on mote-k600-3split kinetics-600-split2"] == (8, 160)
    assert len(found) == 6


def test_ucf101_zero_shot(tmp_path: Path) -> None:
    places = {"ucf101": miniatures.ucf101(tmp_path, UCF[::5], clips=1)}
    names = ["mote/ucf101-3split", "text4vis/ucf101-full", "open-vclip/ucf101-half", "mote/ucf101-half"]
    records = run(tmp_path, places, names, options=INPLACE)
    found = videos(records)
    assert {found[f"mean on mote-ucf101-3split test{n}"] for n in (1, 2, 3)} == {(31, 101)}
    assert found["mean on text4vis-ucf101-full"] == (124, 101)
    assert records["evaluate mean on text4vis-ucf101-full"]["context"]["protocol"]["labels"] == "camel"
    draws = records["evaluate mean on mote-ucf101-half"]["result"]["draws"]
    assert len(draws) == 10 and {draw["classes"] for draw in draws} == {50}
    table = pd.read_csv(tmp_path / "runs/reports/miniature/table.csv")
    assert table["mote-ucf101-3split_parts"].item() == 3


def test_ucf101_base_to_novel_few_shot_and_reverse(tmp_path: Path) -> None:
    places = {
        "ucf101": miniatures.ucf101(tmp_path / "ucf", UCF, clips=1),
        "kinetics-400": miniatures.kinetics400(tmp_path / "k400"),
    }
    dense = {"method": "dense_temporal", "config": {"layers": 1}}
    recipe = {"source": "ucf101", "split": "train1"}
    halves = {"novel": {**dense, "recipe": {"classes": "base", "shots": 2}}}
    records = run(tmp_path, places, ["vifi/ucf101-base", "vifi/ucf101-novel"], halves, recipe=recipe, options=INPLACE)
    found = videos(records)
    assert {title: classes for title, (_, classes) in found.items()} == {
        "novel seed 0 on vifi-ucf101-base": 51,
        "novel seed 0 on vifi-ucf101-novel": 50,
    }
    assert sum(count for count, _ in found.values()) == 151
    few = {f"k{k}": {**dense, "recipe": {"shots": k, "repeat": True}} for k in (1, 2)}
    records = run(tmp_path, places, ["mote/ucf101", "mote/k400-zero-shot"], few, recipe=recipe, options=INPLACE)
    assert {"evaluate k2 seed 0 on mote-ucf101", "evaluate k1 seed 0 on mote-k400-zero-shot"} <= set(records)


def test_hmdb51_with_its_names_and_empty_entries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = {"hmdb51": miniatures.hmdb51(tmp_path, counted=True)}
    names = ["mote/hmdb51-3split", "text4vis/hmdb51-full", "open-vclip/hmdb51-full"]
    found = videos(run(tmp_path, places, names, options=INPLACE))
    assert found["mean on mote-hmdb51-3split test1"] == (12, 51)
    assert found["mean on text4vis-hmdb51-full"] == (36, 51)  # two entries of 0 frames are left out
    assert found["mean on open-vclip-hmdb51-full"] == (30, 51)  # without the unused ones
    assert "hmdb51/full: entries of 0 frames left out: 2" in capsys.readouterr().out


def test_something_something_fully_supervised(tmp_path: Path) -> None:
    places = {"ssv2": miniatures.ssv2(tmp_path)}
    rows = {"dense": {"method": "dense_temporal", "config": {"layers": 1}}}
    fields = {**SMALL, "views": {"frames": 2, "resize": [72, 96], "size": 64}}
    names, recipe = ["text4vis/ssv2", "mote/ssv2"], {"source": "ssv2", "split": "train"}
    found = videos(run(tmp_path, places, names, rows, recipe=recipe, fields=fields, options=INPLACE))
    assert set(found.values()) == {(12, 6)}


def test_activitynet_trains_on_instances_and_tests_on_whole_videos(tmp_path: Path) -> None:
    places = {"activitynet": miniatures.activitynet(tmp_path)}
    rows = {"dense": {"method": "dense_temporal", "config": {"layers": 1}}}
    recipe = {"source": "activitynet", "split": "train"}
    found = videos(run(tmp_path, places, ["text4vis/activitynet"], rows, recipe=recipe, options=INPLACE))
    assert set(found.values()) == {(4, 4)}
    (trained,) = ((tmp_path / "runs/records/encode").glob("*/videos.parquet"),)
    assert any(pd.read_parquet(path)["video"].str.contains("@").any() for path in trained)


def test_mixed_vocabulary(tmp_path: Path) -> None:
    places = {"ucf101": miniatures.ucf101(tmp_path), "kinetics-400": miniatures.kinetics400(tmp_path)}
    ((title, (count, classes)),) = videos(run(tmp_path, places, ["mote/ucf101-mixed"], options=INPLACE)).items()
    names = sum(len(shipped()[name].class_names()) for name in ("ucf101", "kinetics-400", "kinetics-600-split1"))
    assert (names - classes, count) == (22, 15), title  # so many names of UCF-101 are also in Kinetics-400


def test_a_stray_line_is_named_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = {"ucf101": miniatures.ucf101(tmp_path, stray=True)}
    run(tmp_path, places, ["mote/ucf101"], code=2)
    told = capsys.readouterr().err
    says(told, "testlist01.txt", "twice", "line 1")
    assert not (tmp_path / "runs").exists()


MAKERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "ucf101": miniatures.ucf101,
    "hmdb51": miniatures.hmdb51,
    "kinetics-400": miniatures.kinetics400,
}


@pytest.mark.parametrize("name", MAKERS)
def test_places_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    told = MAKERS[name](tmp_path / "downloads")
    (tmp_path / name).mkdir()
    (tmp_path / name / "videos").symlink_to(told["root"])
    (tmp_path / name / "lists").symlink_to(told["lists"])
    monkeypatch.setenv("VTB_DATA", str(tmp_path))
    target = {"ucf101": "ucf101-3split", "hmdb51": "hmdb51-3split", "kinetics-400": "k400"}[name]
    assert run(tmp_path, {}, [f"mote/{target}"], options=INPLACE)


def test_every_named_protocol_can_be_planned_without_any_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [f"{how}/{what}" for how in _file()["how"] for what in _file()["what"] if not what.endswith("-novel")]
    recipe = {"backbone": "ViT-B-16", "pretrained": "random:0"}  # the embedded CLIP takes smaller pictures
    described = {"descriptions": "$VTB_DATA/{dataset}.json"}  # where templates ask for them
    protocols = {
        name.replace("/", "-"): {"use": name, **(described if name.startswith(("froster/", "taco/", "ost/")) else {})}
        for name in pairs
    }
    suite = {"title": "All", "recipe": recipe, "protocols": protocols, "rows": MEAN}
    (tmp_path / "all.yaml").write_text(json.dumps(suite))
    assert main(["plan", str(tmp_path / "all.yaml"), "--store", str(tmp_path / "runs")]) == 0
    told = capsys.readouterr().out
    says(told, "$VTB_DATA", "data missing: ssv2")


def test_moving_a_dataset_keeps_its_records_and_another_copy_makes_new_ones(tmp_path: Path) -> None:
    told = miniatures.hmdb51(tmp_path / "here")
    before = run(tmp_path, {"hmdb51": told}, ["mote/hmdb51"], options=INPLACE)
    (tmp_path / "here").rename(tmp_path / "there")
    moved = json.loads(json.dumps(told).replace("/here/", "/there/"))
    assert run(tmp_path, {"hmdb51": moved}, ["mote/hmdb51"], options=INPLACE) == before
    video = next(Path(moved["root"]).rglob("*test_split1*"), None) or sorted(Path(moved["root"]).rglob("*_3.avi"))[0]
    video.write_bytes(video.read_bytes() + b"JUNK\x00\x00\x00\x00")
    assert len(run(tmp_path, {"hmdb51": moved}, ["mote/hmdb51"], options=INPLACE)) in (1, 2)
