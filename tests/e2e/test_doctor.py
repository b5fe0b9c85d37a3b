"""`logcluster doctor` and `debug bundle` as real commands, with a cluster that is well and one that lost a broker."""

from __future__ import annotations

import json
import socket
import tarfile
from pathlib import Path

import pytest
from e2e_support import run_cli

from logcluster.cli.doctor_network import RealNetwork
from logcluster.model.errors import BrokerNotAvailable
from logcluster.model.ids import Endpoint
from logcluster.testing import Cluster, SyncCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]
SECRET = "hunter2-in-a-log"
RECORD = "a-value-that-stays-in-its-record"


def statuses(output: str) -> dict[str, set[tuple[str, str]]]:
    """Check and subject by status."""
    found: dict[str, set[tuple[str, str]]] = {"ok": set(), "warning": set(), "failed": set()}
    for check in json.loads(output)["checks"]:
        found[check["status"]].add((check["check"], check["subject"]))
    return found


def test_doctor_and_bundle_with_all_brokers_and_with_one_less(tmp_path: Path) -> None:
    with Cluster.sync(brokers=3) as cluster:
        created = run_cli("topic", "create", "orders", "--partitions", "3", bootstrap=cluster.bootstrap)
        assert created.returncode == 0, created.stderr
        produced = run_cli("produce", "orders", bootstrap=cluster.bootstrap, standard_input=RECORD.encode())
        assert produced.returncode == 0, produced.stderr
        config = str(Path(cluster.node(cluster.broker_ids[0]).config_path))

        healthy = run_cli("doctor", "--config", config, "-o", "json", bootstrap=cluster.bootstrap)
        assert healthy.returncode == 0, healthy.stdout + healthy.stderr
        found = statuses(healthy.stdout)
        machine = {"open-files", "disk-space"}
        assert not [name for name in found["warning"] if name[0] not in machine], "what this machine has is its own"
        assert {"config-file", "data-directory", "cluster-id", "quorum-leader"} <= {name for name, _ in found["ok"]}
        assert {f"broker {number}" for number in cluster.broker_ids} == {
            subject for name, subject in found["ok"] if name == "advertised-lane"
        }

        lost = cluster.broker_ids[-1]
        cluster.kill(lost)
        broken = run_cli("doctor", "-o", "json", bootstrap=cluster.bootstrap)
        assert broken.returncode == 1, broken.stdout + broken.stderr
        failures = statuses(broken.stdout)["failed"]
        assert {("advertised-grpc", f"broker {lost}"), ("advertised-lane", f"broker {lost}")} <= failures
        assert ("bootstrap-tcp", cluster.node(lost).grpc_endpoint) in failures
        assert not [subject for _, subject in failures if subject == f"broker {cluster.broker_ids[0]}"]
        table = run_cli("doctor", bootstrap=cluster.bootstrap)
        assert table.returncode == 1
        assert f"next: start broker {lost} if it is down" in table.stdout

        check_bundle(cluster, tmp_path, lost)


def check_bundle(cluster: SyncCluster, tmp_path: Path, lost: int) -> None:
    """With a broker missing, which is when a bundle is made."""
    log, out = tmp_path / "node.log", tmp_path / "report.tar.gz"
    log.write_text(cluster.logs(lost) + f'{{"event": "login", "password": "{SECRET}"}}\ntoken={SECRET}\n')
    finished = run_cli(
        "debug", "bundle", "--out", str(out), "--log", str(log), "--groups", "-o", "json", bootstrap=cluster.bootstrap
    )
    assert finished.returncode == 0, finished.stderr
    listed = json.loads(finished.stdout)["files"]
    with tarfile.open(out) as tar:
        texts = {}
        for entry in tar.getmembers():
            file = tar.extractfile(entry)
            assert file is not None
            texts[entry.name.partition("/")[2]] = file.read().decode()
    assert set(texts) == {"manifest.json", *(file["name"] for file in listed)}
    assert not [name for name, text in texts.items() if SECRET in text or RECORD in text]
    assert "orders" in [topic["name"] for topic in json.loads(texts["metadata.json"])["topics"]]
    assert json.loads(texts["quorum.json"])["leader_id"] is not None
    answered = [number for number, status in json.loads(texts["brokers.json"]).items() if "error" not in status]
    assert answered == [str(number) for number in cluster.broker_ids if number != lost]
    assert json.loads(texts["replicas.json"])[answered[0]]
    assert '"event": "login"' in texts["logs/1-node.log"]


async def test_the_real_network_says_what_happened() -> None:
    network = RealNetwork(timeout_ms=500)
    try:
        assert "127.0.0.1" in await network.resolve("127.0.0.1")
        with pytest.raises(UnicodeError):
            await network.resolve("x" * 100 + ".example")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await network.connect(Endpoint("127.0.0.1", listener.getsockname()[1]))
        with pytest.raises(ConnectionRefusedError):
            await network.connect(Endpoint("127.0.0.1", 1))
        with pytest.raises(BrokerNotAvailable):
            await network.metadata(Endpoint("127.0.0.1", 1))
        with pytest.raises(BrokerNotAvailable):
            await network.identity(Endpoint("127.0.0.1", 1), "lane")
    finally:
        await network.close()
