"""`broker drain`: what is waited for, what cannot be, and who `--self` is."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from logcluster.cli.app import app
from logcluster.cli.command import Settings
from logcluster.cli.drain import Standing, own_configuration, own_settings, standing
from logcluster.client.metadata_cache import PartitionFacts, TopicFacts
from logcluster.model.errors import InvalidConfig

ENVIRONMENT = {
    "LOGCLUSTER_CLUSTER_ID": "c",
    "LOGCLUSTER_NODE_ID": "hostname",
    "HOSTNAME": "logcluster-2",
    "LOGCLUSTER_QUORUM_VOTERS": "2@a:7071",
    "LOGCLUSTER_DATA_DIR": "/data",
    "LOGCLUSTER_LISTENERS_HOST": "0.0.0.0",
    "LOGCLUSTER_LISTENERS_GRPC_PORT": "9000",
}


def topic(*in_sync: tuple[int, ...], leader: int | None = 1, replicas: tuple[int, ...] = (1, 2, 3)) -> TopicFacts:
    partitions = tuple(
        PartitionFacts(partition=index, leader_id=leader, leader_epoch=1, replicas=replicas, in_sync_replicas=members)
        for index, members in enumerate(in_sync)
    )
    return TopicFacts(name="orders", topic_id=b"x", partitions=partitions)


def seen(*in_sync: tuple[int, ...], least: int = 2, **options: object) -> Standing:
    return standing([topic(*in_sync, **options)], {"orders": least}, 1)  # type: ignore[arg-type]


def test_a_broker_is_free_when_it_leads_nothing_and_two_others_are_in_sync() -> None:
    assert seen((1, 2, 3), (2, 3), leader=2).is_free
    assert seen((2, 1), leader=2, least=1).is_free


def test_what_it_leads_is_waited_for_when_another_replica_is_in_sync() -> None:
    found = seen((1, 2, 3))
    assert found.movable == ("orders-0",)
    assert "still leads orders-0" in found.describe(1)


def test_a_partition_that_would_have_too_few_in_sync_replicas_is_waited_for() -> None:
    found = seen((1, 2, 3), (1, 2), (1,), leader=2)
    assert found.short == ("orders-1", "orders-2")
    assert "too few replicas would be in sync without it: orders-1, orders-2" in found.describe(1)


@pytest.mark.parametrize(("replicas", "least"), [((1,), 1), ((1, 2), 2), ((1,), 2)])
def test_too_few_other_replicas_are_reported_and_not_waited_for(replicas: tuple[int, ...], least: int) -> None:
    found = seen(replicas, least=least, replicas=replicas, leader=2)
    assert found.is_free
    assert found.dependent == ("orders-0",)


def test_partitions_without_a_replica_here_do_not_count() -> None:
    assert seen((2,), replicas=(2, 3), leader=2) == Standing(movable=(), short=(), dependent=())


def test_a_long_list_is_cut_short() -> None:
    assert "and 3 more" in seen(*[(1,)] * 8, leader=2).describe(1)


def test_self_is_who_the_configuration_says_and_its_own_listener_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    node = own_configuration(None)
    assert node.node.id == 2
    assert own_settings(Settings(), node).bootstrap == "127.0.0.1:9000"
    named = Settings(bootstrap="b:1", has_bootstrap=True)
    assert own_settings(named, node) is named


def test_a_configuration_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig):
        own_configuration(tmp_path / "nothing.toml")


def test_a_controller_has_nothing_to_hand_over(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**ENVIRONMENT, "LOGCLUSTER_NODE_ROLES": "controller"}.items():
        monkeypatch.setenv(name, value)
    shown = CliRunner().invoke(app, ["broker", "drain", "--self", "--wait"])
    assert shown.exit_code == 0
    assert "hosts no partitions" in shown.stdout


@pytest.mark.parametrize("arguments", [[], ["1", "--self"], ["--self"]])
def test_a_drain_of_nobody_of_two_or_without_end_is_refused(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["broker", "drain", *arguments]).exit_code == 2
