"""The root of the command line: groups, global options, `serve`; wiring only.

Each group lives in a module of its own, which gives its `typer.Typer`. Help is plain text, because importing rich
would cost more than everything else together.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from logcluster.cli import admin, bench, brokers, debug, dev, doctor, generate, group, sim, stream, top
from logcluster.cli.command import Settings, command, taking_global_options
from logcluster.cli.server_extra import require_server_extra

app = typer.Typer(
    name="logcluster",
    help="A replicated, partitioned commit log: run a cluster, write to it, read from it, look after it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Try: logcluster dev up -n 3 --detach",
)
app.add_typer(dev.app, name="dev")
stream.register(app)
top.register(app)
app.add_typer(admin.topics, name="topic")
app.add_typer(group.groups, name="group")
app.add_typer(brokers.partitions, name="partition")
app.add_typer(brokers.brokers, name="broker")
app.add_typer(brokers.clusters, name="cluster")
app.add_typer(bench.app, name="bench")
app.add_typer(sim.app, name="sim")
app.add_typer(generate.app, name="generate")
doctor.register(app)
app.add_typer(debug.app, name="debug")


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"logcluster {version('logcluster')}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]
app.callback()(taking_global_options({"version": VersionOption}))


@command(app, "serve", example="logcluster serve --config node.toml --set log.level=debug")
def serve(
    settings: Settings,
    config: Annotated[
        Path | None, typer.Option("--config", envvar="LOGCLUSTER_CONFIG", help="The node's node.toml.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Overrides a key; may be repeated.")
    ] = None,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="Stop when the process that started this one ends (Linux).")
    ] = False,
) -> None:
    """Run one node until SIGTERM or Ctrl-C. Settings: file, then LOGCLUSTER_SECTION_KEY variables, then --set."""
    require_server_extra("logcluster serve")
    from logcluster.config import load
    from logcluster.node import run

    if exit_with_parent:
        _stop_with_parent()
    exit_code = run(load(config, overrides or [], environment=os.environ))
    if exit_code:
        raise typer.Exit(exit_code)


def _stop_with_parent() -> None:
    """Ask the kernel for SIGTERM when the starting thread ends: prctl(2), PR_SET_PDEATHSIG."""
    import ctypes
    import signal

    pr_set_pdeathsig = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGTERM))


def main() -> None:
    """Entry point of the console script and of `python -m logcluster`."""
    # grpc reports failed TLS handshakes on standard error by itself; ours say what they mean.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    app(prog_name="logcluster")
