"""Producer state against a model that keeps everything for ever."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from logcluster.core.replication.producer_state import ProducerStates
from logcluster.model.errors import InvalidProducerEpoch, OutOfOrderSequenceNumber
from logcluster.model.limits import PRODUCER_BATCHES_REMEMBERED, SEQUENCE_MAX

MODULUS = SEQUENCE_MAX + 1

attempt = st.tuples(
    st.integers(0, 2),  # producer
    st.integers(0, 2),  # epoch
    st.one_of(st.integers(-6, 2), st.none()),  # batch relative to the next one; None: sequence 0
    st.integers(1, 3),  # records
)


def expected(history: list[tuple[int, int, int, int]], epoch: int, first: int, count: int) -> object:
    """The rules of protocols.md (c), word for word, over the whole history of one producer."""
    if not history:
        return "append"
    current = history[-1][0]
    window = [batch for batch in history if batch[0] == current][-PRODUCER_BATCHES_REMEMBERED:]
    for known_epoch, known_first, known_count, offset in window:
        if (known_epoch, known_first, known_count) == (epoch, first, count):
            return offset
    if epoch < current:
        return InvalidProducerEpoch
    if epoch > current:
        return "append" if first == 0 else OutOfOrderSequenceNumber
    _, last_first, last_count, _ = window[-1]
    return "append" if first == (last_first + last_count) % MODULUS else OutOfOrderSequenceNumber


@settings(max_examples=150, deadline=None)
@given(attempts=st.lists(attempt, max_size=60), start=st.sampled_from([0, SEQUENCE_MAX - 3]))
def test_checks_agree_with_the_rules_and_survive_snapshots(
    attempts: list[tuple[int, int, int | None, int]], start: int
) -> None:
    states = ProducerStates()
    histories: dict[int, list[tuple[int, int, int, int]]] = {}
    offset = 0
    for producer, epoch, step, count in attempts:
        history = histories.setdefault(producer, [])
        if step is None or not history:
            first = 0 if history else start
        elif step < 0 and -step <= len(history):
            _, first, count, _ = history[step]
        else:
            _, last_first, last_count, _ = history[-1]
            first = (last_first + last_count + max(step, 0)) % MODULUS
        want = expected(history, epoch, first, count)
        try:
            duplicate = states.check_append(producer, epoch, first, count)
            got: object = "append" if duplicate is None else duplicate.base_offset
        except (InvalidProducerEpoch, OutOfOrderSequenceNumber) as error:
            got = type(error)
        assert got == want
        if got == "append":
            states.record(
                producer, epoch, first, base_offset=offset, last_offset=offset + count - 1, timestamp_ms=0, now_ms=0
            )
            history.append((epoch, first, count, offset))
            offset += count
        states.check()
        reloaded = ProducerStates()
        reloaded.load_snapshot(states.encode_snapshot(offset), now_ms=0)
        states = reloaded
