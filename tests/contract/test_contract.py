"""The contract that every registered method keeps."""

from methods.conformance.test_contract import *  # noqa: F403
