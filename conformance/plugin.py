"""A pytest plugin that runs the contract tests over registered methods.

    python -m pytest -p conformance.plugin --plugin PACKAGE --method NAME --pyargs conformance

`--method` and `--plugin` may be repeated. Without `--method`, every registered method is tested; a package that is not
installed needs `--plugin`, as in a run. `--variants one` tests the defaults and one variant of each method.
"""

from __future__ import annotations

import pytest

TESTS = "conformance.test_contract"

pytest.register_assert_rewrite(TESTS)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--method", action="append", default=[], help="a registered method; default: all of them")
    parser.addoption("--plugin", action="append", default=[], help="a package of a method, which need not be installed")
    parser.addoption("--variants", choices=("all", "one"), default="all", help="variants of each method; default: all")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every contract test its cases; tests marked `trained` skip methods with nothing to train."""
    if metafunc.function.__module__ == TESTS and "case" in metafunc.fixturenames:
        from conformance.cases import cases

        variants = 1 if metafunc.config.getoption("--variants") == "one" else None
        found = cases(metafunc.config.getoption("--method"), variants)
        if metafunc.definition.get_closest_marker("trained"):
            found = [case for case in found if case.config.trains]
        metafunc.parametrize("case", found, ids=str)


def pytest_configure(config: pytest.Config) -> None:
    if packages := config.getoption("--plugin"):
        from methods.registry import use_plugins

        use_plugins(packages)
    config.addinivalue_line("markers", "trained: a contract test of methods that train")
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
