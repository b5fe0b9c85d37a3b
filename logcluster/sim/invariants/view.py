"""What invariants see of nodes and disks: every access to something private of another file is here, and only here.

Nothing in this file changes what it looks at, and nothing goes through the ports that faults are injected into: disks
are read from their bytes, not by `open` and `read_at`. The one exception is `watch_damage`, which puts a listener in
front of the methods by which a disk is damaged on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, cast

from logcluster.broker.controller_driver import Reign
from logcluster.broker.partition import Partition
from logcluster.core.raft.state import ReplicaState
from logcluster.core.replication.producer_state import ProducerEntry, ProducerStates
from logcluster.model.errors import CorruptLog, LogClusterError
from logcluster.model.ids import TopicIdPartition
from logcluster.node import Node
from logcluster.sim.disk import SimulatedDisk, _DirectoryNode, _FileNode
from logcluster.storage.kv_store import KeyValueStore, MemoryKeyValueStore
from logcluster.storage.raft_store import RaftStore

PartitionKey = TopicIdPartition
DAMAGING: tuple[str, ...] = ("flip_bit", "cut_file", "overwrite")


class NodeView(Protocol):
    """The part of `SimulatedNode` that invariants look at."""

    @property
    def node_id(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def process(self) -> object | None: ...

    @property
    def node(self) -> Node | None: ...

    @property
    def disk(self) -> SimulatedDisk: ...

    @property
    def store(self) -> KeyValueStore: ...


class WorldView(Protocol):
    """The part of `World` that invariants look at."""

    @property
    def nodes(self) -> Mapping[int, NodeView]: ...

    @property
    def now_ms(self) -> int: ...


# -- nodes ------------------------------------------------------------------------------------------------------------


def hosted_partitions(node: Node) -> Mapping[PartitionKey, Partition]:
    """Every replica that the node hosts now, the mapping itself and no copy."""
    return node.replicas._by_id


def raft_state(node: Node) -> ReplicaState | None:
    """The state of the node's voter; None when it has none, or has not started it."""
    raft = node.raft
    return None if raft is None or raft._node is None else raft._node._state


def reign_of(node: Node) -> Reign | None:
    """The reign of the node as active controller; None when it is not."""
    controller = node.controller
    return None if controller is None else controller._reign


def producer_entries(producers: ProducerStates) -> Mapping[int, ProducerEntry]:
    """Every producer that a replica remembers."""
    return producers._entries


def damaged_logs(node: Node) -> Mapping[PartitionKey, CorruptLog]:
    """Logs that the node has set aside."""
    return node.logs.quarantined


def log_failure(partition: Partition) -> LogClusterError | None:
    """Why the partition's log refuses everything, or None."""
    return partition.log._failure


# -- disks ------------------------------------------------------------------------------------------------------------


class StoredFile:
    """A file on a simulated disk, as it is after a power cut (`durable`) or as processes see it."""

    __slots__ = ("_file", "_is_durable")

    def __init__(self, file: _FileNode, *, durable: bool) -> None:
        self._file = file
        self._is_durable = durable

    @property
    def data(self) -> bytearray:
        """The bytes as of now; only to be read, and not to be kept over another event."""
        return self._file.durable if self._is_durable else self._file.volatile


def _entries(directory: _DirectoryNode, *, durable: bool) -> Mapping[str, _FileNode | _DirectoryNode]:
    return directory.durable if durable else directory.volatile


def _find(disk: SimulatedDisk, path: str, *, durable: bool) -> _FileNode | _DirectoryNode | None:
    found: _FileNode | _DirectoryNode | None = disk._root
    for name in path.split("/"):
        if name:
            found = _entries(found, durable=durable).get(name) if isinstance(found, _DirectoryNode) else None
    return found


def stored_file(disk: SimulatedDisk, path: str, *, durable: bool) -> StoredFile | None:
    """The file at `path`, or None; with `durable`, only if its name is durable too."""
    found = _find(disk, path, durable=durable)
    return StoredFile(found, durable=durable) if isinstance(found, _FileNode) else None


def stored_names(disk: SimulatedDisk, directory: str, *, durable: bool) -> list[str]:
    """Names in a directory, sorted; none when there is no such directory."""
    found = _find(disk, directory, durable=durable)
    return sorted(_entries(found, durable=durable)) if isinstance(found, _DirectoryNode) else []


def watch_damage(disk: SimulatedDisk, on_damage: Callable[[str], None]) -> None:
    """Tell `on_damage` the path of every file of this disk that is damaged on purpose, before it happens."""
    for name in DAMAGING:
        original = getattr(disk, name)

        def damage(path: str, *args: object, original: Callable[..., None] = original) -> None:
            on_damage(path)
            original(path, *args)

        setattr(disk, name, damage)


def watch_io_faults(disk: SimulatedDisk, on_fault: Callable[[], None]) -> None:
    """Tell `on_fault` whenever operations of this disk are told to fail."""
    original: Callable[..., None] = disk.fail_next

    def fail_next(*args: object, **options: object) -> None:
        on_fault()
        original(*args, **options)

    setattr(disk, "fail_next", fail_next)  # noqa: B010 - a listener, put in from outside


# -- the quorum's stores ----------------------------------------------------------------------------------------------


def stored_entry_term(store: KeyValueStore, index: int) -> int | None:
    """Term of the entry `index` in a voter's store; None when it is not there."""
    layout = RaftStore(store)
    raw = _raw(store, layout._entry_key(index))
    return None if raw is None else int.from_bytes(raw[:8])


def stored_base(store: KeyValueStore) -> int:
    """The index up to which a voter's store holds a snapshot instead of entries."""
    raw = _raw(store, RaftStore(store)._base_key)
    return 0 if raw is None else int.from_bytes(raw[:8])


def has_unsynced(store: KeyValueStore) -> bool:
    """Whether a power cut would take something from the store."""
    return bool(cast("MemoryKeyValueStore", store)._undo)


def _raw(store: KeyValueStore, key: bytes) -> bytes | None:
    return cast("MemoryKeyValueStore", store)._values.get(key)
