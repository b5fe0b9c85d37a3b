"""Opening after a crash: only a torn tail is cut; damage quarantines; derived files are rebuilt."""

import random
from typing import Any

import pytest

from logcluster.model.errors import CorruptLog
from logcluster.storage.indexes import SparseIndex


def reopen_after_power_loss(storage: Any) -> None:
    """Everything was synced, so that only the boot id changes."""
    storage.log.flush()
    storage.lose_power()


def junk(storage: Any, data: bytes, *, segment: int = -1) -> None:
    """Bytes behind the last batch, as a torn write leaves them."""
    path = f"{storage.directory}/{storage.segments()[segment]}"
    position = storage.manager.get(storage.key)._segments[segment].size_bytes
    storage.disk.overwrite(path, position, data)


@pytest.mark.parametrize("power_loss", [True, False])
@pytest.mark.parametrize("kept", [1, 12, 30, 61, 200])
def test_torn_tail_is_cut(storage: Any, batch: Any, kept: int, power_loss: bool) -> None:
    storage.append(20)
    storage.log.flush()
    whole = storage.read_all()
    junk(storage, batch(40)[:kept])
    storage.lose_power() if power_loss else storage.kill()
    storage.open()
    assert storage.log.log_end_offset == 40
    assert storage.read_all() == whole
    storage.append(3, leader_epoch=1)
    storage.log.check()


def test_zeros_of_preallocation_are_not_a_tail(storage: Any) -> None:
    storage.append(20)
    reopen_after_power_loss(storage)
    assert storage.disk.open(f"{storage.directory}/{storage.segments()[-1]}").size() > 0
    storage.open()
    assert storage.log.log_end_offset == 40
    assert storage.read_all()


def test_damage_followed_by_sound_batches_quarantines_when_nothing_unsynced_was_lost(storage: Any) -> None:
    storage.append(8)
    storage.flip(900)
    storage.kill()
    before = {name: storage.disk.open(f"{storage.directory}/{name}").read_at(0, 10**6) for name in storage.segments()}
    storage.open()
    assert list(storage.manager.quarantined) == [storage.key]
    error = storage.manager.quarantined[storage.key]
    assert error.facts["offset"] == 4
    assert error.facts["position"] > 0
    with pytest.raises(CorruptLog):
        storage.log  # noqa: B018
    assert storage.manager.get(storage.key) is None
    after = {name: storage.disk.open(f"{storage.directory}/{name}").read_at(0, 10**6) for name in storage.segments()}
    assert after == before


def test_damage_in_an_earlier_segment_quarantines(storage: Any) -> None:
    storage.append(30)
    storage.flip(3000)
    storage.kill()
    storage.open()
    assert list(storage.manager.quarantined) == [storage.key]


