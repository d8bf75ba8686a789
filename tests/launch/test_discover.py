"""Drafts of site profiles from what Slurm says of its partitions."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.commands.app import main
from bench.launch import scheduler
from bench.launch.discover import partitions, profile
from bench.launch.site import Site, load_site
from bench.suite.resources import Resources
from tests.errors import refused

MIXED = """\
cpu*|up|1-00:00:00|40|64+|257000|(null)
gpu|up|2-00:00:00|8|64|515000|gpu:a100:8(S:0-1)
gpu|up|2-00:00:00|2|48|257000|gpu:v100:4
short|up|30:00|4|16|64000|gpu:t4:2,gpu:p4:2
old|down|infinite|8|16|1|gpu:k80:64
"""


def drafted(text: str, tmp_path: Path) -> Site:
    """The site of the file that a draft makes."""
    (tmp_path / "site.yaml").write_text(profile(partitions(text), 4001))
    return load_site(tmp_path / "site.yaml")[0]


def test_a_cluster_with_partitions_of_cpus_and_of_gpus(tmp_path: Path) -> None:
    site = drafted(MIXED, tmp_path)
    assert site.max_array == 4001
    assert site.resources["all"] == Resources(partition="cpu", time=60, cpus=2, memory=7228)
    assert site.resources["train"] == Resources(partition="gpu", time=720, gpus=1, cpus=8, memory=57937)
    assert site.resources["encode"] == Resources(partition="gpu", gpus=1, cpus=8, memory=57937)
    assert site.resources["driver"] == Resources(partition="cpu", time=1440) and "texts" not in site.resources
    comment = profile(partitions(MIXED), 1)
    assert "cpu: 40 × 64 CPUs, 251 GB; jobs up to 24:00:00, the default" in comment and "old" not in comment
    assert "short: 4 × 16 CPUs, 62 GB, 4 GPUs (t4, p4); jobs up to 0:30:00" in comment


def test_one_partition_for_everything_and_a_slurm_that_counts_no_memory(tmp_path: Path) -> None:
    site = drafted("main*|up|infinite|2|2|1|gpu:2", tmp_path)
    assert site.resources["all"] == Resources(partition="main", time=60, cpus=2)
    assert site.resources["train"] == Resources(partition="main", time=720, gpus=1, cpus=1)
    site = drafted("tiny|up|10:00|1|1|2000|(null)", tmp_path)
    assert set(site.resources) == {"all", "driver"}
    assert site.resources["all"] == Resources(partition="tiny", time=10, cpus=1, memory=1800)


def test_a_job_without_a_gpu_gets_no_more_memory_for_a_cpu_where_nodes_have_few(tmp_path: Path) -> None:
    site = drafted("main*|up|infinite|2|2|65536|gpu:2", tmp_path)
    assert (site.resources["all"].memory, site.resources["train"].memory) == (2 * 8192, 29491)


def test_without_a_partition_or_without_slurm_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused("no partition takes jobs"):
        profile(partitions("gpu|down|infinite|2|2|1|gpu:2"), 1)
    monkeypatch.setenv("PATH", "")
    assert main(["site", "--discover"]) == 2


def test_the_command_shows_a_profile_as_its_file_could_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scheduler, "_ask", lambda program, *_: MIXED if program == "sinfo" else "MaxArraySize = 4001")
    assert main(["site", "--discover"]) == 0
    (tmp_path / "site.yaml").write_text(capsys.readouterr().out)
    assert main(["site", "--site", str(tmp_path / "site.yaml")]) == 0
    (tmp_path / "again.yaml").write_text(shown := capsys.readouterr().out)
    assert load_site(tmp_path / "again.yaml")[0] == load_site(tmp_path / "site.yaml")[0] and "parallel: 256" in shown
