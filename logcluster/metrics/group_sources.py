"""Coordinator shards and groups of this broker, as a scrape reads them, and what committed changes did to groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from logcluster.broker.coordinators.group_host import LocalGroupHost
from logcluster.broker.coordinators.runtime import Listener
from logcluster.broker.coordinators.shard import Shard
from logcluster.metrics.exposition import Sink
from logcluster.metrics.histogram import Histogram
from logcluster.runtime.clock import Clock

SHARD_STATES: Final = ("standby", "loading", "active")
GROUP_STATES: Final = ("empty", "assigning", "reconciling", "stable")
LOAD_BOUNDS_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class GroupChanges:
    """Stands between the runtime and its listener, and counts new group epochs.

    A group whose epoch was not known, after a change of coordinator or a start, counts from its next one on.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._epochs: dict[str, int] = {}
        self.rebalance_count = 0

    def on_committed(self, key: str, entity: Any, wake: tuple[str, ...]) -> None:
        """Take in a committed change of a group."""
        epoch = entity.epoch
        known = self._epochs.get(key)
        if epoch == 0:
            self._epochs.pop(key, None)
        elif known != epoch:
            # A new group begins at 1.
            self.rebalance_count += epoch - known if known is not None and epoch > known else int(epoch == 1)
            self._epochs[key] = epoch
        self._listener.on_committed(key, entity, wake)

    def on_leadership_ended(self, index: int) -> None:
        """Another broker counts the shard's groups from here on."""
        self._epochs.clear()
        self._listener.on_leadership_ended(index)


class ShardLoads:
    """How long shards take from leadership to their first answer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_ms: dict[Shard, int] = {}
        self.durations = Histogram(LOAD_BOUNDS_SECONDS)

    def on_state(self, shard: Shard) -> None:
        """Take in a shard's new state."""
        if shard.state == "loading":
            self._began_ms[shard] = self._clock.monotonic_ms()
            return
        began_ms = self._began_ms.pop(shard, None)
        if began_ms is not None and shard.state == "active":
            self.durations.observe((self._clock.monotonic_ms() - began_ms) / 1000)

    def longest_seconds(self) -> float:
        """Age of the oldest load under way."""
        return (self._clock.monotonic_ms() - min(self._began_ms.values())) / 1000 if self._began_ms else 0.0


class GroupSource:
    """Shards and groups."""

    def __init__(
        self, shards: Callable[[], Iterable[Shard]], *, host: LocalGroupHost, changes: GroupChanges, loads: ShardLoads
    ) -> None:
        self._shards = shards
        self._host = host
        self._changes = changes
        self._loads = loads

    def collect(self, sink: Sink) -> None:
        """Put them."""
        shards = dict.fromkeys(SHARD_STATES, 0)
        groups = dict.fromkeys(GROUP_STATES, 0)
        member_count = 0
        for shard in self._shards():
            shards[shard.state] += 1
            for held in shard.held.values() if shard.state == "active" else ():
                if held.entity.key_count:
                    groups[held.entity.state] += 1
                    member_count += len(held.entity.members)
        for state, count in shards.items():
            sink.put("logcluster_coordinator_shards", count, state)
        for state, count in groups.items():
            sink.put("logcluster_groups", count, state)
        sink.put("logcluster_group_members", member_count)
        sink.put("logcluster_group_rebalances_total", self._changes.rebalance_count)
        sink.put("logcluster_group_commits_total", self._host.committed_count)
        sink.put_histogram("logcluster_coordinator_load_duration_seconds", self._loads.durations)
        sink.put("logcluster_coordinator_loading_seconds", self._loads.longest_seconds())
