"""Cuts between containers, made by the kernel: nftables inside of the containers' network namespaces.

A link i -> j is cut where j receives, by i's address, as in `chaos.network`. Clients live on this machine, whose own
rules are nobody's to change, so what a broker sends to them is dropped where the broker sends it. A container that is
started has a new namespace: `install` brings what holds back into it. Needs root, `nsenter` and `nft`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Final

from chaos.interfaces import CLIENTS, FaultFailed
from chaos.node_link_table import End, LinkEnds

_RULES: Final = """
table inet chaos
delete table inet chaos
table inet chaos {
  set from_cut_off { type ipv4_addr; }
  set to_cut_off { type ipv4_addr; }
  set refused { type ipv4_addr; }
  chain input {
    type filter hook input priority 0; policy accept;
    ip saddr @from_cut_off drop
    ip saddr @refused meta l4proto tcp reject with tcp reset
  }
  chain output {
    type filter hook output priority 0; policy accept;
    ip daddr @to_cut_off drop
  }
}
"""


def why_no_cuts() -> str:
    """Why links between containers cannot be cut here; empty where they can."""
    missing = [name for name in ("nsenter", "nft") if shutil.which(name) is None]
    if missing:
        return f"needs {' and '.join(missing)} (Debian: util-linux, nftables)"
    return "" if os.geteuid() == 0 else "needs root, to enter the network namespaces of the containers"


class ContainerLinks:
    """The cuts that hold in one cluster.

    Args:
        addresses: of every broker, and of CLIENTS.
    """

    def __init__(self, addresses: Mapping[End, str]) -> None:
        self._addresses = addresses
        self._cuts: set[LinkEnds] = set()
        self._pids: dict[int, int] = {}

    async def install(self, broker_id: int, pid: int) -> None:
        """A container was started: give its namespace the rules that hold for it.

        Args:
            pid: of its first process, on this machine.
        """
        self._pids[broker_id] = pid
        held = [cut for cut in self._cuts if self._place(*cut)[0] == broker_id]
        text = _RULES + "".join(self._command("add", *self._place(*cut)[1:]) for cut in held)
        await self._nft(broker_id, text)

    def forget(self, broker_id: int) -> None:
        """A container has ended, and its namespace with it; its cuts hold still for the next one."""
        self._pids.pop(broker_id, None)

    async def cut(self, source: End, destination: End) -> None:
        """As `Target.cut`; again changes nothing."""
        await self._change((source, destination), is_cut=True)

    async def heal(self, source: End, destination: End) -> None:
        """Undo `cut`, if there was one."""
        await self._change((source, destination), is_cut=False)

    async def heal_all(self) -> None:
        """Undo every cut."""
        for source, destination in sorted(self._cuts, key=str):
            await self.heal(source, destination)

    async def _change(self, link: LinkEnds, *, is_cut: bool) -> None:
        for end in link:
            if end not in self._addresses:
                raise FaultFailed(f"{end!r} is not an end of a link: neither a broker nor {CLIENTS!r}")
        if (link in self._cuts) == is_cut:
            return
        broker_id, name, address = self._place(*link)
        if broker_id in self._pids:
            await self._nft(broker_id, self._command("add" if is_cut else "delete", name, address))
        (self._cuts.add if is_cut else self._cuts.discard)(link)

    async def reset(self, source: End, destination: End, *, during_s: float) -> None:
        """Answer what the source sends with resets for so long; a broker answers clients, who cannot."""
        broker_id, peer = (source, destination) if destination == CLIENTS else (destination, source)
        assert isinstance(broker_id, int)
        if broker_id not in self._pids:
            raise FaultFailed(f"broker {broker_id} does not run")
        address = self._addresses[peer]
        await self._nft(broker_id, self._command("add", "refused", address))
        await asyncio.sleep(during_s)
        if broker_id in self._pids:
            await self._nft(broker_id, self._command("delete", "refused", address))

    def _place(self, source: End, destination: End) -> tuple[int, str, str]:
        """In whose namespace a link is cut, in which set, by which address."""
        if destination == CLIENTS:
            assert isinstance(source, int)
            return source, "to_cut_off", self._addresses[destination]
        assert isinstance(destination, int)
        return destination, "from_cut_off", self._addresses[source]

    @staticmethod
    def _command(verb: str, name: str, address: str) -> str:
        return f"{verb} element inet chaos {name} {{ {address} }}\n"

    async def _nft(self, broker_id: int, text: str) -> None:
        command = ["nsenter", f"--net=/proc/{self._pids[broker_id]}/ns/net", "nft", "-f", "-"]
        done = await asyncio.to_thread(
            subprocess.run, command, input=text, capture_output=True, text=True, check=False, timeout=20
        )
        if done.returncode:
            raise FaultFailed(f"the rules of broker {broker_id}: {done.stderr.strip()}")
