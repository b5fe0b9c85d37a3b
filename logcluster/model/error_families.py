"""The root of all errors and its families; the tree is drawn in `errors`, where everybody imports it from."""

from __future__ import annotations

from typing import ClassVar


class LogClusterError(Exception):
    """Root of everything that logcluster raises on purpose.

    Args:
        message: what went wrong; by default the class's own description.
        hint: what to do next; by default the class's own.
        facts: typed details (`partition=3`, `leader_id=1`), kept in `.facts` and sent over the wire as text.
    """

    code: ClassVar[int] = -1
    retriable: ClassVar[bool] = False
    definite: ClassVar[bool] = False
    refresh_metadata: ClassVar[bool] = False
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str | None = None, *, hint: str | None = None, **facts: object) -> None:
        self.message = message if message is not None else (type(self).__doc__ or "").strip()
        self.hint = self.default_hint if hint is None else hint
        self.facts: dict[str, object] = facts
        super().__init__(self.message)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.facts)


def _rebuild(error_type: type[LogClusterError], message: str, hint: str, facts: dict[str, object]) -> LogClusterError:
    return error_type(message, hint=hint, **facts)


class RequestError(LogClusterError):
    """The request can never succeed as it is."""

    definite = True


class StaleEpochError(LogClusterError):
    """The sender's knowledge is old."""

    definite = True


class FencedError(LogClusterError):
    """A newer instance took over, or an identity is wrong."""

    definite = True


class UnavailableError(LogClusterError):
    """Not now; the same request may succeed later."""

    retriable = True


class OverloadedError(LogClusterError):
    """A limit or quota refused the request before anything was done."""

    retriable = True
    definite = True


class CorruptionError(LogClusterError):
    """Damaged bytes, on the wire or on disk."""


class InternalError(LogClusterError):
    """A bug: the request's outcome is unknown."""
