"""The size that the core and the product may have."""

from __future__ import annotations

from tools.lines import CORE_LIMIT, PRODUCT_LIMIT, core, product


def test_the_core_can_be_read_in_an_afternoon() -> None:
    assert core() <= CORE_LIMIT


def test_growth_is_methods_and_promises() -> None:
    assert product() <= PRODUCT_LIMIT
