"""One broker process: spawn it, recognise it again, signal it.

A process is known by pid *and* start time, so that a reused pid is never taken for ours and never signalled.
Source of both: /proc/PID/stat (proc(5)), fields 3 and 22.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import logcluster
from logcluster.devcluster.layout import NodePlan

LOG_TAIL_BYTES: Final = 64 * 1024
TLS_VARIABLES: Final = "LOGCLUSTER_TLS_"


class ProcessState(StrEnum):
    """What the operating system says of a process."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    start_ticks: int


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of a live process; None when there is none, or only a zombie."""
    fields = _stat_fields(pid)
    if fields is None or fields[0] in {"Z", "X"}:
        return None
    return ProcessIdentity(pid, int(fields[19]))


def state_of(identity: ProcessIdentity | None) -> ProcessState:
    """Whether that very process runs, is paused (SIGSTOP), or is gone."""
    if identity is None:
        return ProcessState.STOPPED
    fields = _stat_fields(identity.pid)
    if fields is None or fields[0] in {"Z", "X"} or int(fields[19]) != identity.start_ticks:
        return ProcessState.STOPPED
    return ProcessState.PAUSED if fields[0] in {"T", "t"} else ProcessState.RUNNING


def send_signal(identity: ProcessIdentity | None, number: signal.Signals) -> bool:
    """Signal that very process; False when it is gone."""
    if identity is None or state_of(identity) is ProcessState.STOPPED:
        return False
    try:
        os.kill(identity.pid, number)
    except ProcessLookupError:
        return False
    return True


def spawn_node(
    plan: NodePlan, *, overrides: Sequence[str] = (), dies_with_parent: bool = False
) -> subprocess.Popen[bytes]:
    """Start `python -m logcluster serve` for one node; its output is appended to the node's log file.

    Args:
        overrides: `section.key=value`, passed on as `--set`.
        dies_with_parent: the broker ends when the thread that called this ends (tests, demo, benches).
    """
    command = [sys.executable, "-P", "-m", "logcluster", "serve", "--config", str(plan.config_path)]
    for override in overrides:
        command += ["--set", override]
    if dies_with_parent:
        command.append("--exit-with-parent")
    package_root = str(Path(logcluster.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH", "")]))
    # What tells the command line of this shell how to reach a cluster with TLS is no setting of these nodes.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(TLS_VARIABLES)}
    environment = {**inherited, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    with plan.log_path.open("ab") as log_file:
        return subprocess.Popen(
            command,
            cwd=plan.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def log_tail(path: Path, *, lines_max: int = 20) -> str:
    """The last lines of a log file; empty when there is no file."""
    try:
        with path.open("rb") as log_file:
            log_file.seek(0, os.SEEK_END)
            log_file.seek(max(0, log_file.tell() - LOG_TAIL_BYTES))
            text = log_file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines_max:])


def _stat_fields(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on; the name before it may hold blanks and parentheses."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """What a process has used so far."""

    cpu_ms: int
    resident_size_bytes: int


def usage_of(identity: ProcessIdentity | None) -> ProcessUsage | None:
    """Processor time and memory of that very process; None when it is gone."""
    if identity is None or state_of(identity) is ProcessState.STOPPED:
        return None
    fields = _stat_fields(identity.pid)
    if fields is None:
        return None
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    return ProcessUsage(
        cpu_ms=(int(fields[11]) + int(fields[12])) * 1000 // ticks_per_second,
        resident_size_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
    )
