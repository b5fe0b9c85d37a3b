"""What real brokers show at /metrics: everything in the catalogue, nothing else, and the right figures."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from logcluster.metrics.catalogue import series_names
from logcluster.testing import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

Scrape = dict[tuple[str, frozenset[tuple[str, str]]], float]
# What needs a fault, another node, or TLS, to have a value.
MAY_BE_MISSING = {
    "logcluster_broker_partition_errors_total",
    "python_gc_objects_uncollectable_total",
    "logcluster_tls_certificate_expiry_timestamp_seconds",
    "logcluster_tls_reload_failures_total",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(brokers=3) as running:
        async with running.client() as client:
            await client.admin.create_topic("orders", partitions=3, replication_factor=3)
            async with client.producer() as producer:
                await producer.send_many("orders", [(b"k%d" % index, b"v") for index in range(900)])
            async with client.consumer("orders", group="billing") as consumer:
                count = 0
                async for _record in consumer:
                    count += 1
                    if count == 300:
                        await consumer.commit()
                        break
        yield running


async def scrape(cluster: Cluster, broker_id: int) -> Scrape:
    url = f"http://127.0.0.1:{cluster.node(broker_id).ports.http}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scrape_all(cluster: Cluster) -> list[Scrape]:
    return [await scrape(cluster, broker_id) for broker_id in cluster.broker_ids]


def total(scrapes: list[Scrape], name: str, **labels: str) -> float:
    return sum(
        value
        for one in scrapes
        for (found, pairs), value in one.items()
        if found == name and set(labels.items()) <= pairs
    )


async def test_everything_in_the_catalogue_is_shown_and_nothing_else(cluster: Cluster) -> None:
    async def look() -> set[str]:
        return {name for one in await scrape_all(cluster) for name, _ in one if not name.endswith("_created")}

    shown: set[str] = set()
    async with asyncio.timeout(40):  # lags of groups are looked at every 15 s
        while "logcluster_group_lag_records" not in shown:
            await asyncio.sleep(0.5)
            shown |= await look()
    assert shown <= series_names()
    assert series_names() - shown <= MAY_BE_MISSING


async def test_figures_agree_with_what_was_done(cluster: Cluster) -> None:
    scrapes = await scrape_all(cluster)
    assert total(scrapes, "logcluster_partition_appended_records_total", topic="orders") == 3 * 900
    assert total(scrapes, "logcluster_broker_requests_total", api="Produce", code="OK") >= 1
    assert total(scrapes, "logcluster_controller_active") == 1
    assert total(scrapes, "logcluster_controller_brokers", state="active") == 3
    assert total(scrapes, "logcluster_raft_role", role="leader") == 1
    assert total(scrapes, "logcluster_partitions_under_replicated") == 0
    assert total(scrapes, "logcluster_group_commits_total") >= 3
    assert total(scrapes, "logcluster_group_rebalances_total") >= 1
    leading = total(scrapes, "logcluster_log_appended_records_total", role="leader")
    assert total(scrapes, "logcluster_log_appended_records_total", role="follower") == 2 * leading


async def test_lag_is_that_of_the_command_line(cluster: Cluster) -> None:
    async with cluster.client() as client, client.consumer("orders", start="earliest", until="end") as consumer:
        end = len([record async for record in consumer])
    async with asyncio.timeout(40):
        while (lag := total(await scrape_all(cluster), "logcluster_group_lag_records", group="billing")) == 0:
            await asyncio.sleep(0.5)
    assert lag == end - 300


async def test_metrics_switched_off_leave_what_is_read_at_a_scrape() -> None:
    settings = {"metrics": {"enabled": False, "per_partition": "never"}}
    async with Cluster(brokers=1, settings=settings) as one:
        async with one.client() as client:
            await client.admin.create_topic("t", partitions=1, replication_factor=1)
            async with client.producer() as producer:
                await producer.send("t", b"v")
        names = {name for name, _ in await scrape(one, one.broker_ids[0])}
    assert "logcluster_log_size_bytes" in names and "logcluster_raft_term" in names
    assert not {
        name for name in names if name.startswith(("logcluster_broker_requests_total", "logcluster_partition_"))
    }
