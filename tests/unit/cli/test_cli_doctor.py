"""`logcluster doctor`: the good and the bad case of each check, what it prints, and how it exits."""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import socket
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from logcluster.cli import doctor, doctor_examination, doctor_node
from logcluster.cli.app import app
from logcluster.cli.doctor_checks import Check, Status
from logcluster.cli.doctor_network import reason_of
from logcluster.client.descriptions import QuorumFacts, VoterFacts
from logcluster.client.metadata_cache import Answer, BrokerFacts, PartitionFacts, TopicFacts
from logcluster.model.errors import BrokerNotAvailable, LeaderNotAvailable, NotReady
from logcluster.model.ids import Endpoint

IDS = (0, 1, 2)
BOOTSTRAP = "b0.example:7070,b1.example:7070,b2.example:7070"


def broker(broker_id: int, **others: Any) -> BrokerFacts:
    return BrokerFacts(
        **{"broker_id": broker_id, "host": f"b{broker_id}.example", "grpc_port": 7070, "lane_port": 7071, **others}
    )


def topic(*in_sync: tuple[int, ...], leader: int | None = 0, name: str = "orders") -> TopicFacts:
    partitions = tuple(
        PartitionFacts(partition=index, leader_id=leader, leader_epoch=1, replicas=IDS, in_sync_replicas=members)
        for index, members in enumerate(in_sync)
    )
    return TopicFacts(name=name, topic_id=b"x", partitions=partitions)


def voter(node_id: int, match_index: int = 100, last_contact_ms: int | None = None) -> VoterFacts:
    return VoterFacts(
        node_id=node_id, directory_id=b"d", host=f"b{node_id}.example", port=7071, match_index=match_index,
        last_contact_ms=last_contact_ms,
    )  # fmt: skip


def quorum_of(*voters: VoterFacts, leader: int | None = 0) -> QuorumFacts:
    return QuorumFacts(leader_id=leader, term=3, commit_index=100, voters=voters)


class FakeNetwork:
    """Three brokers, all well; tests break what they are about."""

    def __init__(self) -> None:
        self.addresses = {f"b{number}.example": [f"10.0.0.{number + 1}"] for number in IDS}
        self.nodes = {f"b{number}.example": (number, "shop") for number in IDS}
        self.closed_ports: dict[tuple[str, int], OSError] = {}
        self.hanging: set[str] = set()
        self.dead_calls: set[str] = set()
        self.answer = Answer(
            cluster_id="shop", metadata_offset=7, brokers=tuple(map(broker, IDS)), topics=(topic(IDS, IDS),)
        )
        self.quorums: list[QuorumFacts | LeaderNotAvailable] = [quorum_of(*map(voter, IDS))]
        self.least = 2
        self.asked_for: list[str] = []
        self.is_closed = False

    async def _stall(self, host: str) -> None:
        if host in self.hanging:
            await asyncio.Event().wait()

    async def resolve(self, host: str) -> list[str]:
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.addresses[host]

    async def connect(self, endpoint: Endpoint) -> None:
        await self._stall(endpoint.host)
        if (error := self.closed_ports.get(endpoint)) is not None:
            raise error

    async def metadata(self, endpoint: Endpoint) -> Answer:
        await self._stall(endpoint.host)
        if endpoint in self.closed_ports or endpoint.host in self.dead_calls:
            raise BrokerNotAvailable("nobody there")
        return replace(self.answer, cluster_id=self.nodes[endpoint.host][1])

    async def identity(self, endpoint: Endpoint, carrier: str) -> tuple[int, str]:
        await self._stall(endpoint.host)
        if endpoint in self.closed_ports:
            raise BrokerNotAvailable("nobody there")
        if carrier in self.dead_calls:
            raise NotReady("speaks something else")
        return self.nodes[endpoint.host]

    async def quorum(self, endpoint: Endpoint) -> QuorumFacts:
        found = self.quorums.pop(0) if len(self.quorums) > 1 else self.quorums[0]
        if isinstance(found, LeaderNotAvailable):
            raise found
        return found

    async def min_in_sync(self, endpoint: Endpoint, topic: str) -> int:
        self.asked_for.append(topic)
        return self.least

    async def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> FakeNetwork:
    fake = FakeNetwork()
    monkeypatch.setattr(doctor, "open_network", lambda timeout_ms, tls: fake)
    monkeypatch.setattr(doctor_examination, "SECOND_LOOK_MS", 1)
    return fake


def run(*arguments: str, bootstrap: str = BOOTSTRAP) -> Result:
    return CliRunner().invoke(
        app, ["doctor", "--timeout", "200ms", *arguments], env={"LOGCLUSTER_BOOTSTRAP": bootstrap}
    )


