"""The state file of a dev cluster: which nodes it has and which processes they are.

`dev.json` is replaced atomically. A lock file keeps two `logcluster dev` commands from changing one cluster at once.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from logcluster.devcluster.cluster import NodeProcesses
from logcluster.devcluster.layout import NodePlan, NodePorts, plan_nodes
from logcluster.devcluster.processes import ProcessIdentity
from logcluster.model.errors import InvalidRequest, NotFound

STATE_FILE: Final = "dev.json"
STATE_VERSION: Final = 1


def default_directory() -> Path:
    """`$XDG_STATE_HOME/logcluster/dev`, or the same below `~/.local/state`."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "logcluster" / "dev"


class DevCluster:
    """A dev cluster as its directory describes it; `processes` acts on it, `save` remembers what changed."""

    def __init__(self, directory: Path, *, cluster_id: str, processes: NodeProcesses) -> None:
        self.directory = directory
        self.cluster_id = cluster_id
        self.processes = processes

    @property
    def plans(self) -> list[NodePlan]:
        return list(self.processes.plans.values())

    @property
    def bootstrap(self) -> str:
        """Address of the first node."""
        return self.plans[0].grpc_endpoint

    @classmethod
    def create(cls, directory: Path, *, cluster_id: str, host: str, ports: list[NodePorts]) -> DevCluster:
        """A cluster whose nodes are planned and not started."""
        plans = plan_nodes(directory, ports, host=host)
        return cls(directory, cluster_id=cluster_id, processes=NodeProcesses(plans))

    @classmethod
    def load(cls, directory: Path) -> DevCluster:
        """Read the state file.

        Raises:
            NotFound: there is none.
            InvalidRequest: it cannot be read.
        """
        path = directory / STATE_FILE
        try:
            document = json.loads(path.read_text())
        except FileNotFoundError:
            raise NotFound(
                f"there is no dev cluster in {directory}",
                hint="start one with `logcluster dev up`, or name its directory with --data",
            ) from None
        except (OSError, ValueError) as error:
            raise InvalidRequest(f"cannot read {path}: {error}", hint="delete the directory and start again") from error
        if document.get("version") != STATE_VERSION:
            raise InvalidRequest(f"{path} was written by another version", hint="delete the directory and start again")
        ports = [NodePorts(*node["ports"]) for node in document["nodes"]]
        identities = {
            node["id"]: ProcessIdentity(node["pid"], node["start_ticks"])
            for node in document["nodes"]
            if node["pid"] is not None
        }
        plans = plan_nodes(directory, ports, host=document["host"])
        return cls(directory, cluster_id=document["cluster_id"], processes=NodeProcesses(plans, identities=identities))

    def save(self) -> None:
        """Write the state file, whole or not at all."""
        nodes = []
        for plan in self.plans:
            identity = self.processes.identities.get(plan.node_id)
            nodes.append(
                {
                    "id": plan.node_id,
                    "ports": list(plan.ports),
                    "pid": identity.pid if identity else None,
                    "start_ticks": identity.start_ticks if identity else None,
                }
            )
        document = {
            "version": STATE_VERSION,
            "cluster_id": self.cluster_id,
            "host": self.plans[0].host,
            "nodes": nodes,
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        scratch = self.directory / (STATE_FILE + ".new")
        scratch.write_text(json.dumps(document, indent=2) + "\n")
        scratch.replace(self.directory / STATE_FILE)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock.

    Raises:
        InvalidRequest: another command holds it, or the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock_file = (directory / "dev.lock").open("w")
    except OSError as error:
        raise InvalidRequest(
            f"cannot write to {directory}: {error.strerror}", hint="choose another directory with --data"
        ) from error
    with lock_file:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidRequest(
                f"another `logcluster dev` command is changing {directory}", hint="wait for it to end"
            ) from None
        yield
