"""What targets have in common: answers to `preflight`, hurting disks that this machine holds, small filesystems.

`chaos.node_link_table` remembers for them which rule is in force on which link.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from chaos import node_damage
from chaos.interfaces import CAPABILITIES, Capability, FaultFailed
from logcluster.model.errors import LogClusterError

DAMAGE_WAIT_S: Final = 6.0
"""How long to wait for a batch below a recovery point; brokers move those every 5 s."""
DAMAGE_POLL_S: Final = 0.1
_CAP_SYS_ADMIN: Final = 21


def capabilities(unsupported: dict[str, str], notes: dict[str, str] | None = None) -> Sequence[Capability]:
    """An answer to `preflight`: everything is supported but what `unsupported` gives a reason for; `notes` say more."""
    unknown = {*unsupported, *(notes or {})} - set(CAPABILITIES)
    if unknown:
        raise ValueError(f"not capabilities: {', '.join(sorted(unknown))}")
    return [
        Capability(
            name=name,
            is_supported=name not in unsupported,
            reason=unsupported.get(name, (notes or {}).get(name, "")),
        )
        for name in CAPABILITIES
    ]


async def empty(data: Path) -> None:
    """Take away what a broker's data directory holds; nothing happens where there is none."""
    for path in data.iterdir() if data.exists() else ():
        if path.is_dir():
            await asyncio.to_thread(shutil.rmtree, path)
        else:
            path.unlink()


async def flip_bit(data: Path, *, broker_id: int, seed: int) -> str:
    """Flip a bit in a broker's data directory, as `Target.damage`; waits a while for a batch that may be damaged.

    Raises:
        FaultFailed: there is none after `DAMAGE_WAIT_S`, or the disk refuses.
    """
    deadline_s = time.monotonic() + DAMAGE_WAIT_S
    while time.monotonic() < deadline_s:
        try:
            done = node_damage.flip_bit(data, seed=seed)
        except (OSError, LogClusterError) as error:
            raise FaultFailed(f"the disk of broker {broker_id} cannot be damaged: {error}") from error
        if done is not None:
            return done
        await asyncio.sleep(DAMAGE_POLL_S)
    raise FaultFailed(f"broker {broker_id} has no batch yet that may be damaged: below a recovery point, not last")


def why_no_mounts() -> str:
    """Why this process cannot mount a filesystem; empty where it can."""
    if sys.platform != "linux":
        return "needs Linux"
    if shutil.which("mount") is None or shutil.which("umount") is None:
        return "needs mount(8) and umount(8)"
    if os.geteuid() != 0:
        return "needs root, to mount a small filesystem; the io-error fault gives ENOSPC to anybody"
    status = Path("/proc/self/status").read_text()
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    if not int(effective, 16) >> _CAP_SYS_ADMIN & 1:
        return "needs the capability CAP_SYS_ADMIN, which this container lacks"
    return ""


class SmallFilesystems:
    """Filesystems of a bounded size, in memory; they outlive the brokers, and this process if it is killed."""

    def __init__(self) -> None:
        self._paths: list[Path] = []

    def mount(self, path: Path, *, size_bytes: int) -> None:
        """Mount one over the directory `path`, which is created.

        Raises:
            FaultFailed: it cannot be mounted.
        """
        if why := why_no_mounts():
            raise FaultFailed(f"a filesystem of {size_bytes} bytes {why}")
        path.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "chaos", str(path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise FaultFailed(f"no small filesystem at {path}: {done.stderr.strip()}")
        self._paths.append(path)

    def unmount_all(self) -> None:
        """Take them away with what they hold; never raises."""
        for path in self._paths:
            subprocess.run(["umount", "--lazy", str(path)], check=False, capture_output=True)
        self._paths.clear()
