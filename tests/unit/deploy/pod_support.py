"""Rendered manifests, and what a kubelet makes of a StatefulSet: pods with environment, files, mounts and probes.

Shared by the tests of the manifests and by the test that runs them. Rendering is kubectl's; without it nothing here
pretends to be it.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
K8S = ROOT / "deploy" / "k8s"
OVERLAYS = ("dev", "three-node", "separate-controllers")
Object = dict[str, Any]


def need_kubectl() -> str:
    """The path of kubectl; skips the test where there is none."""
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is not installed: the overlays are not rendered")
    return found


@functools.cache
def _rendered(directory: Path, kubectl: str) -> str:
    finished = subprocess.run([kubectl, "kustomize", str(directory)], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "warning" not in finished.stderr.lower(), finished.stderr
    return finished.stdout


def render(directory: Path) -> list[Object]:
    """All objects of a kustomization."""
    return [found for found in yaml.safe_load_all(_rendered(directory, need_kubectl())) if found]


def overlay(name: str) -> list[Object]:
    return render(K8S / "overlays" / name)


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [found for found in objects if found["kind"] == kind]


def named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [found for found in of_kind(objects, kind) if found["metadata"]["name"] == name]
    return found


@dataclass(frozen=True)
class Pod:
    """One pod of a StatefulSet as a kubelet would start it."""

    name: str
    ordinal: int
    namespace: str
    spec: Object
    labels: dict[str, str]
    environment: dict[str, str]
    files: dict[str, dict[str, str]]
    """Mount path -> file name -> text, of ConfigMaps."""
    claims: dict[str, str]
    """Mount path -> name of the claim template."""
    scratch: tuple[str, ...]
    """Mount paths of empty directories."""

    @property
    def container(self) -> Object:
        (only,) = self.spec["containers"]
        return only

    @property
    def service_name(self) -> str:
        return str(self.spec["subdomain"])

    def port(self, name: str | int) -> int:
        """Number of a container port that a probe or Service names."""
        if isinstance(name, int):
            return name
        (found,) = [port["containerPort"] for port in self.container["ports"] if port["name"] == name]
        return int(found)


def pods_of(objects: list[Object], stateful_set: Object) -> list[Pod]:
    """Every pod of the set, in order of ordinals."""
    spec = stateful_set["spec"]
    first = spec.get("ordinals", {}).get("start", 0)
    return [_pod(objects, stateful_set, first + index) for index in range(spec["replicas"])]


def _pod(objects: list[Object], stateful_set: Object, ordinal: int) -> Pod:
    template = stateful_set["spec"]["template"]
    name = f"{stateful_set['metadata']['name']}-{ordinal}"
    labels = {
        **template["metadata"]["labels"],
        "statefulset.kubernetes.io/pod-name": name,
        "apps.kubernetes.io/pod-index": str(ordinal),
    }
    metadata = {"name": name, "namespace": stateful_set["metadata"]["namespace"], "labels": labels}
    (container,) = template["spec"]["containers"]
    volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", [])}
    templates = [claim["metadata"]["name"] for claim in stateful_set["spec"].get("volumeClaimTemplates", [])]
    files: dict[str, dict[str, str]] = {}
    claims: dict[str, str] = {}
    scratch = []
    for mount in container["volumeMounts"]:
        volume = volumes.get(mount["name"], {})
        if mount["name"] in templates:
            claims[mount["mountPath"]] = mount["name"]
        elif "configMap" in volume:
            files[mount["mountPath"]] = named(objects, "ConfigMap", volume["configMap"]["name"])["data"]
        elif "emptyDir" in volume:
            scratch.append(mount["mountPath"])
    return Pod(
        name=name,
        ordinal=ordinal,
        namespace=metadata["namespace"],
        spec={**template["spec"], "subdomain": stateful_set["spec"]["serviceName"]},
        labels=labels,
        environment=_environment(objects, container, metadata),
        files=files,
        claims=claims,
        scratch=tuple(scratch),
    )


def _environment(objects: list[Object], container: Object, metadata: Object) -> dict[str, str]:
    """As a kubelet makes it: envFrom first, then env, where `$(NAME)` stands for what was defined above it."""
    found: dict[str, str] = {"HOSTNAME": metadata["name"]}
    for source in container.get("envFrom", []):
        found |= named(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    defined: dict[str, str] = {}
    for variable in container.get("env", []):
        if "value" in variable:
            value = re.sub(r"\$\((\w+)\)", lambda match: defined.get(match.group(1), match.group(0)), variable["value"])
        else:
            value = _field(metadata, variable["valueFrom"]["fieldRef"]["fieldPath"])
        defined[variable["name"]] = value
    return {**found, **defined}


def _field(metadata: Object, path: str) -> str:
    label = re.fullmatch(r"metadata\.labels\['(.+)'\]", path)
    if label is not None:
        return str(metadata["labels"].get(label.group(1), ""))
    return str(metadata[path.removeprefix("metadata.")])


def entry_point() -> tuple[list[str], list[str]]:
    """ENTRYPOINT and CMD of the image."""
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    return (
        json.loads(re.findall(r"^ENTRYPOINT (\[.*\])$", text, re.MULTILINE)[-1]),
        json.loads(re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)[-1]),
    )


def command_of(pod: Pod) -> list[str]:
    """What the container runs: the pod's words win over the image's."""
    entry, arguments = entry_point()
    container = pod.container
    if "command" in container:
        return [*container["command"], *container.get("args", [])]
    return [*entry, *container.get("args", arguments)]