def checks(*arguments: str, bootstrap: str = BOOTSTRAP, exit_code: int | None = None) -> dict[tuple[str, str], Any]:
    finished = run(*arguments, "-o", "json", bootstrap=bootstrap)
    document = json.loads(finished.stdout)
    assert document["failed"] == sum(check["status"] == "failed" for check in document["checks"])
    assert document["warnings"] == sum(check["status"] == "warning" for check in document["checks"])
    assert document["healthy"] == (document["failed"] == 0) == (finished.exit_code == 0)
    assert all(bool(check["next"]) == (check["status"] != "ok") for check in document["checks"])
    if exit_code is not None:
        assert finished.exit_code == exit_code
    return {(check["check"], check["subject"]): check for check in document["checks"]}


def bad(found: dict[tuple[str, str], Any], status: str = "failed") -> set[tuple[str, str]]:
    return {name for name, check in found.items() if check["status"] == status}


def test_a_healthy_cluster_passes_every_check(network: FakeNetwork) -> None:
    found = checks(exit_code=0)
    assert {check["status"] for check in found.values()} == {"ok"}
    assert {name for name, _ in found} == {
        "bootstrap-address", "bootstrap-dns", "bootstrap-tcp", "bootstrap-grpc",
        "advertised-dns", "advertised-grpc", "advertised-lane", "cluster-id", "quorum-leader", "quorum-voter",
        "broker-state", "partitions-offline", "partitions-under-min-isr", "partitions-under-replicated",
    }  # fmt: skip
    assert network.is_closed
    assert network.asked_for == [], "the setting matters only where a replica is out of sync"


def test_the_table_shows_every_check_the_total_and_what_to_do(network: FakeNetwork) -> None:
    finished = run()
    assert finished.exit_code == 0
    assert finished.stdout.splitlines()[0].split() == ["STATUS", "CHECK", "SUBJECT", "FOUND"]
    assert "30 checks: 0 failed, 0 warnings" in finished.stdout
    assert "next:" not in finished.stdout
    network.closed_ports[Endpoint("b1.example", 7071)] = ConnectionRefusedError()
    finished = run()
    assert finished.exit_code == 1
    assert "failed: advertised-lane broker 1: b1.example:7071: connection refused" in finished.stdout
    assert "next: start broker 1 if it is down" in finished.stdout
    assert "1 of 30 checks failed: advertised-lane broker 1" in finished.stderr


def test_a_malformed_address_from_the_environment_is_named_and_the_others_are_asked(network: FakeNetwork) -> None:
    found = checks(bootstrap="b0.example:7070,b1.example", exit_code=1)
    assert bad(found) == {("bootstrap-address", "b1.example")}
    assert found["bootstrap-grpc", "b0.example:7070"]["status"] == "ok"
    assert run("--bootstrap", "nowhere").exit_code == 2, "as an option it is misuse"


REFUSED = ConnectionRefusedError()
STATES = (broker(0), broker(1, state="fenced"), broker(2, state="shutting-down"))
STILL = quorum_of(voter(0), voter(1), voter(2, match_index=60))
INNER_LANE = Endpoint("inner", 7071)
INNER = quorum_of(voter(0), voter(1), replace(voter(2), host="inner"))
SILENT = quorum_of(voter(0), voter(1, last_contact_ms=40), voter(2, last_contact_ms=4_100))


