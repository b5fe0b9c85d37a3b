"""`logcluster broker drain`: leaderships go elsewhere, and the cluster can do without the broker for a while.

Two things are waited for: the broker leads nothing that another in-sync replica could lead, and every partition keeps
`min.insync.replicas` in-sync replicas without it. What no waiting can bring (too few other replicas) is said, not
waited for.

With `--self` it is the last act of a node before its own restart, the preStop hook of a pod. The drain is then taken
back when the command ends, in case that no restart follows; the controlled shutdown that does follow moves away
whatever may have come back in between. It begins only when the others are in sync, so that what may take long is done
before, and it lasts until the node's restart at most: killed in the middle, it leaves nothing behind. A drain that an
operator asked for is left alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from logcluster.cli.command import Settings, command
from logcluster.cli.connection import open_client
from logcluster.cli.output import done, note
from logcluster.cli.server_extra import require_server_extra

if TYPE_CHECKING:
    from logcluster.client.client import Client
    from logcluster.client.metadata_cache import TopicFacts
    from logcluster.config import NodeConfig

POLL_MS: Final = 200
NAMES_SHOWN_MAX: Final = 5
CONFIG_VARIABLE: Final = "LOGCLUSTER_CONFIG"
MIN_IN_SYNC: Final = "min.insync.replicas"
ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What keeps a broker from being taken away, by partition names."""

    movable: tuple[str, ...]
    """It leads them, and another in-sync replica could."""
    short: tuple[str, ...]
    """Without it they would have too few in-sync replicas, and enough others exist."""
    dependent: tuple[str, ...]
    """There are too few other replicas, in sync or not: without it they refuse writes with acks=all."""

    @property
    def is_free(self) -> bool:
        return not self.movable and not self.short

    def describe(self, broker_id: int) -> str:
        """Why not yet."""
        parts = []
        if self.movable:
            parts.append(f"broker {broker_id} still leads {_names(self.movable)}")
        if self.short:
            parts.append(f"too few replicas would be in sync without it: {_names(self.short)}")
        return "; ".join(parts) or "the state of the partitions is not known yet"


def standing(topics: Iterable[TopicFacts], min_in_sync: Mapping[str, int], broker_id: int) -> Standing:
    """Look at every partition that the broker has a replica of.

    Args:
        min_in_sync: by topic name; a topic that is missing counts as 1.
    """
    movable, short, dependent = [], [], []
    for topic in topics:
        for partition in topic.partitions:
            if broker_id not in partition.replicas:
                continue
            name = f"{topic.name}-{partition.partition}"
            others_in_sync = [member for member in partition.in_sync_replicas if member != broker_id]
            needed = min(min_in_sync.get(topic.name, 1), len(partition.replicas))
            if len(partition.replicas) - 1 < needed:
                dependent.append(name)
            elif len(others_in_sync) < needed:
                short.append(name)
            if partition.leader_id == broker_id and others_in_sync:
                movable.append(name)
    return Standing(movable=tuple(movable), short=tuple(short), dependent=tuple(dependent))


def register(group: typer.Typer) -> None:
    """Add the command to the group of brokers."""
    command(
        group,
        "drain",
        example="logcluster broker drain 1 --wait && logcluster dev start 1\nlogcluster broker drain 1 --undo\n"
        "logcluster broker drain --self --wait --timeout 100s",
    )(broker_drain)


async def broker_drain(
    settings: Settings,
    broker_id: Annotated[int | None, typer.Argument(metavar="[ID]", help="Broker id; or --self.")] = None,
    is_self: Annotated[
        bool, typer.Option("--self", help="This node, as its configuration says; taken back when the command ends.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Let it lead again.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until all partitions can do without it; bounded by --timeout.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", envvar=CONFIG_VARIABLE, show_envvar=True, help="With --self: the node.toml."),
    ] = None,
) -> None:
    """Move all leaderships away from a broker and keep new ones off it, for example before a restart."""
    if is_self == (broker_id is not None):
        raise typer.BadParameter("name a broker, or say --self")
    if is_self:
        if not wait and not undo:
            raise typer.BadParameter("--self needs --wait: without it nothing would be left of the drain")
        node = own_configuration(config)
        if not node.is_broker:
            done(settings, {"broker_id": node.node.id, "draining": False, "leaders_remaining": 0},
                 f"node {node.node.id} is a controller only: it hosts no partitions")  # fmt: skip
            return
        broker_id = node.node.id
        settings = own_settings(settings, node)
    assert broker_id is not None
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_client(settings))
        await _check_known(client, broker_id)
        if undo:
            await client.admin.drain_broker(broker_id, drain=False)
            _report(settings, broker_id, leaders=0, is_draining=False, text=f"broker {broker_id} may lead again")
            return
        watch = Watch(settings, client, broker_id, until_restart=is_self)
        if is_self:
            await watch.until(lambda seen: not seen.short)
            stack.push_async_callback(client.admin.drain_broker, broker_id, drain=False, until_restart=True)
        leaders = await watch.drain()
        if wait:
            leaders = await watch.until_free()
        text = f"broker {broker_id} drains; partitions it still leads: {leaders}"
        _report(settings, broker_id, leaders=leaders, is_draining=not is_self, text=text)


