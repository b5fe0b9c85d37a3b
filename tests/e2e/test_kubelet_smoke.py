"""`deploy/k8s/smoke.sh` on simulated pods: a stand-in for kubectl, everything behind it real."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from kubelet_support import Machine
from pod_support import K8S, named, overlay, pods_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

STUB = """#!{python}
import json, os, signal, subprocess, sys, time, urllib.request
words = sys.argv[3:]  # kubectl --namespace NAME ...
pods = json.load(open({state!r}))
if words[0] == "rollout":
    for pod in pods.values():
        while True:
            try:
                urllib.request.urlopen(f"http://{{pod['address']}}:7072/readyz", timeout=1)
                break
            except OSError:
                time.sleep(0.1)
elif words[0] == "exec":
    name = next(word for word in words[1:] if not word.startswith("-"))
    command = words[words.index("--") + 1:]
    environment = dict(pods[name]["environment"], LOGCLUSTER_BOOTSTRAP=pods[name]["address"] + ":7070")
    raise SystemExit(subprocess.call(command, env=environment))
elif words[:2] == ["delete", "pod"]:
    os.kill(pods[words[2]]["pid"], signal.SIGKILL)
    print("deleted", words[2])
else:
    raise SystemExit(f"unknown: {{words}}")
"""


async def keep_running(machine: Machine, state: Path) -> None:
    """What ends is started again, as by a StatefulSet, and the stand-in is told the new process."""
    while True:
        for found in machine.pods:
            if found.process is not None and found.process.poll() is not None:
                found.kill()
                await asyncio.sleep(1)
                found.start()
        known = {
            found.pod.name: {
                "address": found.address,
                "environment": found.environment,
                "pid": found.process.pid if found.process else 0,
            }
            for found in machine.pods
        }
        new = state.with_suffix(".new")
        new.write_text(json.dumps(known))
        new.replace(state)
        await asyncio.sleep(0.1)


async def test_the_script_for_a_real_cluster_passes_and_kills_a_leader(tmp_path: Path) -> None:
    objects = overlay("three-node")
    pods = pods_of(objects, named(objects, "StatefulSet", "logcluster"))
    state = tmp_path / "pods.json"
    stub = tmp_path / "kubectl"
    stub.write_text(STUB.format(python=sys.executable, state=str(state)))
    stub.chmod(0o755)
    async with Machine(tmp_path / "pods", pods, min_ready_s=0) as machine:
        await machine.until_available(40)
        keeping = asyncio.ensure_future(keep_running(machine, state))
        try:
            while not state.exists():
                await asyncio.sleep(0.05)
            script = await asyncio.create_subprocess_exec(
                str(K8S / "smoke.sh"),
                env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SMOKE_RECORDS": "500"},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output, _ = await script.communicate()
        finally:
            keeping.cancel()
    said = output.decode()
    assert script.returncode == 0, said
    assert "deleted logcluster-" in said
    assert "ok: 500 records sent and read back, none lost or doubled" in said