@pytest.mark.parametrize(
    ("damage", "failed", "warnings", "said"),
    [
        (lambda world: world.addresses.pop("b1.example"),
         "bootstrap-dns b1.example:7070, advertised-dns broker 1", "", "b1.example cannot be resolved: Name or"),
        (lambda world: world.closed_ports.update({Endpoint("b2.example", 7070): REFUSED}),
         "bootstrap-tcp b2.example:7070, bootstrap-grpc b2.example:7070, advertised-grpc broker 2", "", "refused"),
        (lambda world: world.dead_calls.add("b0.example"), "bootstrap-grpc b0.example:7070", "", "nobody there"),
        (lambda world: world.hanging.add("b1.example"),
         "bootstrap-tcp b1.example:7070, bootstrap-grpc b1.example:7070, advertised-grpc broker 1, "
         "advertised-lane broker 1", "quorum-voter node 1", "no answer within 0.2 s"),
        (lambda world: world.nodes.update({"b1.example": (0, "shop")}),
         "advertised-grpc broker 1, advertised-lane broker 1", "", "b1.example:7070 is node 0, another one"),
        (lambda world: world.dead_calls.add("lane"),
         "advertised-lane broker 0, advertised-lane broker 1, advertised-lane broker 2",
         "quorum-voter node 1, quorum-voter node 2", "takes connections, but no call"),
        (lambda world: world.nodes.update({"b2.example": (2, "other")}),
         "cluster-id", "", "other: b2.example:7070, broker 2"),
        (lambda world: world.nodes.update({"b2.example": (2, "")}), "", "cluster-id", "none yet: b2.example:7070"),
        (lambda world: setattr(world, "quorums", [STILL]), "quorum-voter node 2", "", "stands still 40 entries behind"),
        (lambda world: setattr(world, "quorums", [SILENT]), "quorum-voter node 2", "", "not heard from for 4.1 s"),
        (lambda world: setattr(world, "quorums", [INNER]) or world.closed_ports.update({INNER_LANE: REFUSED}),
         "", "quorum-voter node 2", "has all entries, but does not answer from here at inner:7071"),
        (lambda world: setattr(world, "answer", replace(world.answer, brokers=STATES)),
         "broker-state broker 1", "broker-state broker 2", "fenced"),
        (lambda world: setattr(world, "answer", replace(world.answer, topics=(topic((0, 1)),))),
         "", "partitions-under-replicated", "orders-0 (without 2)"),
    ],
)  # fmt: skip
def test_damage_fails_its_own_checks_and_no_other(
    network: FakeNetwork, damage: Callable[[FakeNetwork], object], failed: str, warnings: str, said: str
) -> None:
    damage(network)
    found = checks(exit_code=1 if failed else 0)
    for status, expected in (("failed", failed), ("warning", warnings)):
        assert {" ".join(name).rstrip() for name in bad(found, status)} == set(filter(None, expected.split(", ")))
    assert any(said in check["found"] for check in found.values() if check["status"] != "ok")


def test_what_happened_is_said_in_few_words() -> None:
    wrapped = BrokerNotAvailable("failed to connect to all addresses; last error: UNKNOWN: ipv4:1.2.3.4:5: refused")
    assert reason_of(wrapped, 1_000) == "ipv4:1.2.3.4:5: refused (BrokerNotAvailable)"
    assert reason_of(OSError(113, "No route to host"), 1_000) == "No route to host"
    assert reason_of(TimeoutError(), 1_500) == "no answer within 1.5 s"
    assert "not a host name" in reason_of(UnicodeError("label too long"), 1_000)


def test_without_any_answer_the_rest_is_not_checked_and_says_so(network: FakeNetwork) -> None:
    network.dead_calls.update(network.addresses)
    found = checks(exit_code=1)
    assert len(bad(found)) == 3
    assert {name for name, _ in bad(found, "warning")} == {
        "advertised", "cluster-id", "quorum-leader", "broker-state", "partitions",
    }  # fmt: skip
    assert found["cluster-id", ""]["found"] == "not checked: no broker answered"


@pytest.mark.parametrize(
    ("host", "addresses", "words"),
    [("localhost", ["::1", "127.0.0.1"], "connect to itself"), ("0.0.0.0", ["0.0.0.0"], "an address to listen on")],
)
def test_an_advertised_address_that_is_every_client_itself_is_found(
    network: FakeNetwork, host: str, addresses: list[str], words: str
) -> None:
    network.addresses[host] = addresses
    network.nodes[host] = (1, "shop")
    network.answer = replace(network.answer, brokers=(broker(0), broker(1, host=host), broker(2)))
    found = checks(exit_code=1)
    assert bad(found) == {("advertised-dns", "broker 1")}
    assert words in found["advertised-dns", "broker 1"]["found"]


def test_loopback_is_fine_for_a_cluster_on_this_machine(network: FakeNetwork) -> None:
    network.addresses = {host: ["127.0.0.1"] for host in network.addresses}
    checks(exit_code=0)


@pytest.mark.parametrize("answer", [quorum_of(*map(voter, IDS), leader=None), LeaderNotAvailable("none")])
def test_a_quorum_without_leader_fails(network: FakeNetwork, answer: Any) -> None:
    network.quorums = [answer]
    found = checks(exit_code=1)
    assert bad(found) == {("quorum-leader", "")}
    assert found["partitions-offline", ""]["status"] == "ok", "the others run all the same"


def test_a_voter_that_catches_up_is_a_warning_and_then_well(network: FakeNetwork) -> None:
    behind, better = quorum_of(voter(0), voter(1, 60), voter(2)), quorum_of(voter(0), voter(1, 80), voter(2))
    network.quorums = [behind, better]
    assert bad(checks(exit_code=0), "warning") == {("quorum-voter", "node 1")}
    network.quorums = [behind, quorum_of(*map(voter, IDS))]
    assert not bad(checks(exit_code=0), "warning")


