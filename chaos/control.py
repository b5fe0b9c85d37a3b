"""The control channel of a broker under chaos: JSON lines over a Unix socket.

    request   {"id": 7, "action": "slow-disk", "arguments": {"delay_ms": 200}}
    answer    {"id": 7, "result": {...}}   or   {"id": 7, "error": {"type": "bad-arguments", "message": "..."}}

Requests of one connection are answered in their order. The server has threads of its own, so that a fault can be ended
while the node's event loop stands still because of it. Error types, each with its exception:

    ControlError
      BadRequest       bad-request       not a JSON object with an id and an action; the id of the answer is null
      UnknownAction    unknown-action
      BadArguments     bad-arguments     a name, type or value that the action does not take; nothing was done
      ActionFailed     failed            it could not be done
      ControlLost      (client only)     no answer in time, or the connection ended; whether it was done is unknown
"""

from __future__ import annotations

import asyncio
import json
import socketserver
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

from logcluster.runtime.clock import Clock, SystemClock

REQUEST_SIZE_BYTES_MAX: Final = 256 * 1024
ANSWER_TIMEOUT_MS: Final = 5_000
CONNECT_RETRY_MS: Final = 20


class ControlError(Exception):
    """A request was not carried out; says why."""

    type: ClassVar[str] = "failed"


class BadRequest(ControlError):
    type = "bad-request"


class UnknownAction(ControlError):
    type = "unknown-action"


class BadArguments(ControlError):
    type = "bad-arguments"


class ActionFailed(ControlError):
    type = "failed"


class ControlLost(ControlError):
    type = "lost"


_ERRORS: Final[dict[str, type[ControlError]]] = {
    error.type: error for error in (BadRequest, UnknownAction, BadArguments, ActionFailed, ControlLost)
}
Handler = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
"""Carries out an action with its arguments, on a thread of the server; raises ControlError."""


class ControlServer:
    """Answers at `path` from `start` to `close`."""

    def __init__(self, path: Path, handle: Handler) -> None:
        self._path = path
        self._server = _Server(str(path), handle)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="control", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Take no more requests, and remove the socket."""
        self._server.shutdown()
        self._server.server_close()
        self._path.unlink(missing_ok=True)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, path: str, handle: Handler) -> None:
        self.handle = handle
        Path(path).unlink(missing_ok=True)
        super().__init__(path, _Connection)


class _Connection(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        while line := self.rfile.readline(REQUEST_SIZE_BYTES_MAX):
            answer = answer_to(line, self.server.handle)
            try:
                self.wfile.write(json.dumps(answer).encode() + b"\n")
            except OSError:
                return


def answer_to(line: bytes, handle: Handler) -> dict[str, Any]:
    """The answer to one line."""
    request_id = None
    try:
        request_id, action, arguments = _read_request(line)
        return {"id": request_id, "result": dict(handle(action, arguments))}
    except ControlError as error:
        return {"id": request_id, "error": {"type": error.type, "message": str(error)}}
    except Exception as error:  # noqa: BLE001 - whoever waits for an answer learns of the bug
        return {"id": request_id, "error": {"type": ActionFailed.type, "message": repr(error)}}


def _read_request(line: bytes) -> tuple[int, str, dict[str, Any]]:
    try:
        request = json.loads(line)
    except ValueError as error:
        raise BadRequest(f"not JSON: {error}") from error
    if not isinstance(request, dict) or not isinstance(request.get("id"), int):
        raise BadRequest("a request is an object with a number as its id")
    action, arguments = request.get("action"), request.get("arguments", {})
    if not isinstance(action, str) or not isinstance(arguments, dict):
        raise BadRequest("a request has the name of an action, and an object of arguments")
    return request["id"], action, arguments


class ControlClient:
    """Asks one server; connects when it is first needed, and again after a loss. One request at a time."""

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        self._path = path
        self._clock: Clock = clock or SystemClock()
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._last_id = 0

    async def request(self, action: str, *, timeout_ms: int = ANSWER_TIMEOUT_MS, **arguments: Any) -> dict[str, Any]:
        """Have an action carried out, and return its result.

        Raises:
            ControlError: as the module says.
            Cancellation: whether it is carried out is unknown.
        """
        async with self._lock:
            self._last_id += 1
            try:
                async with asyncio.timeout(timeout_ms / 1000):
                    answer = await self._exchange({"id": self._last_id, "action": action, "arguments": arguments})
            except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
                self.close()
                raise ControlLost(f"no answer to {action} at {self._path}: {error!r}") from error
            except asyncio.CancelledError:
                self.close()
                raise
        if "error" in answer:
            error_type = _ERRORS.get(answer["error"]["type"], ActionFailed)
            raise error_type(answer["error"]["message"])
        result: dict[str, Any] = answer["result"]
        return result

    async def wait_up(self, *, timeout_ms: int, is_alive: Callable[[], bool]) -> None:
        """Wait until the server listens.

        Raises:
            ControlLost: not in time, or its process is gone.
        """
        deadline_ms = self._clock.monotonic_ms() + timeout_ms
        while True:
            try:
                async with self._lock:
                    if self._streams is None:
                        self._streams = await asyncio.open_unix_connection(str(self._path))
                return
            except OSError as error:
                if not is_alive() or self._clock.monotonic_ms() > deadline_ms:
                    raise ControlLost(f"nobody answers at {self._path}: {error}") from error
            await self._clock.sleep_ms(CONNECT_RETRY_MS)

    def close(self) -> None:
        """Drop the connection; idempotent."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()

    async def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(str(self._path))
        reader, writer = self._streams
        writer.write(json.dumps(request).encode() + b"\n")
        await writer.drain()
        line = await reader.readuntil(b"\n")
        answer = json.loads(line)
        if not isinstance(answer, dict) or answer.get("id") != request["id"]:
            raise ValueError("the answer belongs to another request")
        return answer
