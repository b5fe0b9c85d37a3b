"""The configuration of a node: `node.toml`, environment and `--set` overrides, parsed once into frozen sections.

Unknown keys and impossible values fail at start, naming key, value and limit. A component is given its own
section, never the whole. Each key's unit is in its name, its range in the type, its reason beside it. Later wins:
file, then environment (`LOGCLUSTER_SECTION_KEY`), then `--set`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, inspect

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


class TlsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Certificates, for the lane and gRPC listeners and for connections to other nodes; all empty: plain text."""

    cert_file: str = ""
    """This node's certificate with its chain, PEM; for every name that clients and nodes connect to."""
    key_file: str = ""
    ca_file: str = ""
    """Authorities of the other nodes, and with `client_auth = "required"` of all clients."""
    client_auth: Literal["none", "required"] = "none"
    reload_interval_s: Annotated[int, Meta(ge=1, le=24 * 60 * 60)] = 60
    """How often the files are looked at; renewed ones serve new connections, the existing ones go on."""

    @property
    def is_on(self) -> bool:
        return bool(self.cert_file)


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


class MetricsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `/metrics` shows (docs/metrics.md)."""

    enabled: bool = True
    """Measure requests, flushes, the event loop and the lag of groups; without, only what is read at a scrape."""
    per_partition: Literal["auto", "always", "never"] = "auto"
    per_partition_max: Annotated[int, Meta(ge=0)] = 100
    """With "auto", a node that hosts more replicas shows none of them by itself: a scrape takes 0.1 ms for each."""
    group_series_max: Annotated[int, Meta(ge=0)] = 500
    """Groups times topics whose lag is shown; of more, those that lag most."""


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a node is told."""

    cluster: ClusterSection
    node: NodeSection
    quorum: QuorumSection
    data: DataSection
    listeners: ListenersSection = ListenersSection()
    tls: TlsSection = TlsSection()
    broker: BrokerSection = BrokerSection()
    groups: GroupsSection = GroupsSection()
    log: LogSection = LogSection()
    metrics: MetricsSection = MetricsSection()

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


ENVIRONMENT_PREFIX: Final = "LOGCLUSTER_"
HOSTNAME: Final = "hostname"
"""As `node.id`: the number at the end of the host's name, which in a StatefulSet is the pod's ordinal."""
BY_VOTERS: Final = "auto"
"""As `node.roles`: a broker, and a controller too when `quorum.voters` names this node."""

_SERVICE_LINK = re.compile(r"_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_\w+)?)$")
"""What Kubernetes adds to the environment for every Service; no setting's name ends so but the listeners' ports."""


def load(
    path: Path | None, overrides: Iterable[str] = (), *, environment: Mapping[str, str] | None = None
) -> NodeConfig:
    """Read a `node.toml` and apply the environment and `section.key=value` overrides on top.

    Args:
        path: the file; None starts from nothing.
        environment: where `LOGCLUSTER_SECTION_KEY` variables are looked for; None: nowhere.
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
    variables = environment or {}
    for name in sorted(variables):
        _apply_variable(tree, name, variables[name])
    for override in overrides:
        _apply(tree, override)
    _resolve(tree, variables)
    try:
        config = msgspec.convert(tree, NodeConfig)
    except msgspec.ValidationError as error:
        raise InvalidConfig(_readable(str(error)), hint="see docs/configuration.md for keys and ranges") from error
    _check(config)
    return config


def environment_variables() -> dict[str, str]:
    """The environment variable of every setting, by `section.key`."""
    return {
        f"{section}.{key}": f"{ENVIRONMENT_PREFIX}{section}_{key}".upper()
        for section, keys in _settings().items()
        for key in keys
    }


def _settings() -> dict[str, dict[str, inspect.Type]]:
    root = inspect.type_info(NodeConfig)
    assert isinstance(root, inspect.StructType)
    return {
        section.name: {key.name: key.type for key in section.type.fields}
        for section in root.fields
        if isinstance(section.type, inspect.StructType)
    }


def _apply_variable(tree: dict[str, Any], name: str, text: str) -> None:
    """Take one environment variable, if it is about a setting; an empty one counts as absent."""
    settings = _settings()
    section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
    if not name.startswith(ENVIRONMENT_PREFIX) or section not in settings or not key or not text:
        return
    if key not in settings[section]:
        if _SERVICE_LINK.search(name):
            return
        raise InvalidConfig(
            f"the environment variable {name} is about no setting: there is no {section}.{key}",
            hint="see docs/configuration.md for the names, or unset it",
        )
    kind = settings[section][key]
    value: Any = text
    if isinstance(kind, inspect.VarTupleType) and not text.startswith("["):
        value = [part.strip() for part in text.split(",")] if text != BY_VOTERS else text
    elif not isinstance(kind, inspect.StrType | inspect.LiteralType):
        value = _toml_value(text)
    _part(tree, section, name)[key] = value


def _resolve(tree: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Replace what stands for something else: `node.id = "hostname"` and `node.roles = "auto"`."""
    node, quorum = tree.get("node"), tree.get("quorum")
    if not isinstance(node, dict):
        return
    if node.get("id") == HOSTNAME:
        host = environment.get("HOSTNAME") or os.uname().nodename
        ordinal = re.search(r"-(\d+)$", host.partition(".")[0])
        if ordinal is None:
            raise InvalidConfig(
                f'node.id = "hostname", but {host!r} does not end with a hyphen and a number',
                hint="StatefulSets name their pods so; elsewhere set node.id to a number",
            )
        node["id"] = int(ordinal.group(1))
    if node.get("roles") == BY_VOTERS:
        voters = quorum.get("voters", ()) if isinstance(quorum, dict) else ()
        is_voter = any(str(voter).partition("@")[0] == str(node.get("id")) for voter in voters)
        node["roles"] = ["controller", "broker"] if is_voter else ["broker"]


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _part(tree: dict[str, Any], section: str, source: str) -> dict[str, Any]:
    part = tree.setdefault(section, {})
    if not isinstance(part, dict):
        raise InvalidConfig(f"{source}: {section} is not a section")
    return part


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not separator or not dot or not name:
        raise InvalidConfig(
            f"--set {override!r} is not section.key=value", hint="for example --set listeners.grpc_port=7070"
        )
    _part(tree, section, f"--set {override!r}")[name] = _toml_value(text)


def _readable(message: str) -> str:
    """Turn msgspec's `… - at `$.a.b`` into `a.b: …`."""
    text, _, where = message.rpartition(" - at ")
    if not text:
        return message
    return f"{where.strip('`').removeprefix('$').removeprefix('.')}: {text}"


def _check_tls(tls: TlsSection) -> None:
    files = {"cert_file": tls.cert_file, "key_file": tls.key_file, "ca_file": tls.ca_file}
    missing = [f"tls.{key}" for key, path in files.items() if not path]
    if len(missing) not in {0, len(files)}:
        given = next(f"tls.{key}" for key, path in files.items() if path)
        raise InvalidConfig(
            f"{given} is set, and {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not",
            hint="TLS needs cert_file, key_file and ca_file; leave all three empty for plain text",
        )
    if tls.client_auth != "none" and not tls.is_on:
        raise InvalidConfig(
            f'tls.client_auth = "{tls.client_auth}", but tls.cert_file, tls.key_file and tls.ca_file are empty',
            hint="set them: without TLS nobody can be asked for a certificate",
        )


def _check(config: NodeConfig) -> None:
    _check_tls(config.tls)
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
