"""`logcluster debug bundle`: what it holds, what it never holds, and what it does when nobody answers."""

from __future__ import annotations

import json
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from typer.testing import CliRunner, Result

from logcluster.cli import debug, debug_bundle
from logcluster.cli.app import app
from logcluster.cli.debug_redact import REDACTED, redact, redact_log, redact_text
from logcluster.client.descriptions import ClusterFacts, QuorumFacts, ReplicaFacts
from logcluster.client.group_descriptions import CommittedOffset, GroupFacts, GroupListing
from logcluster.client.metadata_cache import BrokerFacts, PartitionFacts, TopicFacts
from logcluster.model.errors import BrokerNotAvailable
from logcluster.wire.gen.logcluster.v1 import metadata_pb2

PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIhunter2\nq83vEjRWeJA=\n-----END EC PRIVATE KEY-----\n"
BROKERS = tuple(BrokerFacts(broker_id=number, host="h", grpc_port=1, lane_port=2) for number in (0, 1))
OFFSET = CommittedOffset(
    topic="orders", partition=0, topic_id=b"i", offset=5, leader_epoch=1, metadata="hunter2", commit_time_ms=9
)
REPLICA = ReplicaFacts(
    broker_id=0, topic="orders", partition=0, topic_id=b"\x01\x02", is_leader=True, leader_epoch=1, log_start_offset=0,
    log_end_offset=9, flushed_offset=9, high_watermark=9, size_bytes=700, state="online", producer_count=1,
    followers=((1, 9, 0, True),),
)  # fmt: skip


class FakeAdmin:
    """Two brokers, of which the second does not answer for itself."""

    def __init__(self) -> None:
        group = GroupFacts(
            group="billing", state="empty", group_epoch=1, assignment_epoch=1, assignor="uniform", coordinator_id=0,
            members=(), offsets=(OFFSET,),
        )  # fmt: skip
        listing = GroupListing(group="billing", state="empty", member_count=0, group_epoch=1, coordinator_id=0)
        self.groups = SimpleNamespace(list=_answers([listing]), describe=_answers([group]))
        self.list_brokers = _answers(list(BROKERS))
        self.describe_cluster = _answers(
            ClusterFacts(cluster_id="shop", controller_id=0, metadata_offset=3, brokers=BROKERS)
        )
        partition = PartitionFacts(partition=0, leader_id=0, leader_epoch=1, replicas=(0, 1), in_sync_replicas=(0,))
        self.list_topics = _answers({"orders": TopicFacts(name="orders", topic_id=b"\xab", partitions=(partition,))})
        self.describe_quorum = _answers(QuorumFacts(leader_id=0, term=2, commit_index=8, voters=()))

    async def node_status(self, broker_id: int) -> Any:
        if broker_id == 1:
            raise BrokerNotAvailable("connection refused")
        return metadata_pb2.GetNodeStatusResponse(node_id=0, state="active", version="0.1.0")

    async def describe_replicas(self, *, broker_id: int) -> list[ReplicaFacts]:
        if broker_id == 1:
            raise BrokerNotAvailable("connection refused")
        return [REPLICA]


def _answers(value: Any) -> Callable[..., Any]:
    async def answer(*_: Any, **__: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    return answer


class FakeClient:
    def __init__(self, admin: FakeAdmin) -> None:
        self.admin = admin

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeAdmin:
    fake = FakeAdmin()
    monkeypatch.setattr(debug, "open_client", lambda settings: FakeClient(fake))
    monkeypatch.chdir(tmp_path)
    return fake


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["debug", "bundle", *arguments])


def contents(path: Path | str) -> dict[str, str]:
    """Files of a bundle by name, without its directory."""
    with tarfile.open(path) as tar:
        found = {}
        for entry in tar.getmembers():
            file = tar.extractfile(entry)
            assert file is not None
            found[entry.name.partition("/")[2]] = file.read().decode()
        return found


