"""How a client process comes to its end: complete, told to stop, stuck, or because something failed that must not."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ClassVar

import pytest

from chaos import client
from chaos.workloads.drain import DrainOptions, DrainWorker
from chaos.workloads.recording import HistoryWriter
from chaos.workloads.worker import Options, Worker
from logcluster.check.history import Event, read_history
from logcluster.model.errors import UnknownServerError
from logcluster.runtime.event_log import get_logger


class Playing(Worker):
    """Does what the test says instead of talking to a cluster."""

    options_type: ClassVar[type[Options]] = Options
    play: Callable[[], Awaitable[None]]

    async def run(self) -> None:
        await self.play()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "h.jsonl"


def made(worker_type: type[Worker], path: Path, options: Options | None = None) -> Worker:
    return worker_type(
        name="c",
        bootstrap="127.0.0.1:1",
        rng=random.Random(1),
        writer=HistoryWriter(path, "c"),
        options=options or Options(),
    )


def playing(path: Path) -> Playing:
    worker = made(Playing, path)
    assert isinstance(worker, Playing)
    return worker


async def lived(worker: Worker, path: Path, duration_ms: int | None = None) -> tuple[int, list[Event]]:
    """Exit code and history."""
    code = await client.run(worker, worker.writer, duration_ms)
    return code, read_history(path)


async def test_a_workload_that_is_complete_ends_with_0(path: Path) -> None:
    worker = playing(path)
    voice = worker.voice()

    async def play() -> None:
        voice.ok(voice.invoke("send", ["t-0", None, "v"]), ["t-0", 0, "v"])

    worker.play = play
    code, events = await lived(worker, path)

    assert code == 0
    assert [(event.f, event.type) for event in events] == [("send", "invoke"), ("send", "ok"), ("client_stop", "ok")]
    assert events[-1].value == {"exit_code": 0, "is_clean": True, "left_open": 0}


@pytest.mark.parametrize("by", ["signal", "duration"])
async def test_told_to_stop_it_waits_for_outcomes(path: Path, by: str) -> None:
    worker = playing(path)
    voice = worker.voice()

    async def play() -> None:
        send = voice.invoke("send", ["t-0", None, "v"])
        if by == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        await worker.wait_stopped()
        await worker.clock.sleep_ms(20)
        voice.ok(send, ["t-0", 0, "v"])

    worker.play = play
    code, events = await lived(worker, path, 30 if by == "duration" else None)

    assert (code, [event.type for event in events]) == (0, ["invoke", "ok", "ok"])


async def test_what_has_no_outcome_in_time_is_unknown_and_nothing_happens_afterwards(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(client, "OUTCOME_TIMEOUT_MS", 30)
    monkeypatch.setattr(os, "_exit", ended.append)
    worker = playing(path)
    voice = worker.voice()

    async def play() -> None:
        voice.invoke("send", ["t-0", None, "v"])
        await asyncio.Event().wait()

    worker.play = play
    _, events = await lived(worker, path, 20)

    assert ended == [0]
    assert [(event.f, event.type) for event in events] == [("send", "invoke"), ("send", "info"), ("client_stop", "ok")]
    assert events[-1].value == {"exit_code": 0, "is_clean": False, "left_open": 1}


async def test_a_failure_of_the_client_is_written_down_and_ends_with_3(path: Path) -> None:
    worker = playing(path)

    async def play() -> None:
        raise ValueError("broken")

    worker.play = play
    code, events = await lived(worker, path)

    assert code == 3
    assert [event.f for event in events] == ["crash", "client_stop"]
    assert events[0].error == "ValueError('broken')"
    assert "broken" in events[0].value["trace"]


async def test_a_background_failure_that_is_only_logged_counts_too(path: Path) -> None:
    worker = playing(path)

    async def play() -> None:
        try:
            raise KeyError("lost")
        except KeyError as error:
            get_logger("scope").error("task_failed", task="heartbeats", exc_info=error)
        await worker.wait_stopped()

    worker.play = play
    code, events = await lived(worker, path)

    assert code == 3
    assert events[0].value["what"] == "logcluster.scope: task_failed task=heartbeats"


async def test_what_the_cluster_answered_is_no_crash(path: Path) -> None:
    worker = playing(path)

    async def play() -> None:
        logging.getLogger("logcluster.client").error("%s", "x", exc_info=UnknownServerError("incident"))

    worker.play = play
    code, _ = await lived(worker, path)

    assert code == 0


async def test_a_drain_that_is_not_complete_in_time_ends_with_1_and_says_what_is_missing(path: Path) -> None:
    worker = made(DrainWorker, path, DrainOptions(timeout_ms=100, connect_timeout_ms=20))

    code, events = await lived(worker, path)

    assert code == 1
    assert "undrained" in [event.f for event in events]
