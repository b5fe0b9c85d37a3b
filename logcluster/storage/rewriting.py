"""Writing batches again as they were read, so that the next sync takes them to the disk for certain.

After a sync that failed the kernel calls the pages clean: they can be read, although the disk has never seen them, and
another sync finds nothing to do (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020). What is
written is the memory in which a scan has just checked the batches, never a second read: the kernel may drop a clean
page between two reads, and then the second one gives what the disk holds.
"""

from __future__ import annotations

from collections.abc import Iterator

from logcluster.model.probes import probe
from logcluster.record.batch import BatchHeader
from logcluster.runtime.failpoints import failpoint
from logcluster.storage.batch_scan import BatchScan
from logcluster.storage.filesystem import File


class Rewriting:
    """Iterates over a verifying scan of `file`, and writes every batch that reaches beyond an offset again.

    Writes are as large as the scan's reads. Attributes: `size_bytes` is how much was written, once the iteration ended.

    Raises:
        OSError: while iterating; the disk failed.
    """

    def __init__(self, scan: BatchScan, file: File, *, above_offset: int) -> None:
        self.size_bytes = 0
        self._scan = scan
        self._file = file
        self._above_offset = above_offset
        self._run = memoryview(b"")
        self._run_position = 0

    def __iter__(self) -> Iterator[tuple[int, BatchHeader]]:
        scan = self._scan
        chunk = scan.chunk
        begin = end = 0
        for position, header in scan:
            if header.next_offset > self._above_offset:
                if scan.chunk is not chunk:
                    self._write()
                    chunk = scan.chunk
                    begin = position - scan.chunk_position
                    self._run_position = position
                end = position - scan.chunk_position + header.size_bytes
                self._run = chunk[begin:end]
            yield position, header
        self._write()

    def _write(self) -> None:
        if not self._run:
            return
        if self.size_bytes == 0:
            probe("storage.recovery.rewritten")
            failpoint("storage.recovery.before_rewrite")
        self._file.write_at(self._run_position, self._run)
        self.size_bytes += len(self._run)
        self._run = memoryview(b"")
