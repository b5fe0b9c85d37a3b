"""What every command shares: global options, error reports, exit codes.

`@command(...)` gives a function the global options `--bootstrap`, `-o`, `--timeout`, `--tls` and its files, which may
stand before or after the subcommand (the later one wins), runs it (coroutines too), and turns an error of the tree into
text or JSON on standard error and an exit code. Standard output carries data only.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from logcluster.cli.values import duration_ms
from logcluster.model.errors import (
    GroupIdNotFound,
    LogClusterError,
    NotFound,
    OverloadedError,
    RequestTimedOut,
    UnavailableError,
    UnknownTopicId,
    UnknownTopicOrPartition,
)

if TYPE_CHECKING:
    from logcluster.model.tls import Tls

BOOTSTRAP_DEFAULT: Final = "127.0.0.1:7070"
BOOTSTRAP_VARIABLE: Final = "LOGCLUSTER_BOOTSTRAP"
TLS_CA_VARIABLE: Final = "LOGCLUSTER_TLS_CA_FILE"
TLS_CERT_VARIABLE: Final = "LOGCLUSTER_TLS_CERT_FILE"
TLS_KEY_VARIABLE: Final = "LOGCLUSTER_TLS_KEY_FILE"
"""The same that configure a node, so that the command line within a node's container reaches the cluster."""
TIMEOUT_DEFAULT: Final = "30s"


