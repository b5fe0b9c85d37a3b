"""Whether the packages of the server extra are there: asked before a command imports code that needs them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from logcluster.cli.command import CommandFailed

_PACKAGES: Final = ("h11", "msgspec", "prometheus_client", "psutil", "rocksdict", "structlog")


def require_server_extra(what: str) -> None:
    """Check that broker code can be imported.

    Args:
        what: the command that needs it, for the message.

    Raises:
        CommandFailed: a package is missing; says which, and how to install it.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise CommandFailed(
            f"{what} runs broker code, and its packages are not installed: {', '.join(missing)}",
            hint="pip install 'logcluster[server]'",
        )
