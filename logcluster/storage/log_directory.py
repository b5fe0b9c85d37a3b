"""Taking a log directory: its lock, and whose it is."""

from __future__ import annotations

from collections.abc import Callable

from logcluster.model.errors import CorruptLog, InconsistentClusterId, StorageFailure
from logcluster.runtime.failpoints import failpoint
from logcluster.storage.checkpoints import (
    IDENTITY_FILE,
    LOCK_FILE,
    LogDirectoryIdentity,
    read_checked,
    write_checked,
)
from logcluster.storage.filesystem import DirectoryLock, Filesystem, join


def make_log_directory(filesystem: Filesystem, directory: str) -> None:
    """Create the directory and those above it, durably; one that has an identity is left as it is.

    Raises:
        OSError: it cannot be created.
    """
    if filesystem.exists(join(directory, IDENTITY_FILE)):
        return
    filesystem.make_dir(directory)
    parent = directory.rstrip("/")
    while parent not in {"", "."}:
        parent = parent.rpartition("/")[0]
        try:
            filesystem.sync_dir(parent or ("/" if directory.startswith("/") else "."))
        except PermissionError:
            return  # nothing above could have been created by this process


def lock_directory(filesystem: Filesystem, directory: str) -> DirectoryLock:
    """Take the directory for this process.

    Raises:
        StorageFailure: another process has it.
    """
    try:
        return filesystem.lock(join(directory, LOCK_FILE))
    except BlockingIOError as error:
        raise StorageFailure(
            f"another process uses {directory}",
            hint="stop it, or give this node a `data.dir` of its own",
            path=directory,
        ) from error


def identify_directory(
    filesystem: Filesystem, directory: str, cluster_id: str, node_id: int, new_directory_id: Callable[[], bytes]
) -> LogDirectoryIdentity:
    """Read whose directory it is; on the first start, write it.

    Raises:
        InconsistentClusterId: it is another cluster's or node's.
        StorageFailure: the identity is damaged.
    """
    try:
        content = read_checked(filesystem, directory, IDENTITY_FILE)
    except CorruptLog as error:
        raise StorageFailure(
            f"{directory}/{IDENTITY_FILE} is damaged",
            hint="restore it from the other log directories' or a backup; its data is not touched",
            path=directory,
        ) from error
    if content is None:
        identity = LogDirectoryIdentity(cluster_id, node_id, new_directory_id())
        failpoint("storage.log_directory.before_identity")
        write_checked(filesystem, directory, IDENTITY_FILE, identity.to_content())
        return identity
    identity = LogDirectoryIdentity.from_content(content)
    if identity.cluster_id != cluster_id:
        raise InconsistentClusterId(
            f"{directory} belongs to cluster {identity.cluster_id}, this node to cluster {cluster_id}",
            path=directory,
            found=identity.cluster_id,
            expected=cluster_id,
        )
    if identity.node_id != node_id:
        raise InconsistentClusterId(
            f"{directory} belongs to node {identity.node_id}, this is node {node_id}",
            hint="give each node a `data.dir` of its own, or set the `node.id` it was created with",
            path=directory,
            found=identity.node_id,
            expected=node_id,
        )
    return identity
