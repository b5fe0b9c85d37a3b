"""After a sync that failed, a restarted process counts nothing that the disk does not hold (ATC '20, Rebello et al.).

The kernel marks the pages of a failed sync clean: they can be read, a second sync finds nothing to do, and the bytes
are gone with the next power loss. `SimulatedDisk` does the same.
"""

import errno
from typing import Any

import pytest

from logcluster.model.errors import StorageFailure


def commit(storage: Any) -> None:
    """Sync everything, and let the checkpoint say so."""
    storage.log.high_watermark = storage.log.flush()
    storage.manager.checkpoint()


def fail_a_sync(storage: Any) -> None:
    storage.disk.fail_next("sync", errno.EIO, path_contains=".log")
    with pytest.raises(StorageFailure):
        storage.log.flush()


def restart(storage: Any) -> None:
    storage.kill()
    storage.open()
    assert not storage.manager.quarantined


def bytes_written_by_a_start(storage: Any) -> int:
    """What a start writes into segments."""
    written = 0
    before = storage.disk.open

    def opened(path: str, *, create: bool = False) -> Any:
        file = before(path, create=create)
        if path.endswith(".log"):
            write_at = file.write_at

            def count(position: int, data: bytes) -> None:
                nonlocal written
                written += len(data)
                write_at(position, data)

            return _Counting(file, count)
        return file

    storage.disk.open = opened
    try:
        storage.open()
    finally:
        storage.disk.open = before
    return written


class _Counting:
    def __init__(self, file: Any, write_at: Any) -> None:
        self._file = file
        self.write_at = write_at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("checkpointed", [True, False])
def test_what_a_failed_sync_lost_is_durable_before_it_counts_again(storage: Any, seed: int, checkpointed: bool) -> None:
    storage.append(15)  # two segments
    if checkpointed:
        commit(storage)
    storage.append(15)
    fail_a_sync(storage)
    restart(storage)
    counted = storage.log.flushed_offset
    assert counted == 60
    whole = storage.read_all()
    storage.lose_power(seed)
    storage.open()
    assert not storage.manager.quarantined
    assert storage.log.log_end_offset >= counted
    assert storage.read_all() == whole


def test_a_start_whose_own_sync_failed_leaves_it_to_the_next_one(storage: Any) -> None:
    storage.append(5)
    fail_a_sync(storage)
    storage.kill()
    storage.disk.fail_next("sync", errno.EIO, path_contains=".log")
    with pytest.raises(StorageFailure):
        storage.open()
    restart(storage)
    assert storage.log.flushed_offset == 10
    storage.lose_power()
    storage.open()
    assert storage.log.log_end_offset == 10


@pytest.mark.parametrize("seed", range(8))
def test_a_cut_whose_sync_failed_does_not_come_undone(storage: Any, batch: Any, seed: int) -> None:
    """Batches of the same sizes line up behind the new ones, so that what was cut would seem to belong there."""
    storage.append(8)
    commit(storage)
    storage.disk.fail_next("sync", errno.EIO, path_contains=".log")
    with pytest.raises(StorageFailure):
        storage.log.truncate_to(8)
    restart(storage)
    assert storage.log.log_end_offset == 8
    storage.append(2, leader_epoch=0, timestamp_ms=7)
    storage.log.flush()
    storage.lose_power(seed)
    storage.open()
    assert storage.log.log_end_offset == 12


@pytest.mark.parametrize("seed", range(8))
def test_a_torn_tail_that_recovery_could_not_cut_durably_is_cut_again(storage: Any, batch: Any, seed: int) -> None:
    storage.append(4)
    storage.log.flush()
    path = f"{storage.directory}/{storage.segments()[0]}"
    size_bytes = storage.log.size_bytes
    tail = batch(8)[:-1] + b"\xff" + batch(10) + batch(12)
    storage.disk.overwrite(path, size_bytes, tail)
    storage.lose_power()
    storage.disk.fail_next("sync", errno.EIO, path_contains=".log")
    with pytest.raises(StorageFailure):
        storage.open()
    restart(storage)
    assert storage.log.log_end_offset == 8
    storage.append(1)
    storage.log.flush()
    storage.lose_power(seed)
    storage.open()
    assert storage.log.log_end_offset == 10


def test_epochs_that_a_failed_sync_lost_are_written_again(storage: Any) -> None:
    storage.append(3, leader_epoch=1)
    commit(storage)
    storage.append(3, leader_epoch=4)
    entries = storage.log.leader_epochs.entries
    storage.disk.fail_next("sync", errno.EIO, path_contains="leader-epochs")
    with pytest.raises(StorageFailure):
        storage.log.flush()
    restart(storage)
    assert storage.log.leader_epochs.entries == entries
    storage.lose_power()
    storage.open()
    assert storage.log.leader_epochs.entries == entries


def test_names_that_a_failed_sync_lost_are_durable_before_they_count(storage: Any) -> None:
    storage.append(30)
    storage.disk.fail_next("sync_dir", errno.EIO)
    with pytest.raises(StorageFailure):
        storage.log.flush()
    restart(storage)
    counted = storage.log.flushed_offset
    assert counted == 60
    for seed in range(8):
        storage.lose_power(seed)
        storage.open()
        assert storage.log.log_end_offset == counted


def test_a_start_writes_again_what_is_above_the_recovery_point_and_no_more(storage: Any) -> None:
    storage.append(25)
    commit(storage)
    settled = storage.log.size_bytes
    storage.append(10)
    storage.log.flush()
    unsettled = storage.log.size_bytes - settled
    storage.kill()
    assert bytes_written_by_a_start(storage) == unsettled
    commit(storage)
    storage.kill()
    assert bytes_written_by_a_start(storage) == 0


def test_after_a_boot_what_is_read_came_from_the_disk_and_is_not_written_again(storage: Any) -> None:
    storage.append(25)
    storage.log.flush()
    storage.lose_power()
    assert bytes_written_by_a_start(storage) == 0


@pytest.mark.parametrize("how", ["unknown", "damaged", "missing"])
def test_without_a_known_boot_it_is_written_again(storage: Any, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    storage.append(5)
    fail_a_sync(storage)
    storage.kill()
    if how == "unknown":
        monkeypatch.setattr(storage.disk, "boot_id", lambda: "")
    elif how == "damaged":
        storage.disk.flip_bit("/data/boot.json", 300)
    else:
        storage.disk.remove("/data/boot.json")
    assert bytes_written_by_a_start(storage) == storage.log.size_bytes


def test_a_clean_stop_needs_nothing_written_again(storage: Any) -> None:
    storage.append(25)
    assert storage.manager.close(clean=True, broker_epoch=1)
    storage.kill()
    assert bytes_written_by_a_start(storage) == 0


def test_damage_is_not_written_again(storage: Any) -> None:
    storage.append(8)
    storage.flip(900)
    storage.kill()
    path = f"{storage.directory}/{storage.segments()[0]}"
    before = storage.disk.content(path)
    storage.open()
    assert list(storage.manager.quarantined) == [storage.key]
    assert storage.disk.content(path) == before
