"""Carriers under test: one servicer, one stub, three ways in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from echo_carriers import Carrier


@pytest.fixture(params=["grpc", "lane", "loopback"])
async def carrier(request: pytest.FixtureRequest) -> AsyncIterator[Carrier]:
    made = Carrier(request.param)
    yield made
    await made.close()
    # Nothing of a carrier outlives it.
    for _ in range(3):
        await asyncio.sleep(0)
    assert made.servicer.running == 0


@pytest.fixture(params=["lane", "loopback"])
async def lane_carrier(request: pytest.FixtureRequest) -> AsyncIterator[Carrier]:
    made = Carrier(request.param)
    yield made
    await made.close()
