"""The accumulator against a broker's rules: whatever is lost, delayed, doubled or refused, order and uniqueness hold.

Requests and answers travel separately and may be lost; a copy of a request whose answer was lost may arrive later.
"""

from __future__ import annotations

import contextlib

from hypothesis import given, settings, strategies as st

from logcluster.client.accumulator import Accumulator, AccumulatorOptions
from logcluster.client.batch import Batch
from logcluster.model import errors
from logcluster.record.batch import decode_records, read_header
from logcluster.record.compression import Compression

ACTIONS = ["append", "send", "deliver", "lose request", "lose answer", "refuse", "unavailable", "late copy", "wait"]


class ModelLog:
    """A broker's sequence rules for one producer."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.epoch: int | None = None
        self.recent: list[tuple[int, int, int]] = []

    def append(self, payload: bytes) -> int:
        header = read_header(payload)
        assert header.producer_id >= 0
        if self.epoch is not None:
            if header.producer_epoch == self.epoch:
                for first, last, offset in self.recent:
                    if (first, last) == (header.base_sequence, header.last_sequence):
                        return offset
            if header.producer_epoch < self.epoch:
                raise errors.InvalidProducerEpoch()
            expected = 0 if header.producer_epoch > self.epoch else self.recent[-1][1] + 1
            if header.base_sequence != expected:
                raise errors.OutOfOrderSequenceNumber()
            if header.producer_epoch > self.epoch:
                self.recent = []
        self.epoch = header.producer_epoch
        offset = len(self.values)
        self.values += [record.value or b"" for record in decode_records(payload)]
        self.recent = [*self.recent, (header.base_sequence, header.last_sequence, offset)][-5:]
        return offset


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 4)), min_size=10, max_size=120),
    st.integers(1, 5),
)
def test_order_and_uniqueness_hold_whatever_happens(script: list[tuple[str, int]], max_in_flight: int) -> None:
    accumulator = Accumulator(
        AccumulatorOptions(
            batch_size_bytes=200,
            buffer_size_bytes=1 << 20,
            linger_ms=0,
            delivery_timeout_ms=400,
            max_in_flight=max_in_flight,
            compression=Compression.NONE,
            is_idempotent=True,
        )
    )
    accumulator.set_identity(1, 0)
    queue = accumulator.queue("t", 0)
    log = ModelLog()
    flying: list[tuple[Batch, bytes]] = []
    late: list[bytes] = []
    batches: list[tuple[Batch, list[bytes]]] = []
    written = 0
    now_ms = 0

    def append() -> None:
        nonlocal written
        value = str(written).encode()
        written += 1
        batch = queue.open_batch
        if batch is None or not batch.append(1, None, value, ()):
            batch = queue.begin_batch(now_ms)
            assert batch.append(1, None, value, ())
            batches.append((batch, []))
        batches[-1][1].append(value)

    def deliver(batch: Batch, payload: bytes) -> None:
        try:
            offset = log.append(payload)
        except errors.LogClusterError as error:
            queue.fail_attempt(batch, error, now_ms=now_ms, backoff_ms=1)
        else:
            queue.succeed(batch, base_offset=offset)

    def step(action: str, index: int) -> None:
        nonlocal now_ms
        now_ms += 1
        queue.expire(now_ms)
        if action == "append":
            append()
        elif action == "send":
            batch = queue.take(now_ms, leader_epoch=0)
            if batch is not None:
                flying.append((batch, batch.payload()))
        elif action == "wait":
            now_ms += 20
        elif action == "late copy":
            # Only copies of the present epoch: a later epoch fences the others, as on a broker.
            if late:
                with contextlib.suppress(errors.LogClusterError):
                    log.append(late.pop(index % len(late)))
        elif flying:
            batch, payload = flying.pop(index % len(flying))
            if action == "deliver":
                deliver(batch, payload)
            elif action == "lose request":
                queue.fail_attempt(batch, errors.Disconnected(), now_ms=now_ms, backoff_ms=1)
            elif action == "lose answer":
                with contextlib.suppress(errors.LogClusterError):
                    log.append(payload)
                queue.fail_attempt(batch, errors.Disconnected(), now_ms=now_ms, backoff_ms=1)
                late.append(payload)
            elif action == "refuse":
                queue.fail_attempt(batch, errors.MessageTooLarge(), now_ms=now_ms, backoff_ms=1)
            elif action == "unavailable":
                queue.fail_attempt(batch, errors.NotEnoughReplicas(), now_ms=now_ms, backoff_ms=1)
        queue.check()

    for action, index in script:
        step(action, index)
    queue.close_batch()
    for _ in range(2000):
        if queue.is_idle:
            break
        step("deliver" if flying else "send", 0)
        step("send", 0)
    assert queue.is_idle, "everything gets an outcome once the broker answers"

    # Nothing twice, everything in the order it was sent.
    numbers = [int(value) for value in log.values]
    assert len(set(numbers)) == len(numbers)
    assert numbers == sorted(numbers)
    # Acknowledged is there, at the offset told; refused for certain is not.
    for whole, values in batches:
        for index, value in enumerate(values):
            batch, place = whole.leaf(index)
            assert batch.is_done
            if batch.error is None:
                assert log.values[batch.base_offset + place] == value
            elif batch.error.definite:
                assert value not in log.values
