"""The suites of papers run to a report in the embedded world; only epochs and seeds are fewer.

Where towers learn, or have modules inside, every step decodes and encodes: the shortest suite of such a method stands
for all. Tables 3 to 5 of MoTE, which have rows of most methods, and AdaptFormer's only suite take too long.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.commands.app import main
from bench.commands.reporting import report_name
from bench.suite.resolve import SUITES, load_suite

SHORTEST = (
    *("msta-base-to-novel-hmdb51", "vificlip-prompts", "actionclip-kinetics", "open-vclip-base-to-novel"),
    *("froster-base-to-novel", "taco-zero-shot", "st-adapter-supervised", "aim-kinetics", "xclip-kinetics"),
    *("vita-clip-texts", "ost-shots", "bike-kinetics", "tc-clip-shots"),
)
PAPERS = ("mote-*", "vidprism-*", "text4vis-*", *SHORTEST)
LONG = ("mote-table3", "mote-table4", "mote-table5")
FOUND = [path.stem for paper in PAPERS for path in sorted(SUITES.glob(f"{paper}.yaml"))]
NAMES = [name for name in FOUND if name not in LONG]
FEWER = ("world=glyphs", "recipe.epochs=1", "recipe.warmup_epochs=0.2", "recipe.views.copies=1", "seeds=[0]")

pytestmark = [pytest.mark.suites, pytest.mark.usefixtures("users_cache")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: suites share each other's work."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_to_a_report_with_every_row_and_column(name: str, store: Path) -> None:
    assert main([name, *FEWER, "--store", str(store), "--jobs", "0", "--workers", "0", "--device", "cpu"]) == 0
    suite = load_suite(SUITES / f"{name}.yaml", FEWER)
    report = store / "reports" / report_name(suite)
    assert report.name.startswith(f"{name}-")  # the plain suite's report is another one
    assert (report / "report.html").is_file()
    lines = pd.read_csv(report / "results.csv")
    plain = lines[lines["expert"].isna()]
    measured = plain.drop_duplicates(["row", "point", "seed", "protocol"])  # draws of classes have a line each
    assert len(measured) == sum(len(trial.protocols) for trial in suite.trials)
    assert lines["top1"].notna().all()
    assert set(plain["row"]) == set(suite.file.rows) and set(plain["protocol"]) == set(suite.file.protocols)
    table = pd.read_csv(report / "table.csv")
    assert len(table) == len(plain.groupby(["row", "point"], dropna=False))