class ExitCode(IntEnum):
    """What a script can rely on; 4 (denied) and 6 (check failed) are kept free."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 5
    TIMEOUT = 7
    INTERRUPTED = 130


class OutputFormat(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Settings:
    """Global options after defaults and environment."""

    bootstrap: str = BOOTSTRAP_DEFAULT
    has_bootstrap: bool = False
    """Given by option or environment, not by default."""
    output: OutputFormat = OutputFormat.TABLE
    timeout_ms: int = 30_000
    has_timeout: bool = False
    has_tls: bool = False
    """Speak TLS; the files say with whom, and who this is."""
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None

    @property
    def tls(self) -> Tls | None:
        """For `logcluster.connect`; None: plain text.

        Raises:
            InvalidConfig: a certificate without its key, or a key without its certificate.
        """
        if not self.has_tls:
            return None
        from logcluster.model.tls import Tls

        return Tls(ca_file=self.tls_ca, cert_file=self.tls_cert, key_file=self.tls_key)

    @property
    def is_json(self) -> bool:
        return self.output is OutputFormat.JSON


class CommandFailed(LogClusterError):
    """The command did what it could and the result is bad; ends with the given exit code."""

    def __init__(self, message: str, *, exit_code: ExitCode = ExitCode.FAILED, hint: str = "", **facts: object) -> None:
        super().__init__(message, hint=hint, **facts)
        self.exit_code = exit_code


BootstrapOption = Annotated[
    str | None,
    typer.Option(
        "--bootstrap",
        metavar="HOST:PORT",
        help=f"A broker of the cluster; several with commas. [env: {BOOTSTRAP_VARIABLE}; default: {BOOTSTRAP_DEFAULT}]",
    ),
]
OutputOption = Annotated[
    OutputFormat | None, typer.Option("-o", "--output", help="How to print results. [default: table]")
]
TimeoutOption = Annotated[
    str | None,
    typer.Option("--timeout", metavar="TIME", help=f"How long to wait: 500ms, 10s, 2m. [default: {TIMEOUT_DEFAULT}]"),
]
TlsOption = Annotated[
    bool | None,
    typer.Option(
        "--tls/--no-tls",
        help=f"Speak TLS; without --tls-ca the system's authorities are trusted. [default: if {TLS_CA_VARIABLE} is]",
    ),
]
TlsCaOption = Annotated[
    str | None,
    typer.Option("--tls-ca", metavar="FILE", help=f"Speak TLS; authorities to trust. [env: {TLS_CA_VARIABLE}]"),
]
TlsCertOption = Annotated[
    str | None,
    typer.Option("--tls-cert", metavar="FILE", help=f"Own certificate, with --tls-key. [env: {TLS_CERT_VARIABLE}]"),
]
TlsKeyOption = Annotated[
    str | None, typer.Option("--tls-key", metavar="FILE", help=f"Key to --tls-cert. [env: {TLS_KEY_VARIABLE}]")
]
GLOBAL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("bootstrap", BootstrapOption),
    ("output", OutputOption),
    ("timeout", TimeoutOption),
    ("tls", TlsOption),
    ("tls_ca", TlsCaOption),
    ("tls_cert", TlsCertOption),
    ("tls_key", TlsKeyOption),
)


def initial_settings() -> Settings:
    """Defaults and environment; an empty variable counts as absent."""
    bootstrap = os.environ.get(BOOTSTRAP_VARIABLE)
    tls_ca = os.environ.get(TLS_CA_VARIABLE) or None
    return Settings(
        bootstrap=bootstrap or BOOTSTRAP_DEFAULT,
        has_bootstrap=bool(bootstrap),
        has_tls=tls_ca is not None,
        tls_ca=tls_ca,
        tls_cert=os.environ.get(TLS_CERT_VARIABLE) or None,
        tls_key=os.environ.get(TLS_KEY_VARIABLE) or None,
    )


def with_options(
    settings: Settings,
    *,
    bootstrap: str | None = None,
    output: OutputFormat | None = None,
    timeout: str | None = None,
    **tls: Any,
) -> Settings:
    """`settings` with the options that were given.

    Args:
        tls: `tls`, `tls_ca`, `tls_cert` and `tls_key`, as far as they were given.

    Raises:
        typer.BadParameter: an option's text cannot be read.
    """
    is_wanted = tls.pop("tls", None)
    files = {name: path for name, path in tls.items() if path is not None}
    if files or is_wanted is not None:
        settings = replace(settings, has_tls=is_wanted is not False, **files)
    if bootstrap is not None:
        check_bootstrap(bootstrap)
        settings = replace(settings, bootstrap=bootstrap, has_bootstrap=True)
    if output is not None:
        settings = replace(settings, output=output)
    if timeout is not None:
        settings = replace(settings, timeout_ms=duration_ms(timeout), has_timeout=True)
    return settings


def new_group(summary: str) -> typer.Typer:
    """A group of commands; it takes the global options, too, for `logcluster topic -o json ls`."""
    group = typer.Typer(help=summary, no_args_is_help=True, rich_markup_mode=None)

    group.callback()(taking_global_options())
    return group


def taking_global_options(also: dict[str, Any] | None = None) -> Callable[..., None]:
    """A callback that puts the global options into the context, and takes no notice of the options in `also`."""

    def take(context: typer.Context, **values: Any) -> None:
        for name in also or ():
            values.pop(name)
        base = context.obj if isinstance(context.obj, Settings) else initial_settings()
        context.obj = with_options(base, **values)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("context", keyword, annotation=typer.Context), *global_parameters()]
    parameters += [
        inspect.Parameter(name, keyword, default=False, annotation=annotation)
        for name, annotation in (also or {}).items()
    ]
    take.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    take.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return take


def global_parameters() -> list[inspect.Parameter]:
    """What typer reads the global options from."""
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in GLOBAL_OPTIONS
    ]


def check_bootstrap(text: str) -> None:
    """Raises:
    typer.BadParameter: not a list of HOST:PORT.
    """
    from logcluster.model.ids import Endpoint

    for part in text.split(","):
        try:
            Endpoint.parse(part)
        except ValueError as error:
            raise typer.BadParameter(f"--bootstrap: {error}; for example --bootstrap 127.0.0.1:7070") from error


CommandFunction = Callable[..., object]


def command(
    group: typer.Typer, name: str, *, example: str, hidden: bool = False
) -> Callable[[CommandFunction], CommandFunction]:
    """Register a function, whose first parameter takes the `Settings`, as a command of `group`.

    Args:
        example: one or more command lines, shown under Example in the help.
    """

    def register(function: CommandFunction) -> CommandFunction:
        signature = inspect.signature(function, eval_str=True)
        own = list(signature.parameters.values())[1:]

        @functools.wraps(function)
        def wrapper(**values: Any) -> None:
            context: typer.Context = values.pop("context")
            base = context.obj if isinstance(context.obj, Settings) else initial_settings()
            settings = with_options(base, **{name: values.pop(name) for name, _ in GLOBAL_OPTIONS})
            run_reporting(settings, functools.partial(function, settings, **values))

        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter("context", keyword, annotation=typer.Context)]
        parameters += [parameter.replace(kind=keyword) for parameter in own]
        parameters += global_parameters()
        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        group.command(name, help=_help_text(function, example), hidden=hidden)(wrapper)
        return function

    return register


def _help_text(function: CommandFunction, example: str) -> str:
    lines = "\n".join(f"  {line}" for line in example.strip().splitlines())
    return f"{inspect.getdoc(function) or ''}\n\n\b\nExample:\n{lines}"


def run_reporting(settings: Settings, work: Callable[[], object]) -> None:
    """Run a command's work; an error of the tree is reported and becomes the exit code.

    Raises:
        typer.Exit: the work failed.
    """
    try:
        result = work()
        if inspect.iscoroutine(result):
            run_coroutine(result)
    except LogClusterError as error:
        report_error(settings, error)
        raise typer.Exit(exit_code_of(error)) from error
    except BrokenPipeError:
        # The reader of our output has had enough (`| head`): that is no failure of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def run_coroutine(work: Coroutine[Any, Any, object]) -> None:
    """Run an asynchronous command to its end."""
    asyncio.run(work)


def exit_code_of(error: LogClusterError) -> ExitCode:
    """The exit code that stands for an error."""
    if isinstance(error, CommandFailed):
        return error.exit_code
    if isinstance(error, NotFound | UnknownTopicOrPartition | UnknownTopicId | GroupIdNotFound):
        return ExitCode.NOT_FOUND
    if isinstance(error, RequestTimedOut):
        return ExitCode.TIMEOUT
    if isinstance(error, UnavailableError | OverloadedError):
        return ExitCode.UNAVAILABLE
    return ExitCode.FAILED


def report_error(settings: Settings, error: LogClusterError) -> None:
    """Say on standard error what failed, why, and what to do next."""
    if settings.is_json:
        document = {
            "error": {
                "name": type(error).__name__,
                "code": error.code,
                "message": error.message,
                "hint": error.hint,
                "retriable": error.retriable,
                "definite": error.definite,
                "facts": {name: str(value) for name, value in error.facts.items()},
            }
        }
        typer.echo(json.dumps(document), err=True)
        return
    typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
    name = "" if isinstance(error, CommandFailed) else f" ({type(error).__name__}, code {error.code})"
    typer.echo(f"{error.message}{name}", err=True)
    if not error.definite and not isinstance(error, CommandFailed):
        typer.echo("       it is not known whether the request was applied", err=True)
    if error.hint:
        typer.echo(f"next:  {error.hint}", err=True)
