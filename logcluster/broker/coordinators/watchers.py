"""Members that keep a stream open: who is told to send a heartbeat at once, and whose stream is over."""

from __future__ import annotations

import asyncio

from logcluster.model.errors import LogClusterError


class Watcher:
    """One stream of one member."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._error: LogClusterError | None = None

    def wake(self) -> None:
        """A heartbeat is due; several of these before `wait` returns are one."""
        self._event.set()

    def end(self, error: LogClusterError) -> None:
        """The stream is over."""
        self._error = self._error or error
        self._event.set()

    async def wait(self) -> None:
        """Return when a heartbeat is due. Cancellation: atomic.

        Raises:
            LogClusterError: why the stream is over.
        """
        await self._event.wait()
        self._event.clear()
        if self._error is not None:
            raise self._error


class Watchers:
    """Streams by entity and member; a member may have two for a moment."""

    def __init__(self) -> None:
        self._by_key: dict[str, dict[str, dict[Watcher, None]]] = {}

    def __len__(self) -> int:
        return sum(len(watchers) for members in self._by_key.values() for watchers in members.values())

    def add(self, key: str, member_id: str) -> Watcher:
        """Begin a stream."""
        watcher = Watcher()
        self._by_key.setdefault(key, {}).setdefault(member_id, {})[watcher] = None
        return watcher

    def remove(self, key: str, member_id: str, watcher: Watcher) -> None:
        """End a stream."""
        members = self._by_key.get(key, {})
        watchers = members.get(member_id, {})
        watchers.pop(watcher, None)
        if not watchers:
            members.pop(member_id, None)
        if not members:
            self._by_key.pop(key, None)

    def keys(self) -> list[str]:
        """Entities that somebody watches."""
        return list(self._by_key)

    def members(self, key: str) -> list[str]:
        """Members that watch an entity."""
        return list(self._by_key.get(key, {}))

    def wake(self, key: str, member_id: str) -> None:
        """Tell a member to send a heartbeat."""
        for watcher in self._by_key.get(key, {}).get(member_id, {}):
            watcher.wake()

    def end(self, key: str, member_id: str, error: LogClusterError) -> None:
        """Tell a member that its stream is over."""
        for watcher in self._by_key.get(key, {}).get(member_id, {}):
            watcher.end(error)
