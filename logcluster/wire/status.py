"""The one table from errors to status codes, and the way back; the same on every carrier.

An error travels as `google.rpc.Status` in the trailing metadata key `grpc-status-details-bin`, with one
`ErrorInfo` (reason = class name, domain `logcluster`, metadata = code, flags, hint and facts). Without details a
status speaks only for the transport: `definite` is then claimed only where the request certainly was not sent.
Errors of one item of a request travel in the body as `ErrorDetail`.
"""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships no stubs

from logcluster.model import errors, limits
from logcluster.model.errors import LogClusterError
from logcluster.wire.gen.logcluster.v1 import errors_pb2
from logcluster.wire.handshakes import is_handshake_failure, meaning

StatusCode = grpc.StatusCode
DETAILS_KEY: Final = "grpc-status-details-bin"
DOMAIN: Final = "logcluster"
MESSAGE_LENGTH_MAX: Final = 1_024
FACT_LENGTH_MAX: Final = 256
FACTS_MAX: Final = 16
_DETAILS_SIZE_BYTES_MAX: Final = limits.METADATA_SIZE_BYTES_MAX - 1_024
_FLAGS: Final = ("code", "retriable", "definite", "refresh_metadata", "hint")

STATUS_BY_ERROR: Final[dict[type[LogClusterError], grpc.StatusCode]] = {
    errors.RequestError: StatusCode.INVALID_ARGUMENT,
    errors.UnknownTopicOrPartition: StatusCode.NOT_FOUND,
    errors.UnknownTopicId: StatusCode.NOT_FOUND,
    errors.NotFound: StatusCode.NOT_FOUND,
    errors.TopicAlreadyExists: StatusCode.ALREADY_EXISTS,
    errors.OffsetOutOfRange: StatusCode.OUT_OF_RANGE,
    errors.StaleEpochError: StatusCode.FAILED_PRECONDITION,
    errors.FencedError: StatusCode.ABORTED,
    errors.UnavailableError: StatusCode.UNAVAILABLE,
    errors.RequestTimedOut: StatusCode.DEADLINE_EXCEEDED,
    errors.OverloadedError: StatusCode.RESOURCE_EXHAUSTED,
    errors.CorruptionError: StatusCode.DATA_LOSS,
    errors.CorruptMessage: StatusCode.INVALID_ARGUMENT,
    errors.StorageFailure: StatusCode.UNAVAILABLE,
    errors.InternalError: StatusCode.INTERNAL,
    LogClusterError: StatusCode.INTERNAL,
}
"""The nearest class in an error's ancestry decides."""

CONCURRENCY_DETAILS: Final = "Concurrent RPC limit exceeded"
"""What a grpc server says of a call it refused before any handler saw it."""
PERMISSION_CODES: Final = frozenset({29, 30, 31, 53, 65})
"""Kafka's numbers for a missing permission on a topic, group, cluster, transactional id, delegation token."""
AUTHENTICATION_CODES: Final = frozenset({33, 34, 58})


class CallNotSentError(grpc.aio.AioRpcError):
    """A call that failed before a byte of it left this process; raised by our own carriers."""

    def __init__(
        self,
        code: grpc.StatusCode,
        initial_metadata: grpc.aio.Metadata,
        trailing_metadata: grpc.aio.Metadata,
        details: str | None = None,
        debug_error_string: str | None = None,
        *,
        connection_refused: bool = False,
    ) -> None:
        super().__init__(code, initial_metadata, trailing_metadata, details, debug_error_string)
        self.connection_refused = connection_refused


def status_code_of(error: LogClusterError) -> grpc.StatusCode:
    """Return the status that stands for `error` on the wire."""
    if error.code in PERMISSION_CODES:
        return StatusCode.PERMISSION_DENIED
    if error.code in AUTHENTICATION_CODES:
        return StatusCode.UNAUTHENTICATED
    for error_type in type(error).__mro__:
        code = STATUS_BY_ERROR.get(error_type)
        if code is not None:
            return code
    return StatusCode.INTERNAL


