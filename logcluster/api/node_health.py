"""How a node is, from what its components say: alive, started, ready, and which of its services may be called.

Three questions of different depth, each answered with reasons (docs/kubernetes.md says who asks which):

    /livez     does the event loop answer, and has nothing fatal happened? Never about other nodes.
    /startupz  are the logs recovered and the listeners open? Never about other nodes either.
    /readyz    joined, unfenced, heard by the controller, and in sync wherever it has a replica.

Readiness must not lie. What the controller last said is believed only for as long as it cannot have given up on this
node since: a session timeout after the newest heartbeat that it has answered was sent. And a process that stood still
does not speak of before: `HealthWatch` notices that its own ticks are late.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from logcluster.core.metadata.image import MetadataImage
from logcluster.runtime.clock import Clock
from logcluster.runtime.event_log import get_logger
from logcluster.runtime.scope import TaskScope

log = get_logger("health")

TICK_MS: Final = 200
NAMES_SHOWN_MAX: Final = 5
DATA_SERVICES: Final = ("logcluster.v1.DataService", "logcluster.v1.GroupService")
METADATA_SERVICE: Final = "logcluster.v1.MetadataService"
ADMIN_SERVICE: Final = "logcluster.v1.AdminService"
WHOLE_SERVER: Final = ""
"""The name under which the standard health service speaks for the server as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What the components of a node say at one moment."""

    is_broker: bool
    is_controller: bool
    is_started: bool
    """Logs recovered, stores and listeners open, every component started."""
    is_shutting_down: bool
    fatal: str | None = None
    """Why the node cannot go on."""
    log_failure: str | None = None
    has_controller: bool = True
    """Is an active controller known?"""
    hindrance: str | None = None
    """What keeps the quorum from having a leader."""
    is_registered: bool = True
    is_fenced: bool = False
    silence_ms: int | None = None
    """Since the newest answered heartbeat was sent; None when none was answered."""
    silence_ms_max: int = 1_500
    """The controller may have fenced this node after so much silence."""
    standstill_ms: int = 0
    """How long the process stood still, while what it knows may still be from before; 0: it runs."""
    behind: tuple[str, ...] = ()
    """Partitions led by another broker whose in-sync replicas do not have this node's."""
    has_metadata: bool = True


def not_live(seen: Observed) -> list[str]:
    """Why the process should be replaced; empty while it is worth keeping."""
    return [] if seen.fatal is None else [f"the node cannot go on: {seen.fatal}"]


def not_started(seen: Observed) -> list[str]:
    """What the start still waits for; never other nodes, so that a restart is never the answer to their absence."""
    return [] if seen.is_started else ["still recovering logs and opening listeners"]


def not_joined(seen: Observed) -> list[str]:
    """Why the node is no working member of the cluster now."""
    reasons = [*not_live(seen), *not_started(seen)]
    if seen.standstill_ms:
        reasons.append(f"the process stood still for {seen.standstill_ms / 1000:.1f} s and learns what it missed")
    if seen.is_controller and not seen.has_controller:
        reasons.append(f"the metadata quorum has no leader{f': {seen.hindrance}' if seen.hindrance else ''}")
    if seen.log_failure is not None:
        reasons.append(f"the log directory has failed: {seen.log_failure}")
    if seen.is_broker:
        if not seen.is_registered:
            reasons.append("not registered with the active controller yet")
        elif seen.is_fenced:
            reasons.append("fenced by the active controller")
        elif seen.silence_ms is None or seen.silence_ms > seen.silence_ms_max:
            silence = "yet" if seen.silence_ms is None else f"for {seen.silence_ms / 1000:.1f} s"
            reasons.append(f"no heartbeat was answered {silence}: the controller may have fenced this broker")
    if seen.is_shutting_down:
        reasons.append("shutting down")
    return reasons


