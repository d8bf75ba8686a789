"""The leaderboard: one way to measure a column, one configuration a row, and where each number comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.care.archive import Archive, pack
from bench.core.errors import UserError
from bench.store.records import Store
from reports.leaderboard import PAGE, write_leaderboard
from reports.snapshot import save
from tests.reports import synthetic

PROTOCOL = {"role": "closed-set", "dataset": "ucf101", "split": "test1", "views": {"frames": 8}}
ORIGIN = {"launch": "20260101-000000-table-a1b2", "started": 1.7e9, "seconds": 1.0, "revision": "abcdef0123"}


def _put(store: Store, kind: str, identity: str, **fields: Any) -> None:
    about = {"title": identity, "context": {}, "inputs": {}, "cost": {}, "provenance": ORIGIN, "result": {}, **fields}
    with store.writing(kind, identity, about) as out:
        if kind == "evaluate":
            (out / "predictions.parquet").write_bytes(identity.encode())


def _evaluation(
    store: Store, identity: str, top1: float, seed: int = 0, lr: float = 0.1, method: str = "mote", **protocol: Any
) -> None:
    """An evaluation, its training and its features."""
    content = protocol.pop("content", "c" * 32)
    _put(store, "encode", f"f{identity}", spec={"content": content})
    recipe = {"method": method, "seed": seed, "recipe": {"lr": lr}, "content": content}
    _put(store, "train", f"t{identity}", spec=recipe, context={"selection": ["k400", "train", "all", None, seed]})
    _put(
        store,
        "evaluate",
        identity,
        spec={"method": method, "config": {"layers": 1}, "inference": {}, "backbone": "B/16", "weights": "w"},
        context={"protocol": {**PROTOCOL, **protocol}},
        inputs={"features": ["encode", f"f{identity}"], "train": ["train", f"t{identity}"]},
        result={"top1": top1},
    )


def _read(out: Path) -> tuple[pd.DataFrame, str]:
    return pd.read_csv(out / "leaderboard.csv"), (out / PAGE).read_text(encoding="utf-8")


def test_protocols_and_videos_are_never_mixed(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "runs")
    _evaluation(store, "e1", 50.0)
    _evaluation(store, "e2", 60.0, views={"frames": 16})
    _evaluation(store, "e3", 70.0, content="d" * 32)  # a list of the same name with other videos
    _evaluation(store, "e4", 80.0, role="zero-shot")
    table, page = _read(write_leaderboard([store], tmp_path / "out").parent)
    (line,) = table.to_dict("records")
    numbers = {name: value for name, value in line.items() if name not in ("method", "configuration")}
    assert (
        sorted(numbers.values()) == [50.0, 60.0, 70.0, 80.0] and len({str(name).split()[-2] for name in numbers}) == 3
    )
    assert "videos cccccccc" in page and "videos dddddddd" in page


def test_a_row_is_a_configuration_over_its_seeds(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "runs")
    for seed, top1 in enumerate((50.0, 60.0)):
        _evaluation(store, f"a{seed}", top1, seed)
    _evaluation(store, "b0", 90.0, lr=0.2)
    _evaluation(store, "c0", 10.0, method="<b>mine")
    table, page = _read(write_leaderboard([store], tmp_path / "out").parent)
    found = dict(zip(table["configuration"], table.iloc[:, 2], strict=True))
    assert found["recipe.lr 0.1"] == 55.0 and found["recipe.lr 0.2"] == 90.0 and len(table) == 3
    assert "55.0 ± 7.1" in page and "<b>mine" not in page and "&lt;b&gt;mine" in page


def test_every_number_has_its_record_suite_date_and_revision(tmp_path: Path) -> None:
    store, other = Store.create(tmp_path / "runs"), Store.create(tmp_path / "more")
    _evaluation(store, "e1", 50.0)
    for both in (store, other):
        _evaluation(both, "e2", 60.0, seed=1)
    keys = [(kind, own) for kind in ("encode", "train", "evaluate") for own in other.known(kind)]
    archive = pack(tmp_path / "more.zip", "table", other, keys, [], weights=False)
    out = write_leaderboard([store, Archive.of(archive.path)], tmp_path / "out").parent
    records = pd.read_csv(out / "leaderboard-records.csv").set_index("Record")
    found = records.loc[["e2"], ["Suite", "Date", "Revision", "Source"]].to_numpy().tolist()
    assert found == [["table", "2023-11-14", "abcdef0", "runs"]]
    assert len(records) == 2 and {"leaderboard.md", "leaderboard-records.md"} <= {own.name for own in out.iterdir()}
    assert "e1 of table, 2023-11-14, revision abcdef0; e2 of table" in (out / PAGE).read_text(encoding="utf-8")


def test_numbers_of_tuned_rows_name_the_rule_that_chose_their_setting(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "runs")
    for identity, top1 in (("e1", 50.0), ("e2", 60.0)):
        _evaluation(store, identity, top1, lr=top1)
    how = "Of 2 settings of each tuned row, source-validation chose: the best under val."
    lines = [synthetic.line("mote", {}, 0, "K400", 60.0), synthetic.line("clip", {}, 0, "K400", 50.0)]
    table = pd.DataFrame(lines).assign(identity=["e2", "e1"], setting=["lr 60", ""])
    results = synthetic.suite(table)
    save(replace(results, suite="fair", provenance={"settings": how}), store.root / "reports" / "fair")
    out = write_leaderboard([store], tmp_path / "out").parent
    records = pd.read_csv(out / "leaderboard-records.csv", keep_default_na=False).set_index("Record")["Setting"]
    assert records.to_dict() == {"e1": "–", "e2": f"fair: {how}"}
    _, page = _read(out)
    assert "60.0*" in page and "50.0*" not in page and page.count(how) >= 2  # in the first lines, and of the record


def test_nothing_measured_is_no_leaderboard(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no evaluation"):
        write_leaderboard([Store.create(tmp_path / "runs")], tmp_path / "out")
    assert not (tmp_path / "out").exists()
