"""Prices: by the table, corrected by records of like size; wall time, disk, and every shipped suite of real data."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any

import pytest

from bench.core.files import ASSETS
from bench.graph.build import build_graph
from bench.graph.plan import cache_frames, make_plan
from bench.graph.price import Measured, Price, Speed, device_type, known_device, measurements, price, usual_device
from bench.graph.stage import Frames, Stage
from bench.store.records import Store
from bench.suite.resolve import SUITES, load_suite
from tests.errors import refused
from tests.suites import write_suite

REAL = [path.stem for path in sorted(SUITES.glob("*.yaml")) if "-" in path.stem]
CPU = Speed("cpu")


def stage(name: str, flops: float, *inputs: Stage, kind: str = "train", **more: Any) -> Stage:
    known = {str(place): own for place, own in enumerate(inputs)}
    return Stage(kind, {"name": name}, known, (), {}, name, flops, **more)


def record(flops: float, seconds: float, kind: str = "train", **cost: float) -> Measured:
    data = {"kind": kind, "spec": {}, "inputs": {}, "context": {}, "provenance": {"device": "cpu (AVX512)"}}
    return Measured({**data, "cost": {"flops": flops, "seconds": seconds, **cost}}, "cpu", seconds)


def seconds(flops: float, *known: Measured, speed: Speed = CPU) -> float:
    """Of one training."""
    (found,) = price([stage("own", flops)], known, speed, 1).seconds.values()
    return found


def by_table(flops: float) -> float:
    return CPU.computing("train", flops, {"spec": {}, "inputs": {}, "context": {}})


# --- one stage --------------------------------------------------------------------------------------------------------


def test_records_of_like_size_decide() -> None:
    assert seconds(1e14, record(1e14, 5000.0)) == pytest.approx(5000)
    alike = [record(1e14, own) for own in (900.0, 1000.0, 1111.0)]
    assert seconds(1e14, *alike) == pytest.approx(1000, rel=0.01)
    assert seconds(3e14, *alike) == pytest.approx(3000, rel=0.01)


def test_small_records_do_not_price_huge_stages() -> None:
    """Start-up dominated fifty small trainings, a hundredfold slower than the table says."""
    small = [record(1e11, 100 * by_table(1e11)) for _ in range(50)]
    assert seconds(1e17, *small) == seconds(1e17) == by_table(1e17)
    assert seconds(1e14, record(1e14, by_table(1e14)), *small) == pytest.approx(by_table(1e14), rel=0.05)


def test_the_weight_of_records_falls_with_their_distance_in_size() -> None:
    slow = record(1e14, 4 * by_table(1e14))
    factors = [seconds(flops, slow) / by_table(flops) for flops in (1e14, 9e14, 3.2e15, 1.1e16)]
    assert factors == pytest.approx([4, 4, 2, 1], rel=0.05)


def test_one_odd_record_among_nine_changes_little() -> None:
    alike = [record(1e14, by_table(1e14)) for _ in range(8)]
    assert seconds(1e14, *alike, record(1e14, 10 * by_table(1e14))) < 1.4 * by_table(1e14)


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_more_flops_never_cost_less(factor: float) -> None:
    known = [record(flops, factor * by_table(flops)) for flops in (1e12, 2e12, 1e15)]
    found = [seconds(10 ** (place / 10), *known) for place in range(80, 190)]
    assert found == sorted(found)


def test_records_count_on_their_own_device_and_for_their_own_kind() -> None:
    slow = record(1e14, 50 * by_table(1e14))
    gpu = Speed("h100")
    assert seconds(1e14, slow, speed=gpu) == seconds(1e14, speed=gpu)
    (found,) = price([stage("own", 1e14, kind="encode")], [slow], CPU, 1).seconds.values()
    assert found < 2 * by_table(1e14)


def test_start_up_is_no_part_of_what_a_record_took(tmp_path: Path) -> None:
    store, origin = Store.create(tmp_path), {"device": "cpu (AVX512)", "threads": 1}
    cost = {"flops": 1e12, "seconds": 40.0, "startup": 30.0, "compute": 8.0, "waiting": 2.0}
    for identity, own in (("a" * 32, cost), ("b" * 32, {"flops": 1e12, "seconds": 40.0})):
        about = {"spec": {}, "inputs": {}, "context": {}, "provenance": origin, "cost": own}
        with store.writing("train", identity, about):
            pass
    assert [own.seconds for own in measurements(store)] == [8.0, 40.0]


def test_precision_threads_processes_and_narrow_towers_count() -> None:
    def table(speed: Speed, spec: dict[str, Any], processes: int = 1) -> float:
        work = {"spec": spec, "inputs": {}, "context": {"execution": {"processes": processes}}}
        return speed.computing("train", 1e18, work)

    plain, gpu = table(CPU, {}), Speed("h100")
    assert table(Speed("cpu", threads=4), {}) == pytest.approx(plain / 4, rel=0.01)
    assert table(CPU, {}, processes=2) == pytest.approx(plain / 2, rel=0.01)
    assert table(CPU, {"backbone": "glyph-vit"}) == pytest.approx(6 * plain, rel=0.01)
    assert table(gpu, {"recipe": {"precision": "bf16"}}) < table(gpu, {"recipe": {"precision": "fp32"}}) / 5


def test_decoding_holds_a_fast_device_up() -> None:
    frames = Frames("key", 30.0, 2 * 10**13, 2e13)
    reading = stage("reading", 1e15, frames=frames)
    for workers in (1, 10):
        found = price([reading], [], Speed("h100", workers=workers), 1)
        assert found.seconds[reading.identity] == pytest.approx(30 * 2e13 / 6e8 / workers, rel=1e-3)
        assert found.decoding == [reading]
    kept = stage("kept", 1e15, frames=frames._replace(size=10**9))
    assert price([kept], [], Speed("h100"), 1).seconds[kept.identity] == pytest.approx(2e13 / 6e8)


# --- devices ----------------------------------------------------------------------------------------------------------


def test_devices_are_known_by_the_names_that_drivers_give_them() -> None:
    names = {
        "cpu (AVX512)": "cpu",
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA A100-SXM4-40GB": "a100-40",
        "NVIDIA A100 80GB PCIe": "a100-80",
        "Tesla V100-SXM2-32GB": "v100-32",
        "Tesla T4": "t4",
        "NVIDIA A10": "a10",
        "NVIDIA L4": "l4",
        "NVIDIA L40S": "l40s",
        "NVIDIA GeForce RTX 4090": "rtx4090",
        "AMD Instinct MI300X": "mi300x",
        "NVIDIA GeForce GTX 1080": None,
    }
    assert {name: device_type(name) for name in names} == names


def test_the_page_has_the_table_of_devices() -> None:
    page = (SUITES.parent / "docs/pricing.md").read_text(encoding="utf-8")
    for name, row in json.loads((ASSETS / "devices.json").read_text(encoding="utf-8"))["devices"].items():
        numbers = f"{row['fp32']:g} | {row['half']:,g} | {row['memory'] or '–'}"
        assert f"| `{name}` | {numbers} | {row['source']} |\n" in page


def test_an_unknown_device_is_refused_with_a_suggestion() -> None:
    assert known_device("H100") == "h100"
    with refused("h10", where="--device-type", allowed=["a100-80", "cpu"], hint="h100"):
        known_device("h10")


def test_the_usual_device_is_that_of_most_records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bench.graph.price.DRIVER", tmp_path)
    here, there = record(1e12, 1.0), record(1e12, 1.0)._replace(device="a40")
    assert usual_device([]) == usual_device([here, there, here]) == "cpu"
    assert usual_device([here, there, there]) == usual_device([here, here, there], "cuda:1") == "a40"
    assert usual_device([there], "cpu") == "cpu"
    (tmp_path / "0000").mkdir()
    (tmp_path / "0000/information").write_text("Model: \t\t NVIDIA H200\nIRQ:   1\n")
    assert usual_device([]) == usual_device([here], "cuda") == "h200"


def test_the_frame_cache_keeps_lists_as_far_as_they_fit() -> None:
    """The price of decoding falls with the share that is kept; lists that are read most often come first."""

    def reading(key: str, passes: float, size: float) -> Stage:
        return stage(key, 1.0, frames=Frames(key, passes, int(size), 6e8))

    lists = [reading("once", 1, 1e9), reading("often", 30, 6e9), reading("twice", 2, 8e9), reading("also", 2, 8e9)]
    assert cache_frames(lists, int(1e10)) == 1e10
    assert [own.context.get("frame_cache") for own in lists] == [None, True, True, None]
    assert cache_frames([reading("huge", 12, 1e13)], int(1e10)) == 1e10
    assert cache_frames(lists, 0) == 0
    for size, decoded in ((1e9, 1.0), (1e10, 1.0), (2e10, 1 + 0.5 * 29), (1e13, 1 + 0.999 * 29)):
        assert CPU.decoding(reading("own", 30, size)) == pytest.approx(decoded), size
    assert CPU.decoding(reading("own", 0.5, 1e13)) == pytest.approx(0.5)


# --- a plan -----------------------------------------------------------------------------------------------------------


def planned(slots: int) -> Price:
    """Features for three trainings, a chain of two on top, and a profile."""
    encode = stage("encode", 2e13, kind="encode", disk=1e9)
    trainings = [stage(f"train {place}", place * 1e13, encode, disk=1e8) for place in (1, 2, 3)]
    after = stage("evaluate", 4e13, trainings[0], kind="evaluate", disk=1e6)
    last = stage("probe", 1e12, after, kind="probe")
    return price([encode, *trainings, after, last, stage("profile", 1e11, kind="profile")], [], CPU, slots)


@pytest.mark.parametrize("slots", [1, 2, 3, 100])
def test_wall_time_lies_between_its_bounds(slots: int) -> None:
    found = planned(slots)
    own = {each.title: found.seconds[each.identity] for each in found.stages}
    startup, alone = found.speed.startup, own.pop("profile")
    chain = own["encode"] + max(own["train 3"], own["train 1"] + own["evaluate"] + own["probe"])
    wall, total = found.wall - startup - alone, sum(own.values())
    assert max(chain, total / slots) <= wall * 1.0001
    assert wall <= (total / slots + chain) * 1.0001
    assert wall == pytest.approx(total if slots == 1 else wall)
    assert slots < 3 or wall == pytest.approx(chain)


def test_start_up_is_paid_once_for_a_slot() -> None:
    startup, hours = CPU.startup / 3600, planned(1).device_hours
    assert planned(2).device_hours - hours == pytest.approx(startup)
    assert planned(100).device_hours - hours == pytest.approx(6 * startup)  # seven stages
    assert price([], [], CPU, 4).device_hours == price([], [], CPU, 4).wall == 0


def test_disk_counts_what_lies_there_at_most_at_once() -> None:
    assert planned(1).disk == {"features": 1e9, "records": pytest.approx(3.01e8), "checkpoints": 1e9}
    assert planned(3).disk["checkpoints"] == pytest.approx(1.6e9)


def test_shares_add_up_and_the_longest_come_first() -> None:
    found = planned(1)
    assert found.share(found.stages) == pytest.approx(1) and found.share([]) == 0
    assert [title for title, _ in found.dominating()] == ["evaluate", "encode", "train 3"] and not found.records


# --- suites -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_suites_of_real_data_have_a_price(name: str, tmp_path: Path) -> None:
    plan = make_plan(build_graph(load_suite(SUITES / f"{name}.yaml")), Store(tmp_path))
    found = price(plan.todo, [], Speed("h100"), 8)
    missing = [own for own in plan.todo if own.missing]
    assert missing and 0.9 < found.share(missing) <= 1 and not found.unsized
    assert isfinite(found.device_hours) and 0.1 < found.device_hours < 1e5
    assert all(0 < own < 1e7 for own in found.seconds.values())
    assert found.wall >= max(found.seconds.values()) and found.disk["features"] > 1e7


def test_data_that_are_missing_cost_as_if_they_were_there(tmp_path: Path) -> None:
    """By the numbers of videos that the datasets declare."""
    (tmp_path / "classes.csv").write_text("id,name\n0,cat\n1,dog\n")
    (tmp_path / "test.txt").write_text("a.mp4 0\nb.mp4 1\n")
    split = "list: %s, format: labelled, videos: [2]"
    declared = "root: nowhere, classes: classes.csv, splits: {test: {%s}}"
    found = []
    for listed in ("test.txt", "absent.txt"):
        suite = write_suite(
            tmp_path,
            ("rows:", "  mine: {role: zero-shot, dataset: mine}\nrows:"),
            ("title: Small", f"title: Small\ndatasets: {{mine: {{{declared % (split % listed)}}}}}"),
        )
        plan = make_plan(build_graph(load_suite(suite)), Store(tmp_path / "runs"))
        own = price(plan.todo, [], CPU, 1)
        assert own.share([each for each in plan.todo if each.missing]) > 0
        found.append(own.device_hours)
    assert found[0] == pytest.approx(found[1])


def test_what_has_a_record_costs_nothing(tmp_path: Path) -> None:
    graph, store = build_graph(load_suite(write_suite(tmp_path))), Store.create(tmp_path / "runs")
    for own in graph.stages.values():
        with store.writing(*own.key, {}):
            pass
    assert price(make_plan(graph, store).todo, [], CPU, 2).device_hours == 0
