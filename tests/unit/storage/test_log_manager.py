"""One log directory: identity, lock, clean marker, creation, deletion, strays, quarantine, failure."""

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from logcluster.model.errors import CorruptLog, InconsistentClusterId, StorageFailure
from logcluster.model.ids import TopicId, TopicIdPartition, TopicPartition
from logcluster.sim.disk import SimulatedDisk
from logcluster.storage import log_manager
from logcluster.storage.log_manager import LogManager
from logcluster.storage.posix_filesystem import PosixFilesystem


def test_identity_is_made_once_and_kept(storage: Any) -> None:
    storage.manager.close(clean=False)
    manager = storage.open(new_directory_id=lambda: b"e" * 16)
    assert (manager.identity.cluster_id, manager.identity.node_id) == ("cluster-a", 1)
    assert manager.identity.directory_id == b"d" * 16


def test_directory_of_another_cluster_is_refused_naming_both(storage: Any) -> None:
    storage.manager.close(clean=False)
    with pytest.raises(InconsistentClusterId, match=r"cluster-a.*cluster-b"):
        storage.open(cluster_id="cluster-b")
    with pytest.raises(InconsistentClusterId, match="node 1, this is node 2"):
        storage.open(node_id=2)
    storage.open()


def test_damaged_identity_stops_the_start(storage: Any) -> None:
    storage.manager.close(clean=False)
    storage.disk.flip_bit("/data/identity.json", 200)
    with pytest.raises(StorageFailure, match="damaged"):
        storage.open()


def test_directory_in_use_is_refused(storage: Any) -> None:
    with pytest.raises(StorageFailure, match="another process"):
        storage.open()
    storage.manager.close(clean=False)
    storage.open()


@pytest.mark.parametrize(
    ("number", "word"), [(errno.EROFS, "read-only"), (errno.ENOSPC, "full"), (errno.EACCES, "owner")]
)
def test_unusable_directory_is_refused_with_a_hint(number: int, word: str) -> None:
    disk = SimulatedDisk()
    disk.fail_next("write", number)
    with pytest.raises(StorageFailure) as failure:
        LogManager.open(disk, "/data", cluster_id="c", node_id=1, new_directory_id=lambda: b"d" * 16)
    assert word in failure.value.hint
    LogManager.open(disk, "/data", cluster_id="c", node_id=1, new_directory_id=lambda: b"d" * 16)


def test_clean_marker_is_found_once(storage: Any) -> None:
    storage.append(4)
    assert storage.manager.close(clean=True, broker_epoch=17)
    assert not storage.manager.close(clean=True, broker_epoch=18)
    assert storage.open().previous_broker_epoch == 17
    storage.kill()
    assert storage.open().previous_broker_epoch is None


def test_damaged_clean_marker_means_unclean(storage: Any) -> None:
    storage.append(4)
    storage.manager.close(clean=True, broker_epoch=17)
    storage.disk.flip_bit("/data/clean-shutdown.json", 200)
    assert storage.open().previous_broker_epoch is None
    assert storage.log.log_end_offset == 8


def test_clean_shutdown_survives_power_loss(storage: Any) -> None:
    storage.append(30)
    storage.log.high_watermark = 44
    whole = storage.read_all()
    storage.manager.close(clean=True, broker_epoch=17)
    storage.lose_power()
    assert storage.open().previous_broker_epoch == 17
    assert storage.read_all() == whole
    assert storage.log.high_watermark == 44


def test_checkpoint_restores_watermark_and_log_start(storage: Any) -> None:
    storage.append(10)
    storage.log.flush()
    storage.log.high_watermark = 18
    storage.log.advance_log_start(6)
    storage.manager.checkpoint()
    storage.lose_power()
    storage.open()
    assert (storage.log.high_watermark, storage.log.log_start_offset, storage.log.log_end_offset) == (18, 6, 20)


def test_topic_created_again_never_meets_old_data(storage: Any) -> None:
    storage.append(10)
    fresh = storage.manager.get_or_create(storage.partition, TopicId(b"n" * 16))
    assert fresh.log_end_offset == 0
    assert storage.log.log_end_offset == 20


def test_unknown_logs_are_strays_and_kept(storage: Any) -> None:
    storage.append(2)
    storage.manager.get_or_create(TopicPartition("empty", 0), TopicId(b"e" * 16))
    storage.log.flush()
    storage.kill()
    manager = storage.open()
    assert [log.topic_id_partition for log in manager.strays(lambda _: False)] == [storage.key]
    assert manager.strays(lambda key: key == storage.key) == []
    manager.remove_paths(manager.collect_trash())
    assert storage.log.log_end_offset == 4


