"""What `logcluster doctor --config` looks at on the machine of a node: file, data directory, disk, limits."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from logcluster.cli.doctor_checks import Check, failed, not_checked, passed, warned
from logcluster.model.errors import InvalidConfig
from logcluster.runtime.clock import SystemClock

if TYPE_CHECKING:
    from logcluster.config import NodeConfig, TlsSection

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
DISK_FREE_BYTES_MIN: Final = 256 * MIB
"""Less, and the next segments do not fit."""
DISK_FREE_SHARE_WARNED: Final = 0.1
DAY_S: Final = 24 * 60 * 60
CERTIFICATE_DAYS_WARNED: Final = 14
"""As the alert; whoever renews automatically does so earlier."""
OPEN_FILES_MIN: Final = 1_024
OPEN_FILES_WANTED: Final = 16_384
"""Every segment keeps its file and its indexes open, and every client its connection."""


def read_config(path: Path, environment: Mapping[str, str]) -> tuple[NodeConfig | None, Check]:
    """The configuration as `serve` would read it, or None, and what is to be said of it."""
    from logcluster.config import load

    try:
        config = load(path, environment=environment)
    except InvalidConfig as error:
        return None, failed(
            "config-file", str(path), error.message, error.hint or "correct the file; docs/configuration.md"
        )
    return config, passed("config-file", str(path), f"node {config.node.id}: {', '.join(config.node.roles)}")


def node_checks(config: NodeConfig | None) -> list[Check]:
    """Data directory, disk and limits. Blocking: a disk may hang."""
    if config is None:
        names = ("data-directory", "disk-space")
        return [*(not_checked(name, "the configuration cannot be read") for name in names), open_files()]
    directory = Path(config.data.dir)
    found = [data_directory(directory), disk_space(directory), open_files()]
    return [*found, certificate(config.tls, SystemClock().now_ms())] if config.tls.is_on else found


def certificate(files: TlsSection, now_ms: int) -> Check:
    """Whether the files of section `tls` can be used, and for how long."""
    from logcluster.rpc.node_tls import load_tls

    name, subject = "tls-certificate", files.cert_file
    try:
        days = (load_tls(files).expires_at_s - now_ms / 1000) / DAY_S
    except InvalidConfig as error:
        return failed(name, subject, error.message, error.hint or "docs/security.md")
    step = f"renew it; a running node takes it up within tls.reload_interval_s={files.reload_interval_s}"
    if days <= 0:
        return failed(name, subject, f"expired {-days:.0f} days ago", step)
    if days < CERTIFICATE_DAYS_WARNED:
        return warned(name, subject, f"expires in {days:.0f} days", step)
    return passed(name, subject, f"fits its key, expires in {days:.0f} days")


def data_directory(directory: Path) -> Check:
    """Whether it exists, and this user may write to it."""
    name, subject = "data-directory", str(directory)
    if not directory.exists():
        parent = existing_parent(directory)
        if os.access(parent, os.W_OK | os.X_OK):
            step = "nothing for a new node; if it has data, correct data.dir or mount the disk"
            return warned(name, subject, "does not exist", step)
        return failed(
            name, subject, f"does not exist, and {parent} is not writable", f"create it: mkdir -p {directory}"
        )
    if not directory.is_dir():
        return failed(name, subject, "is not a directory", "correct data.dir, or move the file away")
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"logcluster doctor")
    except OSError as error:
        step = "give it to the user that runs the node (chown), or mount it for writing; this check ran as "
        return failed(name, subject, f"cannot be written to: {error.strerror}", f"{step}user {os.geteuid()}")
    return passed(name, subject, "exists, writable")


def disk_space(directory: Path) -> Check:
    """Whether there is room for what is to come."""
    name, subject = "disk-space", str(directory)
    try:
        usage = shutil.disk_usage(existing_parent(directory))
    except OSError as error:
        return failed(name, subject, f"cannot be asked: {error.strerror}", "see that the disk is mounted and healthy")
    share = usage.free / usage.total if usage.total else 0.0
    found = f"{usage.free / GIB:.1f} GiB free of {usage.total / GIB:.1f} ({share:.0%})"
    step = "delete old records (retention.ms, retention.bytes), or give it a larger disk"
    if usage.free < DISK_FREE_BYTES_MIN:
        return failed(name, subject, found, step)
    if share < DISK_FREE_SHARE_WARNED:
        return warned(name, subject, found, step)
    return passed(name, subject, found)


def open_files() -> Check:
    """How many files a process that is started from here may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{limit_text(soft)}, may be raised to {limit_text(hard)}" if soft != hard else limit_text(soft)
    step = f"raise it for the node: ulimit -n {OPEN_FILES_WANTED}, or LimitNOFILE= of its systemd unit"
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES_WANTED:
        return passed("open-files", "", found)
    if soft < OPEN_FILES_MIN:
        return failed("open-files", "", found, step)
    return warned("open-files", "", found, step)


def limit_text(value: int) -> str:
    """A limit as people read it."""
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def existing_parent(path: Path) -> Path:
    """The path itself, or the nearest directory above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