def own_configuration(path: Path | None) -> NodeConfig:
    """The configuration that `logcluster serve` has here.

    Raises:
        InvalidConfig: it would not start with it either.
    """
    require_server_extra("logcluster broker drain --self")
    from logcluster.config import load

    return load(path, environment=os.environ)


def own_settings(settings: Settings, node: NodeConfig) -> Settings:
    """Talk to this node's own listener, with its own certificate, unless a bootstrap was named, or TLS told of."""
    if node.tls.is_on and not settings.has_tls:
        files = node.tls
        settings = replace(
            settings, has_tls=True, tls_ca=files.ca_file, tls_cert=files.cert_file, tls_key=files.key_file
        )
    if settings.has_bootstrap:
        return settings
    from logcluster.model.ids import Endpoint

    if settings.has_tls:
        # The certificate is for the name that other nodes know; it need not be for the address listened on.
        return replace(settings, bootstrap=str(Endpoint(node.listeners.public_host, node.listeners.grpc_port)))
    host = ANY_ADDRESS.get(node.listeners.host, node.listeners.host)
    return replace(settings, bootstrap=str(Endpoint(host, node.listeners.grpc_port)))


async def _check_known(client: Client, broker_id: int) -> None:
    from logcluster.model.errors import NotFound

    known = [facts.broker_id for facts in await client.admin.list_brokers()]
    if broker_id not in known:
        hint = f"known: {', '.join(map(str, known))} (logcluster broker ls)"
        raise NotFound(f"no broker has the id {broker_id}", hint=hint)


class Watch:
    """Looks at the partitions of one broker again and again, until --timeout is over."""

    def __init__(self, settings: Settings, client: Client, broker_id: int, *, until_restart: bool) -> None:
        from logcluster.runtime.clock import SystemClock

        self._client = client
        self._broker_id = broker_id
        self._until_restart = until_restart
        self._clock = SystemClock()
        self._deadline_ms = self._clock.monotonic_ms() + settings.timeout_ms
        self._min_in_sync: dict[str, int] = {}

    async def drain(self) -> int:
        """Ask for the drain, also again: replicas that have caught up can take over. How many it still leads."""
        return await self._client.admin.drain_broker(self._broker_id, until_restart=self._until_restart)

    async def until(self, holds: Callable[[Standing], bool], *, drain: bool = False) -> Standing:
        """Wait until what is seen is so.

        Args:
            drain: ask for the drain again while it leads something: replicas that have caught up can take over now.

        Raises:
            RequestTimedOut: not within --timeout; says which partitions it was.
        """
        from logcluster.model.errors import RequestTimedOut

        while True:
            seen = await self._look()
            if holds(seen):
                return seen
            if self._clock.monotonic_ms() > self._deadline_ms:
                raise RequestTimedOut(
                    seen.describe(self._broker_id),
                    hint="`logcluster partition ls --unhealthy` shows what is not in sync",
                )
            if drain and seen.movable:
                await self.drain()
            await self._clock.sleep_ms(POLL_MS)

    async def until_free(self) -> int:
        """Wait until all partitions can do without the broker; returns how many it leads for want of others.

        Raises:
            RequestTimedOut: as `until`.
        """
        seen = await self.until(lambda found: found.is_free, drain=True)
        if seen.dependent:
            note(f"{_names(seen.dependent)}: too few other replicas to take writes without broker {self._broker_id}")
        return await self.drain()

    async def _look(self) -> Standing:
        topics = (await self._client.admin.list_topics(include_internal=True)).values()
        for topic in topics:
            is_hosted = any(self._broker_id in partition.replicas for partition in topic.partitions)
            if is_hosted and topic.name not in self._min_in_sync:
                self._min_in_sync[topic.name] = await self._ask_min_in_sync(topic.name)
        return standing(topics, self._min_in_sync, self._broker_id)

    async def _ask_min_in_sync(self, topic: str) -> int:
        from logcluster.model.errors import UnknownTopicOrPartition

        try:
            return int((await self._client.admin.describe_config(topic))[MIN_IN_SYNC].value)
        except UnknownTopicOrPartition:
            return 1  # deleted a moment ago


def _report(settings: Settings, broker_id: int, *, leaders: int, is_draining: bool, text: str) -> None:
    done(settings, {"broker_id": broker_id, "draining": is_draining, "leaders_remaining": leaders}, text)


def _names(partitions: tuple[str, ...]) -> str:
    shown = ", ".join(partitions[:NAMES_SHOWN_MAX])
    left = len(partitions) - NAMES_SHOWN_MAX
    return f"{shown} and {left} more" if left > 0 else shown
