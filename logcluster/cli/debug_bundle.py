"""What goes into a debug bundle: facts asked of a cluster and the ends of logs, redacted, in one archive.

A part that nobody answers is noted in the archive instead, because a bundle is wanted most when a cluster is ill.
Records are never asked for; metadata of committed offsets is left out, because applications write it.
"""

from __future__ import annotations

import io
import json
import os
import platform
import sys
import tarfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from logcluster.cli.debug_redact import redact, redact_log
from logcluster.model.errors import LogClusterError

if TYPE_CHECKING:
    from logcluster.client.client import Client

GROUP_FAILURES_MAX: Final = 3
"""After so many groups without an answer the others are not asked: each may take its time."""
LOG_BYTES_MAX: Final = 4 * 1024 * 1024
PACKAGES: Final = (
    "logcluster",
    "grpcio",
    "protobuf",
    "msgspec",
    "rocksdict",
    "structlog",
    "uvloop",
    "zstandard",
    "lz4",
)
OF_CLUSTER: Final = ("metadata.json", "quorum.json", "brokers.json", "replicas.json")


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a bundle."""

    name: str
    what: str
    content: bytes
    problem: str = ""
    """Why it does not hold what it should; empty when it does."""

    def row(self) -> dict[str, object]:
        """As the command shows it."""
        return {"name": self.name, "size_bytes": len(self.content), "what": self.what, "problem": self.problem or None}


def document(name: str, what: str, value: object, problem: str = "") -> Part:
    """A redacted JSON file."""
    text = json.dumps(redact(value), indent=2, ensure_ascii=False)
    return Part(name, what, f"{text}\n".encode(), problem)


def machine_part() -> Part:
    """Versions and platform of the machine that makes the bundle."""
    packages: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = None
    facts = {
        "packages": packages,
        "python": sys.version,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
    }
    return document("versions.json", "versions and platform of this machine", facts)


async def cluster_parts(client: Client, *, has_groups: bool) -> list[Part]:
    """Everything that the cluster is asked for."""
    parts = [
        await _asked("metadata.json", "cluster, brokers, topics, partitions", lambda: _metadata(client)),
        await _asked("quorum.json", "metadata quorum and its voters", lambda: _quorum(client)),
        await _asked("brokers.json", "what each broker says of itself", lambda: _brokers(client)),
        await _asked("replicas.json", "offsets and sizes of each broker's replicas", lambda: _replicas(client)),
    ]
    if has_groups:
        parts.append(await _asked("groups.json", "groups, members, committed offsets", lambda: _groups(client)))
    return parts


def unreachable_parts(error: LogClusterError, *, has_groups: bool) -> list[Part]:
    """In place of `cluster_parts`, when nobody answers."""
    wanted = [*OF_CLUSTER, *(["groups.json"] if has_groups else [])]
    return [document(name, "not known: no broker answered", error_json(error), error.message) for name in wanted]


async def _asked(name: str, what: str, ask: Callable[[], Awaitable[object]]) -> Part:
    try:
        return document(name, what, await ask())
    except LogClusterError as error:
        return document(name, what, error_json(error), error.message)


def error_json(error: LogClusterError) -> dict[str, object]:
    """What stands where an answer should."""
    return {"error": {"name": type(error).__name__, "code": error.code, "message": error.message}}


async def _metadata(client: Client) -> object:
    cluster = await client.admin.describe_cluster()
    topics = await client.admin.list_topics(include_internal=True)
    return {"cluster": asdict(cluster), "topics": [asdict(topic) for topic in topics.values()]}


async def _quorum(client: Client) -> object:
    return asdict(await client.admin.describe_quorum())


async def _brokers(client: Client) -> object:
    from google.protobuf.json_format import MessageToDict

    async def ask(broker_id: int) -> object:
        status = await client.admin.node_status(broker_id)
        return MessageToDict(status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)

    return await _of_each_broker(client, ask)


async def _replicas(client: Client) -> object:
    async def ask(broker_id: int) -> object:
        return [asdict(facts) for facts in await client.admin.describe_replicas(broker_id=broker_id)]

    return await _of_each_broker(client, ask)


async def _of_each_broker(client: Client, ask: Callable[[int], Awaitable[object]]) -> Mapping[str, object]:
    """By broker id, its answer or why there is none."""
    found: dict[str, object] = {}
    for broker in await client.admin.list_brokers():
        try:
            found[str(broker.broker_id)] = await ask(broker.broker_id)
        except LogClusterError as error:
            found[str(broker.broker_id)] = error_json(error)
    return found


async def _groups(client: Client) -> object:
    from logcluster.cli.group_text import group_json

    listed = await client.admin.groups.list()
    found: list[Any] = []
    failures = 0
    for listing in listed:
        if failures >= GROUP_FAILURES_MAX:
            found.append({"group": listing.group, "error": "not asked, because others did not answer"})
            continue
        try:
            (facts,) = await client.admin.groups.describe(listing.group)
        except LogClusterError as error:
            failures += 1
            found.append({"group": listing.group, **error_json(error)})
            continue
        offsets = [
            {
                "topic": offset.topic,
                "partition": offset.partition,
                "offset": offset.offset,
                "leader_epoch": offset.leader_epoch,
                "commit_time_ms": offset.commit_time_ms,
            }
            for offset in facts.offsets
        ]
        found.append({**group_json(facts), "offsets": offsets})
    return found


def log_part(path: Path, number: int, lines_max: int) -> Part:
    """The end of a log file.

    Args:
        number: of the log in the bundle, because logs of several nodes often have the same name.
    """
    name, what = f"logs/{number}-{path.name}", f"last lines of {path}"
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, io.SEEK_END) - LOG_BYTES_MAX)
            file.seek(start)
            text = file.read(LOG_BYTES_MAX).decode(errors="replace")
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        return Part(name, what, f"{path} {problem}\n".encode(), problem)
    # Redacted as a whole, and cut then: a cut through a private key would hide what it is.
    lines = redact_log(text).splitlines(keepends=True)[1 if start else 0 :]
    return Part(name, what, "".join(lines[-lines_max:]).encode())


def archive(parts: list[Part], *, directory: str, now_ms: int) -> bytes:
    """A compressed tar archive with everything in one directory, `manifest.json` first."""
    manifest = document(
        "manifest.json", "list of what is here", {"created_ms": now_ms, "files": [part.row() for part in parts]}
    )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for part in (manifest, *parts):
            entry = tarfile.TarInfo(f"{directory}/{part.name}")
            entry.size, entry.mtime, entry.mode = len(part.content), now_ms // 1000, 0o600
            tar.addfile(entry, io.BytesIO(part.content))
    return buffer.getvalue()
