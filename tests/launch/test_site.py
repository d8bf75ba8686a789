"""Resources of jobs: notations of time and memory, layers, a site's profile, options for submitit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from submitit.slurm.slurm import _make_sbatch_string

from bench.commands.app import main
from bench.core.errors import UserError
from bench.graph.build import build_graph
from bench.launch.launches import PlannedStage
from bench.launch.site import Site, driver_resources, enlarged, load_site, resources_for, submitit_parameters
from bench.launch.slurm import on_site
from bench.store.attempts import Attempts
from bench.suite.resolve import SUITES, load_suite
from bench.suite.resources import Resources, in_clock, round_minutes
from bench.suite.yaml_lines import load_value
from tests.errors import refused
from tests.suites import write_suite

# as written without quotes -> minutes
TIMES = {
    "90": 90,
    "1.5": 2,
    "90:00": 90,
    "1:30": 2,
    "1:30:00": 90,
    "01:30:01": 91,
    "48:00:00": 2880,
    "1-12": 2160,
    "1-00:30": 1470,
    "2-01:02:03": 2943,
    "'1:30:00'": 90,
}
NO_TIMES = (
    "0:30",
    "0:00:05",
    "0.5",
    "soon",
    "1:60:00",
    "1:2:3:4",
    "-5",
    "0",
    "0:00",
    "true",
    ".inf",
    "UNLIMITED",
    "1h",
    "[60]",
)
MEMORY = {"16G": 16384, "16GB": 16384, "512M": 512, "1.5T": 1572864, "2000": 2000, "1K": 1, "0.5g": 512}
NO_MEMORY = ("0", "0G", "much", "16X", "-1", "true", "G", ".nan")

MISTAKES = {
    "unknown stage": (
        "resources: {trian: {gpus: 1}}",
        ["small.yaml:22: resources.trian", "unknown key 'trian'", "all, driver", "did you mean 'train'?"],
    ),
    "unknown resource": (
        "resources:\n  train:\n    gpu: 1",
        ["small.yaml:24: resources.train.gpu", "unknown key 'gpu'", "did you mean 'gpus'?"],
    ),
    "no time": (
        "resources: {train: {time: later}}",
        ["small.yaml:22: resources.train.time", "'later' is not a time", "D-HH:MM:SS"],
    ),
    "no memory": ("resources: {all: {memory: 0}}", ["small.yaml:22: resources.all.memory", "greater than or equal"]),
    "no limit of memory": (
        "resources: {train: {memory_limit: much}}",
        ["small.yaml:22: resources.train.memory_limit", "'much' is not an amount of memory"],
    ),
    "option of the launcher": (
        "resources: {all: {extra: {array: 0-3}}}",
        ["small.yaml:22: resources.all.extra.array", "the launcher decides on --array itself"],
    ),
    "option with a key of its own": (
        "resources: {all: {extra: {gpus-per-node: 2}}}",
        ["resources.all.extra.gpus-per-node", "has a key of its own: gpus"],
    ),
    "no option": ("resources: {all: {extra: {--mail-type: END}}}", ["without its dashes"]),
    "value of an option": (
        "resources: {all: {extra: {mail-type: [END, FAIL]}}}",
        ["small.yaml:22: resources.all.extra.mail-type", "text of one line"],
    ),
}


def _suite(folder: Path, resources: str, row: str = "") -> Path:
    """The small suite with resources, and with some of its row `dense`."""
    changes = [("report:\n", f"{resources}\nreport:\n")]
    if row:
        changes.append(("config: {layers: 1}}\n", f"config: {{layers: 1}}, resources: {row}}}\n"))
    return write_suite(folder, *changes)


def _site(folder: Path, text: str) -> Path:
    path = folder / "site.yaml"
    path.write_text(text)
    return path


def _resources(**said: Any) -> Resources:
    return Resources.model_validate(said)


@pytest.mark.parametrize("text", TIMES)
def test_a_time_without_quotes_means_what_slurm_means_by_it(text: str, tmp_path: Path) -> None:
    path = _suite(tmp_path, f"resources: {{train: {{time: {text}}}}}", f"{{train: {{time: {text}}}}}")
    file = load_suite(path).file
    assert file.resources["train"].time == TIMES[text]
    assert file.rows["dense"].resources["train"].time == TIMES[text]


@pytest.mark.parametrize("text", TIMES)
def test_a_time_in_an_override_means_the_same(text: str, tmp_path: Path) -> None:
    overrides = (f"resources.train.time={text}", f"rows.dense.resources.all={{time: {text}}}")
    file = load_suite(write_suite(tmp_path), overrides).file
    assert file.resources["train"].time == TIMES[text]
    assert file.rows["dense"].resources["all"].time == TIMES[text]


@pytest.mark.parametrize("text", NO_TIMES)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        _resources(time=load_value(text))


@pytest.mark.parametrize("text", MEMORY)
def test_memory_is_counted_in_megabytes(text: str) -> None:
    assert _resources(memory=load_value(text)).memory == MEMORY[text]


@pytest.mark.parametrize("text", NO_MEMORY)
def test_what_is_no_memory_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        _resources(memory=load_value(text))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_suite_is_told_with_its_line(mistake: str, tmp_path: Path) -> None:
    text, expected = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        load_suite(_suite(tmp_path, text))
    for part in expected:
        assert part in str(error.value)


def test_a_mistake_in_a_row_or_an_override_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"small\.yaml:19: rows\.dense\.resources\.driver: unknown key 'driver'"):
        load_suite(_suite(tmp_path, "", "{driver: {cpus: 1}}"))
    with pytest.raises(UserError, match=r"override resources\.train\.tme=1: resources\.train\.tme: unknown key 'tme'"):
        load_suite(write_suite(tmp_path), ("resources.train.tme=1",))
    with pytest.raises(UserError, match=r"override recipe=\{lr: 1, lr: 2\}: key 'lr' appears twice"):
        load_suite(write_suite(tmp_path), ("recipe={lr: 1, lr: 2}",))


def test_the_driver_takes_of_all_where_it_runs_and_has_resources_of_its_own(tmp_path: Path) -> None:
    suite = load_suite(
        _suite(tmp_path, "resources: {all: {cpus: 4, gpus: 1, slots: 4, memory: 64G, time: 90}}")
    ).file.resources
    site = Site(resources={"all": Resources(partition="short")})
    assert driver_resources(site, suite) == Resources(partition="short", cpus=1, gpus=0, slots=1, memory=2048, time=90)
    own = load_suite(_suite(tmp_path, "resources: {driver: {memory: 4G, time: 1-00:00:00}}")).file.resources
    assert driver_resources(site, {**suite, **own}).model_dump(include={"memory", "time"}) == {
        "memory": 4096,
        "time": 1440,
    }


def test_resources_change_no_identity(tmp_path: Path) -> None:
    plain = build_graph(load_suite(write_suite(tmp_path)))
    path = _suite(tmp_path, "resources: {all: {gpus: 1}}", "{train: {time: 2:00:00}}")
    assert list(build_graph(load_suite(path)).stages) == list(plain.stages)


def test_resources_stay_in_another_world(tmp_path: Path) -> None:
    path = tmp_path / "moved.yaml"
    path.write_text((SUITES / "mote-merge.yaml").read_text() + "resources: {train: {time: 2:00:00}}\n")
    assert load_suite(path, ("world=glyphs",)).file.resources["train"].time == 120


def test_the_row_goes_before_the_suite_before_the_site_and_a_kind_before_all() -> None:
    layers: list[tuple[str, str, str]] = [
        (place, key, f"{place}-{key}") for place in ("site", "suite", "row") for key in ("all", "train")
    ]
    for last in range(1, len(layers) + 1):
        said: dict[str, dict[str, Resources]] = {"site": {}, "suite": {}, "row": {}}
        for place, key, partition in layers[:last]:
            said[place][key] = Resources(partition=partition)
        found = resources_for("train", Site(resources=said["site"]), said["suite"], said["row"])
        assert found.partition == layers[last - 1][2]


def test_a_limit_below_what_is_asked_for_is_refused_also_across_layers() -> None:
    site = Site(resources={"all": _resources(memory="2G")})
    with refused("1024M is less than memory: 2048M", where="resources.train.memory_limit"):
        resources_for("train", site, {"train": _resources(memory_limit="1G")})
    assert resources_for("train", site, {"train": _resources(memory_limit="2G")}).memory_limit == 2048


def test_what_a_later_layer_does_not_say_stays() -> None:
    site = Site(resources={"all": Resources(account="lab", cpus=4, extra={"nice": 5, "exclusive": True})})
    found = resources_for(
        "train", site, {"train": Resources(gpus=2, extra={"nice": 7})}, {"all": _resources(time="1-0", gpus=0)}
    )
    assert found == _resources(account="lab", cpus=4, gpus=0, time=1440, extra={"nice": 7, "exclusive": True})


def test_resources_of_other_kinds_do_not_count() -> None:
    found = resources_for("encode", Site(resources={"train": Resources(gpus=8)}), {"maps": Resources(gpus=4)})
    assert found == Resources(time=60, cpus=2)


def test_equal_resources_hash_alike() -> None:
    one = Resources(gpus=1, extra={"nice": 5, "nodelist": "n1"})
    other = Resources(gpus=1, extra={"nodelist": "n1", "nice": 5})
    assert one == other
    assert len({one, other, Resources(gpus=2)}) == 2


def test_a_profile_and_its_resources_come_back_from_json() -> None:
    site = Site(pack=20, resources={"train": _resources(time="1-0", memory="1.5G", extra={"nodelist": "n1"})})
    assert Site.model_validate_json(site.model_dump_json()) == site


def test_a_profile_is_read_from_its_file(tmp_path: Path) -> None:
    site, _ = load_site(
        _site(
            tmp_path,
            """\
