"""The control channel: answers, typed errors, lost connections; the actions; the table of links; the preflight."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from chaos.control import (
    ActionFailed,
    BadArguments,
    ControlClient,
    ControlLost,
    ControlServer,
    UnknownAction,
    answer_to,
)
from chaos.interfaces import CAPABILITIES, CLIENTS, ClusterOptions, FaultFailed
from chaos.node_clock import JumpingClock
from chaos.node_faults import FaultsAtStart, NodeFaults, link_to_json, links_from_json
from chaos.node_hurt_disk import DiskFaults
from chaos.node_link_table import LinkTable
from chaos.node_links import LinkRule, Links
from chaos.targets.base import capabilities
from chaos.targets.processes import ProcessTarget
from logcluster.runtime.clock import SystemClock


def echo(action: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    if action == "echo":
        return arguments
    if action == "fail":
        raise ActionFailed("on purpose")
    if action == "break":
        raise RuntimeError("a bug")
    raise UnknownAction(action)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"nonsense\n", "bad-request"),
        (b"[]\n", "bad-request"),
        (b'{"action": "echo"}\n', "bad-request"),
        (b'{"id": 1, "action": 2}\n', "bad-request"),
        (b'{"id": 1, "action": "echo", "arguments": []}\n', "bad-request"),
        (b'{"id": 1, "action": "what"}\n', "unknown-action"),
        (b'{"id": 1, "action": "fail"}\n', "failed"),
        (b'{"id": 1, "action": "break"}\n', "failed"),
    ],
)
def test_every_line_is_answered_with_a_typed_error(line: bytes, error: str) -> None:
    assert answer_to(line, echo)["error"]["type"] == error


def test_an_answer_has_the_id_of_its_request() -> None:
    assert answer_to(b'{"id": 7, "action": "echo", "arguments": {"a": 1}}', echo) == {"id": 7, "result": {"a": 1}}


async def test_requests_over_the_socket(tmp_path: Path) -> None:
    server = ControlServer(tmp_path / "s", echo)
    client = ControlClient(tmp_path / "s")
    server.start()
    try:
        await client.wait_up(timeout_ms=1_000, is_alive=lambda: True)
        assert await client.request("echo", value=[1, "x"]) == {"value": [1, "x"]}
        with pytest.raises(UnknownAction):
            await client.request("what")
        with pytest.raises(ActionFailed, match="on purpose"):
            await client.request("fail")
        assert await client.request("echo") == {}
    finally:
        client.close()
        await asyncio.to_thread(server.close)
    assert not (tmp_path / "s").exists()
    with pytest.raises(ControlLost):
        await client.request("echo")
    with pytest.raises(ControlLost, match="nobody"):
        await client.wait_up(timeout_ms=1_000, is_alive=lambda: False)


async def test_a_silent_server_is_a_lost_one(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_unix_server(say_nothing, str(tmp_path / "s"))
    client = ControlClient(tmp_path / "s")
    with pytest.raises(ControlLost, match="echo"):
        await client.request("echo", timeout_ms=50)
    await ended.wait()
    server.close()


class Fixture:
    def __init__(self) -> None:
        self.links = Links(randomness=random.Random(1))
        self.disk = DiskFaults()
        self.clock = JumpingClock()
        self.faults = NodeFaults(
            links=self.links, disk=self.disk, clock=self.clock, lazy=None, loop=asyncio.get_running_loop()
        )

    async def ask(self, action: str, **arguments: Any) -> dict[str, Any]:
        return await asyncio.to_thread(self.faults.handle, action, arguments)


@pytest.fixture
async def node() -> AsyncIterator[Fixture]:
    yield Fixture()


async def test_actions_act(node: Fixture) -> None:
    rule = LinkRule(is_cut=True, delay_ms=3)
    await node.ask("set-links", links=[link_to_json((1, "out"), rule), link_to_json((CLIENTS, "in"), rule)])
    assert node.links.rule((1, "out")) == node.links.rule((CLIENTS, "in")) == rule
    await node.ask("set-links", links=[])
    assert node.links.rule((1, "out")).is_clear
    await node.ask("set-clock", offset_ms=3_600_000)
    status = await node.ask("status")
    assert status["now_ms"] - SystemClock().now_ms() == pytest.approx(3_600_000, abs=1_000)
    await node.ask("fail-disk", operation="sync", error="EIO", count=2)
    assert (await node.ask("status"))["disk"] == {"due": 2}
    assert await node.ask("reset-link", peer=2) == {"connections": 0}


@pytest.mark.parametrize(
    ("action", "arguments"),
    [
        ("slow-disk", {}),
        ("slow-disk", {"delay_ms": -1}),
        ("slow-disk", {"delay_ms": 1, "more": 2}),
        ("fail-disk", {"operation": "sing", "error": "EIO", "count": 1}),
        ("fail-disk", {"operation": "sync", "error": "EWHAT", "count": 1}),
        ("fail-disk", {"operation": "sync", "error": "EIO", "count": -1}),
        ("fail-disk", {"operation": "sync", "error": "EIO", "count": 1, "area": "everywhere"}),
        ("set-clock", {"offset_ms": "soon"}),
        ("set-links", {"links": [{"peer": 1, "direction": "up"}]}),
        ("set-links", {"links": [{"peer": 1, "direction": "out", "bytes_per_s": 0}]}),
        ("set-links", {"links": [{"peer": 1, "direction": "out", "colour": "red"}]}),
    ],
)
async def test_bad_arguments_do_nothing(node: Fixture, action: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(BadArguments):
        await node.ask(action, **arguments)
    assert node.disk.describe() == {"due": 0}
    assert node.links.rule((1, "out")).is_clear


async def test_unknown_actions_are_named(node: Fixture) -> None:
    with pytest.raises(UnknownAction, match="slow-disk"):
        await node.ask("explode")


def test_faults_at_the_start_are_a_text() -> None:
    links = [link_to_json((CLIENTS, "in"), LinkRule(delay_ms=5, jitter_ms=1))]
    faults = FaultsAtStart(links=links, disk_delay_ms=7, clock_offset_ms=-5)
    parsed = FaultsAtStart.parse(faults.to_text())
    assert links_from_json(parsed.links) == {(CLIENTS, "in"): LinkRule(delay_ms=5, jitter_ms=1)}
    assert (parsed.disk_delay_ms, parsed.clock_offset_ms) == (7, -5)
    for text in ("[]", json.dumps({"what": 1}), "{"):
        with pytest.raises(ValueError, match=r"."):
            FaultsAtStart.parse(text)


def test_a_table_of_links_merges_changes_and_knows_its_ends() -> None:
    table = LinkTable({0, 1})
    table.change(0, 1, is_cut=True)
    table.change(0, 1, delay_ms=5, jitter_ms=2)
    table.change(CLIENTS, 1, bytes_per_s=10)
    assert table.rule(0, 1) == LinkRule(is_cut=True, delay_ms=5, jitter_ms=2)
    assert table.rule(1, 0).is_clear
    table.heal(0, 1)
    assert table.rule(0, 1).is_clear
    assert table.heal_all() == {(CLIENTS, 1)}
    for source, destination in ((0, 2), (0, 0), (CLIENTS, CLIENTS), ("people", 1)):
        with pytest.raises(FaultFailed):
            table.change(source, destination, is_cut=True)
    with pytest.raises(FaultFailed, match="bandwidth"):
        table.change(0, 1, bytes_per_s=0)


def test_the_preflight_speaks_of_every_capability() -> None:
    found = ProcessTarget().preflight()
    assert [one.name for one in found] == list(CAPABILITIES)
    assert all(one.is_supported or one.reason for one in found)
    with pytest.raises(ValueError, match="levitation"):
        capabilities({"levitation": "not here"})


async def test_a_target_that_is_not_started_says_so(tmp_path: Path) -> None:
    target = ProcessTarget()
    with pytest.raises(FaultFailed, match="not started"):
        await target.kill(0)
    await target.stop()
    assert ClusterOptions().brokers == 3
