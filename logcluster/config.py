"""The configuration of a node: `node.toml` and `--set` overrides, parsed once into frozen sections.

Unknown keys and impossible values fail at start, naming key, value and limit. A component is given its own
section, never the whole. Each key's unit is in its name, its range in the type, its reason beside it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from logcluster.model.errors import InvalidConfig
from logcluster.model.ids import Endpoint
from logcluster.model.limits import (
    COORDINATOR_CACHE_KEYS_MAX,
    GROUP_MEMBERS_MAX,
    LOG_TAIL_CACHE_SIZE_BYTES_MAX,
    MIB,
    OFFSET_METADATA_BYTES_MAX,
    REBALANCE_TIMEOUT_MS_MAX,
    REPLICATION_FACTOR_MAX,
    SESSION_TIMEOUT_MS_MAX,
    SESSION_TIMEOUT_MS_MIN,
    VOTERS_MAX,
)

Port = Annotated[int, Meta(ge=1, le=65535)]
Milliseconds = Annotated[int, Meta(ge=1, le=24 * 60 * 60 * 1000)]


class ClusterSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which cluster this node belongs to."""

    id: Annotated[str, Meta(min_length=1, max_length=64)]
    """Any text that no other cluster uses; a data directory never changes its cluster."""


class NodeSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who this node is."""

    id: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    roles: tuple[Literal["controller", "broker"], ...] = ("controller", "broker")
    rack: str = ""
    """Zone or rack name: replicas of a partition are placed on different ones where possible."""
    event_loop: Literal["asyncio", "uvloop"] = "asyncio"
    """uvloop needs the extra of that name; small messages gain nothing from it (docs/benchmarks.md)."""


class ListenersSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where this node listens, and what it tells others."""

    host: str = "127.0.0.1"
    advertised_host: str = ""
    """What clients and peers connect to; empty: the same as `host`."""
    grpc_port: Port = 7070
    lane_port: Port = 7071
    http_port: Port = 7072

    @property
    def public_host(self) -> str:
        return self.advertised_host or self.host


class QuorumSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The metadata quorum."""

    voters: Annotated[tuple[str, ...], Meta(min_length=1, max_length=VOTERS_MAX)]
    """`ID@HOST:LANE_PORT` of each controller, the same list on every node."""
    heartbeat_interval_ms: Milliseconds = 100
    election_timeout_ms: Milliseconds = 600
    """An election starts after one to two times this long without a leader; a lost connection starts it sooner."""
    snapshot_interval_entries: Annotated[int, Meta(ge=10)] = 10_000
    trailing_entries: Annotated[int, Meta(ge=0)] = 1_000
    """Entries kept behind a snapshot: a voter that was away for less needs no snapshot to catch up."""


class DataSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The log directory."""

    dir: Annotated[str, Meta(min_length=1)]
    flush_threads: Annotated[int, Meta(ge=1, le=64)] = 4
    """Files synced at once; more than the disk's queue is deep gains nothing."""
    checkpoint_interval_ms: Milliseconds = 5_000
    segment_bytes_max: Annotated[int, Meta(ge=1_024)] = 2**31 - 1
    """No segment grows beyond this, whatever its topic allows. Small values are for tests."""
    tail_cache_bytes_max: Annotated[int, Meta(ge=0)] = LOG_TAIL_CACHE_SIZE_BYTES_MAX
    """Recently appended bytes that one log keeps in memory for its readers."""


class BrokerSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Life of a broker in the cluster."""

    heartbeat_interval_ms: Milliseconds = 200
    session_timeout_ms: Milliseconds = 1_500
    """A broker that is silent this long is fenced: a leader change, never a loss."""
    disconnect_grace_ms: Milliseconds = 300
    """A broker whose connection broke and that still answers a probe is fenced after this long."""
    replica_lag_time_max_ms: Milliseconds = 10_000
    """A follower that has not been caught up for this long leaves the in-sync replicas."""
    retention_check_interval_ms: Milliseconds = 300_000
    producer_id_expiration_ms: Milliseconds = 24 * 60 * 60 * 1000
    validate_records: bool = True
    """Walk every record of every batch, not only its header and checksum, before it is appended."""
    leader_rebalance_interval_ms: Milliseconds = 10_000
    """How often leaderships go back to the first replica of the assignment, once it is in sync."""


class GroupsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Consumer groups; what is written here must be the same on every broker."""

    partitions: Annotated[int, Meta(ge=1, le=1_000)] = 50
    """Of the internal topic, when it is made; groups are spread over them."""
    replication_factor: Annotated[int, Meta(ge=1, le=REPLICATION_FACTOR_MAX)] = 3
    """Of the internal topic, when it is made; a cluster of fewer brokers gets as many replicas as it has brokers."""
    session_timeout_ms: Milliseconds = 10_000
    """A member that is silent this long is evicted; members may ask for other timeouts, within the two bounds."""
    session_timeout_min_ms: Annotated[int, Meta(ge=SESSION_TIMEOUT_MS_MIN)] = 1_000
    session_timeout_max_ms: Annotated[int, Meta(le=SESSION_TIMEOUT_MS_MAX)] = 300_000
    heartbeat_interval_ms: Milliseconds = 2_000
    rebalance_timeout_ms: Annotated[int, Meta(ge=1, le=REBALANCE_TIMEOUT_MS_MAX)] = 60_000
    """So long a member may take to give partitions up."""
    disconnect_grace_ms: Milliseconds = 500
    """A member whose connection was lost, and that says nothing for so long, is evicted; static members are not."""
    members_max: Annotated[int, Meta(ge=1, le=GROUP_MEMBERS_MAX)] = GROUP_MEMBERS_MAX
    offset_metadata_bytes_max: Annotated[int, Meta(ge=0, le=OFFSET_METADATA_BYTES_MAX)] = OFFSET_METADATA_BYTES_MAX
    offsets_retention_ms: Annotated[int, Meta(ge=1)] = 7 * 24 * 60 * 60 * 1000
    """Committed offsets of a group without members are forgotten after so long."""
    offsets_retention_check_interval_ms: Milliseconds = 600_000
    cache_keys_max: Annotated[int, Meta(ge=0)] = COORDINATOR_CACHE_KEYS_MAX
    """Keys of idle groups that a broker keeps in memory; others are read from disk when they are asked for."""
    rewrite_bytes_min: Annotated[int, Meta(ge=1_024)] = 4 * MIB
    """A partition of the internal topic is rewritten when it is larger, and more than half of it is superseded."""


class LogSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the node writes about itself, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a node is told."""

    cluster: ClusterSection
    node: NodeSection
    quorum: QuorumSection
    data: DataSection
    listeners: ListenersSection = ListenersSection()
    broker: BrokerSection = BrokerSection()
    groups: GroupsSection = GroupsSection()
    log: LogSection = LogSection()

    def voter_endpoints(self) -> dict[int, Endpoint]:
        """Lane endpoint of every voter by node id, in the order of the file.

        Raises:
            InvalidConfig: an entry is not `ID@HOST:PORT`, or an id stands twice.
        """
        endpoints: dict[int, Endpoint] = {}
        for text in self.quorum.voters:
            id_text, separator, address = text.partition("@")
            if not separator or not id_text.isdigit():
                raise InvalidConfig(f"quorum.voters: {text!r} is not ID@HOST:PORT")
            if int(id_text) in endpoints:
                raise InvalidConfig(f"quorum.voters: node {id_text} stands twice")
            try:
                endpoints[int(id_text)] = Endpoint.parse(address)
            except ValueError as error:
                raise InvalidConfig(f"quorum.voters: {error}") from error
        return endpoints

    @property
    def is_broker(self) -> bool:
        return "broker" in self.node.roles

    @property
    def is_controller(self) -> bool:
        return "controller" in self.node.roles


def load(path: Path | None, overrides: Iterable[str] = ()) -> NodeConfig:
    """Read a `node.toml` and apply `section.key=value` overrides on top.

    Args:
        path: the file; None starts from nothing.
        overrides: each `section.key=value`, where the value is TOML (`7`, `true`, `["a"]`) or plain text.

    Raises:
        InvalidConfig: the file cannot be read or parsed, a key is unknown, a value is not allowed, or keys
            contradict each other; the message names key and limit.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidConfig(f"cannot read {path}: {error.strerror}", hint="check --config") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidConfig(f"{path} is not valid TOML: {error}") from error
    for override in overrides:
        _apply(tree, override)
    try:
        config = msgspec.convert(tree, NodeConfig)
    except msgspec.ValidationError as error:
        raise InvalidConfig(_readable(str(error)), hint="see docs/configuration.md for keys and ranges") from error
    _check(config)
    return config


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not separator or not dot or not name:
        raise InvalidConfig(
            f"--set {override!r} is not section.key=value", hint="for example --set listeners.grpc_port=7070"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    part = tree.setdefault(section, {})
    if not isinstance(part, dict):
        raise InvalidConfig(f"--set {override!r}: {section} is not a section")
    part[name] = value


def _readable(message: str) -> str:
    """Turn msgspec's `… - at `$.a.b`` into `a.b: …`."""
    text, _, where = message.rpartition(" - at ")
    if not text:
        return message
    return f"{where.strip('`').removeprefix('$').removeprefix('.')}: {text}"


def _check(config: NodeConfig) -> None:
    voters = config.voter_endpoints()
    if not config.node.roles:
        raise InvalidConfig("node.roles must name controller, broker or both")
    if config.is_controller and config.node.id not in voters:
        raise InvalidConfig(
            f"node {config.node.id} has the controller role but is not in quorum.voters",
            hint="add it there on every node, or take the role away",
        )
    ports = (config.listeners.grpc_port, config.listeners.lane_port, config.listeners.http_port)
    if len(set(ports)) != len(ports):
        raise InvalidConfig(f"listeners: the three ports must differ, got {ports}")
    if config.broker.session_timeout_ms < 2 * config.broker.heartbeat_interval_ms:
        raise InvalidConfig(
            f"broker.session_timeout_ms={config.broker.session_timeout_ms} must be at least twice "
            f"broker.heartbeat_interval_ms={config.broker.heartbeat_interval_ms}"
        )
    groups = config.groups
    if not groups.session_timeout_min_ms <= groups.session_timeout_ms <= groups.session_timeout_max_ms:
        raise InvalidConfig(
            f"groups.session_timeout_ms={groups.session_timeout_ms} must be from "
            f"groups.session_timeout_min_ms={groups.session_timeout_min_ms} to "
            f"groups.session_timeout_max_ms={groups.session_timeout_max_ms}"
        )
    if groups.session_timeout_ms < 2 * groups.heartbeat_interval_ms:
        raise InvalidConfig(
            f"groups.session_timeout_ms={groups.session_timeout_ms} must be at least twice "
            f"groups.heartbeat_interval_ms={groups.heartbeat_interval_ms}"
        )
    if config.quorum.election_timeout_ms < 2 * config.quorum.heartbeat_interval_ms:
        raise InvalidConfig(
            f"quorum.election_timeout_ms={config.quorum.election_timeout_ms} must be at least twice "
            f"quorum.heartbeat_interval_ms={config.quorum.heartbeat_interval_ms}"
        )
