"""Suites over other suites: what is merged, where errors point, where paths start, and copies that need no base."""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree

import pytest

from bench.commands.app import main
from bench.graph.build import build_graph
from bench.launch.launches import LaunchData, create
from bench.launch.removal import needless
from bench.store.records import Store
from bench.suite.base import SUITES, merged_suite, suite_text
from bench.suite.resolve import load_suite
from bench.suite.trial import Suite
from bench.suite.yaml_lines import load_yaml
from tests.errors import refused
from tests.suites import SMALL, write_suite

OWN = """\
base: small.yaml
seeds: [3]
recipe: {lr: 2.0e-3}
rows:
  mote: null
  dense: {config: {layers: 2}}
  wide: {method: mote, config: {layers: 1, num_experts: 4}}
report: {experts: null, compare: [[wide, dense]]}
"""
WHOLE = (
    SMALL.replace("seeds: [0, 1]", "seeds: [3]")
    .replace("lr: 1.0e-3", "lr: 2.0e-3")
    .replace("  mote: {method: mote, config: {layers: 1, num_experts: 2}}\n", "")
    .replace("config: {layers: 1}}", "config: {layers: 2}}")
    .replace("report:", "  wide: {method: mote, config: {layers: 1, num_experts: 4}}\nreport:")
    .replace("  experts: [mote]\n  compare: [[dense, clip_mean]]", "  compare: [[wide, dense]]")
)


