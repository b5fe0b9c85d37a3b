"""TLS as a client has it: contexts and credentials from files, and what a failed handshake means, in words.

Both carriers get the same files. The lane takes a context from a `ClientTls` for each new connection, so that renewed
files are used from the next connection on; a grpc channel keeps what it was made with. TLS 1.2 is the least, 1.3 what
is normally agreed on. `node_tls` is the side of a node.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc

from logcluster.model.errors import InvalidConfig, TlsHandshakeFailed
from logcluster.model.ids import Endpoint
from logcluster.model.tls import Tls
from logcluster.wire.handshakes import meaning

ContextSource = ssl.SSLContext | Callable[[], ssl.SSLContext]
"""A context, or what gives the one to use for the next connection."""

DIAGNOSIS_TIMEOUT_S: Final = 0.5
_CA_BUNDLE_BYTES_MAX: Final = 16 * 1024 * 1024

CLOSED_AFTER_HANDSHAKE: Final = (
    "the peer closed the connection right after the TLS handshake: it refuses this side's certificate, or wants one"
)
PEER_SPEAKS_TLS: Final = "the peer speaks TLS, and this side does not"


def read_file(key: str, path: str | Path) -> bytes:
    """The content of a certificate, key or bundle.

    Args:
        key: what the setting is called, for the error.

    Raises:
        InvalidConfig: it cannot be read, or holds nothing of its kind.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        hint = "correct the path, or let the user of this process read the file"
        raise InvalidConfig(f"{key}: cannot read {path}: {error.strerror}", hint=hint, key=key) from error
    wanted = b"PRIVATE KEY-----" if key.endswith("key_file") else b"-----BEGIN CERTIFICATE-----"
    if wanted not in content:
        kind = "private key" if key.endswith("key_file") else "certificate"
        raise InvalidConfig(f"{key}: {path} holds no {kind} in PEM form", hint="convert it with openssl", key=key)
    return content


