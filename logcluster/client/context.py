"""What every part of one client shares: how to reach brokers, what is known of the cluster, time and chance."""

from __future__ import annotations

import random
from dataclasses import dataclass

from logcluster.client.connections import Connections
from logcluster.client.metadata import Metadata
from logcluster.client.metadata_cache import MetadataCache
from logcluster.client.retry import RetryPolicy
from logcluster.runtime.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Times of a client, in ms, and whether it makes traces; see `connect`."""

    connect_timeout_ms: int = 2_000
    request_timeout_ms: int = 30_000
    topic_wait_ms: int = 3_000
    metadata_age_ms_max: int = 30_000
    stall_ms: int = 1_000
    traces: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The shared parts of an open client."""

    connections: Connections
    metadata: Metadata
    clock: Clock
    generator: random.Random
    policy: RetryPolicy
    options: ClientOptions

    @property
    def cache(self) -> MetadataCache:
        return self.metadata.cache
