"""A real Prometheus scrapes a real cluster with our rules, and sees a broker die."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from logcluster.metrics.dashboards import DASHBOARDS
from logcluster.testing import Cluster

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: prometheus)"),
]

ROOT = Path(__file__).resolve().parents[2]
NEEDS_FAULTS_OR_TIME = re.compile(r"errors|refused|incidents|code!=|lag_unknown|> 0|== 1|deriv|_tls_")


def write_configuration(folder: Path, targets: list[str]) -> Path:
    """Our rules with a short `for`, and a scrape every second."""
    rules = (ROOT / "deploy" / "prometheus" / "rules.yaml").read_text(encoding="utf-8")
    (folder / "rules.yaml").write_text(re.sub(r"for: \w+", "for: 1s", rules), encoding="utf-8")
    path = folder / "prometheus.json"  # JSON is YAML
    path.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                "rule_files": ["rules.yaml"],
                "scrape_configs": [{"job_name": "logcluster", "static_configs": [{"targets": targets}]}],
            }
        )
    )
    return path


@contextmanager
def prometheus(folder: Path, configuration: Path) -> Iterator[str]:
    """Run Prometheus; gives the address of its API."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        "prometheus",
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield f"http://127.0.0.1:{port}/api/v1"
        finally:
            process.terminate()
            process.wait(20)


async def ask(api: str, path: str, **parameters: str) -> Any:
    url = f"{api}/{path}?{urllib.parse.urlencode(parameters)}"
    try:
        body = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read())
    except (urllib.error.URLError, OSError):
        return {}
    return json.loads(body)["data"]


async def until(look: Callable[[], Awaitable[bool]], *, what: str, seconds: float = 60) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not await look():
                await asyncio.sleep(0.3)
    except TimeoutError:
        pytest.fail(f"not within {seconds:.0f} s: {what}")


async def test_a_killed_broker_raises_alerts_and_its_return_ends_them(tmp_path: Path) -> None:
    async with Cluster(brokers=3) as cluster:
        async with cluster.client() as client:
            await client.admin.create_topic("orders", partitions=6, replication_factor=3)
            async with client.producer() as producer:
                await producer.send_many("orders", [b"v"] * 500)
        targets = [f"127.0.0.1:{cluster.node(broker_id).ports.http}" for broker_id in cluster.broker_ids]
        with prometheus(tmp_path, write_configuration(tmp_path, targets)) as api:

            async def states() -> dict[str, str]:
                found = await ask(api, "alerts")
                return {one["labels"]["alertname"]: one["state"] for one in found.get("alerts", [])}

            async def all_up() -> bool:
                found = await ask(api, "query", query="sum(up) == 3 and sum(logcluster_node_ready) == 3")
                return bool(found.get("result"))

            await until(all_up, what="Prometheus scrapes three ready nodes")
            await dashboards_show_something(api)
            calm = await states()
            assert not {"LogClusterBrokerDown", "LogClusterPartitionsUnderReplicated"} & set(calm), calm

            victim = cluster.broker_ids[-1]
            await cluster.kill(victim)

            async def is_noticed() -> bool:
                seen = await states()
                return {"LogClusterBrokerDown", "LogClusterPartitionsUnderReplicated", "LogClusterBrokerFenced"} <= {
                    name for name, state in seen.items() if state in {"pending", "firing"}
                }

            await until(is_noticed, what="the dead broker shows in three alerts")
            await until(lambda: fires(states, "LogClusterBrokerDown"), what="LogClusterBrokerDown fires")
            assert "LogClusterPartitionsOffline" not in await states(), "two replicas of three are there"

            await cluster.start(victim)

            async def is_calm() -> bool:
                return not {"LogClusterBrokerDown", "LogClusterPartitionsUnderReplicated"} & set(await states())

            await until(is_calm, what="the alerts end after its return")


async def fires(states: Callable[[], Awaitable[dict[str, str]]], name: str) -> bool:
    return (await states()).get(name) == "firing"


async def dashboards_show_something(api: str) -> None:
    """Every query gives series, once rates have their second sample; but those of faults, TLS, groups, consumers."""
    missing: set[str] = set()

    async def are_there() -> bool:
        missing.clear()
        for dashboard in DASHBOARDS:
            for query in dashboard.queries:
                expression = query.rendered.replace("$instance", ".+").replace("[5m]", "[30s]")
                found = await ask(api, "query", query=expression)
                if not found.get("result") and not NEEDS_FAULTS_OR_TIME.search(expression):
                    missing.add(expression)
        return not {one for one in missing if "group" not in one and "Fetch" not in one}

    try:
        await until(are_there, what="dashboards have data", seconds=30)
    finally:
        if missing:
            print("no data for:", *sorted(missing), sep="\n  ")