def status_from_error(error: LogClusterError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Build code, message and trailing metadata; long texts are cut so that the metadata stays within its bound."""
    code = status_code_of(error)
    message = error.message[:MESSAGE_LENGTH_MAX]
    info = error_details_pb2.ErrorInfo(reason=type(error).__name__, domain=DOMAIN)
    info.metadata["code"] = str(error.code)
    info.metadata["retriable"] = _flag(error.retriable)
    info.metadata["definite"] = _flag(error.definite)
    info.metadata["refresh_metadata"] = _flag(error.refresh_metadata)
    info.metadata["hint"] = error.hint[:FACT_LENGTH_MAX]
    for name, value in _texts(error.facts).items():
        if name not in _FLAGS:
            info.metadata[name] = value
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.add().Pack(info)
    encoded = status.SerializeToString(deterministic=True)
    if len(encoded) > _DETAILS_SIZE_BYTES_MAX:
        # Non-ASCII texts may be four bytes a character: the facts go first.
        for name in [name for name in info.metadata if name not in _FLAGS]:
            del info.metadata[name]
        status = status_pb2.Status(code=code.value[0], message=message)
        status.details.add().Pack(info)
        encoded = status.SerializeToString(deterministic=True)
    return code, message, ((DETAILS_KEY, encoded),)


def error_from_rpc(error: grpc.aio.AioRpcError) -> LogClusterError:
    """Say what a failed call means. The result is `definite` only if the request certainly was not applied."""
    told = _error_from_details(error)
    if told is not None:
        return told
    code, details = error.code(), error.details() or error.code().name
    not_sent = isinstance(error, CallNotSentError) or is_connection_refused(error)
    if code is StatusCode.UNAVAILABLE:
        return _unavailable(details, not_sent=not_sent)
    if code is StatusCode.DEADLINE_EXCEEDED:
        if not_sent:
            return errors.BrokerNotAvailable(f"the call was not sent in time: {details}", status=code.name)
        return errors.RequestTimedOut(details, status=code.name)
    if code is StatusCode.RESOURCE_EXHAUSTED:
        if not_sent:
            return errors.MessageTooLarge(details, status=code.name)
        if CONCURRENCY_DETAILS in details:
            return errors.Overloaded(details, status=code.name)
        if "larger than max" in details or "exceeds the limit" in details:
            # Of the request or of the answer; in the second case it was applied. A retry would meet the same end.
            return errors.UnknownServerError(details, status=code.name)
        return errors.Disconnected(details, status=code.name)
    if code is StatusCode.CANCELLED:
        return errors.Disconnected(f"the call was cancelled: {details}", status=code.name)
    if code is StatusCode.UNIMPLEMENTED:
        return errors.UnsupportedVersion(details, status=code.name)
    return errors.UnknownServerError(details, status=code.name)


def _unavailable(details: str, *, not_sent: bool) -> LogClusterError:
    status = StatusCode.UNAVAILABLE.name
    if is_handshake_failure(details):
        return errors.TlsHandshakeFailed(meaning(details), status=status)
    if not_sent:
        return errors.BrokerNotAvailable(details, status=status)
    return errors.Disconnected(details, status=status)


def is_connection_refused(error: BaseException) -> bool:
    """Whether the call failed because nobody listens at the address; it was then certainly not sent."""
    if isinstance(error, CallNotSentError):
        return error.connection_refused
    if isinstance(error, grpc.aio.AioRpcError) and error.code() is StatusCode.UNAVAILABLE:
        details = error.details() or ""
        return "failed to connect to all addresses" in details and "Connection refused" in details
    return False


def error_detail(error: LogClusterError) -> errors_pb2.ErrorDetail:
    """Build the message that carries an error inside a body."""
    return errors_pb2.ErrorDetail(
        code=error.code,
        name=type(error).__name__,
        message=error.message[:MESSAGE_LENGTH_MAX],
        retriable=error.retriable,
        definite=error.definite,
        refresh_metadata=error.refresh_metadata,
        hint=error.hint[:FACT_LENGTH_MAX],
        facts=_texts(error.facts),
    )


def error_from_detail(detail: errors_pb2.ErrorDetail) -> LogClusterError:
    """Read an error out of a body; an unknown one keeps its name, and its flags, on an `UnknownServerError`."""
    return _rebuild(
        code=detail.code,
        name=detail.name,
        message=detail.message,
        hint=detail.hint,
        facts=dict(detail.facts),
        definite=detail.definite,
    )


def _rebuild(
    *, code: int, name: str, message: str, hint: str, facts: dict[str, str], definite: bool
) -> LogClusterError:
    known = errors.ERRORS_BY_CODE.get(code)
    if known is None or (code == -1 and name != errors.UnknownServerError.__name__):
        error: LogClusterError = errors.UnknownServerError(message, hint=hint)
        error.facts = {**facts, "name": name, "code": str(code)}
        return error
    if known.definite and not definite:
        # The peer is newer and less certain than this side's class: the uncertain reading is the safe one.
        error = errors.UnknownServerError(message, hint=hint)
        error.facts = {**facts, "name": name, "code": str(code)}
        return error
    return errors.error_from_code(code, message, hint=hint, facts=facts)


def _error_from_details(error: grpc.aio.AioRpcError) -> LogClusterError | None:
    encoded: object = None
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            encoded = value
    if not isinstance(encoded, bytes):
        return None
    status = status_pb2.Status()
    try:
        status.ParseFromString(encoded)
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if not detail.Unpack(info) or info.domain != DOMAIN:
                continue
            code_text = info.metadata.get("code", "-1")
            return _rebuild(
                code=int(code_text),
                name=info.reason,
                message=status.message,
                hint=info.metadata.get("hint", ""),
                facts={name: value for name, value in info.metadata.items() if name not in _FLAGS},
                definite=info.metadata.get("definite") == "true",
            )
    except (DecodeError, ValueError):
        return None
    return None


def _texts(facts: dict[str, object]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name in list(facts)[:FACTS_MAX]:
        texts[name] = str(facts[name])[:FACT_LENGTH_MAX]
    return texts


def _flag(value: bool) -> str:
    return "true" if value else "false"
