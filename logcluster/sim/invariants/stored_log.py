"""Walking over the batches of one log as they lie on a simulated disk, forwards and a little further each time.

A walk reads the bytes of the disk itself: no handle, no injected fault, no counter is touched. It ends where the next
whole batch is not there (yet) and goes on from there when asked again. After the log was cut behind the walk, the
caller must `restart` it.
"""

from __future__ import annotations

from logcluster.model.errors import CorruptMessage, UnsupportedVersion
from logcluster.record.batch import BatchHeader, check_crc, read_header
from logcluster.sim.disk import SimulatedDisk
from logcluster.sim.invariants.view import StoredFile, stored_file, stored_names

LOG_SUFFIX = ".log"


class StoredLogWalk:
    """A position in the log of one partition directory.

    Args:
        durable: see only what would survive a power cut now, and only batches whose checksum is right.
    """

    __slots__ = ("_base", "_directory", "_disk", "_file", "_is_durable", "_position", "_size", "next_offset")

    def __init__(self, disk: SimulatedDisk, directory: str, *, durable: bool) -> None:
        self._disk = disk
        self._directory = directory
        self._is_durable = durable
        self._file: StoredFile | None = None
        self._base = -1
        self._position = 0
        self._size = 0
        self.next_offset: int | None = None
        """Where the walk is; None before its first batch."""

    def restart(self) -> None:
        """Go back to the first batch there is."""
        self._file = None
        self._base = -1
        self._position = 0
        self.next_offset = None

    def next(self) -> BatchHeader | None:
        """The next batch; None when no whole one follows now."""
        while True:
            file = self._file
            if file is None:
                if not self._open_segment():
                    return None
                continue
            data = file.data
            header = self._header(data)
            if header is not None:
                self._size = header.size_bytes
                self._position += header.size_bytes
                self.next_offset = header.next_offset
                return header
            if not self._open_segment():
                return None

    def bytes_of_last(self) -> bytes:
        """The batch that `next` returned last."""
        assert self._file is not None
        return bytes(self._file.data[self._position - self._size : self._position])

    def is_last_sound(self) -> bool:
        """Whether the checksum of the batch that `next` returned last is right."""
        data = self.bytes_of_last()
        return check_crc(data, 0, read_header(data))

    def _header(self, data: bytearray) -> BatchHeader | None:
        position = self._position
        try:
            header = read_header(data, position)
        except (CorruptMessage, UnsupportedVersion):
            return None
        if position + header.size_bytes > len(data):
            return None
        if self.next_offset is not None and header.base_offset != self.next_offset:
            return None
        if self._is_durable and not check_crc(bytes(data[position : position + header.size_bytes]), 0, header):
            return None
        return header

    def first_base_offset(self) -> int | None:
        """Where the oldest segment begins; None when there is none."""
        names = stored_names(self._disk, self._directory, durable=self._is_durable)
        return next((int(name[: -len(LOG_SUFFIX)]) for name in names if name.endswith(LOG_SUFFIX)), None)

    def _open_segment(self) -> bool:
        """Open the segment that begins at the walk's offset, or at the very start the first one; False: no other."""
        base = self.next_offset
        if base is None:
            base = self.first_base_offset()
            if base is None:
                return False
        if base == self._base:
            return False
        path = f"{self._directory}/{base:020d}{LOG_SUFFIX}"
        file = stored_file(self._disk, path, durable=self._is_durable)
        if file is None:
            return False
        self._file, self._base, self._position = file, base, 0
        return True
