"""Hosts made of network namespaces: one per broker, one for all clients, one for the suite itself, joined by a bridge.

Nothing of it is in the machine's own namespace. A link i -> j is cut where j receives (nftables, by source address), so
that i's kernel hears nothing from j either about what it sent: a true partition, in one direction. Needs root, `ip` of
iproute2 and `nft`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from chaos.interfaces import CLIENTS, FaultFailed

PREFIX: Final = "10.231.7."
CLIENTS_ADDRESS: Final = f"{PREFIX}200"
OBSERVER_ADDRESS: Final = f"{PREFIX}250"
OBSERVER: Final = "observer"
_CLONE_NEWNET: Final = 0x40000000
_RULES: Final = """
table inet chaos {
  set cut_off { type ipv4_addr; }
  set refused { type ipv4_addr; }
  chain input {
    type filter hook input priority 0; policy accept;
    ip saddr @cut_off drop
    ip saddr @refused meta l4proto tcp reject with tcp reset
  }
}
"""


def why_no_namespaces() -> str:
    """Why this process cannot make them; empty where it can."""
    missing = [name for name in ("ip", "nft") if shutil.which(name) is None]
    if missing:
        return f"needs {' and '.join(missing)} (Debian: iproute2, nftables)"
    if os.geteuid() != 0:
        return "needs root"
    name = f"chaos-try-{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True, text=True)
    if done.returncode:
        return f"no namespace can be made here: {done.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
    return ""


class NamespaceNetwork:
    """The namespaces of one cluster.

    Args:
        name: short and unique on this machine; names of namespaces begin with it.
    """

    def __init__(self, name: str, broker_ids: Sequence[int]) -> None:
        self._name = name
        self._hosts: dict[int | str, str] = {broker_id: f"{PREFIX}{broker_id + 1}" for broker_id in broker_ids}
        self._hosts[CLIENTS] = CLIENTS_ADDRESS
        self._hosts[OBSERVER] = OBSERVER_ADDRESS
        self._outside: int | None = None
        self._cuts: set[tuple[int | str, int | str]] = set()
        self._refused: Counter[tuple[int | str, int | str]] = Counter()

    def namespace(self, host: int | str) -> str:
        """The name of a host's namespace."""
        return f"{self._name}-{host}"

    def create(self) -> None:
        """Make all of it.

        Raises:
            FaultFailed: that does not work here; what was made is taken away.
        """
        switch = self.namespace("switch")
        try:
            _run("ip", "netns", "add", switch)
            _run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
            _run("ip", "-n", switch, "link", "set", "br0", "up")
            for number, (host, address) in enumerate(self._hosts.items()):
                own, port = self.namespace(host), f"port{number}"
                _run("ip", "netns", "add", own)
                _run("ip", "-n", own, "link", "set", "lo", "up")
                _run("ip", "-n", own, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch)
                _run("ip", "-n", own, "addr", "add", f"{address}/24", "dev", "eth0")
                _run("ip", "-n", own, "link", "set", "eth0", "up")
                _run("ip", "-n", switch, "link", "set", port, "master", "br0", "up")
                _run(*self.command(host, ["nft", "-f", "-"]), text=_RULES)
        except FaultFailed:
            self.remove()
            raise

    def remove(self) -> None:
        """Take all of it away; never raises. Processes in it must have ended."""
        self.leave()
        for host in (*self._hosts, "switch"):
            subprocess.run(["ip", "netns", "delete", self.namespace(host)], check=False, capture_output=True)

    def command(self, host: int | str, command: Sequence[str]) -> list[str]:
        """How to run a command on a host."""
        return ["ip", "netns", "exec", self.namespace(host), *command]

    def enter(self) -> None:
        """Let this thread make its connections from the suite's own host from now on."""
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        inside = os.open(Path("/run/netns") / self.namespace(OBSERVER), os.O_RDONLY)
        try:
            _set_namespace(inside)
        finally:
            os.close(inside)

    @contextmanager
    def inside(self, host: int | str) -> Iterator[None]:
        """The block in which this thread makes its connections from a host; it must not wait for anything."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(Path("/run/netns") / self.namespace(host), os.O_RDONLY)
        try:
            _set_namespace(there)
            yield
        finally:
            _set_namespace(before)
            os.close(before)
            os.close(there)

    def leave(self) -> None:
        """Undo `enter`; idempotent."""
        if self._outside is not None:
            _set_namespace(self._outside)
            os.close(self._outside)
            self._outside = None

    def cut(self, source: int | str, destination: int | str) -> None:
        """Drop what the source sends where the destination would receive it; again changes nothing."""
        if (source, destination) not in self._cuts:
            self._change("add", "cut_off", source, destination)
            self._cuts.add((source, destination))

    def heal(self, source: int | str, destination: int | str) -> None:
        """Undo `cut`, if there was one."""
        if (source, destination) in self._cuts:
            self._change("delete", "cut_off", source, destination)
            self._cuts.discard((source, destination))

    def heal_all(self) -> None:
        """Undo every cut."""
        for source, destination in sorted(self._cuts, key=str):
            self.heal(source, destination)

    def refuse(self, source: int | str, destination: int | str, *, is_on: bool) -> None:
        """Answer what the source sends with resets, as long as it is on."""
        link = (source, destination)
        before = self._refused[link]
        self._refused[link] += 1 if is_on else -1
        if bool(before) != bool(self._refused[link]):  # resets may overlap
            self._change("add" if is_on else "delete", "refused", source, destination)

    def _change(self, verb: str, name: str, source: int | str, destination: int | str) -> None:
        rule = ["nft", verb, "element", "inet", "chaos", name, "{", self._hosts[source], "}"]
        _run(*self.command(destination, rule))


def _set_namespace(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise FaultFailed(f"cannot enter a network namespace: {os.strerror(number)}")


def _run(*command: str, text: str | None = None) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, input=text)
    if done.returncode:
        raise FaultFailed(f"{' '.join(command)}: {done.stderr.strip()}")
