"""Where the nodes of a local cluster listen and keep their files, and the node.toml of each.

Node *i* of a dev cluster listens on gRPC `port + 10*i`, lane `+1`, HTTP `+2`; a test cluster takes free ports.
The first three nodes are controllers and brokers, further ones brokers only.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from logcluster.model.errors import InvalidRequest

CONTROLLERS_MAX: Final = 3
PORT_STEP: Final = 10
FREE_PORT_FIRST: Final = 10_000
FREE_PORT_LAST: Final = 32_000
"""Linux takes ports of outgoing connections from above this range, so a restarted node finds its port free."""

DEV_GROUP_PARTITIONS: Final = 8
"""Of the internal topic of consumer groups: enough for a cluster on one machine."""

Settings = Mapping[str, Mapping[str, object]]
"""Additions to node.toml: section -> key -> value."""


class NodePorts(NamedTuple):
    """The three listeners of one node."""

    grpc: int
    lane: int
    http: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """One node: its listeners and its directory, which holds node.toml, data and log file."""

    node_id: int
    host: str
    ports: NodePorts
    directory: Path
    is_controller: bool

    @property
    def config_path(self) -> Path:
        return self.directory / "node.toml"

    @property
    def data_directory(self) -> Path:
        return self.directory / "data"

    @property
    def log_path(self) -> Path:
        return self.directory / "node.log"

    @property
    def grpc_endpoint(self) -> str:
        return f"{self.host}:{self.ports.grpc}"

    @property
    def lane_endpoint(self) -> str:
        return f"{self.host}:{self.ports.lane}"


def dev_ports(first_port: int, count: int) -> list[NodePorts]:
    """The ports of `count` nodes from `first_port` on.

    Raises:
        InvalidRequest: the last port would exceed 65535 or the first is below 1.
    """
    last_port = first_port + PORT_STEP * (count - 1) + 2
    if first_port < 1 or last_port > 65535:
        raise InvalidRequest(
            f"ports {first_port} to {last_port} are not all within 1..65535", hint="choose another --port"
        )
    starts = [first_port + PORT_STEP * index for index in range(count)]
    return [NodePorts(grpc=start, lane=start + 1, http=start + 2) for start in starts]


def free_ports(count: int, randomness: Random, *, host: str = "127.0.0.1") -> list[NodePorts]:
    """Ports of `count` nodes on which nobody listens now.

    Raises:
        InvalidRequest: a thousand tries found too few.
    """
    found: list[NodePorts] = []
    for _ in range(1000):
        if len(found) == count:
            return found
        start = randomness.randrange(FREE_PORT_FIRST, FREE_PORT_LAST, PORT_STEP)
        ports = NodePorts(grpc=start, lane=start + 1, http=start + 2)
        if ports not in found and all(port_is_free(host, port) for port in ports):
            found.append(ports)
    raise InvalidRequest(f"no {count} free groups of ports between {FREE_PORT_FIRST} and {FREE_PORT_LAST}")


def port_is_free(host: str, port: int) -> bool:
    """True when a listener could be opened there now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def plan_nodes(directory: Path, ports: Sequence[NodePorts], *, host: str = "127.0.0.1") -> list[NodePlan]:
    """One plan for each entry of `ports`; ids count from 0."""
    return [
        NodePlan(
            node_id=node_id,
            host=host,
            ports=node_ports,
            directory=directory / f"node-{node_id}",
            is_controller=node_id < CONTROLLERS_MAX,
        )
        for node_id, node_ports in enumerate(ports)
    ]


def write_configs(plans: Sequence[NodePlan], *, cluster_id: str, settings: Settings | None = None) -> None:
    """Create each node's directory and node.toml; `settings` are merged over the defaults."""
    for plan in plans:
        plan.directory.mkdir(parents=True, exist_ok=True)
        plan.config_path.write_text(render_toml(plan, plans, cluster_id=cluster_id, settings=settings))


def render_toml(plan: NodePlan, plans: Sequence[NodePlan], *, cluster_id: str, settings: Settings | None = None) -> str:
    """The text of one node's node.toml."""
    voters = [f"{other.node_id}@{other.lane_endpoint}" for other in plans if other.is_controller]
    sections: dict[str, dict[str, object]] = {
        "cluster": {"id": cluster_id},
        "node": {"id": plan.node_id, "roles": ["controller", "broker"] if plan.is_controller else ["broker"]},
        "listeners": {
            "host": plan.host,
            "advertised_host": plan.host,
            "grpc_port": plan.ports.grpc,
            "lane_port": plan.ports.lane,
            "http_port": plan.ports.http,
        },
        "quorum": {"voters": voters},
        "data": {"dir": str(plan.data_directory)},
        "groups": {"partitions": DEV_GROUP_PARTITIONS},
    }
    for section, values in (settings or {}).items():
        sections.setdefault(section, {}).update(values)
    lines: list[str] = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines.extend(f"{key} = {_toml_value(value)}" for key, value in values.items())
        lines.append("")
    return "\n".join(lines)


def _toml_value(value: object) -> str:
    # For strings, numbers, booleans and lists of them, JSON is TOML.
    return json.dumps(value, ensure_ascii=False)
