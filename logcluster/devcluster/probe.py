"""Ask a node over its HTTP port whether it is ready; needs neither a client nor a broker package.

The question is one GET of /readyz: 200 means ready, any other answer carries the reasons.
"""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass, field
from typing import Final

from logcluster.devcluster.layout import NodePlan

PROBE_TIMEOUT_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Readiness:
    """What a node says of itself; `facts` is the JSON it answered, empty when it did not answer."""

    is_ready: bool
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def reasons(self) -> list[str]:
        reasons = self.facts.get("reasons", [])
        return [str(reason) for reason in reasons] if isinstance(reasons, list) else [str(reasons)]


async def readiness(
    plan: NodePlan, *, timeout_ms: int = PROBE_TIMEOUT_MS, connection: socket.socket | None = None
) -> Readiness:
    """Probe one node; not ready when nobody answers in time. Cancellation: atomic.

    Args:
        connection: to its HTTP port, where that is not to be reached from here; closed at the end.
    """
    return await readiness_at(plan.host, plan.ports.http, timeout_ms=timeout_ms, connection=connection)


async def readiness_at(
    host: str, port: int, *, timeout_ms: int = PROBE_TIMEOUT_MS, connection: socket.socket | None = None
) -> Readiness:
    """As `readiness`, of whoever has this HTTP port."""
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            status, body = await _get(host, port, "/readyz", connection)
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
        return Readiness(False)
    try:
        facts = json.loads(body)
    except ValueError:
        facts = {}
    return Readiness(status == 200, facts if isinstance(facts, dict) else {})


async def _get(host: str, port: int, path: str, connection: socket.socket | None) -> tuple[int, bytes]:
    if connection is None:
        reader, writer = await asyncio.open_connection(host, port)
    else:
        reader, writer = await asyncio.open_connection(sock=connection)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        answer = await reader.read(-1)
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(None, 2)[1]), body