def test_the_bundle_holds_what_it_lists(admin: FakeAdmin, tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    log.write_text("".join(f"line {number}\n" for number in range(10)))
    finished = run(
        "--out", "b.tar.gz", "--groups", "--log", str(log), "--log", "missing.log", "--lines", "3", "-o", "json"
    )
    assert finished.exit_code == 0, finished.output
    listed = json.loads(finished.stdout)
    files = contents("b.tar.gz")
    assert listed["path"] == "b.tar.gz"
    assert listed["size_bytes"] == Path("b.tar.gz").stat().st_size
    assert list(files) == ["manifest.json", *(file["name"] for file in listed["files"])]
    assert list(files)[1:] == [
        "versions.json", "metadata.json", "quorum.json", "brokers.json", "replicas.json", "groups.json",
        "logs/1-node.log", "logs/2-missing.log",
    ]  # fmt: skip
    assert all(len(files[file["name"]].encode()) == file["size_bytes"] for file in listed["files"])
    assert json.loads(files["manifest.json"])["files"] == listed["files"]
    assert json.loads(files["versions.json"])["packages"]["logcluster"]
    assert json.loads(files["metadata.json"])["topics"][0]["topic_id"] == "ab"
    assert json.loads(files["quorum.json"])["term"] == 2
    assert files["logs/1-node.log"] == "line 7\nline 8\nline 9\n"
    assert [file["name"] for file in listed["files"] if file["problem"]] == ["logs/2-missing.log"]


def test_a_broker_that_does_not_answer_is_noted_and_the_others_are_there(admin: FakeAdmin) -> None:
    assert run("--out", "b.tar.gz").exit_code == 0
    files = contents("b.tar.gz")
    brokers, replicas = json.loads(files["brokers.json"]), json.loads(files["replicas.json"])
    assert brokers["0"]["state"] == "active"
    assert replicas["0"][0]["high_watermark"] == 9
    assert brokers["1"]["error"]["message"] == replicas["1"]["error"]["message"] == "connection refused"
    assert "groups.json" not in files, "only when asked for"


def test_a_part_that_nobody_answers_is_said(admin: FakeAdmin) -> None:
    admin.describe_quorum = _answers(BrokerNotAvailable("no controller"))
    finished = run("--out", "b.tar.gz")
    assert finished.exit_code == 0
    assert "not in it: quorum.json: no controller" in finished.stderr
    assert json.loads(contents("b.tar.gz")["quorum.json"])["error"]["message"] == "no controller"


def test_without_a_cluster_the_bundle_still_holds_logs_and_versions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "node.log").write_text("started\n")
    finished = run("--bootstrap", "127.0.0.1:1", "--timeout", "300ms", "--log", "node.log", "--groups")
    assert finished.exit_code == 0, finished.output
    (path,) = tmp_path.glob("logcluster-debug-*.tar.gz")
    files = contents(path)
    assert files["logs/1-node.log"] == "started\n"
    assert json.loads(files["groups.json"])["error"]["name"] == "BrokerNotAvailable"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_secrets_in_logs_and_application_data_stay_out(admin: FakeAdmin, tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    log.write_text(
        '{"event": "login", "password": "hunter2", "user": {"auth_token": "hunter2"}, "offset": 7}\n'
        "2026-11-30 event=login password=hunter2 token: 'hunter2 hunter2' user=ann\n"
        f"Authorization: Bearer hunter2hunter2\n{PEM}after the key\n"
    )
    assert run("--out", "b.tar.gz", "--groups", "--log", str(log)).exit_code == 0
    files = contents("b.tar.gz")
    assert not [name for name, text in files.items() if "hunter2" in text]
    kept = files["logs/1-node.log"]
    assert '"event": "login"' in kept
    assert '"offset": 7' in kept
    assert "user=ann" in kept
    assert "after the key" in kept
    assert json.loads(files["groups.json"])[0]["offsets"][0]["offset"] == 5


def test_no_answer_is_waited_for_long_unless_asked_to(admin: FakeAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def open_client(settings: Any) -> FakeClient:
        seen.append(settings.timeout_ms)
        return FakeClient(admin)

    monkeypatch.setattr(debug, "open_client", open_client)
    assert run("--out", "a.tar.gz").exit_code == run("--out", "b.tar.gz", "--timeout", "9s").exit_code == 0
    assert seen == [5_000, 9_000]


def test_groups_are_given_up_when_several_do_not_answer(admin: FakeAdmin) -> None:
    names = [f"group-{number}" for number in range(5)]
    admin.groups.list = _answers(
        [GroupListing(group=name, state="", member_count=0, group_epoch=1, coordinator_id=0) for name in names]
    )
    admin.groups.describe = _answers(BrokerNotAvailable("nobody"))
    assert run("--out", "b.tar.gz", "--groups").exit_code == 0
    found = json.loads(contents("b.tar.gz")["groups.json"])
    assert [group["group"] for group in found] == names
    assert sum("not asked" in str(group["error"]) for group in found) == 2


def test_an_existing_file_is_not_overwritten(admin: FakeAdmin) -> None:
    Path("b.tar.gz").write_text("precious")
    finished = run("--out", "b.tar.gz")
    assert finished.exit_code == 1
    assert "exists already" in finished.stderr
    assert Path("b.tar.gz").read_text() == "precious"
    assert run("--out", "no/such/directory/b.tar.gz").exit_code == 1


def test_the_end_of_a_large_log_begins_with_a_whole_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug_bundle, "LOG_BYTES_MAX", 100)
    log = tmp_path / "node.log"
    log.write_text("".join(f"line {number:03}\n" for number in range(100)))
    lines = debug_bundle.log_part(log, 1, 1_000).content.decode().splitlines()
    assert lines == [f"line {number:03}" for number in range(100)][-len(lines) :]
    assert len(lines) == 11 or len(lines) == 10


def test_a_private_key_whose_beginning_is_cut_off_is_taken_out() -> None:
    assert redact_log(PEM.partition("\n")[2] + "after\n") == f"{REDACTED}\nafter\n"
    assert redact_log("before\n" + PEM.rpartition("-----END")[0]) == f"before\n{REDACTED}\n"


@pytest.mark.parametrize(
    "name", ["password", "sasl.password", "ssl_key_password", "client_secret", "TOKEN", "access-token", "api_key",
             "private_key", "privateKey", "tls.key", "key", "key_pem", "key_file", "credentials", "Authorization"],
)  # fmt: skip
def test_telling_names_are_taken_out_of_documents_and_text(name: str) -> None:
    assert redact({"a": [{name: "hunter2"}]}) == {"a": [{name: REDACTED}]}
    assert redact({name: {"nested": "hunter2"}}) == {name: REDACTED}
    for text in (f"{name}=hunter2", f"{name}: hunter2", f'{{"{name}": "hunter2"}}', f"x {name}='a hunter2' y"):
        assert "hunter2" not in redact_text(text), text


@pytest.mark.parametrize(
    "name", ["cache_keys_max", "monkey", "key_count_max", "producer_count", "state", "leader_epoch", "keyed"]
)
def test_other_names_stay(name: str) -> None:
    assert redact({name: "7"}) == {name: "7"}
    assert redact_text(f"{name}=7") == f"{name}=7"


def test_passwords_in_addresses_are_taken_out() -> None:
    assert redact_text("to https://ann:hunter2@host:1/x") == f"to https://ann:{REDACTED}@host:1/x"
    assert redact({"url": "kafka://ann:hunter2@host", "raw": b"\x01"}) == {
        "url": f"kafka://ann:{REDACTED}@host", "raw": "01",
    }  # fmt: skip
