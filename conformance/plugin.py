"""A pytest plugin that runs the contract tests over registered methods.

    python -m pytest -p conformance.plugin --method NAME --pyargs conformance

`--method` may be repeated; without it, every registered method is tested.
"""

from __future__ import annotations

import pytest

TESTS = "conformance.test_contract"

pytest.register_assert_rewrite(TESTS)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--method", action="append", default=[], help="a registered method; default: all of them")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every contract test its cases; tests marked `trained` skip methods with nothing to train."""
    if metafunc.function.__module__ == TESTS and "case" in metafunc.fixturenames:
        from conformance.cases import cases

        found = cases(metafunc.config.getoption("--method"))
        if metafunc.definition.get_closest_marker("trained"):
            found = [case for case in found if case.config.trains]
        metafunc.parametrize("case", found, ids=str)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "trained: a contract test of methods that train")
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
