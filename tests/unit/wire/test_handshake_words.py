"""What failed handshakes mean: words of OpenSSL and of grpc, as they were seen."""

from __future__ import annotations

import grpc
import pytest

from logcluster.model.errors import Disconnected, TlsHandshakeFailed
from logcluster.wire.handshakes import is_handshake_failure, meaning
from logcluster.wire.status import error_from_rpc

REFUSED = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "
UNTRUSTED = f"{REFUSED}Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate: OK"  # noqa: E501
PLAIN = f"{REFUSED}Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:100000f7:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER: Invalid certificate verification context: OK"  # noqa: E501
OTHER_NAME = (
    f"{REFUSED}Custom verification check failed with error: UNAUTHENTICATED: Hostname Verification Check failed."
)


def rpc_error(details: str) -> grpc.aio.AioRpcError:
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, details=details)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("wrong version number", "does not speak TLS"),
        (PLAIN, "does not speak TLS"),
        ("tlsv13 alert certificate required", "wants a client certificate"),
        ("tlsv1 alert unknown ca", "does not trust this side's certificate"),
        ("certificate verify failed: Hostname mismatch, certificate is not valid for 'x'", "not for this host name"),
        (OTHER_NAME, "not for this host name"),
        ("certificate verify failed: certificate has expired", "the peer's certificate has expired"),
        ("certificate verify failed: unable to get local issuer certificate", "not signed by a trusted authority"),
        (UNTRUSTED, "not signed by a trusted authority"),
        ("something new", "TLS failed"),
    ],
)
def test_the_words_are_explained_and_repeated(words: str, told: str) -> None:
    assert told in meaning(words)
    assert meaning(words).endswith(f"({words})")


@pytest.mark.parametrize("details", [UNTRUSTED, PLAIN, OTHER_NAME])
def test_a_grpc_channel_that_found_no_common_language_gives_a_definite_error(details: str) -> None:
    error = error_from_rpc(rpc_error(details))
    assert isinstance(error, TlsHandshakeFailed)
    assert error.definite
    assert error.retriable


def test_a_connection_that_broke_is_no_handshake() -> None:
    assert not is_handshake_failure("Socket closed")
    assert type(error_from_rpc(rpc_error("Socket closed"))) is Disconnected
