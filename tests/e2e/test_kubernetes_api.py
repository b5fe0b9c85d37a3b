"""The manifests before a real API server: strict validation, admission by the restricted profile, no shrinking.

Runs where `etcd` and `kube-apiserver` are found: on the path, or in the directory that `KUBEBUILDER_ASSETS` names (what
`setup-envtest` of controller-runtime fetches). Nothing runs on a node here; pods are admitted and stay pending.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pod_support import K8S, OVERLAYS

pytestmark = pytest.mark.timeout(180)


def program(name: str) -> str | None:
    """Where a program is."""
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    return shutil.which(name, path=f"{assets}:{os.environ.get('PATH', '')}")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class ApiServer:
    """etcd and kube-apiserver on loopback, with one token for everything."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []
        self.port = free_port()

    def start(self) -> None:
        store, peers = free_port(), free_port()
        self._spawn(
            "etcd", "--data-dir", str(self._directory / "etcd"), "--unsafe-no-fsync",
            "--listen-client-urls", f"http://127.0.0.1:{store}", "--advertise-client-urls", f"http://127.0.0.1:{store}",
            "--listen-peer-urls", f"http://127.0.0.1:{peers}",
        )  # fmt: skip
        key, public = self._directory / "sa.key", self._directory / "sa.pub"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        subprocess.run(
            ["openssl", "rsa", "-in", str(key), "-pubout", "-out", str(public)], check=True, capture_output=True
        )
        tokens = self._directory / "tokens.csv"
        tokens.write_text('of-the-test,admin,admin,"system:masters"\n')
        self._spawn(
            "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{store}", f"--secure-port={self.port}",
            "--bind-address=127.0.0.1", "--advertise-address=192.0.2.1",
            f"--cert-dir={self._directory / 'certificates'}",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={public}",
            f"--service-account-signing-key-file={key}", f"--token-auth-file={tokens}", "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/24",
        )  # fmt: skip
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": f"https://127.0.0.1:{self.port}", "insecure-skip-tls-verify": True},
                }
            ],
            "users": [{"name": "admin", "user": {"token": "of-the-test"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        }
        (self._directory / "kubeconfig").write_text(json.dumps(config))
        deadline_s = time.monotonic() + 120
        while self.kubectl("get", "namespace", "default", check=False).returncode:
            assert all(process.poll() is None for process in self._processes), self.said()
            assert time.monotonic() < deadline_s, self.said()
            time.sleep(0.5)

    def _spawn(self, name: str, *arguments: str) -> None:
        path = program(name)
        assert path is not None
        with (self._directory / f"{name}.log").open("wb") as log:
            self._processes.append(subprocess.Popen([path, *arguments], stdout=log, stderr=log))

    def said(self) -> str:
        """The ends of the logs."""
        logs = sorted(self._directory.glob("*.log"))
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-1000:]}" for path in logs)

    def kubectl(self, *arguments: str, data: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(self._directory / "kubeconfig"), *arguments],
            input=data,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return done

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    missing = [name for name in ("etcd", "kube-apiserver", "kubectl", "openssl") if program(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not found: the manifests do not meet an API server")
    made = ApiServer(tmp_path_factory.mktemp("kubernetes"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def shrinking_refused(server: ApiServer) -> Iterator[None]:
    """The policy is in force, which takes a moment after it was applied."""
    server.kubectl("apply", "-k", str(K8S / "refuse-shrinking"))
    yield
    server.kubectl("delete", "-k", str(K8S / "refuse-shrinking"))


def described(server: ApiServer, kind: str, name: str, namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.kubectl("get", kind, name, "--namespace", namespace, "-o", "json").stdout)
    return found


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_taken_and_its_pods_are_admitted_by_the_restricted_profile(server: ApiServer, name: str) -> None:
    server.kubectl(
        "apply", "--server-side", "--force-conflicts", "--validate=strict", "-k", str(K8S / "overlays" / name)
    )
    namespace = "logcluster-dev" if name == "dev" else "logcluster"
    labels = described(server, "namespace", namespace, namespace)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    listed = json.loads(server.kubectl("get", "statefulset", "--namespace", namespace, "-o", "json").stdout)["items"]
    assert len(listed) == (2 if name == "separate-controllers" else 1)
    for found in listed:
        template = found["spec"]["template"]
        # What the StatefulSet's controller would ask for.
        template["spec"]["volumes"].append({"name": "data", "emptyDir": {}})
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{found['metadata']['name']}-0", "namespace": namespace, **template["metadata"]},
            "spec": template["spec"],
        }
        server.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", data=json.dumps(pod))
    server.kubectl("delete", "--wait=false", "namespace", namespace)
    for kind in ("pod", "statefulset", "poddisruptionbudget", "service", "networkpolicy"):  # nobody collects them here
        server.kubectl("delete", kind, "--all", "--namespace", namespace, "--force", "--grace-period=0")
    server.kubectl("replace", "--raw", f"/api/v1/namespaces/{namespace}/finalize", "-f", "-", data=finalized(namespace))


def finalized(namespace: str) -> str:
    """A namespace that waits for no controller any more."""
    return json.dumps(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}, "spec": {"finalizers": []}}
    )


@pytest.mark.usefixtures("shrinking_refused")
def test_shrinking_is_refused_with_a_reason_and_growing_is_not(server: ApiServer) -> None:
    server.kubectl("apply", "-k", str(K8S / "overlays" / "three-node"))
    scale = ("scale", "--namespace", "logcluster", "statefulset/logcluster")
    deadline_s = time.monotonic() + 30
    while not (refused := server.kubectl(*scale, "--replicas=2", check=False)).returncode:
        assert time.monotonic() < deadline_s, "the policy never came into force"
        server.kubectl("scale", "--namespace", "logcluster", "statefulset/logcluster", "--replicas=3", check=False)
        time.sleep(0.5)
    assert "logcluster cannot shrink" in refused.stderr and "Nothing was changed" in refused.stderr
    assert described(server, "statefulset", "logcluster", "logcluster")["spec"]["replicas"] == 3
    server.kubectl(*scale, "--replicas=5")


def test_the_chaos_suite_has_the_rights_it_needs_and_no_more(server: ApiServer) -> None:
    server.kubectl("apply", "-k", str(K8S / "overlays" / "three-node"))
    server.kubectl("apply", "--validate=strict", "-k", str(K8S / "chaos"))

    def may(*what: str) -> bool:
        account = "system:serviceaccount:logcluster:chaos"
        return server.kubectl("auth", "can-i", *what, "--as", account, check=False).stdout.strip() == "yes"

    inside = ("--namespace", "logcluster")
    for allowed in (
        ("delete", "pods", *inside),
        ("create", "pods", "--subresource=exec", *inside),
        ("get", "pods", "--subresource=log", *inside),
        ("delete", "persistentvolumeclaims", *inside),
        ("get", "statefulsets.apps", *inside),
        ("get", "namespaces"),
    ):
        assert may(*allowed), allowed
    for forbidden in (
        ("delete", "pods", "--namespace", "default"),
        ("delete", "statefulsets.apps", *inside),
        ("delete", "namespaces"),
        ("get", "secrets", *inside),
    ):
        assert not may(*forbidden), forbidden
