"""`logcluster dev`: a local cluster of real processes, with fault toys.

The cluster lives in a directory (`dev.json`, and per node: node.toml, data, node.log). Without `--detach` the command
stays in the foreground and stops the brokers when it is interrupted; with it, the brokers outlive the command.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from logcluster.cli.command import ExitCode, Settings, command, new_group
from logcluster.cli.output import done, note, print_json, print_rows, progress

if TYPE_CHECKING:
    from logcluster.devcluster.state import DevCluster

app = new_group("A local cluster of real broker processes: no containers, no Java.")

NODES_DEFAULT: Final = 3
NODES_MAX: Final = 32
PORT_DEFAULT: Final = 7070
HOST: Final = "127.0.0.1"

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        envvar="LOGCLUSTER_DEV_DIR",
        help="The cluster's directory. [default: ~/.local/state/logcluster/dev]",
    ),
]
NodeArgument = Annotated[int, typer.Argument(metavar="ID", help="Broker id, from 0.")]


def _directory(data: Path | None) -> Path:
    from logcluster.devcluster.state import default_directory

    return (data or default_directory()).expanduser().resolve()


@command(app, "up", example="logcluster dev up -n 3 --detach\nlogcluster dev up -n 1 --port 9000 --data /tmp/cluster")
async def up(
    settings: Settings,
    nodes: Annotated[
        int, typer.Option("-n", "--nodes", min=1, max=NODES_MAX, help="How many brokers.")
    ] = NODES_DEFAULT,
    data: DataOption = None,
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="gRPC port of node 0; node i takes 10*i more, +1, +2.")
    ] = PORT_DEFAULT,
    detach: Annotated[bool, typer.Option("--detach", help="Leave the brokers running and return.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Node setting for all brokers; may be repeated."),
    ] = None,
) -> None:
    """Start brokers on this machine and wait until they are ready.

    Data of an earlier `dev up` in the same directory is used again; `dev down --purge` deletes it.
    """
    from logcluster.devcluster.state import locked
    from logcluster.runtime.clock import perf_counter_ns

    directory = _directory(data)
    stop_requested = _stop_on_signals()
    with locked(directory):
        cluster = _open_or_create(directory, nodes, port)
        try:
            started_ns = perf_counter_ns()
            await _start_all(settings, cluster, overrides or [], stop_requested)
            ready_ms = (perf_counter_ns() - started_ns) // 1_000_000
        except BaseException:
            # Whatever ended the start, brokers that did start must not stay behind.
            await cluster.processes.stop(timeout_ms=3_000)
            cluster.save()
            raise
    await _report_up(settings, cluster, ready_ms, detach=detach)
    if not detach:
        await _stay(directory, stop_requested)


async def _stay(directory: Path, stop_requested: asyncio.Event) -> None:
    """Wait for a signal, or until no broker is left; then stop what still runs.

    The state file is read again each time, because other `logcluster dev` commands start and stop brokers meanwhile.
    """
    from logcluster.devcluster.processes import ProcessState
    from logcluster.devcluster.state import DevCluster, locked
    from logcluster.model.errors import NotFound

    while not stop_requested.is_set():
        try:
            processes = DevCluster.load(directory).processes
        except NotFound:
            note("the cluster was deleted")
            return
        if all(processes.state(node_id) is ProcessState.STOPPED for node_id in processes.plans):
            note("no broker is left")
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(stop_requested.wait(), timeout=0.5)
    note("stopping the brokers ...")
    with locked(directory):
        await DevCluster.load(directory).processes.stop()
    note(f"stopped; the data stays in {directory}")


def _stop_on_signals() -> asyncio.Event:
    stop_requested = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop_requested.set)
    return stop_requested


def _open_or_create(directory: Path, nodes: int, port: int) -> DevCluster:
    """The stopped cluster of this directory with `nodes` nodes from `port` on.

    Raises:
        InvalidRequest: it runs, it was made with other ports or fewer controllers, or a port is taken.
    """
    from logcluster.devcluster.cluster import check_ports
    from logcluster.devcluster.layout import CONTROLLERS_MAX, dev_ports
    from logcluster.devcluster.processes import ProcessState
    from logcluster.devcluster.state import DevCluster
    from logcluster.model.errors import InvalidRequest, NotFound
    from logcluster.runtime.entropy import SystemEntropy

    ports = dev_ports(port, nodes)
    cluster_id = SystemEntropy().random_id().hex()
    try:
        old = DevCluster.load(directory)
    except NotFound:
        old = None
    if old is not None:
        running = [node for node in old.processes.plans if old.processes.state(node) is not ProcessState.STOPPED]
        if running:
            raise InvalidRequest(
                f"the cluster in {directory} already runs: broker {', '.join(map(str, running))}",
                hint="`logcluster dev status` shows it, `logcluster dev down` stops it; or use another --data",
            )
        old_ports = [plan.ports for plan in old.plans]
        same_controllers = old_ports[:CONTROLLERS_MAX] == ports[:CONTROLLERS_MAX]
        if not same_controllers or ports[: len(old_ports)] != old_ports[:nodes] or nodes < len(old_ports):
            raise InvalidRequest(
                f"{directory} holds a cluster of {len(old_ports)} nodes from port {old_ports[0].grpc} on, "
                f"not {nodes} from {port} on",
                hint="use the same -n and --port, delete it with `logcluster dev down --purge`, or use another --data",
            )
        cluster_id = old.cluster_id
    cluster = DevCluster.create(directory, cluster_id=cluster_id, host=HOST, ports=ports)
    check_ports(cluster.plans)
    return cluster


async def _start_all(
    settings: Settings, cluster: DevCluster, overrides: list[str], stop_requested: asyncio.Event
) -> None:
    from logcluster.devcluster.cluster import READY_TIMEOUT_MS

    processes = cluster.processes
    processes.write_configs(cluster_id=cluster.cluster_id, settings={"log": {"level": "info"}})
    with progress("starting brokers", total=len(cluster.plans), unit="broker") as bar:
        for plan in cluster.plans:
            processes.spawn(plan.node_id, overrides=overrides)
        cluster.save()
        ready: list[int] = []

        def on_ready(node_id: int) -> None:
            ready.append(node_id)
            bar.update(len(ready))

        def is_stopping() -> bool:
            return stop_requested.is_set()

        timeout_ms = settings.timeout_ms if settings.has_timeout else READY_TIMEOUT_MS
        await processes.wait_ready(timeout_ms=timeout_ms, on_ready=on_ready, is_stopping=is_stopping)


async def _report_up(settings: Settings, cluster: DevCluster, ready_ms: int, *, detach: bool) -> None:
    rows = await _status_rows(cluster)
    if settings.is_json:
        print_json(
            {
                "bootstrap": cluster.bootstrap,
                "cluster_id": cluster.cluster_id,
                "directory": str(cluster.directory),
                "ready_ms": ready_ms,
                "brokers": rows,
            }
        )
        return
    typer.echo(f"{len(rows)} broker{'s' if len(rows) > 1 else ''} up in {ready_ms / 1000:.1f} s")
    for row in rows:
        typer.echo(f"  broker {row['broker_id']}  gRPC {row['grpc']}  lane {row['lane_port']}  HTTP {row['http_port']}")
    typer.echo(f"  data in {cluster.directory}")
    prefix = _hint_prefix(cluster)
    typer.echo(f"  next: {prefix}logcluster topic create orders -p 6 -r {min(3, len(rows))}")
    typer.echo(f"  kill one: logcluster dev kill {len(rows) - 1}{_data_hint(cluster)}")
    typer.echo(f"  stop: {'logcluster dev down' + _data_hint(cluster) if detach else 'Ctrl-C'}")


def _hint_prefix(cluster: DevCluster) -> str:
    return "" if cluster.plans[0].ports.grpc == PORT_DEFAULT else f"LOGCLUSTER_BOOTSTRAP={cluster.bootstrap} "


def _data_hint(cluster: DevCluster) -> str:
    from logcluster.devcluster.state import default_directory

    return "" if cluster.directory == default_directory().resolve() else f" --data {cluster.directory}"


async def _status_rows(cluster: DevCluster) -> list[dict[str, object]]:
    from logcluster.devcluster.probe import readiness
    from logcluster.devcluster.processes import ProcessState

    rows: list[dict[str, object]] = []
    for plan in cluster.plans:
        state = cluster.processes.state(plan.node_id)
        probe = await readiness(plan, timeout_ms=300) if state is ProcessState.RUNNING else None
        rows.append(
            {
                "broker_id": plan.node_id,
                "process": state.value,
                "ready": bool(probe and probe.is_ready),
                "pid": cluster.processes.pid(plan.node_id),
                "grpc": plan.grpc_endpoint,
                "lane_port": plan.ports.lane,
                "http_port": plan.ports.http,
                "roles": ["controller", "broker"] if plan.is_controller else ["broker"],
                "log": str(plan.log_path),
            }
        )
    return rows


@command(app, "status", example="logcluster dev status -o json")
async def status(settings: Settings, data: DataOption = None) -> None:
    """Show the brokers of the local cluster. Exit code 5 when not all of them are ready."""
    from logcluster.devcluster.state import DevCluster

    cluster = DevCluster.load(_directory(data))
    rows = await _status_rows(cluster)
    print_rows(settings, rows, ["broker_id", "process", "ready", "pid", "grpc", "lane_port", "http_port", "log"])
    if not all(row["ready"] for row in rows):
        raise typer.Exit(ExitCode.UNAVAILABLE)


@command(app, "kill", example="logcluster dev kill 1")
async def kill(settings: Settings, node_id: NodeArgument, data: DataOption = None) -> None:
    """kill -9 one broker: no warning, no flush, no goodbye."""
    with _loaded(data) as cluster:
        pid = cluster.processes.pid(node_id) if node_id in cluster.processes.plans else None
        await cluster.processes.kill(node_id)
    done(
        settings,
        {"broker_id": node_id, "process": "stopped", "pid": pid},
        f"killed broker {node_id} (pid {pid})   start it again: logcluster dev start {node_id}{_data_hint(cluster)}",
    )


@command(app, "pause", example="logcluster dev pause 1")
async def pause(settings: Settings, node_id: NodeArgument, data: DataOption = None) -> None:
    """Freeze one broker (SIGSTOP): it keeps its connections and answers nothing."""
    with _loaded(data) as cluster:
        await cluster.processes.pause(node_id)
    done(
        settings,
        {"broker_id": node_id, "process": "paused", "pid": cluster.processes.pid(node_id)},
        f"paused broker {node_id}   go on: logcluster dev resume {node_id}{_data_hint(cluster)}",
    )


@command(app, "resume", example="logcluster dev resume 1")
async def resume(settings: Settings, node_id: NodeArgument, data: DataOption = None) -> None:
    """Let a paused broker go on (SIGCONT)."""
    with _loaded(data) as cluster:
        await cluster.processes.resume(node_id)
    done(
        settings,
        {"broker_id": node_id, "process": "running", "pid": cluster.processes.pid(node_id)},
        f"resumed broker {node_id}",
    )


@command(app, "start", example="logcluster dev start 1")
async def start(
    settings: Settings,
    node_id: NodeArgument,
    data: DataOption = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Node setting; may be repeated.")
    ] = None,
) -> None:
    """Start a broker that was killed or stopped, on its old data, and wait until it is ready."""
    with _loaded(data) as cluster:
        cluster.processes.spawn(node_id, overrides=overrides or [])
        cluster.save()
        await cluster.processes.wait_ready([node_id], timeout_ms=settings.timeout_ms)
    done(
        settings,
        {"broker_id": node_id, "process": "running", "pid": cluster.processes.pid(node_id)},
        f"started broker {node_id} (pid {cluster.processes.pid(node_id)})",
    )


@command(app, "down", example="logcluster dev down\nlogcluster dev down --purge")
async def down(
    settings: Settings,
    data: DataOption = None,
    purge: Annotated[bool, typer.Option("--purge", help="Delete the cluster's data as well.")] = False,
) -> None:
    """Stop all brokers cleanly (SIGTERM; kill -9 after 15 s). The data stays, unless --purge is given."""
    with _loaded(data) as cluster:
        killed = await cluster.processes.stop()
        cluster.processes.identities.clear()
        cluster.save()
        if purge:
            _delete(cluster)
    facts: dict[str, object] = {
        "stopped": [plan.node_id for plan in cluster.plans],
        "killed": killed,
        "purged": purge,
        "directory": str(cluster.directory),
    }
    count = len(cluster.plans)
    what = f"stopped {count} broker{'s' if count > 1 else ''}" + (
        f", of which {len(killed)} had to be killed" if killed else ""
    )
    rest = "deleted the data" if purge else f"the data stays in {cluster.directory} (delete it: dev down --purge)"
    done(settings, facts, f"{what}; {rest}")


def _delete(cluster: DevCluster) -> None:
    """Delete what `dev up` made, and nothing else that may lie in the directory."""
    from logcluster.devcluster.state import STATE_FILE

    for plan in cluster.plans:
        shutil.rmtree(plan.directory, ignore_errors=True)
    (cluster.directory / STATE_FILE).unlink(missing_ok=True)


@contextmanager
def _loaded(data: Path | None) -> Iterator[DevCluster]:
    """The dev cluster of a directory, under its lock."""
    from logcluster.devcluster.state import DevCluster, locked

    directory = _directory(data)
    DevCluster.load(directory)
    with locked(directory):
        yield DevCluster.load(directory)
