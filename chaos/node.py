"""`python -m chaos.node`: the product's node in a process of its own, with ports that can be hurt from outside.

    python -m chaos.node --config node.toml --control SOCKET [--lazy-disk] [--ablation NAME]... [--faults JSON]

The node is `logcluster.node.Node`, unchanged; what differs is what it is handed:

    filesystem   the operating system's, slow or failing on demand; lazy with --lazy-disk: a kill is a power loss
    stores       RocksDB, slow or failing at its calls; with --lazy-disk a journal in its place (`node_store`)
    clock        the machine's, with a wall clock that jumps
    network      TCP from and to the address of `listeners.advertised_host`, under the rules of its links

`listeners.host` (127.0.0.1) is where gRPC and HTTP really listen; clients are told the advertised host, where a gate
(`node_gate`) relays gRPC under the same rules. The HTTP port has no gate: it answers whatever happens to the links.

Not covered: RocksDB's own files and background work; what the kernel does for a socket (acknowledging, accepting,
closing at a kill); paging, and file descriptors that run out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from chaos.control import ControlServer
from chaos.node_clock import JumpingClock
from chaos.node_faults import FaultsAtStart, NodeFaults, links_from_json
from chaos.node_gate import Gate
from chaos.node_hurt_disk import DiskFaults, HurtFilesystem, HurtStore
from chaos.node_lazy_disk import LazyFilesystem
from chaos.node_links import Links
from chaos.node_store import JournalStore
from chaos.node_transport import LinkNetwork
from chaos.parents import die_with_parent
from logcluster.config import NodeConfig, load
from logcluster.model.errors import LogClusterError
from logcluster.model.ids import Endpoint
from logcluster.node import Node
from logcluster.observability import logs
from logcluster.runtime import failpoints, process
from logcluster.runtime.clock import block_ms
from logcluster.runtime.entropy import SystemEntropy
from logcluster.storage.kv_store import KeyValueStore, RocksKeyValueStore
from logcluster.storage.posix_filesystem import PosixFilesystem

log = logs.get_logger("chaos")


class HurtPorts:
    """The ports of one node, and what hurts them; made on its event loop."""

    def __init__(self, config: NodeConfig, *, is_disk_lazy: bool, at_start: FaultsAtStart) -> None:
        self.clock = JumpingClock()
        self.clock.offset_ms = at_start.clock_offset_ms
        self.disk = DiskFaults()
        self.disk.set_delay(at_start.disk_delay_ms)
        self.links = Links(randomness=SystemEntropy().stream("links"))
        self.links.set_rules(links_from_json(at_start.links))
        self.network = LinkNetwork(self.links, address=config.listeners.public_host)
        self.lazy: LazyFilesystem | None = None
        if is_disk_lazy:
            boot_id = SystemEntropy().random_id().hex()
            self.lazy = LazyFilesystem(PosixFilesystem(), config.data.dir, boot_id=boot_id)
        self.filesystem = HurtFilesystem(self.lazy or PosixFilesystem(), self.disk)
        self.faults = NodeFaults(
            links=self.links, disk=self.disk, clock=self.clock, lazy=self.lazy, loop=asyncio.get_running_loop()
        )

    def open_store(self, path: str) -> KeyValueStore:
        """Open the store in this directory."""
        store = RocksKeyValueStore(Path(path)) if self.lazy is None else JournalStore(Path(path))
        return HurtStore(path, store, self.disk)


async def serve(config: NodeConfig, ports: HurtPorts) -> None:
    """As `logcluster.node.serve`, with these ports.

    Raises:
        LogClusterError: the node could not start, or had to stop.
    """
    loop = asyncio.get_running_loop()
    node = Node(
        config,
        clock=ports.clock,
        filesystem=ports.filesystem,
        open_store=ports.open_store,
        network=ports.network,
    )
    listeners = config.listeners
    gate = Gate(ports.network, port=listeners.grpc_port, upstream=Endpoint(listeners.host, listeners.grpc_port))
    async with node, gate:
        process.tune_garbage_collector()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, node.end)
        await node.wait_ended()
        log.info("shutting_down")
        await node.shut_down()
    log.info("stopped")


def run(
    config: NodeConfig, *, control: Path, is_disk_lazy: bool, ablations: Sequence[str], at_start: FaultsAtStart
) -> int:
    """Run one node in this process, as `logcluster.node.run` does.

    Raises:
        LogClusterError: as `serve`.
        ValueError: there is no such ablation.
    """
    logs.configure(level=config.log.level, format_name=config.log.format, node_id=config.node.id)
    process.tune_memory()
    process.raise_open_files_limit()
    failpoints.install_from_text(os.environ.get(failpoints.ENVIRONMENT_VARIABLE, ""), block_ms=block_ms)

    async def main() -> int:
        ports = HurtPorts(config, is_disk_lazy=is_disk_lazy, at_start=at_start)
        server = ControlServer(control, ports.faults.handle)
        server.start()
        try:
            await serve(config, ports)
        finally:
            # The loop's default executor would wait for nobody else; the server's threads die with the process.
            await asyncio.get_running_loop().run_in_executor(None, server.close)
        return 0

    with contextlib.ExitStack() as stack:
        for name in ablations:
            stack.enter_context(_ablation(name)())
            log.warning("safeguard_is_off", ablation=name)
        return process.run_event_loop(main, kind=config.node.event_loop)


def _ablation(name: str) -> Callable[[], contextlib.AbstractContextManager[None]]:
    from logcluster.sim import ablations

    if name not in {**ablations.ABLATIONS, **ablations.DORMANT}:
        raise ValueError(f"there is no ablation {name!r}")
    return lambda: ablations.apply(name)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos.node", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="the node's node.toml")
    parser.add_argument("--control", type=Path, required=True, help="Unix socket of the control channel")
    parser.add_argument(
        "--lazy-disk", action="store_true", help="keep unsynced bytes in memory: a kill is a power loss"
    )
    parser.add_argument("--ablation", action="append", default=[], help="a safeguard that is off; may be repeated")
    parser.add_argument("--faults", default="{}", help="what holds at the start, as JSON")
    parser.add_argument("--parent", type=int, default=None, help="pid of the process with whose end this one ends")
    options = parser.parse_args(arguments)
    if options.parent is not None:
        die_with_parent(options.parent)
    try:
        return run(
            load(options.config),
            control=options.control,
            is_disk_lazy=options.lazy_disk,
            ablations=options.ablation,
            at_start=FaultsAtStart.parse(options.faults),
        )
    except (LogClusterError, ValueError) as error:
        print(f"chaos.node: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