def not_ready(seen: Observed) -> list[str]:
    """Why the next node must not be restarted now, and why clients had better begin elsewhere."""
    reasons = not_joined(seen)
    if seen.behind:
        shown = ", ".join(seen.behind[:NAMES_SHOWN_MAX])
        more = f" and {len(seen.behind) - NAMES_SHOWN_MAX} more" if len(seen.behind) > NAMES_SHOWN_MAX else ""
        reasons.append(f"replicas not in sync: {shown}{more}")
    return reasons


def serving(seen: Observed) -> dict[str, bool]:
    """For each service of the gRPC port: may it be called here? A lagging replica does not keep others from serving."""
    is_joined = not not_joined(seen)
    services = dict.fromkeys(DATA_SERVICES, seen.is_broker and is_joined)
    services[METADATA_SERVICE] = is_joined and seen.has_metadata
    services[ADMIN_SERVICE] = is_joined and seen.has_controller
    services[WHOLE_SERVER] = not not_ready(seen)
    return services


def state_of(seen: Observed) -> str:
    """The one word for it: "starting", "fenced", "active", "shutting-down" or "failed"."""
    if seen.fatal is not None or seen.log_failure is not None:
        return "failed"
    if seen.is_shutting_down:
        return "shutting-down"
    if not seen.is_started or (seen.is_broker and not seen.is_registered):
        return "starting"
    return "fenced" if seen.is_broker and seen.is_fenced else "active"


def partitions_behind(image: MetadataImage, broker_id: int) -> tuple[str, ...]:
    """Partitions with a leader elsewhere that does not count this broker's replica as in sync.

    Those without a leader are left out: this broker can do nothing about them, and they show in `cluster health`.
    """
    return tuple(
        f"{topic.name}-{index}"
        for topic in image.topics.values()
        for index, partition in topic.partitions.items()
        if broker_id in partition.replicas
        and broker_id not in partition.in_sync_replicas
        and partition.leader_id is not None
    )


class HealthWatch:
    """Tells the standard gRPC health service what changed, and notices when the process stood still.

    Args:
        observe: asked at every tick; must not wait.
        set_serving: takes the name of a service and whether it may be called.
        standstill_ms_min: a tick that is so late means that the process did not run.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        observe: Callable[[], Observed],
        set_serving: Callable[[str, bool], Awaitable[None]],
        standstill_ms_min: int,
    ) -> None:
        self._clock = clock
        self._observe = observe
        self._set_serving = set_serving
        self._standstill_ms_min = standstill_ms_min
        self._told: dict[str, bool] = {}
        self._ticked_ms: int | None = None
        self._standstill_ms = 0
        self._doubt_until_ms = 0
        self._scope = TaskScope("health")

    def start(self) -> None:
        """Begin to watch."""
        self._ticked_ms = self._clock.monotonic_ms()
        self._scope.spawn(self._run(), name="watch")

    async def stop(self) -> None:
        """Stop watching; what was told last stays."""
        await self._scope.close()

    def standstill_ms(self) -> int:
        """How long the process stood still, until as much time as a fencing takes has passed since; else 0."""
        if self._ticked_ms is None:
            return 0
        now_ms = self._clock.monotonic_ms()
        late_ms = now_ms - self._ticked_ms
        if late_ms >= self._standstill_ms_min:
            return late_ms
        return self._standstill_ms if now_ms < self._doubt_until_ms else 0

    async def _run(self) -> None:
        while True:
            await self._tick()
            await self._clock.sleep_ms(TICK_MS)

    async def _tick(self) -> None:
        standstill_ms = self.standstill_ms()
        self._ticked_ms = self._clock.monotonic_ms()
        if standstill_ms and self._ticked_ms >= self._doubt_until_ms:
            log.warning("process_stood_still", duration_ms=standstill_ms)
            self._standstill_ms = standstill_ms
            self._doubt_until_ms = self._ticked_ms + self._standstill_ms_min
        await self.refresh()

    async def refresh(self) -> None:
        """Tell what has changed since it was told last."""
        services = serving(self._observe())
        for name, is_serving in services.items():
            if self._told.get(name) != is_serving:
                self._told[name] = is_serving
                await self._set_serving(name, is_serving)