def test_deletion_is_durable_at_once_and_its_files_go_later(storage: Any) -> None:
    storage.append(2)
    storage.log.flush()
    storage.log.high_watermark = 4
    storage.manager.checkpoint()
    assert storage.manager.delete(storage.key)
    assert not storage.manager.delete(storage.key)
    assert storage.manager.get(storage.key) is None
    storage.lose_power()
    manager = storage.open()
    assert list(manager.logs()) == []
    trash = manager.collect_trash()
    assert len(trash) == 1
    manager.remove_paths(trash)
    assert [name for name in storage.disk.list("/data") if "orders" in name] == []
    assert storage.log.log_end_offset == 0
    storage.append(1)


def test_quarantine_lasts_until_replaced_and_keeps_the_damaged_log(storage: Any) -> None:
    storage.append(30)
    storage.log.flush()  # writes the index of the closed segments, which alone would make them look sound
    storage.flip(900)
    storage.kill()
    storage.open()
    assert storage.key in storage.manager.quarantined
    storage.manager.close(clean=True, broker_epoch=3)
    storage.open()
    assert storage.key in storage.manager.quarantined, "a clean restart must not trust it again"
    assert storage.manager.replace_quarantined(storage.key)
    assert not storage.manager.replace_quarantined(storage.key)
    assert storage.log.log_end_offset == 0
    storage.append(1)
    storage.log.flush()
    aside = [name for name in storage.disk.list("/data") if "quarantined" in name]
    assert len(aside) == 1
    assert storage.manager.collect_trash() == []
    storage.lose_power()
    storage.open()
    assert storage.log.log_end_offset == 2


def test_damage_found_by_a_reader_is_remembered(storage: Any) -> None:
    storage.append(8)
    storage.log.flush()
    storage.flip(900)
    with pytest.raises(CorruptLog):
        storage.read_all()
    assert [key for key, _ in storage.quarantines] == [storage.key]
    storage.manager.close(clean=True, broker_epoch=3)
    storage.open()
    assert storage.key in storage.manager.quarantined


def test_stopped_directory_creates_nothing(storage: Any) -> None:
    storage.manager.fail(StorageFailure("gone"))
    with pytest.raises(StorageFailure, match="gone"):
        storage.manager.get_or_create(TopicPartition("new", 0), TopicId(b"n" * 16))
    assert len(storage.failures) == 1
    storage.manager.fail(StorageFailure("again"))
    assert len(storage.failures) == 1


def test_many_logs_open_in_parallel_and_report_progress(
    tmp_path: Path, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_manager, "PROGRESS_TOLD_EVERY", 8)

    def open_manager(**arguments: Any) -> LogManager:
        return LogManager.open(
            PosixFilesystem(), str(tmp_path), cluster_id="c", node_id=1, new_directory_id=lambda: b"d" * 16, **arguments
        )

    manager = open_manager()
    keys = []
    for number in range(20):
        log = manager.get_or_create(TopicPartition("t", number), TopicId(b"t" * 16))
        log.append(batch(0))
        keys.append(TopicIdPartition(TopicId(b"t" * 16), number))
    manager.close(clean=False)
    progress: list[tuple[int, int]] = []
    with ThreadPoolExecutor(4) as executor:
        manager = open_manager(progress=lambda done, total: progress.append((done, total)), map_work=executor.map)
    assert progress == [(8, 20), (16, 20), (20, 20)]
    assert all(manager.get(key) is not None for key in keys)
    assert manager.close(clean=True, broker_epoch=1)


def test_thousand_empty_partitions_cost_nothing_on_disk(storage: Any) -> None:
    before = dict(storage.disk.counters.counts)
    for number in range(1000):
        storage.manager.get_or_create(TopicPartition("t", number), TopicId(b"t" * 16))
    assert storage.disk.counters.counts == before


def test_deleting_a_log_while_it_is_flushed_harms_no_other(storage: Any) -> None:
    storage.append(4)
    log = storage.log
    pending = log.prepare_flush()
    assert pending is not None
    assert pending.small_files
    assert storage.manager.delete(storage.key)
    pending.run()
    log.complete_flush(pending)
    assert storage.manager.failure is None


def test_setting_a_damaged_log_aside_while_it_is_flushed_harms_no_other(storage: Any) -> None:
    """Found by the simulator (seed 2030): the broker's whole log directory stopped."""
    storage.append(4)
    log = storage.log
    pending = log.prepare_flush()
    assert pending is not None
    log.fail(CorruptLog("a reader found damage"))
    assert storage.manager.replace_quarantined(storage.key)
    pending.run()
    log.complete_flush(pending)
    assert log.flushed_offset == 0, "nothing of that flush counts"
    assert storage.manager.failure is None


def test_a_directory_that_vanishes_under_a_live_log_is_a_failure(storage: Any) -> None:
    storage.append(4)
    pending = storage.log.prepare_flush()
    assert pending is not None
    storage.disk.rename(storage.log.directory, "/data/elsewhere")
    with pytest.raises(StorageFailure):
        pending.run()
    assert storage.manager.failure is not None
