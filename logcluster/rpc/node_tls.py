"""TLS as a node has it: its certificate on both listeners and towards other nodes, renewed while it runs.

Invariant: what is in use is one consistent set of files. A set is loaded aside and takes the place of the old one as a
whole, for handshakes that begin afterwards; a set that cannot be loaded changes nothing but a counter and the log.

asyncio keeps the context that a listener was opened with. That one therefore hands every handshake to the current
context by its server name callback, which OpenSSL calls whether or not the client names a server. Loading into a
context in use was rejected: it forgets the old key when the new one does not fit, and never forgets an authority. grpc
asks for its configuration at every handshake, from a thread of its own.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, NamedTuple, Self

import grpc

from logcluster.config import TlsSection
from logcluster.model.errors import InvalidConfig
from logcluster.model.tls import Tls
from logcluster.observability import logs
from logcluster.rpc.tls import client_context, load_authorities, load_identity, read_file
from logcluster.runtime.clock import Clock
from logcluster.runtime.disk import DiskExecutor
from logcluster.runtime.scope import TaskScope

LOADS_MAX: Final = 3
"""Tries to catch three files at rest; whoever renews them may be in the middle of it."""
PREFIX: Final = "tls."

log = logs.get_logger("tls")


class Contents(NamedTuple):
    """The bytes of the three files."""

    certificate: bytes
    key: bytes
    authorities: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTls:
    """One consistent set of files, ready for use."""

    contents: Contents
    server: ssl.SSLContext
    client: ssl.SSLContext
    grpc: grpc.ServerCertificateConfiguration
    expires_at_s: float
    """Seconds since 1970, of the certificate of the chain that expires first."""


def as_client(files: TlsSection) -> Tls:
    """The same files, for connections to other nodes."""
    return Tls(ca_file=files.ca_file, cert_file=files.cert_file, key_file=files.key_file)


def read_contents(files: TlsSection) -> Contents:
    """Read the files.

    Raises:
        InvalidConfig: one cannot be read, or is of another kind.
    """
    return Contents(
        read_file(f"{PREFIX}cert_file", files.cert_file),
        read_file(f"{PREFIX}key_file", files.key_file),
        read_file(f"{PREFIX}ca_file", files.ca_file),
    )


def load_tls(files: TlsSection) -> LoadedTls:
    """Load the files; blocking.

    Raises:
        InvalidConfig: a file is bad, or the key is not the certificate's; says which, and what to do.
    """
    before = read_contents(files)
    for _ in range(LOADS_MAX):
        outcome: LoadedTls | InvalidConfig
        try:
            outcome = _load(files, before)
        except InvalidConfig as error:
            outcome = error
        # A certificate of yesterday with a key of today is nobody's mistake.
        contents = read_contents(files)
        if contents == before:
            if isinstance(outcome, InvalidConfig):
                raise outcome
            return outcome
        before = contents
    raise InvalidConfig("tls: the files change all the time", hint="see what writes to them")


def _load(files: TlsSection, contents: Contents) -> LoadedTls:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.minimum_version = ssl.TLSVersion.TLSv1_2
    # Tickets would let a client resume that an authority no longer stands for; connections here live long.
    server.num_tickets = 0
    server.options |= ssl.OP_NO_TICKET
    load_identity(server, files.cert_file, files.key_file, prefix=PREFIX)
    if files.client_auth == "required":
        load_authorities(server, files.ca_file, prefix=PREFIX)
        server.verify_mode = ssl.CERT_REQUIRED
    return LoadedTls(
        contents=contents,
        server=server,
        client=client_context(as_client(files), prefix=PREFIX),
        grpc=grpc.ssl_server_certificate_configuration(
            [(contents.key, contents.certificate)], root_certificates=contents.authorities
        ),
        expires_at_s=expiry(contents.certificate),
    )


def expiry(certificates: bytes) -> float:
    """When the first of these PEM certificates expires, in seconds since 1970.

    Raises:
        InvalidConfig: they cannot be read.
    """
    from cryptography import x509  # nodes without TLS do not wait for it

    try:
        return min(found.not_valid_after_utc.timestamp() for found in x509.load_pem_x509_certificates(certificates))
    except ValueError as error:
        raise InvalidConfig(f"{PREFIX}cert_file: no readable certificate: {error}") from error


class NodeTls:
    """The certificate of one node; `async with` keeps it up to date.

    Raises:
        InvalidConfig: as `load_tls`, when it is made.
    """

    def __init__(self, files: TlsSection, *, clock: Clock, disk: DiskExecutor) -> None:
        self._files = files
        self._clock = clock
        self._disk = disk
        self._scope = TaskScope("tls")
        self._problem = ""
        self.reload_failures = 0
        """Looks at the files that found something which cannot be used."""
        self._current = load_tls(files)
        self.server_context = self._current.server
        """For the lane's listener; serves every handshake with what is then current."""
        self.server_context.sni_callback = self._serve_current
        self._tell(is_reload=False)

    @property
    def expires_at_s(self) -> float:
        """When the certificate in use expires, in seconds since 1970."""
        return self._current.expires_at_s

    def client_context(self) -> ssl.SSLContext:
        """For the next connection to another node."""
        return self._current.client

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For a grpc server; serves every handshake with what is then current."""
        served = self._current

        def newest() -> grpc.ServerCertificateConfiguration | None:
            nonlocal served
            if served is self._current:
                return None
            served = self._current
            return served.grpc

        return grpc.dynamic_ssl_server_credentials(
            served.grpc,
            newest,  # type: ignore[arg-type]  # None is allowed: as before
            require_client_authentication=self._files.client_auth == "required",
        )

    async def look(self) -> None:
        """See whether the files have changed, and use them if they are good. Cancellation: atomic."""
        try:
            found = await self._disk.run(self._load_changed)
        except InvalidConfig as error:
            self.reload_failures += 1
            if error.message != self._problem:
                self._problem = error.message
                log.warning("tls_reload_failed", error=error.message, hint=error.hint, in_use_until=self._until())
            return
        self._problem = ""
        if found is not None:
            self._current = found
            self._tell(is_reload=True)

    def _load_changed(self) -> LoadedTls | None:
        if read_contents(self._files) == self._current.contents:
            return None
        return load_tls(self._files)

    def _serve_current(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: object) -> None:
        connection.context = self._current.server

    def _tell(self, *, is_reload: bool) -> None:
        path, expires, client_auth = self._files.cert_file, self._until(), self._files.client_auth
        if self.expires_at_s <= self._clock.now_ms() / 1000:
            log.warning("tls_certificate_expired", cert_file=path, expires=expires, client_auth=client_auth)
        elif is_reload:
            log.info("tls_certificate_reloaded", cert_file=path, expires=expires, client_auth=client_auth)
        else:
            log.info("tls_certificate_loaded", cert_file=path, expires=expires, client_auth=client_auth)

    def _until(self) -> str:
        return datetime.fromtimestamp(self.expires_at_s, tz=UTC).isoformat()

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep_ms(self._files.reload_interval_s * 1000)
            await self.look()

    async def __aenter__(self) -> Self:
        self._scope.spawn(self._watch(), name="watch")
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._scope.close()
