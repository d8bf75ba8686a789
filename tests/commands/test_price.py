"""What `plan` and `run` say of prices, the budget that refuses a run, and what jobs take and ask for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.commands.app import main
from tests.errors import says
from tests.suites import write_suite

Said = pytest.CaptureFixture[str]


def told(said: Said, code: int, *arguments: str, store: Path) -> str:
    assert main([*arguments, "--store", str(store)]) == code
    captured = said.readouterr()
    return captured.out if code == 0 else captured.err


def number(text: str, pattern: str) -> float:
    found = re.search(pattern.replace("N", r"([\d.,]+)"), text)
    assert found, text
    return float(found[1].replace(",", ""))


def test_a_plan_prices_stages_whose_data_are_missing(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VTB_DATA", raising=False)
    arguments = ("plan", "mote-table7a", "--device-type", "H100", "--jobs", "4")
    text = told(capsys, 0, *arguments, store=tmp_path)
    says(
        text, "in 4 slots", "from the table for h100", "most of it: train ", "100% of it is for 132 stages", "features "
    )
    says(text, "decoding with 1 worker takes longer than computing")
    fast = told(capsys, 0, *arguments, "--workers", "64", store=tmp_path)
    assert "decoding with" not in fast
    price = "price: N device-hours of h100"
    assert 100 < number(fast, price) < number(text, price) / 3


def test_an_unknown_device_type_is_refused(tmp_path: Path, capsys: Said) -> None:
    for command in ("plan", "run"):
        text = told(capsys, 2, command, str(write_suite(tmp_path)), "--device-type", "h10", store=tmp_path / "runs")
        says(text, "--device-type", "'h10'", "did you mean 'h100'?")


@pytest.mark.parametrize(
    ("key", "limit", "unit"), [("device_hours", "0.001", "device-hours of t4"), ("disk", "1M", "GB of disk")]
)
def test_a_run_over_its_budget_is_refused_before_any_work(
    key: str, limit: str, unit: str, tmp_path: Path, capsys: Said
) -> None:
    suite = write_suite(tmp_path, ("seeds:", f"budget:\n  {key}: {limit}\nseeds:"))
    store = tmp_path / "runs"
    text = told(capsys, 2, "run", str(suite), "--device-type", "t4", store=store)
    says(text, f"small.yaml:3: budget.{key}", unit, "over the budget of", "most of it: " if key != "disk" else "")
    assert not store.exists()
    arguments = ["plan", str(suite), "--device-type", "t4", "--store", str(store), "--stages"]
    assert main(arguments) == 2
    plan = capsys.readouterr()
    assert plan.err == text
    says(plan.out, "device-hours of t4", "to run       train")
    assert main([*arguments, f"budget.{key}=1000000"]) == 0


def test_a_plan_counts_threads_of_a_cpu(tmp_path: Path, capsys: Said) -> None:
    arguments = ("plan", str(write_suite(tmp_path)), "--device-type", "cpu", "--workers", "64")
    one, four = (told(capsys, 0, *arguments, "--threads", count, store=tmp_path / "runs") for count in ("1", "4"))
    assert number(four, "price: N device-hours") < number(one, "price: N device-hours")


def test_a_budget_is_checked_like_any_key(tmp_path: Path, capsys: Said) -> None:
    for value, named in (
        ("{device_hours: true}", "a number, got true"),
        ("{disk: much}", "'much'"),
        ("{device_hours: 0}", "0"),
        ("{hours: 3}", "device_hours"),
    ):
        suite = write_suite(tmp_path, ("seeds:", f"budget: {value}\nseeds:"))
        says(told(capsys, 2, "plan", str(suite), store=tmp_path / "runs"), "small.yaml:2: budget", named)


def test_a_dry_run_ends_with_the_hours_that_jobs_take_and_ask_for(tmp_path: Path, capsys: Said) -> None:
    suite, site = write_suite(tmp_path), tmp_path / "site.yaml"
    site.write_text("pack: 0\nresources: {all: {time: 1:00:00, cpus: 3}, train: {gpus: 2, time: 4:00:00}}\n")
    arguments = ("run", str(suite), "--on", "slurm", "--dry-run", "--site", str(site))
    text = told(capsys, 0, *arguments, store=tmp_path / "runs")
    last = text.strip().splitlines()[-1]
    jobs = number(last, "# N jobs without the driver")
    asked = 3 * (jobs - 4) + 3 * 4 * 4  # four trainings
    assert number(last, "of N CPU-hours") == pytest.approx(asked, abs=1)
    assert number(last, "of N GPU-hours") == 2 * 4 * 4
    assert 0 < number(last, "about N of") < 3


def test_a_dry_run_that_would_be_refused_shows_all_the_same_what_it_would_take(tmp_path: Path, capsys: Said) -> None:
    arguments = ["run", "mote-table7a", "--on", "slurm", "--dry-run", "--store", str(tmp_path / "runs")]
    assert main([*arguments, "budget={device_hours: 0.001}"]) == 2
    captured = capsys.readouterr()
    says(captured.out, "#!/bin/bash", "jobs without the driver will take about")
    says(captured.err, "mistakes", "dataset 'kinetics-400'", "$VTB_DATA", "budget.device_hours")
    assert not (tmp_path / "runs").exists()
