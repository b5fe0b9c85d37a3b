"""A log that could not be read is used again only when all of it can be read, and is all there."""

import errno
from typing import Any

import pytest

from logcluster.model.errors import CorruptLog
from logcluster.storage.log import PartitionLog


def step_aside(storage: Any) -> bytes:
    """Write, sync and checkpoint ten batches, then fail a read; returns what stood there."""
    storage.append(10)
    storage.log.flush()
    storage.log.high_watermark = 16
    storage.manager.checkpoint()
    whole: bytes = storage.read_all()
    storage.log._tail.clear()
    storage.disk.fail_next("read", errno.EIO, path_contains=".log")
    with pytest.raises(CorruptLog, match="cannot read"):
        storage.read_all()
    assert storage.quarantines and storage.manager.get(storage.key) is None
    return whole


def look_again(storage: Any) -> PartitionLog | None:
    look = storage.manager.prepare_second_look(storage.key)
    assert look is not None
    log = look.run()
    if log is not None:
        assert storage.manager.readmit(look, log)
    return log  # type: ignore[no-any-return]


def test_a_log_that_can_be_read_again_is_used_again(storage: Any) -> None:
    whole = step_aside(storage)
    log = look_again(storage)
    assert log is storage.manager.get(storage.key)
    assert log.high_watermark == 16
    assert storage.read_all() == whole
    storage.append(1)
    storage.log.flush()
    storage.kill()
    storage.open()
    assert storage.log.log_end_offset == 22


def test_a_log_that_still_cannot_be_read_stays_aside(storage: Any) -> None:
    step_aside(storage)
    storage.disk.fail_next("read", errno.EIO, path_contains=".log", count=100)
    assert look_again(storage) is None
    storage.disk.forget_failures()
    assert look_again(storage) is not None


@pytest.mark.parametrize("position", [700, 1200, 2500])
def test_damage_anywhere_keeps_it_aside(storage: Any, position: int) -> None:
    step_aside(storage)
    storage.flip(position)
    assert look_again(storage) is None
    storage.flip(position)
    assert look_again(storage) is not None


def test_a_log_that_lost_its_end_stays_aside(storage: Any) -> None:
    storage.append(10)
    storage.log.flush()
    storage.log.fail(CorruptLog("cannot read"))
    # Nothing is checkpointed, so that recovery would take the missing batch for a torn tail.
    storage.disk.overwrite(f"{storage.directory}/{storage.segments()[-1]}", 0, bytes(300))
    assert look_again(storage) is None


def test_the_next_process_asks_for_what_was_synced(storage: Any) -> None:
    whole = step_aside(storage)
    storage.kill()
    storage.open()
    assert storage.manager.get(storage.key) is None
    assert look_again(storage) is not None
    assert storage.read_all() == whole


def test_the_next_process_refuses_less_than_was_synced(storage: Any) -> None:
    storage.append(10)
    storage.log.flush()
    storage.log.fail(CorruptLog("cannot read"))
    storage.kill()
    storage.disk.overwrite(f"{storage.directory}/{storage.segments()[-1]}", 0, bytes(300))
    storage.open()
    assert look_again(storage) is None


def test_a_log_found_damaged_at_the_start_gets_no_second_look(storage: Any) -> None:
    storage.append(10)
    storage.log.flush()
    storage.kill()
    storage.disk.flip_bit(f"{storage.directory}/{storage.segments()[0]}", 8 * 700)
    storage.open()
    assert storage.manager.get(storage.key) is None
    assert storage.manager.prepare_second_look(storage.key) is None


def test_a_second_look_that_is_overtaken_changes_nothing(storage: Any) -> None:
    step_aside(storage)
    look = storage.manager.prepare_second_look(storage.key)
    log = look.run()
    storage.manager.replace_quarantined(storage.key)
    assert not storage.manager.readmit(look, log)
    assert storage.log.log_end_offset == 0
