import hashlib
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from bench.data import manifest
from bench.data.manifest import Manifest


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VTB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b c [1].mp4"):
        (tmp_path / "videos" / name).write_text(name)
    return tmp_path / "videos"


def sha256(data: str) -> str:
    return hashlib.sha256(data.encode()).hexdigest()


def test_facts_hold_while_size_and_time_do(root: Path) -> None:
    first = Manifest("mine", root)
    assert first.facts("a.mp4") is None
    first.learn("a.mp4", frames=12)
    assert first.sha256("a.mp4") == sha256("a.mp4")
    first.learn("a.mp4", decodes=True)
    for known in (first, Manifest("mine", root)):
        assert known.facts("a.mp4") == {"frames": 12, "sha256": sha256("a.mp4"), "decodes": True}
    os.utime(root / "a.mp4", (1, 1))
    for known in (first, Manifest("mine", root)):
        assert known.facts("a.mp4") is None
    first.learn("a.mp4", frames=13)
    assert Manifest("mine", root).facts("a.mp4") == {"frames": 13}


def test_what_is_not_there_has_no_facts(root: Path) -> None:
    known = Manifest("mine", root)
    known.learn("none.mp4", frames=1)
    assert known.facts("none.mp4") is None and known.sha256("none.mp4") is None and not known.file.exists()
    assert known.hashes(["none.mp4", "a.mp4"]) == {"none.mp4": None, "a.mp4": sha256("a.mp4")}


def test_roots_and_datasets_do_not_share_facts(root: Path, tmp_path: Path) -> None:
    Manifest("mine", root).learn("a.mp4", frames=1)
    (tmp_path / "link").symlink_to(root)
    assert Manifest("mine", tmp_path / "link").facts("a.mp4") == {"frames": 1}
    assert Manifest("other", root).facts("a.mp4") is None
    assert Manifest("mine", tmp_path).facts("videos/a.mp4") is None


def test_a_line_that_was_cut_spoils_no_other(root: Path) -> None:
    known = Manifest("mine", root)
    known.learn("a.mp4", frames=1)
    with open(known.file, "ab") as file:
        file.write(b'\n{"path": "b c [1].mp4", "sta')
    again = Manifest("mine", root)
    assert again.facts("a.mp4") == {"frames": 1} and again.facts("b c [1].mp4") is None
    again.learn("b c [1].mp4", frames=2)
    assert Manifest("mine", root).facts("b c [1].mp4") == {"frames": 2}
    with open(known.file, "ab") as file:
        file.write(b'\n\xff\xfe\n[1]\n{"path": 1}\n3')
    assert Manifest("mine", root).facts("a.mp4") == {"frames": 1}


def _learn(arguments: tuple[Path, int]) -> None:
    root, writer = arguments
    known = Manifest("mine", root)
    for number in range(50):
        known.learn("a.mp4", **{f"fact-{writer}-{number}": "x" * 200})


def test_processes_write_at_once(root: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(_learn, [(root, writer) for writer in range(4)]))
    assert len(Manifest("mine", root).facts("a.mp4") or {}) == 200


def test_a_folder_of_frames_is_hashed_with_its_names(root: Path) -> None:
    for name in ("one", "two"):
        (root / name).mkdir()
        (root / name / "img_1.jpg").write_text("1")
        (root / name / ("img_2.jpg" if name == "one" else "img_3.jpg")).write_text("2")
    known = Manifest("mine", root)
    base = known.sha256("one")
    assert base and base != known.sha256("two")
    (root / "one" / "img_9.jpg").write_text("9")
    assert known.sha256("one") != base
    (root / "one" / "img_9.jpg").unlink()
    assert known.sha256("one") == base


def test_an_interruption_keeps_what_was_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "THREADS", 1)

    def stop(done: int, total: int) -> None:
        assert (done, total) == (1, 2)
        raise KeyboardInterrupt

    known = Manifest("mine", root)
    with pytest.raises(KeyboardInterrupt):
        known.hashes(["a.mp4", "b c [1].mp4"], stop)
    told: list[tuple[int, int]] = []
    assert Manifest("mine", root).facts("a.mp4") == {"sha256": sha256("a.mp4")}
    assert len(Manifest("mine", root).hashes(["a.mp4", "b c [1].mp4"], lambda *counts: told.append(counts))) == 2
    assert len(told) <= 1


def test_a_file_that_changes_while_it_is_read_is_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Manifest("mine", root)
    read = manifest._sha256

    def changing(path: Path) -> str:
        result = read(path)
        os.utime(path, (2, 2))
        return result

    monkeypatch.setattr(manifest, "_sha256", changing)
    assert known.sha256("a.mp4") == sha256("a.mp4") and known.facts("a.mp4") is None