def over(folder: Path, text: str = OWN, name: str = "own.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def stages(suite: Suite) -> list[tuple[str, str, str]]:
    return [(stage.kind, stage.identity, stage.title) for stage in build_graph(suite).stages.values()]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    write_suite(tmp_path)
    return over(tmp_path)


def test_a_suite_over_another_is_the_suite_that_is_written_out(own: Path, tmp_path: Path) -> None:
    suite, whole = load_suite(own), load_suite(over(tmp_path, WHOLE, "whole.yaml"))
    assert [*suite.file.rows] == ["clip_mean", "dense", "mote_no_tfm", "wide"]  # the base's, then its own
    assert stages(suite) == stages(whole) and suite.identity == whole.identity
    assert suite.file.model_dump(exclude={"base"}) == whole.file.model_dump(exclude={"base"})
    assert (suite.name, suite.file.title, suite.bases[1:]) == ("own", "Small", ())
    for part in ("base small.yaml", "adds rows.wide;", "recipe.lr, rows.dense.config.layers", "removes rows.mote, "):
        assert part in suite.bases[0]


def test_what_refers_to_a_row_goes_with_it(own: Path, tmp_path: Path) -> None:
    suite = load_suite(over(tmp_path, "base: small.yaml\nrows: {dense: null, mote: null}\n"))
    assert [*suite.file.rows] == ["clip_mean", "mote_no_tfm"]
    assert suite.file.report.compare == [] and suite.file.report.experts == []
    both = over(tmp_path, "base: small.yaml\nrows: {mote: null}\nreport: {experts: null}\n")
    assert load_suite(both).file.report.compare == [("dense", "clip_mean")]
    with refused("'dense'", where="own.yaml:3"):
        load_suite(over(tmp_path, "base: small.yaml\nrows: {dense: null}\nreport: {compare: [[dense, clip_mean]]}\n"))


def test_overrides_apply_to_what_is_merged(own: Path) -> None:
    found = load_suite(own, ("rows.wide=null", "recipe.lr=4.0e-3", "rows.dense.config.layers=1"))
    assert "wide" not in found.file.rows and {trial.recipe.lr for trial in found.trials} == {4.0e-3}
    with refused("base", where="override base=small.yaml", hint="file"):
        load_suite(own, ("base=small.yaml",))


def test_the_plan_says_what_each_base_becomes(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    top = over(tmp_path, "base: own.yaml\ntitle: Top\nseeds: [3]\nrows: {dense: {label: Dense}}\n", "top.yaml")
    assert main(["plan", str(top), "--store", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert "base own.yaml: adds rows.dense.label; replaces title\nbase small.yaml: adds rows.wide; " in said


def test_null_is_a_value_where_settings_have_values_and_else_removes(tmp_path: Path) -> None:
    write_suite(tmp_path, ("lr: 1.0e-3", "lr: 1.0e-3\n  parts: 4\n  accumulate: 4"))
    text = (
        "base: small.yaml\nrecipe: {parts: null}\nrows: {dense: {recipe: {parts: null}}}\naxes: {recipe.lr: [1, 2]}\n"
    )
    data = merged_suite(over(tmp_path, text)).data
    assert data["recipe"]["parts"] is None and data["rows"]["dense"]["recipe"] == {"parts": None}
    more = "base: own.yaml\nrecipe: null\naxes: {recipe.lr: null}\nrows: {dense: {recipe: null, config: null}}\n"
    found = merged_suite(over(tmp_path, more, "more.yaml"))
    assert (
        "recipe" not in found.data
        and found.data["axes"] == {}
        and found.data["rows"]["dense"] == {"method": "dense_temporal"}
    )
    assert ("recipe", "lr") not in found.places and ("rows", "dense", "config", "layers") not in found.places


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_errors_point_to_the_file_that_has_the_key(own: Path, tmp_path: Path) -> None:
    base = tmp_path / "small.yaml"
    line = 1 + SMALL[: SMALL.index("  mote_no_tfm")].count("\n")
    write_suite(tmp_path, ("inference: {tfm", "inference: {tmf"))
    with refused("tmf", where=f"{base}:{line}: rows.mote_no_tfm.inference.tmf", hint="'tfm'"):
        load_suite(own)
    write_suite(tmp_path, ("  epochs: 1\n", "  epoch: 1\n"))
    with refused("epoch", where=f"{base}:8: recipe.epoch", hint="'epochs'"):
        load_suite(own)
    write_suite(tmp_path)
    over(tmp_path, OWN.replace("num_experts: 4", "num_expert: 4"))
    with refused("num_expert", where=f"{own}:7: rows.wide.config.num_expert", hint="'num_experts'"):
        load_suite(own)
    over(tmp_path, OWN.replace("{lr: 2.0e-3}", "{lr: fast}"))
    with refused("number", where=f"{own}:3: recipe.lr"):
        load_suite(own)


@pytest.mark.parametrize(
    ("change", "named", "line", "hint"),
    [
        (("mote: null", "motte: null"), "motte", "own.yaml:5: rows.motte", "'mote'"),
        (("experts: null", "expert: null"), "expert", "own.yaml:8: report.expert", "'experts'"),
        (("small.yaml", "smal.yaml"), "smal.yaml", "own.yaml:1: base", "'small.yaml'"),
        (("small.yaml", "quikstart"), "quikstart", "own.yaml:1: base", "'quickstart'"),
        (("small.yaml", "./"), "regular file", "own.yaml:1: base", "YAML"),
        (("small.yaml", "[small.yaml]"), "path", "own.yaml:1: base", ""),
        (("small.yaml", "null"), "path", "own.yaml:1: base", ""),
        (("small.yaml", f"{'a' * 300}.yaml"), "aaa", "own.yaml:1: base", ""),
        (("small.yaml", "own.yaml"), "itself", "own.yaml:1", "own.yaml → "),
    ],
)
def test_a_base_that_cannot_be_is_refused(
    change: tuple[str, str], named: str, line: str, hint: str, own: Path, tmp_path: Path
) -> None:
    over(tmp_path, OWN.replace(*change))
    with refused(named, where=f"{tmp_path}/{line}", hint=hint):
        load_suite(own)


def test_bases_in_a_circle_are_refused(own: Path, tmp_path: Path) -> None:
    over(tmp_path, "base: own.yaml\n", "small.yaml")
    with refused("itself", where=f"{tmp_path / 'small.yaml'}:1", hint=f"{own} → {tmp_path / 'small.yaml'} → "):
        load_suite(own)


# --- paths ------------------------------------------------------------------------------------------------------------

DATA = """\
datasets:
  mine:
    root: videos
    lists: lists
    classes: classes.csv
    splits: {train: train.txt, test: {list: [test.txt]}}
"""


def test_paths_of_a_base_lead_where_they_led(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "bases"
    for name in ("videos", "lists"):
        (folder / name).mkdir(parents=True)
    for name in ("a.mp4", "b.mp4"):
        (folder / "videos" / name).write_bytes(name.encode())
    (folder / "classes.csv").write_text("id,name\n0,jump\n1,run\n")
    (folder / "train.txt").write_text("a.mp4 0\nb.mp4 1\n")
    (folder / "lists" / "test.txt").write_text("b.mp4 1\n")  # found in `lists`, before the declaring file's folder
    (folder / "test.txt").write_text("a.mp4 0\n")
    (folder / "words.txt").write_text("a clip of {}.\n")
    base = write_suite(
        folder,
        ("source: glyphs-narrow", "source: mine"),
        ("templates: glyphs", "templates: words.txt"),
        ("glyphs-narrow, split: validation", "mine, split: test"),
        ("rows:", f"{DATA}rows:"),
    )
    (tmp_path / "classes.csv").write_text("id,name\n0,other\n")  # of the same name, beside the suite over it
    plain = load_suite(base)
    suite = load_suite(over(tmp_path, "base: bases/small.yaml\n"))
    assert stages(suite) == stages(plain) and build_graph(suite).missing == build_graph(plain).missing
    assert suite.datasets["mine"].class_names("") == ("jump", "run") and suite.datasets["mine"].missing("test") is None
    beside = over(tmp_path, "base: bases/small.yaml\ndatasets: {mine: {classes: classes.csv}}\n")
    assert load_suite(beside).datasets["mine"].class_names("") == ("other",)  # its own path starts at its own folder
    (folder / "words.txt").unlink()
    with refused("bases/words.txt", where=f"{base}:"):
        load_suite(over(tmp_path, "base: bases/small.yaml\n"))


# --- copies -----------------------------------------------------------------------------------------------------------


def test_the_text_of_a_suite_needs_no_base(own: Path, tmp_path: Path) -> None:
    odd = 'base: small.yaml\ntitle: "1:30:00"\ndescription: "a: \\u00e9 # 010"\nrecipe: {lr: 1.0e-5, source: "010"}\n'
    file = over(tmp_path, odd)
    copy = tmp_path / "copies" / "own.yaml"
    copy.parent.mkdir()
    copy.write_bytes(suite_text(file))
    merged = merged_suite(file).data
    assert load_yaml(copy)[0] == {key: value for key, value in merged.items() if key != "base"}
    assert [*load_yaml(copy)[0]["rows"]] == [*merged["rows"]]
    assert suite_text(tmp_path / "small.yaml") == SMALL.encode()


def test_a_launch_and_remove_need_no_base(own: Path, tmp_path: Path) -> None:
    suite, store = load_suite(own), Store.create(tmp_path / "runs")
    about: LaunchData = {"suite": "own", "on": "local", "file": str(own.resolve()), "folder": "/", "overrides": []}
    launch = create(store, about, [], suite=own)
    launch.end("complete")
    expected = stages(suite)
    other = over(tmp_path, WHOLE, "whole.yaml")
    (tmp_path / "small.yaml").unlink()
    assert stages(load_suite(launch.suite_file, folder=tmp_path)) == expected
    found = needless(load_suite(other), other, build_graph(load_suite(other)), store)
    assert found == []  # the other launch needs the same, which its own copy tells
    rmtree(launch.folder)


def test_kept_results_follow_the_base(own: Path, tmp_path: Path) -> None:
    before = suite_text(own)
    write_suite(tmp_path, ("title: Small", "title: Other"))
    assert suite_text(own) != before and b"title: Other" in suite_text(own)


@pytest.mark.parametrize("path", [path for path in SUITES.glob("*.yaml") if "\nbase: " in path.read_text()])
def test_shipped_bases_are_shipped_suites_that_something_is_changed_of(path: Path) -> None:
    first, *_ = load_suite(path).bases
    assert first.split()[1].strip(":") in {other.stem for other in SUITES.glob("*.yaml")}
    assert "nothing" not in first
