"""The cluster of the tests marked `slurm`; they are skipped where there is none."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.integration.cluster import Cluster
from tests.videos import write_tiny_dataset


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if "SLURM_CONF" not in os.environ:
        pytest.skip("no Slurm: SLURM_CONF is not set")
    found = Cluster(tmp_path_factory.mktemp("cluster"))
    write_tiny_dataset(found.folder)
    yield found
    found.cancel()
