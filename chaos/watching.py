"""Looks at the cluster several times a second, with a client of its own; roles are bound from what it saw last."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from chaos.interfaces import Target
from chaos.roles import ClusterState
from logcluster.client.client import Client
from logcluster.model.errors import LogClusterError
from logcluster.wire.gen.logcluster.v1 import groups_pb2

INTERVAL_S: Final = 0.25
TIMEOUT_MS: Final = 1_500


class ClusterWatch:
    """One observer; `run` it in a task, read `state` at any time.

    Args:
        groups: whose coordinators are looked up.
        path: gets a JSON line for each look, see `RunFiles.states`.
    """

    def __init__(self, target: Target, client: Client, *, groups: Sequence[str], path: Path) -> None:
        self._target = target
        self._client = client
        self._groups = groups
        self._path = path
        self._seen = ClusterState(broker_ids=target.broker_ids, running=target.broker_ids)

    @property
    def state(self) -> ClusterState:
        """What was seen last, with who runs now."""
        seen = self._seen
        running = [broker_id for broker_id in self._target.broker_ids if self._target.is_running(broker_id)]
        leaders = {name: broker_id for name, broker_id in seen.leaders.items() if broker_id in running}
        return ClusterState(
            broker_ids=self._target.broker_ids,
            running=running,
            leaders=leaders,
            in_sync=seen.in_sync,
            controller_id=seen.controller_id if seen.controller_id in running else None,
            coordinators={group: node for group, node in seen.coordinators.items() if node in running},
        )

    async def run(self) -> None:
        """Look until cancelled; a look that fails is none."""
        with self._path.open("a", encoding="utf-8", buffering=1) as file:
            while True:
                try:
                    epochs = await self.look()
                    file.write(json.dumps(self._line(epochs)) + "\n")
                except (LogClusterError, TimeoutError):
                    pass
                await asyncio.sleep(INTERVAL_S)

    def _line(self, epochs: dict[str, int]) -> dict[str, Any]:
        seen = self._seen
        return {
            "t_ns": time.monotonic_ns(),
            "controller": seen.controller_id,
            "partitions": {
                name: {"leader": seen.leaders.get(name), "epoch": epochs[name], "isr": list(seen.in_sync[name])}
                for name in sorted(epochs)
            },
        }

    async def look(self) -> dict[str, int]:
        """Ask once; returns leader epochs by "topic-partition".

        Raises:
            LogClusterError, TimeoutError: nobody answered in time.
        """
        admin = self._client.admin
        async with asyncio.timeout(TIMEOUT_MS / 1000):
            topics = await admin.list_topics()
            cluster = await admin.describe_cluster()
        leaders: dict[str, int] = {}
        in_sync: dict[str, tuple[int, ...]] = {}
        epochs: dict[str, int] = {}
        for name, topic in topics.items():
            for facts in topic.partitions:
                label = f"{name}-{facts.partition}"
                epochs[label] = facts.leader_epoch
                in_sync[label] = tuple(facts.in_sync_replicas)
                if facts.leader_id is not None:
                    leaders[label] = facts.leader_id
        coordinators = await self._coordinators() if self._groups else {}
        self._seen = ClusterState(
            broker_ids=self._target.broker_ids,
            running=self._target.broker_ids,
            leaders=leaders,
            in_sync=in_sync,
            controller_id=cluster.controller_id,
            coordinators=coordinators or self._seen.coordinators,
        )
        return epochs

    async def _coordinators(self) -> dict[str, int]:
        context = self._client._open()
        found: dict[str, int] = {}
        try:
            response: groups_pb2.FindCoordinatorsResponse = await context.connections.ask_any(
                lambda stubs: stubs.groups.FindCoordinators,
                groups_pb2.FindCoordinatorsRequest(groups=list(self._groups)),
                timeout_ms=TIMEOUT_MS,
                attempt_ms=TIMEOUT_MS,
            )
        except LogClusterError:
            return found
        for item in response.coordinators:
            if not item.error.code:
                found[item.group] = item.broker_id
        return found

    async def is_settled(self, replicas: int) -> bool:
        """Are all partitions led, with all their replicas in sync?"""
        try:
            await self.look()
        except (LogClusterError, TimeoutError):
            return False
        seen = self._seen
        wanted = min(replicas, len(self._target.broker_ids))
        return bool(seen.in_sync) and all(
            name in seen.leaders and len(members) >= wanted for name, members in seen.in_sync.items()
        )
