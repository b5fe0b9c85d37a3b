"""What the words of TLS libraries for a failed handshake mean to who has to repair it.

OpenSSL's, which the lane meets, and BoringSSL's within a status of grpc; both say much the same in other spellings.
"""

from __future__ import annotations

from typing import Final

_MEANINGS: Final = (
    ("wrong version number", "the peer does not speak TLS, or no version that this side accepts"),
    ("record layer failure", "the peer does not speak TLS, or no version that this side accepts"),
    ("certificate required", "the peer wants a client certificate, and none was given"),
    ("alert unknown ca", "the peer does not trust this side's certificate"),
    ("alert bad certificate", "the peer refuses this side's certificate"),
    ("alert certificate expired", "the peer says that this side's certificate has expired"),
    ("alert handshake failure", "the peer refuses the handshake: it wants a client certificate, or other ciphers"),
    ("hostname mismatch", "the peer's certificate is not for this host name"),
    ("hostname verification", "the peer's certificate is not for this host name"),
    ("ip address mismatch", "the peer's certificate is not for this address"),
    ("certificate has expired", "the peer's certificate has expired"),
    ("certificate verify failed", "the peer's certificate is not signed by a trusted authority (ca_file)"),
)
"""The first that fits; reasons stand before what they are reasons of."""
_GRPC_SIGNS: Final = ("handshake failed", "verification check failed")


def meaning(words: str) -> str:
    """Say what `words` mean, and repeat them for who wants to look them up."""
    plain = words.lower().replace("_", " ")
    told = next((told for sign, told in _MEANINGS if sign in plain), "TLS failed")
    return f"{told} ({words})"


def is_handshake_failure(details: str) -> bool:
    """Whether a grpc channel says by these details that it found its peer, and they could not agree on TLS."""
    lowered = details.lower()
    return "failed to connect to all addresses" in lowered and any(sign in lowered for sign in _GRPC_SIGNS)
