"""What the partition log costs on this machine's disk: one JSON object on stdout, a few seconds of work.

python bench/storage.py [--directory DIR] [--seconds S]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from logcluster.model.ids import TopicId, TopicPartition
from logcluster.record.batch import read_header, stamp
from logcluster.record.builder import BatchBuilder
from logcluster.record.compression import Compression
from logcluster.storage.log import PartitionLog
from logcluster.storage.log_config import LogConfig
from logcluster.storage.log_manager import LogManager
from logcluster.storage.posix_filesystem import PosixFilesystem

KIB = 1024


def make_batch(size_bytes: int) -> bytes:
    """One batch of one record, about `size_bytes` large."""
    builder = BatchBuilder(compression=Compression.NONE, size_bytes_max=1 << 22)
    builder.append(1_700_000_000_000, None, bytes(range(256)) * (size_bytes // 256), [])
    return builder.build()


class Bench:
    """Measurements in one scratch directory."""

    def __init__(self, root: Path, seconds: float) -> None:
        self._root = root
        self._seconds = seconds
        self._count = 0

    def manager(self, name: str | None = None) -> LogManager:
        self._count += 1
        return LogManager.open(
            PosixFilesystem(),
            str(self._root / (name or f"d{self._count}")),
            cluster_id="bench",
            node_id=1,
            new_directory_id=lambda: b"b" * 16,
        )

    def log(self, manager: LogManager, *, number: int = 0, preallocate: bool = True) -> PartitionLog:
        config = LogConfig(preallocate=preallocate)
        return manager.get_or_create(TopicPartition("t", number), TopicId(b"t" * 16), config)

    def append_us(self, size_bytes: int, *, preallocate: bool) -> float:
        """Median microseconds of one append into the page cache; the largest bursts of the kernel left out."""
        manager = self.manager()
        log = self.log(manager, preallocate=preallocate)
        raw = make_batch(size_bytes)
        count = min(20_000, 256 * KIB * KIB // size_bytes)
        data = [stamp(raw, base_offset=offset, leader_epoch=1) for offset in range(count)]
        batches = [(item, (read_header(item),)) for item in data]
        rounds = []
        step = count // 10
        for start in range(0, count, step):
            begin = time.perf_counter_ns()
            for item, headers in batches[start : start + step]:
                log.append(item, headers)
            rounds.append((time.perf_counter_ns() - begin) / step / 1000)
        manager.close(clean=False)
        return statistics.median(rounds)

    def flush_us(self, size_bytes: int, *, preallocate: bool) -> dict[str, float]:
        """Append one batch and sync it, again and again: microseconds of the sync."""
        manager = self.manager()
        log = self.log(manager, preallocate=preallocate)
        raw = make_batch(size_bytes)
        times = []
        deadline = time.perf_counter() + self._seconds
        while time.perf_counter() < deadline:
            log.append(stamp(raw, base_offset=log.log_end_offset, leader_epoch=1))
            begin = time.perf_counter_ns()
            log.flush()
            times.append((time.perf_counter_ns() - begin) / 1000)
        manager.close(clean=False)
        times = sorted(times[1:])
        return {"p50": statistics.median(times), "p99": times[len(times) * 99 // 100], "count": len(times)}

    def group_commit(self, partitions: int, batches_per_round: int) -> dict[str, float]:
        """Rounds of appends to several partitions and one sync of each, one after another and on threads."""
        result: dict[str, float] = {}
        raw = make_batch(KIB)
        for threads in (1, partitions):
            manager = self.manager()
            logs = [self.log(manager, number=number) for number in range(partitions)]
            times = []
            deadline = time.perf_counter() + self._seconds
            with ThreadPoolExecutor(threads) as executor:
                while time.perf_counter() < deadline:
                    for number in range(batches_per_round):
                        log = logs[number % partitions]
                        log.append(stamp(raw, base_offset=log.log_end_offset, leader_epoch=1))
                    begin = time.perf_counter_ns()
                    pending = [(log, flush) for log in logs if (flush := log.prepare_flush()) is not None]
                    list(executor.map(lambda item: item[1].run(), pending))
                    for log, flush in pending:
                        log.complete_flush(flush)
                    times.append((time.perf_counter_ns() - begin) / 1000)
            manager.close(clean=False)
            result[f"round_us_p50_{threads}_threads"] = statistics.median(times[1:])
        return result

    def read_and_recover(self, size_bytes: int) -> dict[str, float]:
        """MB/s of cold reads of 1 MiB (page cache warm, checksums verified), and of recovery after a crash."""
        manager = self.manager("recovered")
        log = self.log(manager)
        raw = make_batch(size_bytes)
        while log.size_bytes < 64 * KIB * KIB:
            log.append(stamp(raw, base_offset=log.log_end_offset, leader_epoch=1))
        log.flush()
        total, end = log.size_bytes, log.log_end_offset
        offset = 0
        begin = time.perf_counter()
        while offset < end:
            offset = log.read(offset, size_bytes_max=KIB * KIB, end_offset=end).next_offset
        read_seconds = time.perf_counter() - begin
        manager.close(clean=False)
        begin = time.perf_counter()
        self.manager("recovered").close(clean=False)
        recovery_seconds = time.perf_counter() - begin
        shutil.rmtree(self._root / "recovered")
        return {"read_mb_s": total / 1e6 / read_seconds, "recovery_mb_s": total / 1e6 / recovery_seconds}

    def tail_read_us(self) -> float:
        """Microseconds to read the newest 1 KB batch from memory."""
        manager = self.manager()
        log = self.log(manager)
        raw = make_batch(KIB)
        for offset in range(2000):
            log.append(stamp(raw, base_offset=offset, leader_epoch=1))
        begin = time.perf_counter_ns()
        for _ in range(20_000):
            log.read_tail(1999, size_bytes_max=KIB * KIB, end_offset=2000)
        elapsed = time.perf_counter_ns() - begin
        manager.close(clean=False)
        return elapsed / 20_000 / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", help="where to write; default: the temporary directory")
    parser.add_argument("--seconds", type=float, default=0.7, help="length of each sync measurement")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="logcluster-bench-", dir=arguments.directory))
    try:
        bench = Bench(root, arguments.seconds)
        result: dict[str, object] = {"append_us": {}, "flush_us": {}}
        for size_bytes in (KIB, 64 * KIB):
            name = f"{size_bytes // KIB}KiB"
            for preallocate in (True, False):
                key = f"{name}_{'preallocated' if preallocate else 'growing'}"
                result["append_us"][key] = bench.append_us(size_bytes, preallocate=preallocate)  # type: ignore[index]
                result["flush_us"][key] = bench.flush_us(size_bytes, preallocate=preallocate)  # type: ignore[index]
            result[f"files_{name}"] = bench.read_and_recover(size_bytes)
        result["tail_read_us"] = bench.tail_read_us()
        result["group_commit_6_partitions"] = bench.group_commit(6, 60)
        print(json.dumps(_rounded(result), indent=2))
    finally:
        shutil.rmtree(root)


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 1) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
