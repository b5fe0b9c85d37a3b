"""`python -m chaos.client WORKLOAD …`: one client process of a chaos run, with a history of its own.

    python -m chaos.client append --bootstrap 127.0.0.1:7070 --history a.jsonl --name append-0 --seed 1 --options '{}'

It works until SIGTERM (or `--duration-ms`): then it begins nothing new, waits for outcomes up to 15 s, gives what is
still open the outcome `info`, and ends. A killed process leaves open operations, which `chaos.histories.merge` closes.

Exit codes: 0 told to stop, or complete; 1 `drain` could not read everything; 2 bad arguments; 3 the client library or
this program failed, of which the history has an event `crash`. Beside the operations of docs/checking.md the history
has `client_start`, `client_stop`, `connection` (one was lost or not made), `crash`, `internal_error` (a broker's, or a
client's, bug), `create_topic` and what else `admin` does, `drain`, `undrained`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from chaos.parents import die_with_parent
from chaos.workloads import WORKLOADS
from chaos.workloads.recording import FLUSH_INTERVAL_MS, HistoryWriter
from chaos.workloads.worker import Options, Worker
from logcluster.model.errors import LogClusterError
from logcluster.model.ids import Endpoint
from logcluster.runtime.scope import TaskScope

OUTCOME_TIMEOUT_MS: Final = 15_000
EXIT_ARGUMENTS: Final = 2
EXIT_CRASH: Final = 3


class BadArguments(Exception):
    """The command line asks for what is not there; says what."""


def read_options(workload: str, text: str) -> Options:
    """The options of a workload from JSON.

    Raises:
        BadArguments: there is no such workload, or the options are none of its.
    """
    worker_type = WORKLOADS.get(workload)
    if worker_type is None:
        raise BadArguments(f"there is no workload {workload!r}; there are {', '.join(sorted(WORKLOADS))}")
    try:
        options = msgspec.json.decode(text, type=worker_type.options_type)
    except msgspec.DecodeError as error:
        raise BadArguments(f"--options of {workload}: {error}") from error
    problem = options.problem()
    if problem is not None:
        raise BadArguments(f"--options of {workload}: {problem}")
    return options


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with `options` read.

    Raises:
        BadArguments: they cannot be.
        SystemExit: they are not even arguments, or help was asked for.
    """
    parser = argparse.ArgumentParser(prog="python -m chaos.client", description="One client process of a chaos run.")
    parser.add_argument("workload", help=", ".join(sorted(WORKLOADS)))
    parser.add_argument("--bootstrap", required=True, metavar="HOST:PORT[,…]", help="gRPC addresses of brokers")
    parser.add_argument("--history", required=True, type=Path, metavar="FILE", help="JSON lines; must not exist yet")
    parser.add_argument("--name", required=True, help="of the client in the history")
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--options", default="{}", metavar="JSON", help="see chaos/workloads/WORKLOAD.py")
    parser.add_argument("--duration-ms", type=int, metavar="N", help="stop by itself after so long")
    parser.add_argument("--parent", type=int, metavar="PID", help="the process with whose end this one ends")
    chosen = parser.parse_args(arguments)
    if not chosen.name or any(character in chosen.name for character in "|/ \n"):
        raise BadArguments(f"--name {chosen.name!r}: use letters, digits, - and .")
    if chosen.duration_ms is not None and chosen.duration_ms < 1:
        raise BadArguments(f"--duration-ms {chosen.duration_ms} is not positive")
    try:
        for text in chosen.bootstrap.split(","):
            Endpoint.parse(text)
    except ValueError as error:
        raise BadArguments(f"--bootstrap: {error}") from error
    chosen.parsed_options = read_options(chosen.workload, chosen.options)
    return chosen


class _CrashLog(logging.Handler):
    """What the client library logs as an error is a bug of its own: nobody else may hear of it."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(logging.ERROR)
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, LogClusterError):
            self._worker.crashed(f"{record.name}: {record.getMessage()}", error)


async def run(worker: Worker, writer: HistoryWriter, duration_ms: int | None) -> int:
    """Let a workload work until it is complete or told to stop; returns the exit code."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    handler = _CrashLog(worker)
    logging.getLogger("logcluster").addHandler(handler)

    def unhandled(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException) and not isinstance(error, LogClusterError):
            worker.crashed(str(context.get("message")), error)

    loop.set_exception_handler(unhandled)
    limits_ms = [limit for limit in (duration_ms, worker.time_limit_ms) if limit is not None]
    async with TaskScope("client-process", on_fault=worker.crashed) as scope:
        scope.spawn(_flush_now_and_then(worker, writer), name="flush")
        if limits_ms:
            scope.spawn(_stop_after(worker, min(limits_ms)), name="limit")
        work = scope.spawn(worker.run(), name="work")
        stopped = scope.spawn(worker.wait_stopped(), name="stopped")
        await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            await asyncio.wait([work], timeout=OUTCOME_TIMEOUT_MS / 1000)
        logging.getLogger("logcluster").removeHandler(handler)
        exit_code = _finish(worker, writer, is_clean=work.done())
        if not work.done():
            # What still runs could have effects that no history tells: not another step.
            os._exit(exit_code)
    return exit_code


def _finish(worker: Worker, writer: HistoryWriter, *, is_clean: bool) -> int:
    """Close the history; nothing is written, and nothing may happen, afterwards."""
    left_open = worker.abandon("the outcome was not known when the client ended")
    exit_code = EXIT_CRASH if worker.crash_count else worker.exit_code
    writer.note("client_stop", {"exit_code": exit_code, "is_clean": is_clean, "left_open": left_open})
    writer.close()
    return exit_code


async def _flush_now_and_then(worker: Worker, writer: HistoryWriter) -> None:
    while True:
        await worker.clock.sleep_ms(FLUSH_INTERVAL_MS)
        writer.flush()


async def _stop_after(worker: Worker, limit_ms: int) -> None:
    await worker.clock.sleep_ms(limit_ms)
    worker.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one client process; returns its exit code."""
    try:
        chosen = parse_arguments(arguments)
        if chosen.parent is not None:
            die_with_parent(chosen.parent)
        writer = HistoryWriter(chosen.history, chosen.name)
    except FileExistsError:
        print(
            f"chaos.client: --history {chosen.history} exists; each process writes a file of its own", file=sys.stderr
        )
        return EXIT_ARGUMENTS
    except (BadArguments, OSError) as error:
        print(f"chaos.client: {error}", file=sys.stderr)
        return EXIT_ARGUMENTS
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"
    )
    worker = WORKLOADS[chosen.workload](
        name=chosen.name,
        bootstrap=chosen.bootstrap,
        rng=random.Random(chosen.seed),
        writer=writer,
        options=chosen.parsed_options,
    )
    facts = {"workload": chosen.workload, "seed": chosen.seed, "pid": os.getpid(), "life": worker.life}
    writer.note("client_start", facts | {"options": msgspec.to_builtins(chosen.parsed_options)})
    return asyncio.run(run(worker, writer, chosen.duration_ms))


if __name__ == "__main__":
    sys.exit(main())