def load_identity(context: ssl.SSLContext, cert_file: str | Path, key_file: str | Path, *, prefix: str = "") -> None:
    """Give a context its own certificate.

    Args:
        prefix: what stands before `cert_file` and `key_file` in errors: the section they are settings of.

    Raises:
        InvalidConfig: a file is bad, the key is encrypted, or it is not the certificate's key.
    """
    read_file(f"{prefix}cert_file", cert_file)
    read_file(f"{prefix}key_file", key_file)
    is_encrypted = False

    def ask_password() -> str:
        nonlocal is_encrypted
        is_encrypted = True
        return ""

    try:
        context.load_cert_chain(cert_file, key_file, password=ask_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        key = f"{prefix}key_file"
        if is_encrypted:
            raise InvalidConfig(
                f"{key}: {key_file} is encrypted", hint="give an unencrypted key, readable by this user only", key=key
            ) from error
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise InvalidConfig(
                f"{key}: {key_file} is not the key of the certificate in {cert_file}",
                hint="give the key that the certificate was made with",
                key=key,
            ) from error
        raise InvalidConfig(
            f"{prefix}cert_file, {key}: {cert_file} and {key_file} cannot be used: {_words(error)}",
            hint="look at them with `openssl x509 -text -in FILE` and `openssl pkey -check -in FILE`",
        ) from error


def load_authorities(context: ssl.SSLContext, ca_file: str | Path, *, prefix: str = "") -> None:
    """Have a context trust the authorities of a file, besides those it trusts.

    Raises:
        InvalidConfig: the file is bad.
    """
    key = f"{prefix}ca_file"
    read_file(key, ca_file)
    try:
        context.load_verify_locations(cafile=ca_file)
    except (ssl.SSLError, OSError) as error:
        raise InvalidConfig(
            f"{key}: {ca_file} cannot be used: {_words(error)}", hint="it must hold certificates in PEM form", key=key
        ) from error


def client_context(tls: Tls, *, prefix: str = "") -> ssl.SSLContext:
    """The context of connections to brokers; their host names are verified.

    Raises:
        InvalidConfig: a file is bad.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        load_authorities(context, tls.ca_file, prefix=prefix)
    if tls.cert_file is not None and tls.key_file is not None:
        load_identity(context, tls.cert_file, tls.key_file, prefix=prefix)
    return context


class ClientTls:
    """The files of one `Tls`, for as many connections as there are, read again when they have changed.

    Raises:
        InvalidConfig: a file is bad at the beginning. Later the last good ones stay in use.
    """

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._seen = self._look()
        self._context = client_context(tls)

    def context(self) -> ssl.SSLContext:
        """For the next connection of the lane."""
        seen = self._look()
        if seen != self._seen:
            try:
                self._context = client_context(self._tls)
            except InvalidConfig:
                return self._context  # Half-written files are looked at again at the next connection.
            self._seen = seen
        return self._context

    def credentials(self) -> grpc.ChannelCredentials:
        """For channels of grpc, from the files as they are now.

        Raises:
            InvalidConfig: a file is bad.
        """
        tls = self._tls
        own: tuple[bytes | None, bytes | None] = (None, None)
        if tls.cert_file is not None and tls.key_file is not None:
            own = (read_file("key_file", tls.key_file), read_file("cert_file", tls.cert_file))
        roots = _system_authorities() if tls.ca_file is None else read_file("ca_file", tls.ca_file)
        return grpc.ssl_channel_credentials(roots, *own)

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in (self._tls.ca_file, self._tls.cert_file, self._tls.key_file))


async def diagnose(endpoint: Endpoint, tls: Tls | None) -> TlsHandshakeFailed | None:
    """Find out whether TLS is why a peer could not be talked to; None when it is not, or nothing can be said.

    A peer that wants TLS hangs up on a plain client without a word, and often does the same to one whose certificate it
    refuses: asking once more, and looking at what comes back, tells these from a peer that is not well.
    """
    try:
        context = _unverified() if tls is None else _speaking_http2(client_context(tls))
    except InvalidConfig:
        return None
    try:
        async with asyncio.timeout(DIAGNOSIS_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context)
    except ssl.SSLError as error:
        # Without TLS of our own an error only says that the peer has none either, or wants to know who we are.
        return None if tls is None else _failed(endpoint, meaning(_words(error)))
    except (OSError, TimeoutError):
        return None
    try:
        if tls is None:
            return _failed(endpoint, PEER_SPEAKS_TLS, hint="give it: tls=..., or --tls-ca FILE on the command line")
        async with asyncio.timeout(DIAGNOSIS_TIMEOUT_S):
            is_closed = not await reader.read(1)
    except TimeoutError:
        return None
    except ssl.SSLError as error:
        return _failed(endpoint, meaning(_words(error)))
    except OSError:
        is_closed = True
    finally:
        writer.transport.abort()
    return _failed(endpoint, CLOSED_AFTER_HANDSHAKE) if is_closed else None


def _failed(endpoint: Endpoint, told: str, *, hint: str | None = None) -> TlsHandshakeFailed:
    return TlsHandshakeFailed(f"cannot connect to {endpoint}: {told}", hint=hint)


def _unverified() -> ssl.SSLContext:
    """Good for one question, whether there is TLS at all: nothing is sent through it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _speaking_http2(context: ssl.SSLContext) -> ssl.SSLContext:
    # A lane listener takes no notice of it; grpc serves nobody who does not say it.
    context.set_alpn_protocols(["h2"])
    return context


def _system_authorities() -> bytes | None:
    """What this system trusts, in PEM form; None, and so grpc's own list, where that is not to be found."""
    paths = ssl.get_default_verify_paths()
    files = [Path(paths.cafile)] if paths.cafile else sorted(Path(paths.capath).glob("*.0")) if paths.capath else []
    bundle = b""
    for file in files:
        try:
            bundle += file.read_bytes() + b"\n"
        except OSError:
            continue
        if len(bundle) > _CA_BUNDLE_BYTES_MAX:
            break
    return bundle if b"-----BEGIN CERTIFICATE-----" in bundle else None


def _stamp(path: str | Path | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _words(error: Exception) -> str:
    """OpenSSL's message without the place in its source."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error) or type(error).__name__


def handshake_failure(error: ssl.SSLError) -> str:
    """What a failed handshake of the lane means, in words."""
    return meaning(_words(error))
