"""Making a coordinator's topic when it is first needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from logcluster.core.metadata.image import MetadataImage
from logcluster.model.errors import CoordinatorNotAvailable, InvalidReplicationFactor, LogClusterError
from logcluster.model.probes import probe
from logcluster.wire.gen.logcluster.internal.v1 import controller_pb2 as pb

CREATE_TIMEOUT_MS: Final = 5_000
INTERNAL_TOPIC_CONFIG: Final[Mapping[str, str]] = {
    "segment.bytes": str(8 << 20),
    "retention.ms": "-1",
    "retention.bytes": "-1",
}
"""Nothing grows old by itself: what is superseded is rewritten and deleted by the shard's leader."""


class InternalTopicController(Protocol):
    """The part of the controller's client that is used here."""

    async def create_internal_topic(self, request: pb.CreateInternalTopicRequest, *, timeout_ms: int) -> None:
        """Raises LogClusterError."""
        ...


class Metadata(Protocol):
    """The part of the metadata loader that is used here."""

    @property
    def image(self) -> MetadataImage: ...

    async def wait_until(self, condition: Callable[[MetadataImage], bool], *, timeout_ms: int) -> bool:
        """Wait for an image."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class InternalTopicSettings:
    """How the topic is made."""

    partitions: int
    replication_factor: int
    """At most the number of brokers that are known, or of voters: a small cluster gets what it can."""
    voters: int
    config: Mapping[str, str] = field(default_factory=dict)
    """Beside `INTERNAL_TOPIC_CONFIG`."""


class InternalTopic:
    """One topic of the cluster's own."""

    def __init__(
        self, name: str, settings: InternalTopicSettings, *, controller: InternalTopicController, metadata: Metadata
    ) -> None:
        self.name = name
        self._settings = settings
        self._controller = controller
        self._metadata = metadata
        self._lock = asyncio.Lock()

    async def ensure(self) -> None:
        """Return when the topic is known here; make it if it is not there. One caller makes it, the others wait.

        Raises:
            CoordinatorNotAvailable: it could not be made; says why.
        Cancellation: it may be made.
        """
        if self._exists(self._metadata.image):
            return
        async with self._lock:
            if self._exists(self._metadata.image):
                return
            probe("coordinator.topic.made")
            settings = self._settings
            known = max(len(self._metadata.image.brokers), settings.voters)
            request = pb.CreateInternalTopicRequest(
                name=self.name,
                partitions=settings.partitions,
                replication_factor=min(settings.replication_factor, known),
                config={**INTERNAL_TOPIC_CONFIG, **settings.config},
            )
            try:
                await self._controller.create_internal_topic(request, timeout_ms=CREATE_TIMEOUT_MS)
            except InvalidReplicationFactor as error:
                raise CoordinatorNotAvailable(
                    f"{self.name} cannot be made yet: {error.message}",
                    hint="start more brokers, or lower groups.replication_factor",
                ) from error
            except LogClusterError as error:
                raise CoordinatorNotAvailable(f"{self.name} could not be made: {error.message}") from error
            if not await self._metadata.wait_until(self._exists, timeout_ms=CREATE_TIMEOUT_MS):
                raise CoordinatorNotAvailable(f"{self.name} is made, but not known here yet")

    def _exists(self, image: MetadataImage) -> bool:
        return image.topic_by_name(self.name) is not None
