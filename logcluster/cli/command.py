"""What every command shares: global options, error reports, exit codes.

`@command(...)` gives a function the global options `--bootstrap`, `-o`, `--timeout`, which may stand before or after
the subcommand (the later one wins), runs it (coroutines too), and turns an error of the tree into text or JSON on
standard error and an exit code. Standard output carries data only.
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
from typing import Annotated, Any, Final

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

BOOTSTRAP_DEFAULT: Final = "127.0.0.1:7070"
BOOTSTRAP_VARIABLE: Final = "LOGCLUSTER_BOOTSTRAP"
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


def initial_settings() -> Settings:
    """Defaults and environment."""
    bootstrap = os.environ.get(BOOTSTRAP_VARIABLE)
    return Settings(bootstrap=bootstrap, has_bootstrap=True) if bootstrap else Settings()


def with_options(
    settings: Settings, *, bootstrap: str | None, output: OutputFormat | None, timeout: str | None
) -> Settings:
    """`settings` with the options that were given.

    Raises:
        typer.BadParameter: an option's text cannot be read.
    """
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

    @group.callback()
    def _options(
        context: typer.Context,
        bootstrap: BootstrapOption = None,
        output: OutputOption = None,
        timeout: TimeoutOption = None,
    ) -> None:
        base = context.obj if isinstance(context.obj, Settings) else initial_settings()
        context.obj = with_options(base, bootstrap=bootstrap, output=output, timeout=timeout)

    return group


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
            settings = with_options(
                base, bootstrap=values.pop("bootstrap"), output=values.pop("output"), timeout=values.pop("timeout")
            )
            run_reporting(settings, functools.partial(function, settings, **values))

        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter("context", keyword, annotation=typer.Context)]
        parameters += [parameter.replace(kind=keyword) for parameter in own]
        for option_name, annotation in (
            ("bootstrap", BootstrapOption),
            ("output", OutputOption),
            ("timeout", TimeoutOption),
        ):
            parameters.append(inspect.Parameter(option_name, keyword, default=None, annotation=annotation))
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