def test_partitions_are_told_apart_by_what_they_lack(network: FakeNetwork) -> None:
    network.answer = replace(
        network.answer,
        topics=(topic(IDS, (0, 1), (0,)), topic((), leader=None, name="lost"), topic(IDS, name="fine")),
    )
    found = checks(exit_code=1)
    assert bad(found) == {("partitions-offline", ""), ("partitions-under-min-isr", "")}
    assert bad(found, "warning") == {("partitions-under-replicated", "")}
    assert "1 of 5 have no leader: lost-0 (replicas 0, 1, 2)" in found["partitions-offline", ""]["found"]
    assert found["partitions-under-min-isr", ""]["found"].endswith(
        "2 of 5 refuse writes with acks=all: orders-2, lost-0"
    )
    assert found["partitions-under-replicated", ""]["found"].endswith("orders-1 (without 2)")
    assert network.asked_for == ["orders", "lost"]


# With --config: the node's own machine.


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    path = tmp_path / "node.toml"
    path.write_text(
        f'[cluster]\nid = "shop"\n[node]\nid = 0\n[quorum]\nvoters = ["0@b0.example:7071"]\n'
        f'[data]\ndir = "{tmp_path / "data"}"\n[listeners]\nhost = "b0.example"\n'
    )
    return path


@pytest.fixture(autouse=True)
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files and disk, whatever this machine has."""
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (65_536, 65_536))
    set_disk(monkeypatch, free=500, total=1_000)


def set_disk(monkeypatch: pytest.MonkeyPatch, *, free: float, total: float) -> None:
    usage = namedtuple("usage", "total used free")
    gib = 1024**3
    found = usage(int(total * gib), int((total - free) * gib), int(free * gib))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: found)


def test_a_node_s_machine_is_looked_at_and_its_own_listener_asked(network: FakeNetwork, config: Path) -> None:
    finished = CliRunner().invoke(
        app, ["doctor", "--config", str(config), "-o", "json"], env={"LOGCLUSTER_BOOTSTRAP": ""}
    )
    assert finished.exit_code == 0, finished.output
    found = {check["check"]: check for check in json.loads(finished.stdout)["checks"]}
    assert found["config-file"]["found"] == "node 0: controller, broker"
    assert found["data-directory"]["found"] == "exists, writable"
    assert found["disk-space"]["found"] == "500.0 GiB free of 1000.0 (50%)"
    assert found["open-files"]["found"] == "65536"
    assert found["bootstrap-address"]["found"] == "b0.example:7070"
    assert list((config.parent / "data").iterdir()) == [], "nothing is left behind"


def test_a_config_that_cannot_be_read_does_not_keep_the_other_checks(network: FakeNetwork, config: Path) -> None:
    config.write_text('[cluster]\nid = "shop"\nnonsense = 1\n')
    found = checks("--config", str(config), exit_code=1)
    assert bad(found) == {("config-file", str(config))}
    assert bad(found, "warning") == {("data-directory", ""), ("disk-space", "")}
    assert found["bootstrap-grpc", "b0.example:7070"]["status"] == "ok"


def test_a_missing_data_directory_is_a_warning_for_a_new_node(network: FakeNetwork, config: Path) -> None:
    data = config.parent / "data"
    data.rmdir()
    assert bad(checks("--config", str(config), exit_code=0), "warning") == {("data-directory", str(data))}


def test_a_data_directory_that_is_none_or_cannot_be_written_to_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert doctor_node.data_directory(file).status is Status.FAILED

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor_node.tempfile, "TemporaryFile", refuse)
    found = doctor_node.data_directory(tmp_path)
    assert found.status is Status.FAILED
    assert "Permission denied" in found.found
    monkeypatch.setattr(doctor_node.os, "access", lambda path, mode: False)
    assert "not writable" in doctor_node.data_directory(tmp_path / "none" / "there").found


@pytest.mark.parametrize(
    ("free", "status"), [(0.1, Status.FAILED), (50, Status.WARNING), (99, Status.WARNING), (101, Status.OK)]
)
def test_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, status: Status) -> None:
    set_disk(monkeypatch, free=free, total=1_000)
    assert doctor_node.disk_space(tmp_path).status is status


@pytest.mark.parametrize(
    ("soft", "status"),
    [(256, Status.FAILED), (1_024, Status.WARNING), (16_384, Status.OK), (resource.RLIM_INFINITY, Status.OK)],
)
def test_open_file_limit(monkeypatch: pytest.MonkeyPatch, soft: int, status: Status) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, resource.RLIM_INFINITY))
    assert doctor_node.open_files().status is status


def test_a_disk_that_hangs_is_a_failed_check(
    network: FakeNetwork, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class HungDisk:
        def __init__(self, **_: object) -> None: ...

        async def run(self, work: object) -> list[Check]:
            await asyncio.Event().wait()
            return []

    monkeypatch.setattr(doctor, "ThreadedDisk", HungDisk)
    found = checks("--config", str(config), exit_code=1)
    assert bad(found) == {("data-directory", str(config.parent / "data"))}
