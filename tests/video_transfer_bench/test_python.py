"""`import video_transfer_bench`: its public surface, its frames, its errors, and the notebook of docs/."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import video_transfer_bench as vtb
from tests.errors import refused
from tests.trained import Trained

ROOT = Path(__file__).parents[2]
SURFACE = {
    "Plan": "suite, stages, missing, device, device_hours, seconds, disk",
    "Results": "suite, store, results, predictions, costs, latencies, trainings",
    "Suite": "name, title, path, overrides, trials, notes",
    "load_model": "record, *, store=None, classes=None, templates=(), device='cpu', workers=0",
    "plan": "name, overrides=(), *, store=None, jobs=None, threads=1, workers=1, device_type=''",
    "results": "name, overrides=(), *, store=None",
    "run": "name, overrides=(), *, store=None, jobs=None, device='auto', threads=1, workers=1",
    "suite": "name, overrides=()",
}


def _surface(name: str) -> str:
    """Public attributes of a class, parameters and defaults of a function."""
    own = getattr(vtb, name)
    if is_dataclass(own):
        lazy = [key for key, value in vars(own).items() if hasattr(value, "func")]
        return ", ".join(key for key in [*(field.name for field in fields(own)), *lazy] if not key.startswith("_"))
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in inspect.signature(own).parameters.values()]
    return str(inspect.Signature(bare))[1:-1]


def test_the_public_surface_changes_only_on_purpose() -> None:
    assert sorted(vtb.__all__) == sorted([*SURFACE, "UserError", "__version__"])
    assert {name: _surface(name) for name in SURFACE} == SURFACE
    assert all(getattr(vtb, name).__doc__ for name in SURFACE)


def test_importing_it_and_planning_import_no_torch(tmp_path: Path) -> None:
    code = f"import sys, video_transfer_bench as vtb; vtb.plan('quickstart', store={str(tmp_path)!r}); "
    run = subprocess.run(
        [sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"], cwd=ROOT, capture_output=True
    )
    assert run.returncode == 0, run.stderr


def test_overrides_are_a_mapping_or_texts() -> None:
    given = {"recipe.epochs": 5, "recipe.lr": 1e-6, "seeds": [0, 1], "rows.dense.label": "no: 1"}
    texts = vtb.suite("quickstart", given).overrides
    assert [yaml.safe_load(text.partition("=")[2]) for text in texts] == [*given.values()]
    assert vtb.suite("quickstart", texts).trials.equals(vtb.suite(vtb.suite("quickstart", given)).trials)


def test_mistakes_raise(tmp_path: Path) -> None:
    with refused("quickstrat", hint="quickstart"):
        vtb.suite("quickstrat")
    with refused(where=str(tmp_path / "none")):
        vtb.results("quickstart", store=tmp_path / "none")
    with refused("0", where="override recipe.epochs=0"):
        vtb.plan("quickstart", {"recipe.epochs": 0}, store=tmp_path)
    with refused(where="recipe.epochs=5", hint="['recipe.epochs=5']"):
        vtb.suite("quickstart", "recipe.epochs=5")


def test_a_plan_has_every_stage_with_its_state(trained: Trained) -> None:
    made = vtb.plan(trained.suite, store=trained.store)
    assert set(made.stages["state"]) == {"cached"} and made.device_hours == 0
    other = vtb.plan(trained.suite, {"seeds": [7]}, store=trained.store)
    to_run = other.stages[other.stages["state"] == "to run"]
    assert set(to_run["kind"]) == {"train", "encode", "evaluate"} and (to_run["seconds"] > 0).all()
    assert other.device_hours > 0 and other.disk > 0 and other.suite.trials["seed"].tolist() == [7] * 5


def test_frames_of_a_finished_suite(trained: Trained) -> None:
    found = vtb.results(trained.suite, store=trained.store)
    assert len(found.results) == 10 and found.results["lr"].tolist()[2] == 0.001
    assert all(found.results[name].dtype == "float64" for name in ("top1", "top5", "mean_class"))
    joined = found.predictions.groupby("identity")["correct"].mean() * 100
    assert joined.to_dict() == pytest.approx(found.results.set_index("identity")["top1"].to_dict())
    assert set(found.predictions["class"]) == {"star rising", "star falling", "moon rising"}
    assert found.trainings["row"].tolist() == ["dense", "dense", "tuned", "more"]
    assert (found.trainings["seconds"] > 0).all()
    assert found.costs.empty and "backbone" in found.costs and found.latencies.empty


@pytest.mark.parametrize(
    ("options", "said", "where"),
    [
        ({"classes": []}, "lists no classes", "classes"),
        ({"classes": ["a flag", "a king", "a flag"]}, "'a flag' appears twice", "classes"),
        (
            {"classes": ["a", "b"], "templates": "a video of {}."},
            "expected a list of patterns",
            "templates=a video of {}.",
        ),
        ({"device": "tpu"}, "unknown device 'tpu'", "device=tpu"),
    ],
)
def test_what_no_model_can_be_asked_is_refused(trained: Trained, options: Any, said: str, where: str) -> None:
    line = vtb.results(trained.suite, store=trained.store).results.iloc[0]
    with refused(said, where=where):
        vtb.load_model(line, store=trained.store, **options)


def test_results_without_records_are_gaps(trained: Trained, tmp_path: Path) -> None:
    found = vtb.results(trained.suite, store=tmp_path)
    assert found.results["top1"].isna().all() and (found.results["identity"] == "").all()
    assert found.predictions.empty and "video" in found.predictions


def test_the_costs_of_a_profile_are_frames() -> None:
    from reports.frames import cost_frame, latency_frame
    from tests.reports.costly import costly

    results = costly()
    assert (cost_frame(results)["parameters_total"] > 0).all() and len(latency_frame(results))


def test_the_notebook_runs(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((ROOT / "docs" / "results.ipynb").read_text())
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    monkeypatch.setenv("VTB_SUITE", str(trained.suite))
    monkeypatch.setenv("VTB_STORE", str(trained.store))
    names: dict[str, object] = {}
    for cell in code:
        exec(cell, names)
    assert isinstance(names["rows"], pd.DataFrame) and len(names["rows"]) == 10


def test_a_kept_frame_holds_until_what_it_is_made_of_changes(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import reports.collect

    shutil.copytree(trained.suite.parent, tmp_path / "own", symlinks=True)
    monkeypatch.setenv("VTB_CACHE", str(tmp_path / "cache"))
    suite, store, calls = tmp_path / "own" / "tiny.yaml", tmp_path / "own" / "runs", list[str]()
    collect = reports.collect.collect

    def counted(*arguments: Any) -> Any:
        calls.append("collected")
        return collect(*arguments)

    monkeypatch.setattr(reports.collect, "collect", counted)
    first, again = (vtb.results(suite, store=store).results for _ in range(2))
    assert len(calls) == 1 and again.equals(first) and again.dtypes.equals(first.dtypes)
    assert vtb.results(suite, ["report.reference=dense"], store=store).results.equals(first) and len(calls) == 2
    suite.write_text(suite.read_text().replace("label: Plain", "label: Simple"))
    assert vtb.results(suite, store=store).results["label"][0] == "Simple" and len(calls) == 3
    record = store / "records" / "evaluate" / first["identity"][0]
    shutil.rmtree(record)
    assert vtb.results(suite, store=store).results["top1"].isna().tolist()[:2] == [True, False] and len(calls) == 4
    damaged = store / "records" / "evaluate" / first["identity"][1] / "predictions.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    for count in (5, 6):  # each call warns of a damaged record, so nothing is kept
        assert vtb.results(suite, store=store).results["top1"].isna().tolist()[:3] == [True, True, False]
        assert len(calls) == count
