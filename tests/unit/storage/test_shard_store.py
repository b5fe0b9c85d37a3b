"""The coordinators' part of the key-value store: keys, position and count of a shard change together, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from logcluster.model.errors import StorageFailure
from logcluster.model.ids import TopicId, TopicIdPartition
from logcluster.storage.kv_store import Batch, KeyValueStore, MemoryKeyValueStore, RocksKeyValueStore
from logcluster.storage.shard_store import Change, ShardPosition, ShardStore

TOPIC_ID = TopicId(b"t" * 16)
SHARD = TopicIdPartition(TOPIC_ID, 3)
NEIGHBOURS = (
    TopicIdPartition(TOPIC_ID, 2),
    TopicIdPartition(TOPIC_ID, 4),
    TopicIdPartition(TopicId(b"t" * 15 + b"s"), 3),
    TopicIdPartition(TopicId(b"t" * 15 + b"u"), 3),
)


class CountingStore(MemoryKeyValueStore):
    """Notes every batch that is written, and whether it is synced."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[int, bool]] = []

    def write(self, batch: Batch, *, sync: bool) -> None:
        self.written.append((len(batch), sync))
        super().write(batch, sync=sync)


@pytest.fixture(params=["memory", "rocks"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ShardStore]:
    makers: dict[str, Callable[[], KeyValueStore]] = {
        "memory": MemoryKeyValueStore,
        "rocks": lambda: RocksKeyValueStore(tmp_path / "db"),
    }
    store = ShardStore(makers[request.param]())
    yield store
    store.close()


def apply(
    store: ShardStore, *changes: Change, next_offset: int, epoch: int | None = 1, shard: TopicIdPartition = SHARD
) -> ShardPosition:
    return store.apply(shard, changes, next_offset=next_offset, leader_epoch=epoch)


def everything(store: ShardStore, shard: TopicIdPartition = SHARD) -> dict[bytes, bytes]:
    return dict(store.read(shard, b""))


# -- what is kept ------------------------------------------------------------------------------------------------


def test_a_shard_that_was_never_written_has_no_position(store: ShardStore) -> None:
    assert store.position(SHARD) is None
    assert store.shards() == []
    assert store.read(SHARD, b"") == []
    assert store.first_key(SHARD, b"") is None


def test_the_newest_value_of_every_key_and_the_position_are_kept(store: ShardStore) -> None:
    apply(store, (b"a", b"1"), (b"b", b"2"), (b"c", b""), next_offset=3, epoch=1)
    apply(store, (b"a", b"3"), (b"b", None), (b"d", b"4"), next_offset=6, epoch=2)
    assert everything(store) == {b"a": b"3", b"c": b"", b"d": b"4"}
    assert store.position(SHARD) == ShardPosition(6, 2, 3)


def test_the_last_change_of_a_key_in_one_piece_counts(store: ShardStore) -> None:
    assert apply(store, (b"a", b"1"), (b"a", None), (b"a", b"2"), next_offset=3).key_count == 1
    assert everything(store) == {b"a": b"2"}
    assert apply(store, (b"a", b"3"), (b"b", b"1"), (b"b", None), (b"a", None), next_offset=7).key_count == 0
    assert everything(store) == {}


def test_keys_are_counted_by_what_is_there_and_not_by_what_is_said(store: ShardStore) -> None:
    pieces: list[list[Change]] = [
        [(b"a", b"1"), (b"b", b"1")],
        [(b"a", b"2")],  # there already
        [(b"missing", None)],  # not there
        [(b"a", None)],
        [(b"a", None)],
        [(b"a", b"1"), (b"c", b"1")],
        [],
    ]
    counts = [apply(store, *changes, next_offset=number).key_count for number, changes in enumerate(pieces)]
    assert counts == [2, 2, 2, 1, 1, 3, 3]
    assert counts[-1] == len(everything(store))


@pytest.mark.parametrize("epoch", [None, 0, 1, 2**31 - 1])
def test_the_epoch_of_the_record_before_the_position_is_kept_exactly(store: ShardStore, epoch: int | None) -> None:
    """None (nothing was read yet) is not epoch 0: one is believed without asking the log, the other is not."""
    written = apply(store, next_offset=2**40, epoch=epoch)
    assert written == store.position(SHARD) == ShardPosition(2**40, epoch, 0)


def test_a_damaged_position_is_an_error_and_not_a_position() -> None:
    memory = MemoryKeyValueStore()
    store = ShardStore(memory)
    apply(store, (b"a", b"1"), next_offset=1)
    ((key, value),) = memory.scan(b"p", b"q")
    batch = Batch()
    batch.put(key, value[:-1])
    memory.write(batch, sync=True)
    with pytest.raises(StorageFailure):
        store.position(SHARD)
    with pytest.raises(StorageFailure):
        apply(store, (b"a", b"2"), next_offset=2)
    assert everything(store) == {b"a": b"1"}


def test_a_closed_store_refuses(store: ShardStore) -> None:
    store.close()
    for refused in (
        lambda: store.position(SHARD),
        lambda: apply(store, (b"a", b"1"), next_offset=1),
        lambda: store.reset(SHARD, next_offset=0),
        lambda: store.read(SHARD, b""),
    ):
        with pytest.raises(StorageFailure):
            refused()


# -- beginning anew ----------------------------------------------------------------------------------------------


def test_reset_forgets_all_keys_and_says_from_where_to_read(store: ShardStore) -> None:
    apply(store, *[(b"%d" % number, b"x") for number in range(50)], next_offset=50, epoch=7)
    assert store.reset(SHARD, next_offset=20) == ShardPosition(20, None, 0)
    assert store.position(SHARD) == ShardPosition(20, None, 0)
    assert everything(store) == {}
    assert apply(store, (b"7", b"y"), next_offset=21).key_count == 1
    assert everything(store) == {b"7": b"y"}


def test_drop_leaves_nothing(store: ShardStore) -> None:
    apply(store, (b"a", b"1"), next_offset=1)
    apply(store, (b"a", b"1"), next_offset=1, shard=NEIGHBOURS[0])
    store.drop(SHARD)
    assert store.position(SHARD) is None
    assert everything(store) == {}
    assert store.shards() == [NEIGHBOURS[0]]
    assert apply(store, (b"a", b"1"), next_offset=1).key_count == 1


@pytest.mark.parametrize(
    "shard", [SHARD, TopicIdPartition(TOPIC_ID, 255), TopicIdPartition(TopicId(b"\xff" * 16), 255)]
)
@pytest.mark.parametrize("end", ["reset", "drop"])
def test_what_is_done_to_a_shard_does_not_touch_its_neighbours(
    store: ShardStore, shard: TopicIdPartition, end: str
) -> None:
    """Also where the last byte of the shard's prefix is 0xff, and the end of its range carries over."""
    around = [
        *(near for near in NEIGHBOURS if near != shard),
        TopicIdPartition(shard.topic_id, 254),
        TopicIdPartition(shard.topic_id, 256),
    ]
    for number, other in enumerate(around, 1):
        apply(store, (b"", b"first"), (b"\xff" * 40, b"last"), next_offset=number, shard=other)
    apply(store, (b"a", b"1"), (b"\xff" * 40, b"2"), next_offset=9, shard=shard)
    assert set(store.shards()) == {*around, shard}
    if end == "reset":
        store.reset(shard, next_offset=0)
    else:
        store.drop(shard)
    assert everything(store, shard) == {}
    for number, other in enumerate(around, 1):
        assert everything(store, other) == {b"": b"first", b"\xff" * 40: b"last"}
        assert store.position(other) == ShardPosition(number, 1, 2)


# -- looking through ---------------------------------------------------------------------------------------------


def test_reading_by_prefix_gives_these_keys_in_order_and_no_others(store: ShardStore) -> None:
    keys = [b"a", b"b", b"b\x00", b"b/1", b"b/2", b"b\xff", b"b\xff\xff", b"c"]
    for other in NEIGHBOURS:
        apply(store, *[(key, b"other") for key in keys], next_offset=1, shard=other)
    apply(store, *[(key, key) for key in reversed(keys)], next_offset=1)
    assert store.read(SHARD, b"b") == [(key, key) for key in keys[1:-1]]
    assert store.read(SHARD, b"b\xff") == [(key, key) for key in keys[5:7]]
    assert store.read(SHARD, b"d") == []


def test_the_first_key_of_a_range_is_found_within_the_shard_only(store: ShardStore) -> None:
    for other in NEIGHBOURS:
        apply(store, (b"a", b"other"), (b"z", b"other"), next_offset=1, shard=other)
    apply(store, (b"c", b"1"), (b"e", b"1"), next_offset=1)
    assert store.first_key(SHARD, b"") == b"c"
    assert store.first_key(SHARD, b"c") == b"c"
    assert store.first_key(SHARD, b"c\x00") == b"e"
    assert store.first_key(SHARD, b"f") is None
    assert store.first_key(SHARD, b"a", b"c") is None, "the end does not belong to the range"
    assert store.first_key(SHARD, b"d", b"e\x00") == b"e"


def test_pages_go_through_a_shard_once_although_it_changes_meanwhile(store: ShardStore) -> None:
    stays = [b"%03d" % (2 * number) for number in range(40)]
    apply(store, *[(key, b"old") for key in stays], next_offset=1)
    apply(store, (b"000", b"other"), (b"999", b"other"), next_offset=1, shard=NEIGHBOURS[1])
    seen: list[bytes] = []
    start = b""
    while page := store.page(SHARD, start, count_max=7):
        assert len(page) <= 7
        seen += [key for key, _ in page]
        start = page[-1][0] + b"\x00"
        # Behind and before the place: what is new there may be missed or seen, what stays is seen once.
        apply(store, (b"%03d" % len(seen), b"new"), (stays[0], b"changed"), next_offset=len(seen))
    assert [key for key in seen if key in stays] == stays
    assert len(seen) == len(set(seen))


def test_a_page_is_a_snapshot_that_later_writes_do_not_change(store: ShardStore) -> None:
    apply(store, (b"a", b"1"), (b"b", b"1"), next_offset=2)
    page, read = store.page(SHARD, b"", count_max=5), store.read(SHARD, b"")
    apply(store, (b"a", b"2"), (b"b", None), next_offset=4)
    assert page == read == [(b"a", b"1"), (b"b", b"1")]


# -- failures and crashes ------------------------------------------------------------------------------------------


def test_every_change_is_one_unsynced_write() -> None:
    memory = CountingStore()
    store = ShardStore(memory)
    apply(store, (b"a", b"1"), (b"b", b"1"), next_offset=2)
    store.reset(SHARD, next_offset=0)
    store.drop(SHARD)
    assert memory.written == [(3, False), (2, False), (2, False)]


def test_a_write_that_failed_has_changed_nothing() -> None:
    memory = MemoryKeyValueStore()
    store = ShardStore(memory)
    apply(store, (b"a", b"1"), next_offset=1)
    memory.fail_after(0)
    with pytest.raises(StorageFailure):
        apply(store, (b"a", b"2"), (b"b", b"1"), next_offset=3)
    with pytest.raises(StorageFailure):
        store.reset(SHARD, next_offset=0)
    assert everything(store) == {b"a": b"1"}
    assert store.position(SHARD) == ShardPosition(1, 1, 1)


def test_a_power_cut_takes_keys_and_position_back_together() -> None:
    memory = MemoryKeyValueStore()
    store = ShardStore(memory)
    apply(store, (b"a", b"1"), next_offset=1)
    memory.write(Batch(), sync=True)
    apply(store, (b"a", b"2"), (b"b", b"2"), next_offset=3)
    store.reset(SHARD, next_offset=2)
    memory.crash()
    assert everything(store) == {b"a": b"1"}
    assert store.position(SHARD) == ShardPosition(1, 1, 1)


def written_and_killed(directory: Path, count: int) -> Path:
    """A database that nobody closed, after `count` pieces; key `n` says what the position says."""
    store = ShardStore(RocksKeyValueStore(directory / "db"))
    for number in range(1, count + 1):
        changes: list[Change] = [(b"n", b"%d" % number), (b"key-%d" % number, b"x" * 50)]
        if number == 7:
            store.reset(SHARD, next_offset=6)
        apply(store, *changes, next_offset=number, epoch=number)
    killed = shutil.copytree(directory / "db", directory / "killed")
    store.close()
    return killed


def test_a_killed_process_finds_keys_and_position_again(tmp_path: Path) -> None:
    store = ShardStore(RocksKeyValueStore(written_and_killed(tmp_path, 9)))
    assert store.position(SHARD) == ShardPosition(9, 9, 4)
    assert everything(store).keys() == {b"n", b"key-7", b"key-8", b"key-9"}
    store.close()


@pytest.mark.parametrize("kept", [0.97, 0.8, 0.6, 0.45, 0.3, 0.1])
def test_wherever_a_crash_cuts_keys_position_and_count_agree(tmp_path: Path, kept: float) -> None:
    killed = written_and_killed(tmp_path, 9)
    (log,) = killed.glob("*.log")
    written = log.read_bytes().rstrip(b"\0")
    log.write_bytes(written[: int(len(written) * kept)])
    store = ShardStore(RocksKeyValueStore(killed))
    position, found = store.position(SHARD), everything(store)
    assert position is None or position.next_offset < 9, "the cut has taken nothing away"
    if position is None:
        assert not found
    elif position.leader_epoch is None:
        assert (position.next_offset, found) == (6, {}), "nothing but the reset is there"
    else:
        assert found[b"n"] == b"%d" % position.next_offset == b"%d" % position.leader_epoch
    assert len(found) == (0 if position is None else position.key_count)
    store.close()
