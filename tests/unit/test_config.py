"""Configuration is parsed once; what is wrong with it is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from logcluster.config import NodeConfig, load
from logcluster.core.metadata.topic_config import CONFIG_KEYS, TopicConfig, validate_overrides
from logcluster.model.errors import InvalidConfig
from logcluster.model.ids import Endpoint

ROOT = Path(__file__).resolve().parents[2]
MINIMUM = ["cluster.id=c", "node.id=1", 'quorum.voters=["1@127.0.0.1:7071"]', "data.dir=/tmp/x"]


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[cluster]\nid="a"\n[node]\nid=1\n[quorum]\nvoters=["1@h:1"]\n[data]\ndir="d"\n')
    assert load(path).cluster.id == "a"
    assert load(path, ["cluster.id=b", "listeners.grpc_port=9000"]).cluster.id == "b"
    assert load(path, ["listeners.grpc_port=9000"]).listeners.grpc_port == 9000


def test_voters_are_endpoints_by_node_id() -> None:
    config = load(None, [*MINIMUM, 'quorum.voters=["1@a:1","2@[::1]:2"]'])
    assert config.voter_endpoints() == {1: Endpoint("a", 1), 2: Endpoint("::1", 2)}


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("node.rolez=1", "rolez"),
        ("listeners.grpc_port=99999", "listeners.grpc_port"),
        ("listeners.grpc_port=7071", "ports must differ"),
        ("broker.session_timeout_ms=100", "broker.session_timeout_ms"),
        ("quorum.election_timeout_ms=60", "quorum.election_timeout_ms"),
        ('quorum.voters=["7@127.0.0.1:1"]', "quorum.voters"),
        ('quorum.voters=["1@nowhere"]', "HOST:PORT"),
        ('quorum.voters=["1@a:1", "1@b:1"]', "twice"),
        ("nonsense", "section.key=value"),
        ('log.level="loud"', "log.level"),
    ],
)
def test_a_bad_value_is_named(override: str, named: str) -> None:
    with pytest.raises(InvalidConfig, match=named):
        load(None, [*MINIMUM, override])


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"nowhere\.toml"):
        load(tmp_path / "nowhere.toml")


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("= =")
    with pytest.raises(InvalidConfig, match="not valid TOML"):
        load(path)


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    node_keys = [
        f"`{section}.{key}`"
        for section, kind in NodeConfig.__annotations__.items()
        for key in getattr(__import__("logcluster.config", fromlist=["x"]), str(kind)).__struct_fields__
    ]
    assert [key for key in node_keys if key not in page] == []
    for name, key in CONFIG_KEYS.items():
        assert f"| `{name}` | {key.default} |" in page or f"| `{name}` | `{key.default}` |" in page, name


def test_topic_settings_parse_to_fields_of_the_same_names() -> None:
    config = TopicConfig.from_overrides({"flush.mode": "async", "retention.ms": "-1"})
    assert (config.flush_mode, config.retention_ms, config.min_insync_replicas) == ("async", None, 2)
    assert {name.replace(".", "_") for name in CONFIG_KEYS} == set(TopicConfig.__dataclass_fields__)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min.insync.replicas", "0"),
        ("min.insync.replicas", "two"),
        ("flush.mode", "sometimes"),
        ("unclean.leader.election.enable", "yes"),
        ("retention.msec", "1"),
        ("segment.bytes", "10"),
    ],
)
def test_a_bad_topic_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidConfig, match=name):
        validate_overrides({name: value})
