"""Pods as a target, against a `kubectl` that keeps a small cluster in a file: who is struck, waited for, refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from chaos.interfaces import CAPABILITIES, ClusterOptions, FaultFailed
from chaos.kubectl import why_no_pods
from chaos.targets import pods
from chaos.targets.pods import POSSIBLE, PodTarget

KUBECTL = '''#!{python}
"""Answers as kubectl would, of three pods that come back when they are deleted."""
import json, pathlib, sys, time
state_path = pathlib.Path({state!r})
if "logs" in sys.argv:
    print("node_started", flush=True)
    time.sleep(60)
state = json.loads(state_path.read_text())
words = [word for word in sys.argv[1:] if not word.startswith("--request-timeout")]
if words[0] == "--namespace":
    assert words[1] == "test", words
    words = words[2:]
state["calls"].append(words)
status = 0
if words[:2] == ["get", "namespace"]:
    if state["labels"] is None:
        print("Error from server (NotFound): namespaces not found", file=sys.stderr)
        status = 1
    else:
        print(json.dumps(dict(metadata=dict(labels=state["labels"]))))
elif words[:2] == ["get", "statefulset"]:
    template = dict(metadata=dict(name="data"))
    print(json.dumps(dict(spec=dict(replicas=3, serviceName="nodes", volumeClaimTemplates=[template]))))
elif words[:2] == ["get", "pod"]:
    pod = state["pods"][words[2]]
    pod["looks"] += 1
    ready = "True" if pod["looks"] > pod["ready_after"] else "False"
    print(json.dumps(dict(metadata=dict(uid=pod["uid"]), status=dict(
        phase="Running", conditions=[dict(type="Ready", status=ready)]))))
elif words[:2] == ["delete", "pod"]:
    pod = state["pods"][words[2]]
    pod["uid"] += "+"
    pod["looks"], pod["ready_after"] = 0, 2
elif words[0] == "exec" and words[-3:] == ["ls", "-o", "json"]:
    print(json.dumps([dict(name=name) for name in state["topics"]]))
elif words[0] == "exec" and "delete" in words:
    state["topics"].remove(words[-2])
state_path.write_text(json.dumps(state))
sys.exit(status)
'''


class World:
    """The file behind the fake."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "state.json"
        names = [f"logcluster-{ordinal}" for ordinal in range(3)]
        self._path.write_text(
            json.dumps(
                {
                    "labels": {"logcluster-chaos": "allowed"},
                    "pods": {name: {"uid": f"{name}-a", "looks": 0, "ready_after": 1} for name in names},
                    "topics": ["orders", "old"],
                    "calls": [],
                }
            )
        )
        program = directory / "bin" / "kubectl"
        program.parent.mkdir()
        program.write_text(KUBECTL.format(python=sys.executable, state=str(self._path)))
        program.chmod(0o755)

    def change(self, **facts: Any) -> None:
        self._path.write_text(json.dumps({**json.loads(self._path.read_text()), **facts}))

    def __getattr__(self, name: str) -> Any:
        return json.loads(self._path.read_text())[name]

    def deleted(self) -> list[list[str]]:
        return [call for call in self.calls if call[0] == "delete"]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("LOGCLUSTER_CHAOS_NAMESPACE", "test")
    monkeypatch.setattr(pods, "POLL_S", 0.01)
    return made


async def test_a_killed_broker_is_waited_for_until_another_pod_is_ready(world: World, tmp_path: Path) -> None:
    target = PodTarget()
    await target.start(ClusterOptions(), tmp_path / "run")
    try:
        assert world.topics == [], "the cluster is the suite's"
        assert target.bootstrap().startswith("logcluster-0.nodes.test:7070,logcluster-1.nodes.test:7070")
        await target.kill(1)
        assert not target.is_running(1) and target.is_running(0)
        with pytest.raises(FaultFailed, match="broker 1 does not run"):
            await target.kill(1)
        await target.start_broker(1)
        assert target.is_running(1)
        assert world.pods["logcluster-1"]["looks"] > 2, "ready, not only there"
        assert world.deleted()[-1] == ["delete", "pod", "logcluster-1", "--grace-period=0", "--force", "--wait=false"]
        with pytest.raises(FaultFailed, match="runs already"):
            await target.start_broker(1)
    finally:
        await target.stop()
    assert "node_started" in target.log_path(1).read_text()


async def test_a_stopped_broker_gets_its_grace_and_a_wiped_one_an_empty_disk(world: World, tmp_path: Path) -> None:
    target = PodTarget()
    await target.start(ClusterOptions(), tmp_path / "run")
    try:
        await target.terminate(0)
        assert world.deleted()[-1] == ["delete", "pod", "logcluster-0", "--wait=true"]
        await target.start_broker(0, wait=False)
        with pytest.raises(FaultFailed, match="broker 2 runs"):
            await target.wipe(2)
        await target.kill(2)
        await target.wipe(2)
        assert world.deleted()[-2][:3] == ["delete", "persistentvolumeclaim", "data-logcluster-2"]
        assert world.deleted()[-1][:3] == ["delete", "pod", "logcluster-2"]
        await target.start_broker(2)
        assert world.pods["logcluster-2"]["uid"].endswith("++")
    finally:
        await target.stop()


async def test_only_where_it_is_allowed(world: World, tmp_path: Path) -> None:
    assert why_no_pods() == ""
    assert {item.name for item in PodTarget().preflight() if item.is_supported} == set(POSSIBLE)
    world.change(labels={})
    assert "kubectl label namespace test logcluster-chaos=allowed" in why_no_pods()
    told = PodTarget().preflight()
    assert [item.name for item in told] == list(CAPABILITIES) and not any(item.is_supported for item in told)
    with pytest.raises(FaultFailed, match="does not allow chaos"):
        await PodTarget().start(ClusterOptions(), tmp_path / "run")
    assert world.topics == ["orders", "old"], "nothing was touched"
    world.change(labels=None)
    assert "cannot see the namespace test" in why_no_pods()


async def test_another_deployment_than_asked_for_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(FaultFailed, match="needs 5 brokers, logcluster has 3"):
        await PodTarget().start(ClusterOptions(brokers=5), tmp_path / "run")
    with pytest.raises(FaultFailed, match="nothing reaches inside"):
        await PodTarget().start(ClusterOptions(is_disk_lazy=True), tmp_path / "run")
