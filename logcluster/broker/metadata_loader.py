"""The broker's copy of the metadata: committed entries in, images and deltas out, in one order for everybody.

The loader keeps its own position, so that a session which breaks goes on where it stopped, with whichever controller
is active then. It never goes back: what is older than the position is skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from logcluster.core.metadata.image import EMPTY, MetadataDelta, MetadataImage
from logcluster.core.metadata.records import MetadataRecord
from logcluster.wire.gen.logcluster.internal.v1 import controller_pb2
from logcluster.wire.records import decode_batch, snapshot_from_pb


class MetadataPublisher(Protocol):
    """Somebody who follows the metadata."""

    def on_metadata(self, image: MetadataImage, delta: MetadataDelta) -> None:
        """Take the next image and what changed since the one before; called on the event loop, must not block."""
        ...


class MetadataLoader:
    """Applies what the active controller sends. Entries that arrive together make one image and one delta."""

    def __init__(self) -> None:
        self._image = EMPTY
        self._publishers: list[MetadataPublisher] = []
        self._waiters: dict[asyncio.Future[None], Callable[[MetadataImage], bool]] = {}

    @property
    def image(self) -> MetadataImage:
        """The newest image."""
        return self._image

    def subscribe(self, publisher: MetadataPublisher) -> None:
        """Add a follower; it is told the present state first, if there is any."""
        self._publishers.append(publisher)
        if self._image.offset > 0:
            publisher.on_metadata(self._image, self._image.delta_since(EMPTY))

    def apply_entries(self, entries: Iterable[controller_pb2.MetadataEntry]) -> None:
        """Apply committed entries that follow on; older ones are skipped.

        Raises:
            CorruptLog, UnsupportedVersion, InvariantViolation: they cannot be applied; the node must stop.
        """
        offset, term = self._image.offset, self._image.term
        records: list[MetadataRecord] = []
        for entry in entries:
            if entry.index <= offset:
                continue
            records.extend(decode_batch(entry.payload))
            offset, term = entry.index, entry.term
        if offset == self._image.offset:
            return
        image, delta = self._image.apply(records, offset=offset, term=term)
        self._publish(image, delta)

    def load_snapshot(self, transfer: controller_pb2.MetadataSnapshotTransfer) -> None:
        """Replace the image by a newer one; an older snapshot is ignored.

        Raises:
            CorruptLog, UnsupportedVersion, InvariantViolation: it cannot be read.
        """
        if transfer.index <= self._image.offset:
            return
        image = snapshot_from_pb(transfer.snapshot, offset=transfer.index, term=transfer.term)
        self._publish(image, image.delta_since(self._image))

    def _publish(self, image: MetadataImage, delta: MetadataDelta) -> None:
        self._image = image
        for publisher in self._publishers:
            publisher.on_metadata(image, delta)
        for future, condition in list(self._waiters.items()):
            if not future.done() and condition(image):
                future.set_result(None)

    async def wait_until(self, condition: Callable[[MetadataImage], bool], *, timeout_ms: int) -> bool:
        """Wait until an image meets `condition`; False when none did in time. Cancellation: atomic."""
        if condition(self._image):
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[future] = condition
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await future
        except TimeoutError:
            return False
        finally:
            del self._waiters[future]
        return True
