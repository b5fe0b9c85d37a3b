"""Settings from the environment: names, types, precedence, and the node id from a pod's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from logcluster.config import NodeConfig, environment_variables, load
from logcluster.model.errors import InvalidConfig

ROOT = Path(__file__).resolve().parents[3]
MINIMUM = {
    "LOGCLUSTER_CLUSTER_ID": "2026",
    "LOGCLUSTER_NODE_ID": "1",
    "LOGCLUSTER_QUORUM_VOTERS": "0@a:7071, 1@b:7071,2@c:7071",
    "LOGCLUSTER_DATA_DIR": "/data",
}


def from_environment(overrides: tuple[str, ...] = (), **variables: str) -> NodeConfig:
    return load(None, overrides, environment={**MINIMUM, "PATH": "/bin", **variables})


def test_a_whole_node_is_configured_by_its_environment() -> None:
    config = from_environment(
        LOGCLUSTER_NODE_ROLES="broker",
        LOGCLUSTER_NODE_RACK="7",
        LOGCLUSTER_LISTENERS_GRPC_PORT="9000",
        LOGCLUSTER_BROKER_VALIDATE_RECORDS="false",
        LOGCLUSTER_LOG_FORMAT="console",
    )
    assert config.cluster.id == "2026", "a text that looks like a number stays a text"
    assert config.node.rack == "7"
    assert config.node.id == 1
    assert config.node.roles == ("broker",)
    assert config.quorum.voters == ("0@a:7071", "1@b:7071", "2@c:7071")
    assert config.listeners.grpc_port == 9000
    assert config.broker.validate_records is False
    assert config.log.format == "console"


def test_lists_may_be_written_as_in_the_file() -> None:
    assert from_environment(LOGCLUSTER_QUORUM_VOTERS='["1@b:7071"]').quorum.voters == ("1@b:7071",)


def test_the_environment_wins_over_the_file_and_an_override_over_both(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("[listeners]\ngrpc_port = 1000\nlane_port = 1001\nhttp_port = 1002\n")
    variables = {**MINIMUM, "LOGCLUSTER_LISTENERS_GRPC_PORT": "2000", "LOGCLUSTER_LISTENERS_LANE_PORT": "2001"}
    listeners = load(path, ["listeners.grpc_port=3000"], environment=variables).listeners
    assert (listeners.grpc_port, listeners.lane_port, listeners.http_port) == (3000, 2001, 1002)


def test_an_empty_variable_counts_as_absent() -> None:
    assert from_environment(LOGCLUSTER_NODE_RACK="", LOGCLUSTER_LISTENERS_GRPC_PORT="").listeners.grpc_port == 7070


def test_other_variables_are_left_alone() -> None:
    others = {
        "LOGCLUSTER_BOOTSTRAP": "a:1",
        "LOGCLUSTER_FAILPOINTS": "",
        "LOGCLUSTER_CONFIG": "/etc/node.toml",
        "LOGCLUSTER_BROKER_SERVICE_HOST": "10.0.0.1",
        "LOGCLUSTER_BROKER_PORT_7070_TCP_ADDR": "10.0.0.1",
        "LOGCLUSTER_PORT": "tcp://10.0.0.1:7070",
    }
    assert from_environment(**others) == from_environment()


def test_a_misspelt_variable_is_an_error_that_names_it() -> None:
    with pytest.raises(InvalidConfig, match="LOGCLUSTER_BROKER_SESION_TIMEOUT_MS"):
        from_environment(LOGCLUSTER_BROKER_SESION_TIMEOUT_MS="1")


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("LOGCLUSTER_LISTENERS_GRPC_PORT", "many", "listeners.grpc_port"),
        ("LOGCLUSTER_NODE_ID", "-1", "node.id"),
        ("LOGCLUSTER_NODE_ROLES", "broker,king", "node.roles"),
        ("LOGCLUSTER_LOG_LEVEL", "loud", "log.level"),
    ],
)
def test_a_bad_value_in_the_environment_is_named(name: str, text: str, named: str) -> None:
    with pytest.raises(InvalidConfig, match=named):
        from_environment(**{name: text})


@pytest.mark.parametrize(
    ("host", "node_id"),
    [("logcluster-0", 0), ("logcluster-2.logcluster-headless.streams.svc", 2), ("logcluster-controller-100", 100)],
)
def test_the_node_id_is_the_ordinal_of_the_pod(host: str, node_id: int) -> None:
    config = from_environment(LOGCLUSTER_NODE_ID="hostname", HOSTNAME=host, LOGCLUSTER_NODE_ROLES="broker")
    assert config.node.id == node_id
    file_like = load(None, ['node.id="hostname"', "node.roles=auto"], environment={**MINIMUM, "HOSTNAME": host})
    assert file_like.node.id == node_id


def test_a_host_without_ordinal_is_refused_with_a_hint() -> None:
    with pytest.raises(InvalidConfig, match="'logcluster' does not end with a hyphen and a number"):
        from_environment(LOGCLUSTER_NODE_ID="hostname", HOSTNAME="logcluster")


@pytest.mark.parametrize(("node_id", "roles"), [("1", ("controller", "broker")), ("3", ("broker",))])
def test_automatic_roles_make_controllers_of_the_voters_only(node_id: str, roles: tuple[str, ...]) -> None:
    assert from_environment(LOGCLUSTER_NODE_ID=node_id, LOGCLUSTER_NODE_ROLES="auto").node.roles == roles


def test_every_setting_has_one_variable_of_its_own_and_the_page_explains_them() -> None:
    names = environment_variables()
    assert len(set(names.values())) == len(names)
    assert names["listeners.advertised_host"] == "LOGCLUSTER_LISTENERS_ADVERTISED_HOST"
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert "LOGCLUSTER_SECTION_KEY" in page
    assert names["node.id"] in page
