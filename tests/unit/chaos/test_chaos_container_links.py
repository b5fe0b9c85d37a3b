"""Containers: which rule goes into whose namespace, how settings become variables, what is said without an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chaos import container_links
from chaos.container_links import ContainerLinks
from chaos.interfaces import CAPABILITIES, CLIENTS, ClusterOptions, FaultFailed
from chaos.node_link_table import End
from chaos.targets import containers
from chaos.targets.containers import ContainerTarget, variables

ADDRESSES: dict[End, str] = {0: "10.0.0.10", 1: "10.0.0.11", CLIENTS: "10.0.0.1"}


class Rules(ContainerLinks):
    """Keeps what `nft` would have been told, by broker."""

    def __init__(self) -> None:
        super().__init__(ADDRESSES)
        self.told: list[tuple[int, str]] = []

    async def _nft(self, broker_id: int, text: str) -> None:
        assert broker_id in self._pids
        self.told.append((broker_id, text.removeprefix(container_links._RULES).strip()))


async def running() -> Rules:
    rules = Rules()
    for broker_id in (0, 1):
        await rules.install(broker_id, 100 + broker_id)
    rules.told.clear()
    return rules


async def test_a_link_is_cut_where_the_other_broker_receives_and_once() -> None:
    rules = await running()
    await rules.cut(0, 1)
    await rules.cut(0, 1)
    assert rules.told == [(1, "add element inet chaos from_cut_off { 10.0.0.10 }")]
    await rules.heal(0, 1)
    await rules.heal(0, 1)
    assert rules.told[1:] == [(1, "delete element inet chaos from_cut_off { 10.0.0.10 }")]


async def test_what_clients_shall_not_hear_is_dropped_where_it_is_sent() -> None:
    rules = await running()
    await rules.cut(0, CLIENTS)
    await rules.cut(CLIENTS, 0)
    assert rules.told == [
        (0, "add element inet chaos to_cut_off { 10.0.0.1 }"),
        (0, "add element inet chaos from_cut_off { 10.0.0.1 }"),
    ]


async def test_a_cut_outlives_the_container_it_is_made_in() -> None:
    rules = await running()
    rules.forget(1)
    await rules.cut(0, 1)
    assert rules.told == [], "there is no namespace to put it in"
    await rules.install(1, 777)
    assert rules.told == [(1, "add element inet chaos from_cut_off { 10.0.0.10 }")]
    await rules.heal_all()
    assert rules.told[-1] == (1, "delete element inet chaos from_cut_off { 10.0.0.10 }")
    await rules.install(1, 778)
    assert rules.told[-1] == (1, ""), "healed is healed"


async def test_a_reset_ends_by_itself_and_needs_a_broker_that_runs() -> None:
    rules = await running()
    await rules.reset(0, CLIENTS, during_s=0.0)
    assert [text.split()[0] for _, text in rules.told] == ["add", "delete"]
    assert {broker_id for broker_id, _ in rules.told} == {0}
    rules.forget(1)
    with pytest.raises(FaultFailed, match="broker 1 does not run"):
        await rules.reset(0, 1, during_s=0.0)
    with pytest.raises(FaultFailed, match="not an end"):
        await rules.cut(0, 7)


def test_settings_become_variables() -> None:
    assert variables({"replication": {}, "log": {"level": "debug"}, "quorum": {"voters": ["0@a:1", "1@b:1"]}}) == {
        "LOGCLUSTER_LOG_LEVEL": "debug",
        "LOGCLUSTER_QUORUM_VOTERS": "0@a:1,1@b:1",
    }
    with pytest.raises(FaultFailed, match=r"no setting log\.colour"):
        variables({"log": {"colour": "red"}})


async def test_without_an_engine_everything_has_a_reason(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(containers, "why_no_engine", lambda: "no Docker engine answers")
    told = ContainerTarget().preflight()
    assert [item.name for item in told] == list(CAPABILITIES)
    assert not any(item.is_supported for item in told) and {item.reason for item in told} == {
        "no Docker engine answers"
    }
    with pytest.raises(FaultFailed, match="no Docker engine"):
        await ContainerTarget().start(ClusterOptions(), tmp_path)


async def test_what_an_image_cannot_do_is_refused(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(containers, "why_no_engine", lambda: "")
    monkeypatch.setattr(containers, "why_no_cuts", lambda: "needs root")
    told = {item.name: item for item in ContainerTarget().preflight()}
    assert told["kill"].is_supported and not told["cut"].is_supported and not told["ablation"].is_supported
    for options in (ClusterOptions(is_disk_lazy=True), ClusterOptions(ablations=("fsync-before-ack",))):
        with pytest.raises(FaultFailed, match="nothing reaches inside"):
            await ContainerTarget().start(options, tmp_path)
