"""Identities: what changes them and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.core import identity
from bench.core.identity import digest, read_sources_again, source_fingerprint, source_hashes

SETTINGS = "from pydantic import BaseModel\n\nclass A(BaseModel):\n    b: int\n    {}\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two modules, one importing the other."""
    folder = tmp_path / "sample_method"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "inner.py").write_text("VALUE = 1\n")
    (folder / "outer.py").write_text("from sample_method.inner import VALUE\n\n\ndef f():\n    return VALUE\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def fingerprint() -> str:
    read_sources_again()
    return source_fingerprint("sample_method.outer")


def test_comments_docstrings_and_formatting_do_not_count(package: Path) -> None:
    before = fingerprint()
    (package / "outer.py").write_text(
        '"""About."""\nfrom sample_method.inner import VALUE  # why\n\ndef f():\n    """Does."""\n    return (VALUE)\n'
    )
    assert fingerprint() == before


def test_what_only_type_checkers_see_does_not_count(package: Path) -> None:
    before = fingerprint()
    (package / "outer.py").write_text(
        "from sample_method.inner import VALUE\nif TYPE_CHECKING:\n    import bench.graph.build\n\n\n"
        "def f():\n    return VALUE\n"
    )
    assert fingerprint() == before


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("from .inner import VALUE", "from .inner import VALUE as OTHER"),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    A = 1", "if TYPE_CHECKING:\n    pass\nelse:\n    A = 2"),
        ("VARIANTS = {1: 2}", "VARIANTS = {1: 3}"),
        (SETTINGS.format("a: typing.ClassVar[int] = 1"), SETTINGS.format("a: typing.ClassVar[int] = 2")),
        (SETTINGS.format("_a: int = 1"), SETTINGS.format("_a: int = 2")),
    ],
)
def test_what_is_neither_setting_nor_typing_counts(package: Path, line: str, other: str) -> None:
    (package / "outer.py").write_text(line)
    before = fingerprint()
    (package / "outer.py").write_text(other)
    assert fingerprint() != before


def test_a_relative_import_counts(package: Path) -> None:
    (package / "outer.py").write_text("from . import inner\n")
    before = fingerprint()
    (package / "inner.py").write_text("VALUE = 2\n")
    assert fingerprint() != before


@pytest.mark.parametrize(
    ("file", "old", "new"), [("outer.py", "return VALUE", "return VALUE + 1"), ("inner.py", "VALUE = 1", "VALUE = 2")]
)
def test_code_counts_also_of_imported_modules(package: Path, file: str, old: str, new: str) -> None:
    before = fingerprint()
    (package / file).write_text((package / file).read_text().replace(old, new))
    assert fingerprint() != before


def test_the_hashes_of_modules_make_up_the_fingerprint(package: Path) -> None:
    whole, before = fingerprint(), source_hashes("sample_method.outer")
    assert set(before) == {"sample_method.inner", "sample_method.outer"}
    assert digest(before) == whole
    (package / "inner.py").write_text("VALUE = 2\n")
    fingerprint()
    after = source_hashes("sample_method.outer")
    assert {name for name in after if after[name] != before[name]} == {"sample_method.inner"}


def test_what_was_parsed_is_kept_for_other_processes_and_damage_of_it_does_no_harm(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def anew() -> str:
        """As another process finds it."""
        for each in (identity._counted, identity._classes):
            each.cache_clear()
        return fingerprint()

    monkeypatch.setenv("VTB_CACHE", str(tmp_path / "cache"))
    before = anew()
    kept = sorted((tmp_path / "cache/sources").iterdir())
    assert len(kept) >= 4  # two of each module
    for text in ("", "{", "3", "\xe9"):
        for file in kept:
            file.write_text(text, encoding="latin-1")
        assert anew() == before and sorted((tmp_path / "cache/sources").iterdir()) == kept
    with monkeypatch.context() as only_kept:
        only_kept.setattr(identity.ast, "parse", None)
        assert anew() == before
    (tmp_path / "file").touch()
    monkeypatch.setenv("VTB_CACHE", str(tmp_path / "file"))
    assert anew() == before
    monkeypatch.setenv("VTB_CACHE", str(tmp_path / "cache"))
    (package / "inner.py").write_text("VALUE = 2\n")
    assert anew() != before


PLANNING = (
    "reports",
    "bench.suite.resolve",
    "bench.graph.build",
    "bench.launch",
    "bench.store.records",
    "bench.commands.app",
    "bench.launch.work",
)


def test_stages_do_not_depend_on_planning_and_reports() -> None:
    """Editing a report or a suite's expansion must not invalidate a training."""
    todo, seen = ["bench.stages.train"], set()
    while todo:
        name = todo.pop()
        file = identity._file(name)
        if file and name not in seen:
            seen.add(name)
            todo += [
                other for other in identity._parse(name, file)[1] if other.startswith(("bench", "methods", "reports"))
            ]
    assert "bench.models.clip" in seen
    assert not {name for name in seen if name.startswith(PLANNING)}


def test_digest_ignores_key_order_and_is_pinned() -> None:
    assert digest({"a": 1, "b": [1.5, None]}) == digest({"b": [1.5, None], "a": 1})
    assert digest({"a": 1, "b": [1.5, None]}) == "993a7a2ceb877d40fc4b026f38d1b9d5"
    assert digest({"a": 1}) != digest({"a": 1.0})
