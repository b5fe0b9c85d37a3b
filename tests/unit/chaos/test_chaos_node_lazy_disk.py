"""The lazy filesystem: readers see everything, and a kill leaves what was synced."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from chaos.node_lazy_disk import SIDE_PREFIX, LazyFilesystem
from logcluster.storage.checkpoints import read_checked, write_checked
from logcluster.storage.filesystem import Filesystem
from logcluster.storage.posix_filesystem import PosixFilesystem


class Machine:
    """A directory, and a lazy filesystem over it that can lose its power."""

    def __init__(self, root: Path) -> None:
        self.root = str(root / "data")
        Path(self.root).mkdir()
        self._boots = 0
        self.lose_power()

    def lose_power(self) -> None:
        self._boots += 1
        self.disk = LazyFilesystem(PosixFilesystem(), self.root, boot_id=f"boot-{self._boots}")

    def write(self, name: str, data: bytes, *, position: int = 0, sync: bool = False) -> None:
        file = self.disk.open(f"{self.root}/{name}", create=True)
        file.write_at(position, data)
        if sync:
            file.sync()
        file.close()

    def read(self, name: str) -> bytes:
        file = self.disk.open(f"{self.root}/{name}")
        try:
            return file.read_at(0, file.size())
        finally:
            file.close()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def durable_file(machine: Machine, name: str, data: bytes) -> None:
    machine.write(name, data, sync=True)
    machine.disk.sync_dir(machine.root)


def test_unsynced_bytes_are_read_and_lost(machine: Machine) -> None:
    durable_file(machine, "f", b"synced")
    machine.write("f", b"XY", position=2)
    machine.write("f", b"more", position=8)
    assert machine.read("f") == b"syXYed\0\0more"
    assert machine.disk.pending_bytes == 6
    machine.lose_power()
    assert machine.read("f") == b"synced"


def test_synced_bytes_are_kept(machine: Machine) -> None:
    durable_file(machine, "f", b"first")
    file = machine.disk.open(f"{machine.root}/f")
    file.write_at(5, b"second")
    file.sync()
    file.write_at(11, b"third")
    machine.lose_power()
    assert machine.read("f") == b"firstsecond"


def test_a_sync_by_another_handle_counts(machine: Machine) -> None:
    durable_file(machine, "f", b"")
    machine.write("f", b"abc")
    file = machine.disk.open(f"{machine.root}/f")
    file.sync()
    file.close()
    machine.lose_power()
    assert machine.read("f") == b"abc"


def test_a_name_that_was_not_synced_is_lost_with_its_synced_bytes(machine: Machine) -> None:
    machine.write("f", b"abc", sync=True)
    assert machine.disk.list(machine.root) == ["f"]
    machine.lose_power()
    assert machine.disk.list(machine.root) == []
    assert not any(path.name.startswith(SIDE_PREFIX) for path in Path(machine.root).iterdir())


def test_a_synced_name_without_synced_bytes_is_an_empty_file(machine: Machine) -> None:
    machine.write("f", b"abc")
    machine.disk.sync_dir(machine.root)
    machine.lose_power()
    assert machine.read("f") == b""


def test_a_renaming_happens_when_its_directory_is_synced(machine: Machine) -> None:
    durable_file(machine, "old", b"old")
    durable_file(machine, "new", b"new")
    machine.disk.rename(f"{machine.root}/new", f"{machine.root}/old")
    assert machine.disk.list(machine.root) == ["old"]
    assert machine.read("old") == b"new"
    machine.lose_power()
    assert machine.disk.list(machine.root) == ["new", "old"]
    assert machine.read("old") == b"old"
    machine.disk.rename(f"{machine.root}/new", f"{machine.root}/old")
    machine.disk.sync_dir(machine.root)
    machine.lose_power()
    assert machine.disk.list(machine.root) == ["old"]
    assert machine.read("old") == b"new"


def test_a_removal_happens_when_its_directory_is_synced(machine: Machine) -> None:
    durable_file(machine, "f", b"abc")
    machine.disk.remove(f"{machine.root}/f")
    assert not machine.disk.exists(f"{machine.root}/f")
    machine.lose_power()
    assert machine.read("f") == b"abc"
    machine.disk.remove(f"{machine.root}/f")
    machine.write("f", b"another", sync=True)
    machine.disk.sync_dir(machine.root)
    machine.lose_power()
    assert machine.read("f") == b"another"


def test_directories_are_lazy_too(machine: Machine) -> None:
    disk, root = machine.disk, machine.root
    disk.make_dir(f"{root}/d/e")
    machine.write("d/e/f", b"abc", sync=True)
    assert disk.list(f"{root}/d") == ["e"]
    assert disk.is_dir(f"{root}/d/e")
    for path in ("d/e", "d"):
        disk.sync_dir(f"{root}/{path}")
    disk.sync_dir(root)
    disk.rename(f"{root}/d", f"{root}/gone")
    assert machine.read("gone/e/f") == b"abc"
    machine.lose_power()
    assert machine.read("d/e/f") == b"abc"
    machine.disk.remove_tree(f"{root}/d")
    machine.disk.sync_dir(root)
    machine.lose_power()
    assert machine.disk.list(root) == []


def test_truncation_and_preallocation_are_unsynced_as_well(machine: Machine) -> None:
    durable_file(machine, "f", b"abcdef")
    file = machine.disk.open(f"{machine.root}/f")
    file.truncate(2)
    file.preallocate(4)
    file.preallocate(1)
    assert (file.size(), file.read_at(0, 10)) == (4, b"ab\0\0")
    machine.lose_power()
    assert machine.read("f") == b"abcdef"
    file = machine.disk.open(f"{machine.root}/f")
    file.truncate(2)
    file.truncate(4)
    file.sync()
    machine.lose_power()
    assert machine.read("f") == b"ab\0\0"


def test_after_a_failed_sync_bytes_are_read_and_never_durable(machine: Machine) -> None:
    durable_file(machine, "f", b"....")
    file = machine.disk.open(f"{machine.root}/f")
    file.write_at(0, b"lost")
    file.lose_pending()  # type: ignore[attr-defined]
    file.write_at(2, b"kept")
    file.sync()
    assert file.read_at(0, 10) == b"lokept"
    machine.lose_power()
    assert machine.read("f") == b"..kept"


def test_small_files_are_replaced_whole_or_not(machine: Machine) -> None:
    write_checked(machine.disk, machine.root, "small.json", {"value": 1})
    machine.lose_power()
    assert read_checked(machine.disk, machine.root, "small.json") == {"value": 1}
    write_checked(machine.disk, machine.root, "small.json", {"value": 2})
    machine.lose_power()
    assert read_checked(machine.disk, machine.root, "small.json") == {"value": 2}


def test_errors_are_the_ports(machine: Machine) -> None:
    disk, root = machine.disk, machine.root
    durable_file(machine, "f", b"abc")
    disk.make_dir(f"{root}/d")
    for work in (
        lambda: disk.open(f"{root}/none"),
        lambda: disk.open(f"{root}/none/f", create=True),
        lambda: disk.list(f"{root}/none"),
        lambda: disk.remove(f"{root}/none"),
        lambda: disk.rename(f"{root}/none", f"{root}/other"),
        lambda: disk.sync_dir(f"{root}/none"),
    ):
        with pytest.raises(FileNotFoundError):
            work()
    disk.remove_tree(f"{root}/none")
    with pytest.raises(OSError, match="stays") as failure:
        disk.rename(f"{root}/f", f"{root}/d/f")
    assert failure.value.errno == errno.EXDEV
    file = disk.open(f"{root}/f")
    file.close()
    file.close()
    with pytest.raises(OSError, match=r"."):
        file.read_at(0, 1)
    lock = disk.lock(f"{root}/lock")
    with pytest.raises(BlockingIOError):
        disk.lock(f"{root}/lock")
    lock.release()


def test_a_root_that_does_not_exist_yet(tmp_path: Path) -> None:
    root = str(tmp_path / "later")
    disk: Filesystem = LazyFilesystem(PosixFilesystem(), root, boot_id="b")
    assert not disk.exists(f"{root}/identity.json")
    with pytest.raises(FileNotFoundError):
        disk.list(root)
    disk.make_dir(root)
    assert disk.list(root) == []
    assert disk.exists(root)
    assert disk.is_dir(root)
    assert disk.free_bytes(root) > 0
    assert disk.boot_id() == "b"


@pytest.mark.parametrize("seed", range(20))
def test_one_file_behaves_as_bytes_in_memory(machine: Machine, seed: int) -> None:
    rng = random.Random(seed)
    durable_file(machine, "f", b"")
    expected, durable = bytearray(), b""
    file = machine.disk.open(f"{machine.root}/f")
    for _ in range(200):
        action = rng.choice(["write", "append", "truncate", "preallocate", "sync", "read"])
        if action in {"write", "append"}:
            position = len(expected) if action == "append" else rng.randrange(100)
            data = rng.randbytes(rng.randrange(1, 30))
            expected.extend(bytes(max(0, position - len(expected))))
            expected[position : position + len(data)] = data
            file.write_at(position, data)
        elif action == "truncate":
            size = rng.randrange(120)
            del expected[size:]
            expected.extend(bytes(size - len(expected)))
            file.truncate(size)
        elif action == "preallocate":
            size = rng.randrange(150)
            expected.extend(bytes(max(0, size - len(expected))))
            file.preallocate(size)
        elif action == "sync":
            file.sync()
            durable = bytes(expected)
        position, size = rng.randrange(150), rng.randrange(60)
        assert file.read_at(position, size) == bytes(expected[position : position + size])
        assert file.size() == len(expected)
    machine.lose_power()
    assert machine.read("f") == durable
