"""Quiet for the tests of the simulator: what nodes log while faults strike is not part of a test's report."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def quiet_nodes() -> Iterator[None]:
    """Keep the product's loggers silent for the time of a test, and only then: other tests read what they say."""
    logger = logging.getLogger("logcluster")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)
