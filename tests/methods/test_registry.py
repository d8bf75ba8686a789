"""Names of methods, and that planning with them needs no torch."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from bench.commands.app import main
from bench.core.errors import UserError
from methods import registry
from methods.registry import BUILT_IN, PLUGINS, Method, method, methods
from methods.settings import Config, Inference
from tests.errors import says
from tests.suites import write_suite


def test_an_unknown_name_says_which_was_meant() -> None:
    with pytest.raises(UserError) as error:
        method("mot", where="suite.yaml:3")
    assert error.value.hint == "did you mean 'mote'?"
    assert error.value.allowed == sorted(methods())
    assert "suite.yaml:3" in str(error.value)


@pytest.mark.parametrize("name", methods())
def test_a_method_declares_itself(name: str) -> None:
    chosen = method(name)
    assert issubclass(chosen.config, Config)
    assert issubclass(chosen.inference, Inference)
    assert len(chosen.summary) > 20


@pytest.mark.parametrize("name", methods())
def test_every_choice_has_a_meaning_and_a_default(name: str) -> None:
    fields = method(name).config.model_fields | method(name).inference.model_fields
    assert not [key for key, field in fields.items() if field.is_required() or not field.description]


def test_declarations_import_no_torch() -> None:
    reads_all = (
        "import sys; from methods.registry import methods; "
        "[(m.config, m.inference, m.summary) for m in methods().values()]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", reads_all], check=False).returncode == 0


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_field_says_its_meaning_and_ends_with_its_source_in_brackets(name: str) -> None:
    for model in (method(name).config, method(name).inference):
        for field, info in model.model_fields.items():
            assert re.fullmatch(r"(?s).+\s\(.+\)", info.description or ""), f"{name}: {model.__name__}.{field}"


def test_other_packages_register_methods_but_replace_none(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint(name, f"theirs.{name}", registry.ENTRY_POINTS) for name in ("novel", "mote")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    registry.methods.cache_clear()
    try:
        assert method("novel") == Method("novel", "theirs.novel")
        assert method("mote").package == BUILT_IN["mote"]
    finally:
        registry.methods.cache_clear()


def test_a_package_can_be_named_as_a_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "docs/method_template"))
    monkeypatch.setenv(PLUGINS, "attention_pool")
    methods.cache_clear()
    try:
        assert method("attention_pool").config().model_dump()["temperature"] == 1.0
    finally:
        methods.cache_clear()


@pytest.mark.parametrize("package", ["nowhere", "nowhere.method", "bench.stages", ".", "./plugin.py", "a b"])
def test_a_plugin_that_is_no_method_says_what_is_missing(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLUGINS, package)
    methods.cache_clear()
    try:
        with pytest.raises(UserError, match=rf"plugin {package}: there is no module {package}"):
            methods()
    finally:
        methods.cache_clear()


GOOD = '"""A method."""\nfrom methods.settings import Config, Inference\n__all__ = ["Config", "Inference"]\n'
BROKEN = {
    "raises": ("config.py", "x = 1\nraise RuntimeError('boom')\n", "config.py:2", "RuntimeError: boom"),
    "exits": ("config.py", "import sys\n\nsys.exit(3)\n", "config.py:3", "SystemExit: 3"),
    "misspelt": ("config.py", "x = 1\ndef (:\n", "config.py:2", "SyntaxError"),
    "without_classes": ("config.py", "x = 1\n", "config.py", "Config"),
    "raises_above": ("__init__.py", "\n1 / 0\n", "__init__.py:2", "ZeroDivisionError"),
    "lacks_a_package": ("__init__.py", "import no_such_package\n", "__init__.py:1", "no_such_package"),
    "misspelt_model": ("model.py", "x = 1\n\ndef (:\n", "model.py:3", "invalid syntax"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_named_with_file_and_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, code, place, reason = BROKEN[name]
    package = tmp_path / name
    package.mkdir()
    for file, text in {"__init__.py": "", "config.py": GOOD, "model.py": "", broken: code}.items():
        (package / file).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(PLUGINS, "")
    suite = write_suite(tmp_path, ("method: dense_temporal, config: {layers: 1}", f"method: {name}"))
    try:
        assert main(["plan", str(suite), "--plugin", name, "--store", str(tmp_path / "runs")]) == 2
    finally:
        methods.cache_clear()
    says(capsys.readouterr().err, package / place.partition(":")[0], place, reason)