def test_hole_in_unsynced_data_is_cut_after_power_loss(storage: Any) -> None:
    """The disk wrote a later batch before an earlier one; neither was synced, so neither was acknowledged."""
    storage.append(8)
    storage.log.flush()  # puts all of it on the disk; no checkpoint says so
    path = f"{storage.directory}/{storage.segments()[0]}"
    storage.disk.overwrite(path, storage.log.size_bytes * 5 // 8, bytes(20))
    storage.lose_power()
    storage.open()
    assert not storage.manager.quarantined
    assert storage.log.log_end_offset == 10


@pytest.mark.parametrize("power_loss", [True, False])
def test_damage_below_the_recovery_point_quarantines_even_at_the_end(storage: Any, power_loss: bool) -> None:
    storage.append(8)
    storage.log.flush()
    storage.log.high_watermark = 16
    storage.manager.checkpoint()
    storage.flip(storage.log.size_bytes - 5)
    storage.lose_power() if power_loss else storage.kill()
    path = f"{storage.directory}/{storage.segments()[0]}"
    before = storage.disk.open(path).read_at(0, 10**6)
    storage.open()
    assert "recovery point" in storage.manager.quarantined[storage.key].message
    assert storage.disk.open(path).read_at(0, 10**6) == before, "damage is kept for people to look at"


def test_log_shorter_than_its_recovery_point_quarantines(storage: Any) -> None:
    storage.append(8)
    storage.log.flush()
    storage.log.high_watermark = 16
    storage.manager.checkpoint()
    path = f"{storage.directory}/{storage.segments()[0]}"
    storage.disk.cut_file(path, storage.log.size_bytes * 7 // 8)
    storage.kill()
    storage.open()
    assert list(storage.manager.quarantined) == [storage.key]


def test_lost_segment_below_the_recovery_point_quarantines(storage: Any) -> None:
    storage.append(30)
    storage.log.flush()
    storage.log.high_watermark = 60
    storage.manager.checkpoint()
    storage.disk.remove(f"{storage.directory}/{storage.segments()[1]}")
    storage.kill()
    storage.open()
    assert list(storage.manager.quarantined) == [storage.key]


def test_uncommitted_data_is_not_promised_by_the_checkpoint(storage: Any) -> None:
    """A follower may still be told to cut it, so the checkpoint must not call its loss damage."""
    storage.append(8)
    storage.log.flush()
    storage.log.high_watermark = 6
    storage.manager.checkpoint()
    written = storage.disk.open("/data/checkpoint.json").read_at(0, 10**6)
    storage.log.truncate_to(8)
    assert storage.disk.open("/data/checkpoint.json").read_at(0, 10**6) == written
    storage.kill()
    storage.open()
    assert not storage.manager.quarantined
    assert storage.log.log_end_offset == 8


def test_truncation_below_the_checkpoint_lowers_it_first(storage: Any) -> None:
    storage.append(8)
    storage.log.flush()
    storage.log.high_watermark = 16
    storage.manager.checkpoint()
    late = storage.manager.prepare_checkpoint()
    storage.log.truncate_to(5)
    late.run()
    storage.kill()
    storage.open()
    assert not storage.manager.quarantined
    assert storage.log.log_end_offset == 4
    assert storage.log.high_watermark <= 4


def test_damaged_checkpoint_makes_recovery_strict(storage: Any) -> None:
    storage.append(8)
    storage.log.flush()
    storage.flip(900)
    storage.disk.flip_bit("/data/checkpoint.json", 300)
    storage.lose_power()
    storage.open()
    assert list(storage.manager.quarantined) == [storage.key]


def test_missing_and_damaged_indexes_are_rebuilt(storage: Any, batch: Any) -> None:
    storage.append(60)
    whole = storage.read_all()
    assert storage.manager.close(clean=True, broker_epoch=1)
    indexes = [name for name in storage.disk.list(storage.directory) if name.endswith(".index")]
    assert len(indexes) == len(storage.segments())
    storage.disk.remove(f"{storage.directory}/{indexes[0]}")
    storage.disk.flip_bit(f"{storage.directory}/{indexes[1]}", 800)
    storage.disk.cut_file(f"{storage.directory}/{indexes[2]}", 10)
    storage.open()
    assert not storage.manager.quarantined
    assert storage.read_all() == whole
    for offset in range(0, 120, 7):
        assert storage.log.read(offset, size_bytes_max=1, end_offset=120).data == batch(offset - offset % 2)
    assert storage.log.offset_for_timestamp(1_000 + 10 * 50) == (50, 1_500)


def test_index_lost_while_running_is_rebuilt(storage: Any, batch: Any) -> None:
    storage.append(60)
    storage.manager.close(clean=True, broker_epoch=1)
    storage.open()
    for name in storage.disk.list(storage.directory):
        if name.endswith(".index"):
            storage.disk.remove(f"{storage.directory}/{name}")
    assert storage.log.read(31, size_bytes_max=1, end_offset=120).data == batch(30)


@pytest.mark.parametrize("loss", ["missing", "damaged"])
@pytest.mark.parametrize("clean", [True, False])
def test_epochs_are_rebuilt_from_the_batches(storage: Any, loss: str, clean: bool) -> None:
    for epoch in range(5):
        storage.append(12, leader_epoch=epoch)
    entries = storage.log.leader_epochs.entries
    storage.log.flush()
    storage.manager.close(clean=True, broker_epoch=1) if clean else storage.kill()
    path = f"{storage.directory}/leader-epochs.json"
    storage.disk.remove(path) if loss == "missing" else storage.disk.flip_bit(path, 200)
    storage.open()
    assert storage.log.leader_epochs.entries == entries
    storage.kill()
    storage.open()
    assert storage.log.leader_epochs.entries == entries


def test_epochs_survive_one_missing_index_after_a_clean_shutdown(storage: Any) -> None:
    for epoch in range(5):
        storage.append(12, leader_epoch=epoch)
    entries = storage.log.leader_epochs.entries
    storage.manager.close(clean=True, broker_epoch=1)
    storage.disk.remove(f"{storage.directory}/{0:020d}.index")
    storage.open()
    assert storage.log.leader_epochs.entries == entries


def test_epoch_without_data_survives_a_clean_restart_only(storage: Any) -> None:
    storage.append(2, leader_epoch=1)
    storage.log.assign_leader_epoch(5)
    storage.manager.close(clean=True, broker_epoch=1)
    storage.open()
    assert storage.log.leader_epochs.entries == ((1, 0), (5, 4))


def test_junk_after_a_clean_shutdown_is_damage(storage: Any) -> None:
    storage.append(4)
    storage.manager.close(clean=True, broker_epoch=1)
    path = f"{storage.directory}/{storage.segments()[-1]}"
    storage.disk.overwrite(path, storage.disk.open(path).size(), b"junk")
    storage.open()
    assert "clean shutdown" in storage.manager.quarantined[storage.key].message


def test_recovery_itself_may_crash(storage: Any) -> None:
    storage.append(30)
    storage.log.flush()
    storage.append(5)
    for seed in range(20):
        storage.lose_power(seed)
        storage.disk.fail_next("sync", 5, path_contains=".log")
        with pytest.raises(Exception, match=r"."):
            storage.open()
        storage.disk.crash(power_loss=seed % 2 == 0, rng=random.Random(seed))
        storage.open()
        assert not storage.manager.quarantined
        assert storage.log.log_end_offset >= 60


def test_snapshots_beyond_the_cut_tail_are_removed(storage: Any) -> None:
    storage.append(4)
    storage.log.flush()
    storage.append(4)
    storage.log.write_producer_snapshot(8, b"old")
    storage.log.write_producer_snapshot(16, b"new")
    storage.flip(storage.log.size_bytes - 3)
    storage.kill()
    storage.open()
    assert storage.log.log_end_offset == 14
    assert storage.log.producer_snapshot_offsets() == [8]


def test_directory_of_another_topic_id_is_refused(storage: Any) -> None:
    storage.append(4)
    storage.log.flush()
    storage.manager.close(clean=True, broker_epoch=1)
    storage.disk.rename(storage.directory, f"/data/orders-3.{'ab' * 16}")
    storage.open()
    assert [error.facts["directory"] for error in storage.manager.quarantined.values()] == [
        f"/data/orders-3.{'ab' * 16}"
    ]


def test_index_file_round_trips_and_refuses_every_flipped_bit(storage: Any) -> None:
    storage.append(9)
    segment = storage.log._segments[0]
    data = segment.index.encode(segment.summary())
    decoded = SparseIndex.decode(data)
    assert decoded is not None
    assert decoded[0].entries() == segment.index.entries()
    assert len(decoded[0]) > 3
    assert decoded[1] == segment.summary()
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert SparseIndex.decode(bytes(damaged)) is None
