"""One cluster of real processes for the tests that harm nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from e2e_support import Raw

from logcluster.testing import Cluster, SyncCluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[SyncCluster]:
    """Three brokers, shared by all tests of the session: tests use topics of their own and kill nobody."""
    with Cluster.sync(brokers=3) as running:
        yield running


@pytest.fixture
async def raw(cluster: SyncCluster) -> AsyncIterator[Raw]:
    calls = Raw(cluster.bootstrap)
    yield calls
    await calls.close()
