"""Single fetches: both formats are read, and records beyond the high watermark of their own answer are found."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from logcluster.check.history import Recorder
from logcluster.check.payload import encode
from logcluster.model.errors import OffsetOutOfRange
from logcluster.record.builder import build_batch
from logcluster.record.header import stamp
from logcluster.sim.workload.books import Books, Speaker
from logcluster.sim.workload.options import TopicOptions
from logcluster.sim.workload.peek import peek
from logcluster.wire.gen.logcluster.v1 import data_pb2 as pb
from logcluster.wire.status import error_detail

BASE_OFFSET = 100


def answer(*, typed: bool, high_watermark: int) -> pb.FetchResponse:
    response = pb.FetchResponse()
    partition = response.partitions.add(topic="t", partition=0, high_watermark=high_watermark)
    if typed:
        partition.records.add(offset=BASE_OFFSET, value=encode("v-0"), timestamp_ms=1)
        partition.records.add(offset=BASE_OFFSET + 1, value=encode("v-1"), timestamp_ms=1)
    else:
        batch = build_batch([(1, None, encode("v-0"), []), (1, None, encode("v-1"), [])])
        partition.batches = stamp(batch, base_offset=BASE_OFFSET, leader_epoch=0)
    return response


async def ask(response: pb.FetchResponse, *, seed: int = 1, known_offset: int = 0) -> tuple[str | None, Books]:
    books = Books(Recorder(lambda: 0))
    books.add_topic(TopicOptions(name="t", partitions=1, config={}))
    if known_offset:
        books.note_acked("t", 0, known_offset)

    async def fetch(_request: object, *, timeout: float) -> Any:
        return response

    stubs: Any = SimpleNamespace(data=SimpleNamespace(Fetch=fetch))
    state = books.key_state("t", 0)
    problem = await peek(stubs, state, books, Speaker(books, "c"), random.Random(seed), timeout_ms=100)
    return problem, books


@pytest.mark.parametrize("typed", [True, False])
async def test_committed_records_are_a_poll(*, typed: bool) -> None:
    problem, books = await ask(answer(typed=typed, high_watermark=BASE_OFFSET + 2))
    assert problem is None
    assert books.recorder.events[-1].value == {"t-0": [[BASE_OFFSET, "v-0"], [BASE_OFFSET + 1, "v-1"]]}


@pytest.mark.parametrize("typed", [True, False])
async def test_uncommitted_records_are_found(*, typed: bool) -> None:
    problem, _ = await ask(answer(typed=typed, high_watermark=BASE_OFFSET + 1))
    assert problem == "t-0: offsets [101] with the high watermark at 101"


async def test_records_before_the_offset_asked_for_are_the_rest_of_a_batch() -> None:
    problem, books = await ask(answer(typed=False, high_watermark=1), known_offset=BASE_OFFSET * 2)
    assert problem is None
    assert books.recorder.events[-1].value == {}


async def test_a_refused_fetch_is_a_failed_poll() -> None:
    response = pb.FetchResponse()
    response.partitions.add(topic="t", partition=0).error.CopyFrom(error_detail(OffsetOutOfRange()))
    problem, books = await ask(response)
    assert problem is None
    assert books.recorder.events[-1].type == "fail"
