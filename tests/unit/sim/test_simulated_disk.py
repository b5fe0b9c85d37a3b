"""The simulated disk forgets exactly what nobody asked it to keep."""

import errno
import random

import pytest

from logcluster.sim.disk import SimulatedDisk


def write(disk: SimulatedDisk, path: str, data: bytes, *, sync: bool) -> None:
    file = disk.open(path, create=True)
    file.write_at(0, data)
    if sync:
        file.sync()
    file.close()


def test_synced_data_under_a_synced_name_survives_every_power_loss() -> None:
    for seed in range(50):
        disk = SimulatedDisk()
        disk.make_dir("/d")
        disk.sync_dir("/")
        write(disk, "/d/f", b"kept", sync=True)
        disk.sync_dir("/d")
        disk.crash(power_loss=True, rng=random.Random(seed))
        assert disk.open("/d/f").read_at(0, 10) == b"kept"


def test_unsynced_data_and_names_are_sometimes_lost_and_sometimes_kept() -> None:
    outcomes = set()
    for seed in range(200):
        disk = SimulatedDisk()
        write(disk, "/f", b"old", sync=True)
        disk.sync_dir("/")
        file = disk.open("/f")
        file.write_at(0, b"x" * 1500)
        write(disk, "/g", b"new", sync=True)
        disk.crash(power_loss=True, rng=random.Random(seed))
        content = disk.open("/f").read_at(0, 2000)
        kind = "lost" if content == b"old" else "kept" if content == b"x" * 1500 else "torn"
        outcomes.add((kind, disk.exists("/g")))
    assert outcomes == {(kind, name) for kind in ("lost", "kept", "torn") for name in (True, False)}


def test_unsynced_writes_may_reach_the_disk_out_of_order() -> None:
    found = set()
    for seed in range(200):
        disk = SimulatedDisk()
        file = disk.open("/f", create=True)
        file.preallocate(20)
        file.sync()
        disk.sync_dir("/")
        file.write_at(0, b"a")
        file.write_at(10, b"b")
        disk.crash(power_loss=True, rng=random.Random(seed))
        content = disk.open("/f").read_at(0, 20)
        found.add((content[0:1] == b"a", content[10:11] == b"b"))
    assert (False, True) in found


def test_killed_process_loses_handles_and_locks_but_no_data() -> None:
    disk = SimulatedDisk()
    boot_id = disk.boot_id()
    file = disk.open("/f", create=True)
    file.write_at(0, b"abc")
    disk.lock("/lock")
    disk.crash(power_loss=False, rng=random.Random(1))
    with pytest.raises(OSError, match=r"."):
        file.write_at(0, b"ghost")
    assert disk.open("/f").read_at(0, 9) == b"abc"
    disk.lock("/lock")
    assert disk.boot_id() == boot_id


def test_failed_sync_loses_the_data_even_if_the_next_one_succeeds() -> None:
    disk = SimulatedDisk()
    write(disk, "/f", b"old", sync=True)
    disk.sync_dir("/")
    file = disk.open("/f")
    file.write_at(0, b"new")
    disk.fail_next("sync", errno.EIO)
    with pytest.raises(OSError, match=r"."):
        file.sync()
    file.sync()
    assert file.read_at(0, 3) == b"new"
    disk.crash(power_loss=True, rng=random.Random(1))
    assert disk.open("/f").read_at(0, 3) == b"old"


def test_full_disk_refuses_growth_only() -> None:
    disk = SimulatedDisk(capacity_bytes=10)
    file = disk.open("/f", create=True)
    file.write_at(0, b"x" * 10)
    with pytest.raises(OSError, match=r".") as failure:
        file.write_at(5, b"y" * 6)
    assert failure.value.errno == errno.ENOSPC
    file.write_at(0, b"y")
    assert disk.free_bytes("/") == 0


def test_faults_hit_the_operation_and_path_they_name() -> None:
    disk = SimulatedDisk()
    disk.fail_next("write", errno.EIO, path_contains="g", count=2)
    write(disk, "/f", b"fine", sync=True)
    for _ in range(2):
        with pytest.raises(OSError, match=r"."):
            write(disk, "/g", b"x", sync=True)
    write(disk, "/g", b"x", sync=True)


def test_damage_is_durable() -> None:
    disk = SimulatedDisk()
    write(disk, "/f", b"\0\0\0", sync=True)
    disk.sync_dir("/")
    disk.flip_bit("/f", 9)
    disk.crash(power_loss=True, rng=random.Random(1))
    assert disk.open("/f").read_at(0, 3) == b"\0\x02\0"
    disk.cut_file("/f", 1)
    assert disk.open("/f").size() == 1
