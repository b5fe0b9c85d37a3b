"""`logcluster produce`: a record a line, pipelined, until the input ends or the first record fails.

Standard output stays empty (or holds one JSON summary with -o json); the summary for people and the progress bar go to
standard error.
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import typer

from logcluster.cli.command import CommandFailed, ExitCode, Settings, exit_code_of
from logcluster.cli.connection import open_client
from logcluster.cli.lines import read_lines, size_bytes_of
from logcluster.cli.output import ProgressLine, note, print_json, progress

if TYPE_CHECKING:
    from logcluster.client.futures import RecordFuture
    from logcluster.client.producer import Producer
    from logcluster.model.errors import LogClusterError

TURN_LINES: Final = 2_000
"""After so many lines the event loop gets its turn to send."""


@dataclass(slots=True)
class ProduceOptions:
    """What the command line says about the records."""

    topic: str
    path: Path | None
    key_separator: bytes | None
    partition: int | None
    producer: dict[str, Any]


@dataclass(slots=True)
class Tally:
    """Records sent and their outcomes; outcomes are taken in the order of sending."""

    sent: int = 0
    acked: int = 0
    failed: int = 0
    size_bytes: int = 0
    first_error: LogClusterError | None = None
    pending: deque[RecordFuture] = field(default_factory=deque)

    def collect(self) -> None:
        """Take the outcomes that are known, from the oldest on."""
        pending = self.pending
        while pending and pending[0].done():
            error = pending.popleft().exception()
            if error is None:
                self.acked += 1
            else:
                self.failed += 1
                self.first_error = self.first_error or error


def acks_option(text: str) -> Literal["all", "leader", "none"]:
    """Read `all`, `1` or `0`.

    Raises:
        typer.BadParameter: it is none of these.
    """
    words: dict[str, Literal["all", "leader", "none"]] = {"all": "all", "-1": "all", "1": "leader", "0": "none"}
    if text not in words:
        raise typer.BadParameter(f"--acks {text!r} is not all, 1 or 0")
    return words[text]


async def produce(settings: Settings, options: ProduceOptions) -> None:
    """Send all lines and report.

    Raises:
        CommandFailed: a record failed, or the input cannot be read.
    """
    from logcluster.runtime.clock import perf_counter_ns

    try:
        total_bytes = size_bytes_of(options.path)
    except OSError as error:
        raise CommandFailed(f"cannot read {options.path}: {error.strerror}") from error
    if options.path is None and sys.stdin.isatty():
        note(f"type records for {options.topic}, one a line; end with Ctrl-D")
    started_ns = perf_counter_ns()
    tally = Tally()
    try:
        async with open_client(settings) as client:
            await client.admin.describe_topic(options.topic)
            async with client.producer(**options.producer) as producer:
                with progress(f"producing to {options.topic}", unit="rec") as bar:
                    await _send_all(producer, options, tally, bar, total_bytes)
                    await producer.flush()
                    tally.collect()
                    bar.update(tally.acked, total=tally.sent)
    except OSError as error:
        raise CommandFailed(f"cannot read {options.path or 'standard input'}: {error}") from error
    _report(settings, options, tally, seconds=(perf_counter_ns() - started_ns) / 1e9)


async def _send_all(
    producer: Producer, options: ProduceOptions, tally: Tally, bar: ProgressLine, total_bytes: int | None
) -> None:
    from logcluster.runtime.clock import SystemClock

    clock = SystemClock()
    async for lines in read_lines(options.path):
        for first in range(0, len(lines), TURN_LINES):
            for line in lines[first : first + TURN_LINES]:
                await _send_line(producer, options, tally, line)
            await clock.sleep_ms(0)
            tally.collect()
            if tally.first_error is not None:
                return
            total = round(tally.sent * total_bytes / max(1, tally.size_bytes)) if total_bytes else None
            bar.update(tally.acked, total=total)


async def _send_line(producer: Producer, options: ProduceOptions, tally: Tally, line: bytes) -> None:
    from logcluster.model.errors import BufferFull

    key: bytes | None = None
    value = line
    if options.key_separator is not None:
        before, separator, after = line.partition(options.key_separator)
        if separator:
            key, value = before, after
    while True:
        try:
            tally.pending.append(producer.send_nowait(options.topic, value, key, None, options.partition))
            break
        except BufferFull:
            if not tally.pending:
                raise
            await _oldest_outcome(tally)
    tally.sent += 1
    tally.size_bytes += len(line) + 1


async def _oldest_outcome(tally: Tally) -> None:
    """Wait until the oldest record has its outcome; the outcome itself is counted by `collect`."""
    from logcluster.model.errors import LogClusterError

    oldest = tally.pending[0]
    try:
        await oldest
    except LogClusterError as error:
        tally.first_error = tally.first_error or error
    tally.collect()


def _report(settings: Settings, options: ProduceOptions, tally: Tally, *, seconds: float) -> None:
    facts: dict[str, object] = {
        "topic": options.topic,
        "sent": tally.sent,
        "acked": tally.acked,
        "failed": tally.failed,
        "size_bytes": tally.size_bytes,
        "seconds": round(seconds, 3),
        "records_per_s": round(tally.acked / seconds) if seconds > 0 else 0,
    }
    if settings.is_json:
        print_json(facts)
    else:
        note(
            f"{tally.acked:,} of {tally.sent:,} records acknowledged in {seconds:.2f} s   "
            f"{facts['records_per_s']:,} rec/s   acks={options.producer['acks']}"
        )
    if tally.first_error is not None:
        error = tally.first_error
        raise CommandFailed(
            f"{tally.failed} of {tally.sent} records failed; the first: {error.message}",
            exit_code=max(ExitCode.FAILED, exit_code_of(error)),
            hint=error.hint,
        )
