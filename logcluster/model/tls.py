"""What a client is told about TLS: whom it trusts, and who it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from logcluster.model.errors import InvalidConfig


@dataclass(frozen=True, slots=True)
class Tls:
    """Speak TLS, with these files; all of them PEM, and the host name of every broker is verified.

    Args:
        ca_file: authorities that may have signed the brokers' certificates; None: those that this system trusts.
        cert_file, key_file: this client's own certificate, with its chain, and the unencrypted key to it; for brokers
            that ask for one (`tls.client_auth = "required"`). Both or neither.

    Raises:
        InvalidConfig: a certificate without its key, or a key without its certificate.
    """

    ca_file: str | Path | None = None
    cert_file: str | Path | None = None
    key_file: str | Path | None = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            missing, given = ("key_file", "cert_file") if self.key_file is None else ("cert_file", "key_file")
            raise InvalidConfig(f"TLS: {given} is given without {missing}", hint="give both, or neither")
