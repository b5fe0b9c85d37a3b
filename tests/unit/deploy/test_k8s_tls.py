"""The TLS component: settings of the node, files that are mounted, a certificate for every name in use."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pod_support import K8S, of_kind, pods_of, render

from logcluster.config import environment_variables
from logcluster.model.ids import Endpoint

OVERLAYS = ["dev", "three-node", "separate-controllers"]


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    copy = tmp_path_factory.mktemp("tls") / "k8s"
    shutil.copytree(K8S, copy)
    folder = copy / "overlays" / f"{request.param}-tls"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: logcluster\n"
        f"resources: [../{request.param}]\ncomponents: [../../components/tls]\n"
    )
    return render(folder)


def covers(pattern: str, name: str) -> bool:
    """As OpenSSL decides: a star stands for one whole label, and two more must follow it."""
    if not pattern.startswith("*."):
        return pattern == name
    return pattern.count(".") >= 2 and name.partition(".")[2] == pattern[2:]


def all_pods(objects: list[dict[str, Any]]) -> list[Any]:
    return [pod for found in of_kind(objects, "StatefulSet") for pod in pods_of(objects, found)]


def test_nodes_and_their_command_line_are_told_of_files_that_are_mounted(objects: list[dict[str, Any]]) -> None:
    for pod in all_pods(objects):
        for name in ("cert_file", "key_file", "ca_file"):
            variable = environment_variables()[f"tls.{name}"]
            path = Path(pod.environment[variable])
            assert str(path.parent) in {mount["mountPath"] for mount in pod.container["volumeMounts"]}
            # The names of a Secret of cert-manager.
            assert path.name in {"tls.crt", "tls.key", "ca.crt"}


def test_the_certificate_is_for_every_name_that_is_connected_to(objects: list[dict[str, Any]]) -> None:
    (certificate,) = [
        found for found in of_kind(objects, "Certificate") if found["spec"]["secretName"] == "logcluster-tls"
    ]
    names, addresses = certificate["spec"]["dnsNames"], certificate["spec"]["ipAddresses"]
    assert {"server auth", "client auth"} == set(certificate["spec"]["usages"]), "nodes are clients of one another"
    assert "127.0.0.1" in addresses, "where the command line in a pod begins"
    for pod in all_pods(objects):
        voters = [voter.partition("@")[2] for voter in pod.environment["LOGCLUSTER_QUORUM_VOTERS"].split(",")]
        hosts = [Endpoint.parse(voter).host for voter in voters]
        hosts.append(pod.environment["LOGCLUSTER_LISTENERS_ADVERTISED_HOST"])
        assert [host for host in hosts if not any(covers(pattern, host) for pattern in names)] == []
