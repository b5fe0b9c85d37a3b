"""Checks of names and limits that members and callers give; what enters the log has passed them."""

from __future__ import annotations

from typing import Final

from logcluster.core.coordinators.groups.requests import GroupSettings, Heartbeat
from logcluster.model.errors import InvalidGroupId, InvalidRequest
from logcluster.model.limits import GROUP_ID_BYTES_MAX, REBALANCE_TIMEOUT_MS_MAX

MEMBER_ID_BYTES_MAX: Final = 128
INSTANCE_ID_BYTES_MAX: Final = 255


def check_group_id(name: str) -> None:
    """Check that a group may be called `name`.

    Raises:
        InvalidGroupId: it is empty, longer than 255 bytes of UTF-8, or has characters that cannot be printed.
    """
    if not name:
        raise InvalidGroupId("a group needs a name")
    if not name.isprintable():
        raise InvalidGroupId(f"{name!r} has characters that a group name cannot have")
    size_bytes = len(name.encode())
    if size_bytes > GROUP_ID_BYTES_MAX:
        raise InvalidGroupId(f"the group name has {size_bytes} bytes, at most {GROUP_ID_BYTES_MAX} are allowed")


def check_member_id(member_id: str) -> None:
    """Check that a member may be called so.

    Raises:
        InvalidRequest: it is empty or longer than 128 bytes of UTF-8.
    """
    _check_id("member id", member_id, MEMBER_ID_BYTES_MAX)


def check_instance_id(instance_id: str | None) -> None:
    """Check that a static member may be called so; None: it is none.

    Raises:
        InvalidRequest: it is empty or longer than 255 bytes of UTF-8.
    """
    if instance_id is not None:
        _check_id("instance id", instance_id, INSTANCE_ID_BYTES_MAX)


def _check_id(what: str, name: str, size_bytes_max: int) -> None:
    size_bytes = len(name.encode(errors="surrogatepass"))
    if not 1 <= size_bytes <= size_bytes_max:
        raise InvalidRequest(f"the {what} has {size_bytes} bytes: from 1 to {size_bytes_max} are possible")


def session_timeout_ms(request: Heartbeat, settings: GroupSettings, *, default_ms: int) -> int:
    """The session timeout that a member asks for; `default_ms` for 0.

    Raises:
        InvalidRequest: it is outside of the limits.
    """
    asked_ms = request.session_timeout_ms
    if asked_ms == 0:
        return default_ms
    if not settings.session_timeout_ms_min <= asked_ms <= settings.session_timeout_ms_max:
        raise InvalidRequest(
            f"a session timeout of {asked_ms} ms: from {settings.session_timeout_ms_min} "
            f"to {settings.session_timeout_ms_max} ms are possible",
            session_timeout_ms_min=settings.session_timeout_ms_min,
            session_timeout_ms_max=settings.session_timeout_ms_max,
        )
    return asked_ms


def rebalance_timeout_ms(request: Heartbeat, *, default_ms: int) -> int:
    """The rebalance timeout that a member asks for; `default_ms` for 0.

    Raises:
        InvalidRequest: it is negative or above the limit.
    """
    asked_ms = request.rebalance_timeout_ms
    if not 0 <= asked_ms <= REBALANCE_TIMEOUT_MS_MAX:
        raise InvalidRequest(
            f"a rebalance timeout of {asked_ms} ms: from 1 to {REBALANCE_TIMEOUT_MS_MAX} ms are possible",
            rebalance_timeout_ms_max=REBALANCE_TIMEOUT_MS_MAX,
        )
    return asked_ms or default_ms
