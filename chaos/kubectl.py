"""What the suite asks of a Kubernetes cluster, through `kubectl`: one namespace, one StatefulSet, its pods.

The namespace must say that chaos is welcome: the label `logcluster-chaos=allowed`. Nothing else is touched.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from chaos.interfaces import FaultFailed

NAMESPACE_VARIABLE: Final = "LOGCLUSTER_CHAOS_NAMESPACE"
STATEFULSET_VARIABLE: Final = "LOGCLUSTER_CHAOS_STATEFULSET"
LABEL: Final = "logcluster-chaos"
ALLOWED: Final = "allowed"
CONTAINER: Final = "logcluster"
ANSWER_TIMEOUT_S: Final = 120.0


def namespace() -> str:
    """Where the brokers live."""
    return os.environ.get(NAMESPACE_VARIABLE) or "logcluster"


def statefulset() -> str:
    """Whose pods the brokers are."""
    return os.environ.get(STATEFULSET_VARIABLE) or "logcluster"


def why_no_pods() -> str:
    """Why pods cannot be struck from here; empty where they can."""
    if shutil.which("kubectl") is None:
        return "needs kubectl"
    command = ["kubectl", "--request-timeout=5s", "get", "namespace", namespace(), "-o", "json"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return "no Kubernetes cluster answers kubectl"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return f"kubectl cannot see the namespace {namespace()}: {last[:160]}"
    labels = json.loads(done.stdout)["metadata"].get("labels", {})
    if labels.get(LABEL) != ALLOWED:
        return (
            f"the namespace {namespace()} does not allow chaos; if nobody needs what is in it: "
            f"kubectl label namespace {namespace()} {LABEL}={ALLOWED}"
        )
    return ""


class Pods:
    """The pods of a StatefulSet."""

    def __init__(self, namespace_name: str, statefulset_name: str) -> None:
        self.namespace = namespace_name
        self.statefulset = statefulset_name

    def name(self, ordinal: int) -> str:
        return f"{self.statefulset}-{ordinal}"

    async def _run(self, *words: str, check: bool = True, timeout_s: float = ANSWER_TIMEOUT_S) -> str:
        command = ["kubectl", "--namespace", self.namespace, *words]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, error = await asyncio.wait_for(process.communicate(), timeout_s)
        except (TimeoutError, asyncio.CancelledError) as late:
            process.kill()
            await process.wait()
            if isinstance(late, asyncio.CancelledError):
                raise
            raise FaultFailed(f"no answer within {timeout_s:.0f} s: {' '.join(command)}") from late
        if check and process.returncode:
            raise FaultFailed(f"{' '.join(command)}: {error.decode(errors='replace').strip()[-300:]}")
        return out.decode(errors="replace")

    async def describe_set(self) -> Mapping[str, Any]:
        """The StatefulSet as Kubernetes holds it."""
        found: Mapping[str, Any] = json.loads(await self._run("get", "statefulset", self.statefulset, "-o", "json"))
        return found

    async def find(self, ordinal: int) -> Mapping[str, Any] | None:
        """The pod with this ordinal; None while there is none."""
        text = await self._run("get", "pod", self.name(ordinal), "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    async def delete(self, ordinal: int, *, is_killed: bool) -> None:
        """Delete a pod; the StatefulSet makes it anew.

        Args:
            is_killed: at once and with SIGKILL; else as an upgrade does, with preStop and SIGTERM, and wait for it.
        """
        how = ["--grace-period=0", "--force", "--wait=false"] if is_killed else ["--wait=true"]
        await self._run("delete", "pod", self.name(ordinal), *how)

    async def delete_claims(self, ordinal: int) -> None:
        """Delete the disks of a pod; they are gone when the pod is."""
        described = await self.describe_set()
        for template in described["spec"].get("volumeClaimTemplates", ()):
            claim = f"{template['metadata']['name']}-{self.name(ordinal)}"
            await self._run("delete", "persistentvolumeclaim", claim, "--wait=false", "--ignore-not-found")

    async def execute(self, ordinal: int, *command: str) -> str:
        """Run a command in a broker's container; returns what it printed."""
        return await self._run("exec", self.name(ordinal), "-c", CONTAINER, "--", *command)

    async def follow_log(self, ordinal: int, path: Path) -> asyncio.subprocess.Process:
        """Append what a broker says to a file, until the pod ends or the process returned is ended."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            return await asyncio.create_subprocess_exec(
                "kubectl", "--namespace", self.namespace, "logs", "--follow", self.name(ordinal), "-c", CONTAINER,
                stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether Kubernetes sends clients to this pod."""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions = pod.get("status", {}).get("conditions", ())
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
