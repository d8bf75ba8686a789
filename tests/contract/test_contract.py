"""The contract that every registered method keeps."""

from conformance.test_contract import *  # noqa: F403
