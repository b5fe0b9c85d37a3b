"""What both filesystems promise: the operating system's and the simulated one."""

import errno
from pathlib import Path

import pytest

from logcluster.sim.disk import SimulatedDisk
from logcluster.storage.filesystem import Filesystem
from logcluster.storage.posix_filesystem import PosixFilesystem


@pytest.fixture(params=["posix", "simulated"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Filesystem, str]:
    if request.param == "posix":
        return PosixFilesystem(), str(tmp_path)
    disk = SimulatedDisk()
    disk.make_dir("/root")
    return disk, "/root"


Place = tuple[Filesystem, str]


def test_bytes_are_read_back_where_they_were_written(place: Place) -> None:
    filesystem, root = place
    file = filesystem.open(f"{root}/f", create=True)
    file.write_at(3, b"abc")
    file.write_at(4, memoryview(b"XY"))
    file.sync()
    assert file.read_at(0, 100) == b"\0\0\0aXY"
    assert file.read_at(4, 1) == b"X"
    assert file.read_at(6, 10) == b""
    assert file.size() == 6
    file.close()
    file.close()
    with pytest.raises(OSError, match=r"."):
        file.read_at(0, 1)


def test_preallocation_grows_with_zeros_and_never_shrinks(place: Place) -> None:
    filesystem, root = place
    file = filesystem.open(f"{root}/f", create=True)
    file.write_at(0, b"abc")
    file.preallocate(5000)
    assert file.size() == 5000
    assert file.read_at(0, 6) == b"abc\0\0\0"
    file.preallocate(10)
    assert file.size() == 5000
    file.truncate(2)
    file.truncate(4)
    assert file.read_at(0, 10) == b"ab\0\0"
    file.close()


def test_missing_files_and_directories_are_not_found(place: Place) -> None:
    filesystem, root = place
    for work in (
        lambda: filesystem.open(f"{root}/none"),
        lambda: filesystem.open(f"{root}/none/f", create=True),
        lambda: filesystem.list(f"{root}/none"),
        lambda: filesystem.remove(f"{root}/none"),
        lambda: filesystem.rename(f"{root}/none", f"{root}/other"),
        lambda: filesystem.sync_dir(f"{root}/none"),
    ):
        with pytest.raises(FileNotFoundError):
            work()
    filesystem.remove_tree(f"{root}/none")
    assert not filesystem.exists(f"{root}/none")


def test_names_are_listed_sorted_and_renamed_over_each_other(place: Place) -> None:
    filesystem, root = place
    filesystem.make_dir(f"{root}/d/e")
    filesystem.make_dir(f"{root}/d/e")
    for name in ("b", "a", "c"):
        file = filesystem.open(f"{root}/d/{name}", create=True)
        file.write_at(0, name.encode())
        file.close()
    assert filesystem.list(f"{root}/d") == ["a", "b", "c", "e"]
    filesystem.rename(f"{root}/d/a", f"{root}/d/c")
    assert filesystem.list(f"{root}/d") == ["b", "c", "e"]
    assert filesystem.open(f"{root}/d/c").read_at(0, 9) == b"a"
    filesystem.remove(f"{root}/d/b")
    filesystem.sync_dir(f"{root}/d")
    assert filesystem.is_dir(f"{root}/d/e")
    assert not filesystem.is_dir(f"{root}/d/c")
    filesystem.rename(f"{root}/d", f"{root}/x")
    assert filesystem.list(f"{root}/x") == ["c", "e"]
    filesystem.remove_tree(f"{root}/x")
    assert filesystem.list(root) == []


def test_rename_stays_in_its_directory(place: Place) -> None:
    filesystem, root = place
    filesystem.make_dir(f"{root}/d")
    filesystem.open(f"{root}/f", create=True).close()
    with pytest.raises(OSError, match="stays") as failure:
        filesystem.rename(f"{root}/f", f"{root}/d/f")
    assert failure.value.errno == errno.EXDEV


def test_open_file_outlives_its_name(place: Place) -> None:
    filesystem, root = place
    file = filesystem.open(f"{root}/f", create=True)
    file.write_at(0, b"abc")
    filesystem.remove(f"{root}/f")
    assert file.read_at(0, 3) == b"abc"
    file.close()


def test_lock_excludes_and_is_given_back(place: Place) -> None:
    filesystem, root = place
    lock = filesystem.lock(f"{root}/lock")
    with pytest.raises(BlockingIOError):
        filesystem.lock(f"{root}/lock")
    lock.release()
    lock.release()
    filesystem.lock(f"{root}/lock").release()


def test_free_space_and_boot_id_are_known(place: Place) -> None:
    filesystem, root = place
    assert filesystem.free_bytes(root) > 0
    assert filesystem.boot_id() == filesystem.boot_id()
