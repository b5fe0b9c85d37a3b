"""What the operating system says of this process: memory, processor time, open files."""

from __future__ import annotations

from typing import NamedTuple

import psutil


class ProcessStats(NamedTuple):
    """Memory in bytes, processor time in milliseconds since the process began."""

    pid: int
    resident_size_bytes: int
    cpu_time_ms: int
    open_file_count: int


_process = psutil.Process()  # type: ignore[no-untyped-call]  # psutil is not annotated


def process_stats() -> ProcessStats:
    """Read them now; a few system calls."""
    with _process.oneshot():
        times = _process.cpu_times()
        return ProcessStats(
            pid=_process.pid,
            resident_size_bytes=_process.memory_info().rss,
            cpu_time_ms=int((times.user + times.system) * 1000),
            open_file_count=_process.num_fds(),  # type: ignore[no-untyped-call]  # as above
        )
