"""`predict`: the best classes of files, which result is taken, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.commands.app import main
from tests.errors import says
from tests.trained import Trained

Predict = Callable[..., tuple[int, str, str]]  # arguments -> exit code, output, errors


@pytest.fixture
def predict(trained: Trained, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Predict:
    monkeypatch.setenv("COLUMNS", "200")
    fixed = ["--suite", str(trained.suite), "--store", str(trained.store), "--device", "cpu", "--workers", "0"]

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return main(["predict", *arguments, *fixed]), *capsys.readouterr()

    return run


def test_the_best_classes_of_files(predict: Predict, trained: Trained) -> None:
    videos = [str(trained.suite.parent / f"test/{n}.mp4") for n in range(2)]
    code, said, _ = predict(*videos, "--row", "dense", "--top", "2")
    assert code == 0
    says(
        said,
        "dense lr=0.001 seed 0 on closed",
        "the first of 4 results that fit",
        *videos,
        "star rising",
        "star falling",
    )
    assert "moon rising" not in said


def test_a_trial_a_protocol_and_other_classes(predict: Predict, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("sun [b]setting\nmoon rising\n")
    video, own = str(trained.suite.parent / "test/0.mp4"), ["--classes", str(tmp_path / "own.txt")]
    code, said, _ = predict(video, "--row", "dense lr=0.002", "--protocol", "other", *own)
    assert code == 0
    says(said, "dense lr=0.002 seed 0 on other", "sun [b]setting", "moon rising")
    assert "that fit" not in said and "star" not in said


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--row", "denze"], ["--row", "denze", "did you mean 'dense'"]),
        (["--row", "dense", "--protocol", "close"], ["--protocol", "did you mean 'closed'"]),
        (["--row", "dense", "--override", "seeds=[5]"], ["no record yet", "run", "seeds=[5]"]),
        (["--row", "dense", "--classes", "/none.txt"], ["/none.txt"]),
        (["--row", "dense"], ["gone.mp4", "No such file"]),
    ],
)
def test_mistakes(arguments: list[str], named: list[str], predict: Predict) -> None:
    code, _, errors = predict("gone.mp4", *arguments)
    assert code == 2
    says(errors, *named)