python: singularity exec bench.sif python
setup: [module load cuda]
max_array: 1000
parallel: 8
pack: 0:20:00
resources:
  all: {account: lab, partition: short, time: 1:30:00}
  train: {gpus: 1, memory: 32G}
  driver: {gpus: 0}
""",
        )
    )
    assert (site.python, site.setup, site.max_array) == (
        "singularity exec bench.sif python",
        ["module load cuda"],
        1000,
    )
    assert (site.parallel, site.pack, site.pack_most, site.signal, site.attempts) == (8, 20, 100, 120, 3)
    assert site.resources["all"] == Resources(account="lab", partition="short", time=90)
    assert site.resources["train"] == Resources(gpus=1, memory=32768)


def test_the_option_goes_before_the_variable_before_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for attempts, name in enumerate(("users", "variable", "option"), start=4):
        (tmp_path / name).mkdir()
        paths.append(_site(tmp_path / name, f"attempts: {attempts}\n"))
    monkeypatch.setattr("bench.launch.site.user_config_path", lambda name: tmp_path / "none")
    monkeypatch.delenv("VTB_SITE", raising=False)
    assert load_site(None)[0] == Site()
    monkeypatch.setattr("bench.launch.site.user_config_path", lambda name: tmp_path / "users")
    assert load_site(None)[0].attempts == 4
    monkeypatch.setenv("VTB_SITE", str(paths[1]))
    assert load_site(None)[0].attempts == 5
    assert load_site(paths[2])[0].attempts == 6


def test_a_profile_that_is_asked_for_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"lab\.yaml: no such site file"):
        load_site(tmp_path / "lab.yaml")
    monkeypatch.setenv("VTB_SITE", str(tmp_path / "other.yaml"))
    with pytest.raises(UserError, match=r"other\.yaml: no such site file"):
        load_site(None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("setup: []\nparalel: 3\n", ["site.yaml:2: paralel", "did you mean 'parallel'?"]),
        ("resources:\n  trian: {gpus: 1}\n", ["site.yaml:2: resources.trian", "did you mean 'train'?"]),
        ("signal: 5\n", ["site.yaml:1: signal", "greater than or equal to 10"]),
        ("setup: module load cuda\n", ["site.yaml:1: setup", "a list"]),
        ("pack: 0:00:05\n", ["site.yaml:1: pack", "'0:00:05' is less than a minute", "five minutes are 5, 5:00"]),
        ("pack: soon\n", ["site.yaml:1: pack", "'soon' is not a time"]),
        ("attempts: true\n", ["site.yaml:1: attempts: expected a number, got true"]),
        ("resources:\n  all: {cpus: true}\n", ["site.yaml:2: resources.all.cpus: expected a number, got true"]),
        ("attempts: 1\nattempts: 2\n", ["site.yaml:2", "appears twice"]),
    ],
)
def test_a_mistake_in_a_profile_is_told_with_its_line(text: str, expected: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_site(_site(tmp_path, text))
    for part in expected:
        assert part in str(error.value)


def test_what_is_asked_for_stands_in_the_text_that_sbatch_gets() -> None:
    asked = _resources(
        partition="long",
        account="lab",
        qos="normal",
        constraint="a100|h100",
        gpus=2,
        cpus=8,
        memory="64G",
        time="1-0:30",
        nodes=2,
        exclude="node[1-3]",
        reservation="course",
        extra={"mail-type": "END,FAIL", "exclusive": True, "nice": 100, "contiguous": False},
    )
    site = Site(signal=300, parallel=4, setup=["module load cuda"])
    parameters = submitit_parameters(asked, 4, "train", site)
    lines = _make_sbatch_string(command="python job.py", folder="/jobs", map_count=10, **parameters).splitlines()
    options = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert options == {
        "account=lab",
        "array=0-9%4",
        "constraint='a100|h100'",
        "cpus-per-task=8",
        "error=/jobs/%A_%a_0_log.err",
        "exclude='node[1-3]'",
        "exclusive",
        "gpus-per-node=4",
        "job-name=train",
        "mail-type=END,FAIL",
        "mem=65536M",
        "nice=100",
        "nodes=2",
        "ntasks-per-node=2",
        "open-mode=append",
        "output=/jobs/%A_%a_0_log.out",
        "partition=long",
        "qos=normal",
        "requeue",
        "reservation=course",
        "signal=USR2@300",
        "time=1470",
    }
    assert lines.index("module load cuda") < next(n for n, line in enumerate(lines) if line.startswith("srun"))
    assert "--kill-on-bad-exit=1 --cpus-per-task=8 python job.py" in lines[-1]


def test_what_nobody_says_is_not_asked_for() -> None:
    parameters = submitit_parameters(resources_for("encode", Site(), {}, {}), 1, "encode", Site())
    text = _make_sbatch_string(command="python job.py", folder="/jobs", **parameters)
    for option in ("partition", "account", "mem", "gpus-per-node", "gpus_per_node", "constraint", "reservation"):
        assert f"--{option}" not in text
    assert "--time=60\n" in text


def test_jobs_of_an_array_may_run_without_limit() -> None:
    parameters = submitit_parameters(Resources(), 1, "encode", Site(parallel=None))
    assert "--array=0-999%1000\n" in _make_sbatch_string("python job.py", "/jobs", map_count=1000, **parameters)


def test_no_gpus_in_a_suite_undo_those_of_the_site() -> None:
    site = Site(resources={"all": Resources(gpus=1)})
    asked = resources_for("texts", site, {})
    assert submitit_parameters(asked, 1, "texts", site)["gpus_per_node"] == 1
    asked = resources_for("texts", site, {"texts": Resources(gpus=0)})
    assert submitit_parameters(asked, 1, "texts", site)["gpus_per_node"] is None


def test_tasks_that_nodes_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match=r"(?s)3 tasks cannot be divided evenly over 2 nodes.*recipe\.processes"):
        submitit_parameters(Resources(nodes=2), 3, "train", Site())
    with pytest.raises(UserError, match="1 task cannot"):
        submitit_parameters(Resources(nodes=2), 1, "encode", Site())


def test_a_job_that_would_be_told_to_stop_at_its_start_is_refused() -> None:
    with pytest.raises(UserError, match=r"resources.train.time: a job of 120 seconds .* 120 seconds before"):
        submitit_parameters(Resources(time=2), 1, "train", Site())
    assert submitit_parameters(Resources(time=3), 1, "train", Site())["time"] == 3


@pytest.mark.parametrize(
    ("suite", "row", "site", "overrides", "place", "what"),
    [
        ("resources: {train: {slots: 4}}", "", "", [], "small.yaml:22: resources.train.slots", "2 CPUs for 4 stages"),
        ("", "", "resources:\n  all: {slots: 3}", [], "site.yaml:2: resources.all.slots", "2 CPUs for 3 stages"),
        ("", "{train: {nodes: 2}}", "", [], "small.yaml:19: rows.dense.resources.train.nodes", "1 task cannot"),
        ("resources: {train: {time: 5}}", "", "signal: 600", [], "small.yaml:22: resources.train.time", "600 seconds"),
        ("", "", "pack: 0\nsignal: 7200", [], "site.yaml:2: signal", "7200 seconds"),
        (
            "resources: {all: {memory_limit: 1G}}",
            "",
            "resources: {all: {memory: 2G}}",
            [],
            "small.yaml:22",
            "less than",
        ),
        ("", "", "resources: {driver: {slots: 2, cpus: 2}}", [], "site.yaml:1: resources.driver.slots", "no slots"),
        ("resources: {profile: {slots: 2}}", "", "", ["report.profile={}"], "small.yaml:22", "a job of profile has no"),
        ("resources: {train: {slots: 2}}", "", "", ["recipe.processes=2"], "small.yaml:22", "with recipe.processes=2"),
    ],
)
def test_resources_that_no_job_can_have_are_refused_at_their_place_before_there_is_a_store(
    suite: str, row: str, site: str, overrides: list[str], place: str, what: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    files, store = [_suite(tmp_path, suite, row), _site(tmp_path, site)], tmp_path / "store"
    assert main(["run", *map(str, [files[0], *overrides, "--store", store, "--on", "slurm", "--site", files[1]])]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}/{place}" in said and what in said and not store.exists()


def test_what_is_for_all_jobs_may_have_slots_where_some_have_none(tmp_path: Path) -> None:
    suite = load_suite(_suite(tmp_path, ""), ("recipe.processes=2", "report.profile={}"))
    todo = [*build_graph(suite).stages.values()]
    planned = [PlannedStage.of(each, 1.0) for each in todo]
    _, stages = on_site(*load_site(_site(tmp_path, "resources: {all: {slots: 2}}")), suite, {}, planned, todo)
    assert {stage.resources["slots"] for stage in stages} == {2}
    assert {(stage.kind, stage.tasks) for stage in stages} >= {("train", 2), ("evaluate", 1), ("profile", 1)}


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_an_empty_profile_is_one_without_settings(text: str, tmp_path: Path) -> None:
    assert load_site(_site(tmp_path, text))[0] == Site()


@pytest.mark.parametrize("site", ["resources: {}", "resources: {all: {partition: short, extra: {wckey: false}}}"])
def test_scripts_have_no_options_of_submitits_own(
    site: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, profile = write_suite(tmp_path), _site(tmp_path, site)
    assert (
        main(["run", str(suite), "--store", str(tmp_path), "--on", "slurm", "--site", str(profile), "--dry-run"]) == 0
    )
    script = capsys.readouterr().out
    assert script.count("#!/bin/bash") > 2 and "submitit.core._submit" in script
    assert "wckey" not in script


def test_a_site_may_set_what_submitit_would(tmp_path: Path) -> None:
    site, _ = load_site(_site(tmp_path, "resources: {all: {extra: {wckey: ours}}}"))
    parameters = submitit_parameters(resources_for("encode", site, {}), 1, "encode", site)
    text = _make_sbatch_string(command="python job.py", folder="/jobs", **parameters)
    assert "--wckey=ours\n" in text and "wckey=submitit" not in text


def test_a_site_is_a_regular_file_of_plain_yaml(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in ("pipe.yaml", "."):
        with refused("regular", where=str(tmp_path / name)):
            load_site(tmp_path / name)
    with refused("U+0000", where="site.yaml:2"):
        load_site(_site(tmp_path, "signal: 60\npython: a\0b\n"))


@pytest.mark.parametrize(
    ("asked", "known", "memory"),
    [
        ("memory: 8G", {}, 8192),  # nothing ran out
        ("memory: 8G", {"out_of_memory": 1}, 16384),  # it was killed, so nobody knows what it had needed
        ("memory: 8G", {"out_of_memory": 2}, 32768),
        ("memory: 8G", {"out_of_memory": 1, "memory": 6 << 30}, 12288),  # 1.5 times
        ("memory: 8G", {"out_of_memory": 2, "memory": 6 << 30}, 18432),
        ("memory: 8G", {"out_of_memory": 1, "memory": 20 << 30}, 24576),  # 1.2 times the peak
        ("memory: 8G", {"out_of_memory": 1, "memory": 12 << 30, "overhead": 8 << 30}, 24576),
        ("memory: 8G, memory_limit: 10G", {"out_of_memory": 1}, 10240),
        ("memory: 8G, memory_limit: 64G", {"out_of_memory": 2}, 32768),
        ("memory: 8G, memory_limit: 10G", {"out_of_memory": 5, "forgiven": 5}, 10240),  # after a retry, once more
        ("cpus: 1", {"out_of_memory": 1, "memory_asked": 4096}, 8192),  # what Slurm gave
        ("cpus: 1", {"out_of_memory": 1}, None),  # nothing is known
        ("cpus: 1", {"memory": 6 << 30}, None),
    ],
)
def test_memory_grows_when_it_ran_out(asked: str, known: dict[str, Any], memory: int | None) -> None:
    resources = Resources.model_validate(load_value(f"{{{asked}}}", "here"))
    assert enlarged(resources, Attempts(**known)).memory == memory


@pytest.mark.parametrize(
    ("asked", "count"), [("memory: 8G, memory_limit: 10G", 2), ("memory: 4G, memory_limit: 4G", 1)]
)
def test_an_attempt_with_the_most_memory_was_the_last(asked: str, count: int) -> None:
    resources = Resources.model_validate(load_value(f"{{{asked}}}", "here"))
    for before in (0, 1):  # a retry
        with refused(f"memory ran out {count + before} time", where="resources.train.memory_limit", hint="raise it"):
            enlarged(resources, Attempts(out_of_memory=count + before, forgiven=before), "train")


def test_suggested_times_are_round_and_read_back_as_they_are_written() -> None:
    assert [round_minutes(minutes) for minutes in (0.2, 11, 61, 1441)] == [5, 15, 90, 2880]
    for minutes in (5, 90, 2880):
        assert Resources.model_validate({"time": in_clock(minutes)}).time == minutes
