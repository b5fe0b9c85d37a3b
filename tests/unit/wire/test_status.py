"""Errors to statuses and back."""

from __future__ import annotations

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from logcluster.model import errors, limits
from logcluster.model.errors import ERRORS_BY_CODE, LogClusterError
from logcluster.wire import status
from logcluster.wire.status import CallNotSentError, error_from_rpc, status_from_error

StatusCode = grpc.StatusCode


def failed_call(code: grpc.StatusCode, details: str = "", trailing: tuple[tuple[str, bytes], ...] = ()) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(*trailing), details)


@pytest.mark.parametrize("error_type", ERRORS_BY_CODE.values(), ids=lambda error_type: error_type.__name__)
def test_every_error_comes_back_as_itself(error_type: type[LogClusterError]) -> None:
    error = error_type("what happened", hint="do this", partition=3, topic="orders")
    code, message, trailing = status_from_error(error)
    assert code is not StatusCode.OK
    back = error_from_rpc(failed_call(code, message, trailing))
    assert type(back) is error_type
    assert (back.message, back.hint) == ("what happened", "do this")
    assert back.facts == {"partition": "3", "topic": "orders"}


@pytest.mark.parametrize("error_type", ERRORS_BY_CODE.values(), ids=lambda error_type: error_type.__name__)
def test_every_error_survives_a_body(error_type: type[LogClusterError]) -> None:
    detail = status.error_detail(error_type("what", hint="hint", leader_id=1))
    assert (detail.retriable, detail.definite) == (error_type.retriable, error_type.definite)
    back = status.error_from_detail(type(detail).FromString(detail.SerializeToString()))
    assert type(back) is error_type
    assert (back.message, back.hint, back.facts) == ("what", "hint", {"leader_id": "1"})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest(), StatusCode.INVALID_ARGUMENT),
        (errors.OffsetOutOfRange(), StatusCode.OUT_OF_RANGE),
        (errors.UnknownTopicOrPartition(), StatusCode.NOT_FOUND),
        (errors.TopicAlreadyExists(), StatusCode.ALREADY_EXISTS),
        (errors.NotLeaderOrFollower(), StatusCode.FAILED_PRECONDITION),
        (errors.NotController(), StatusCode.FAILED_PRECONDITION),
        (errors.InvalidProducerEpoch(), StatusCode.ABORTED),
        (errors.NotEnoughReplicas(), StatusCode.UNAVAILABLE),
        (errors.ShuttingDown(), StatusCode.UNAVAILABLE),
        (errors.Overloaded(), StatusCode.RESOURCE_EXHAUSTED),
        (errors.RequestTimedOut(), StatusCode.DEADLINE_EXCEEDED),
        (errors.CorruptLog(), StatusCode.DATA_LOSS),
        (errors.UnknownServerError(), StatusCode.INTERNAL),
    ],
)
def test_statuses_follow_the_table(error: LogClusterError, code: grpc.StatusCode) -> None:
    assert status_from_error(error)[0] is code


def test_permissions_and_authentication_have_their_own_statuses() -> None:
    class Denied(errors.RequestError):
        code = 29

    class Unknown(errors.RequestError):
        code = 58

    assert status_from_error(Denied())[0] is StatusCode.PERMISSION_DENIED
    assert status_from_error(Unknown())[0] is StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("error", "expected", "is_definite"),
    [
        (failed_call(StatusCode.UNAVAILABLE, "Socket closed"), errors.Disconnected, False),
        (
            failed_call(
                StatusCode.UNAVAILABLE,
                "failed to connect to all addresses; last error: ipv4:1.2.3.4:1: Connection refused (111)",
            ),
            errors.BrokerNotAvailable,
            True,
        ),
        (CallNotSentError(StatusCode.UNAVAILABLE, Metadata(), Metadata(), "x"), errors.BrokerNotAvailable, True),
        (failed_call(StatusCode.DEADLINE_EXCEEDED), errors.RequestTimedOut, False),
        (CallNotSentError(StatusCode.DEADLINE_EXCEEDED, Metadata(), Metadata()), errors.BrokerNotAvailable, True),
        (failed_call(StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!"), errors.Overloaded, True),
        (failed_call(StatusCode.RESOURCE_EXHAUSTED, "who knows"), errors.Disconnected, False),
        (
            failed_call(StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 5)"),
            errors.UnknownServerError,
            False,
        ),
        (CallNotSentError(StatusCode.RESOURCE_EXHAUSTED, Metadata(), Metadata()), errors.MessageTooLarge, True),
        (failed_call(StatusCode.CANCELLED), errors.Disconnected, False),
        (failed_call(StatusCode.UNIMPLEMENTED), errors.UnsupportedVersion, True),
        (failed_call(StatusCode.UNKNOWN), errors.UnknownServerError, False),
        (failed_call(StatusCode.INTERNAL), errors.UnknownServerError, False),
    ],
)
def test_a_bare_status_is_definite_only_when_that_is_certain(
    error: AioRpcError, expected: type[LogClusterError], is_definite: bool
) -> None:
    meaning = error_from_rpc(error)
    assert type(meaning) is expected
    assert meaning.definite is is_definite


def test_an_uncertain_peer_is_not_overruled_by_a_certain_class() -> None:
    detail = status.error_detail(errors.Overloaded("maybe applied"))
    detail.definite = False
    back = status.error_from_detail(detail)
    assert not back.definite
    assert back.facts["name"] == "Overloaded"


def test_an_unknown_code_keeps_its_name_and_claims_nothing() -> None:
    detail = status.error_detail(errors.Overloaded("from the future"))
    detail.code, detail.name = 4711, "FromTheFuture"
    back = status.error_from_detail(detail)
    assert type(back) is errors.UnknownServerError
    assert (back.facts["name"], back.facts["code"]) == ("FromTheFuture", "4711")
    assert not back.definite


@pytest.mark.parametrize("text", ["x", "é", "\U0001f600"])
def test_long_texts_stay_within_the_metadata_bound(text: str) -> None:
    facts = {f"fact_{index}": text * 10_000 for index in range(50)}
    error = errors.InvalidRequest(text * 100_000, hint=text * 10_000, **facts)  # type: ignore[arg-type]
    code, message, trailing = status_from_error(error)
    assert sum(len(key) + len(value) for key, value in trailing) < limits.METADATA_SIZE_BYTES_MAX
    assert type(error_from_rpc(failed_call(code, message, trailing))) is errors.InvalidRequest


@pytest.mark.parametrize("garbage", [b"", b"\xff\xff", b"\x12\x03abc"])
def test_garbage_details_fall_back_to_the_bare_status(garbage: bytes) -> None:
    error = failed_call(StatusCode.UNAVAILABLE, "x", ((status.DETAILS_KEY, garbage),))
    assert type(error_from_rpc(error)) is errors.Disconnected


def test_details_of_another_domain_are_not_ours() -> None:
    _code, _message, ((key, value),) = status_from_error(errors.Overloaded())
    foreign = value.replace(b"logcluster", b"somebodyxx")
    assert type(error_from_rpc(failed_call(StatusCode.UNAVAILABLE, "x", ((key, foreign),)))) is errors.Disconnected
