"""What `logcluster generate k8s` writes: from a few answers to the files of a kustomize overlay. Pure.

The overlay is complete in itself: it holds a copy of `deploy/k8s/base`. Some answers can never be changed once a
cluster exists, and are refused: fewer brokers (partitions would lose replicas), other voters, another cluster id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Final

from logcluster.cli.generate_yaml import yaml_documents, yaml_list, yaml_text
from logcluster.model.errors import InvalidRequest
from logcluster.model.invariants import invariant

CONTROLLER_FIRST: Final = 100
VOTERS_IN_BROKERS_MAX: Final = 3
VOTERS_ALLOWED: Final = (0, 1, 3, 5)
BROKERS_MAX: Final = 100
ADVERTISED_POSITION: Final = "/spec/template/spec/containers/0/env/3"
ADVERTISED_VARIABLE: Final = "LOGCLUSTER_LISTENERS_ADVERTISED_HOST"
LABELS: Final = {"app.kubernetes.io/name": "logcluster"}
KUSTOMIZATION: Final = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
DOMAIN: Final = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")
QUANTITY: Final = re.compile(r"[1-9][0-9]*(Mi|Gi|Ti|M|G|T)")
PROCESSORS: Final = re.compile(r"[1-9][0-9]*m?|0\.[0-9]+")
IMAGE: Final = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9._/:-]*?)(?::(?P<tag>[\w][\w.-]*)|@(?P<digest>sha256:[0-9a-f]{64}))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the overlay is made of; kept beside it as `answers.json`."""

    image: str
    namespace: str = "logcluster"
    cluster_id: str = ""
    """Empty: the namespace's name."""
    brokers: int = 3
    controllers: int = 0
    """Nodes that only vote; 0: the first brokers vote, three of them where there are three."""
    voters: int = 0
    """How many vote; decided once, when the overlay is first written."""
    storage: str = "20Gi"
    storage_class: str = ""
    cpu: str = "500m"
    memory: str = "2Gi"
    external_domain: str = ""

    def completed(self) -> Answers:
        """With what follows from other answers filled in."""
        voters = self.controllers or (VOTERS_IN_BROKERS_MAX if self.brokers >= VOTERS_IN_BROKERS_MAX else 1)
        return replace(self, cluster_id=self.cluster_id or self.namespace, voters=self.voters or voters)

    def check(self) -> None:
        """Raises:
        InvalidRequest: an answer is not possible; names it.
        """
        problems = [
            (bool(NAME.fullmatch(self.namespace)), f"namespace {self.namespace!r} is no name of a namespace"),
            (0 < len(self.cluster_id) <= 64, "the cluster id has 1 to 64 characters"),
            (1 <= self.brokers <= BROKERS_MAX, f"there are 1 to {BROKERS_MAX} brokers, not {self.brokers}"),
            (self.controllers in VOTERS_ALLOWED, f"controllers: 0, 1, 3 or 5, not {self.controllers}"),
            (bool(QUANTITY.fullmatch(self.storage)), f"storage {self.storage!r} is no size, such as 20Gi"),
            (bool(QUANTITY.fullmatch(self.memory)), f"memory {self.memory!r} is no size, such as 2Gi"),
            (bool(PROCESSORS.fullmatch(self.cpu)), f"cpu {self.cpu!r} is no number of processors, such as 500m"),
            (not self.external_domain or bool(DOMAIN.fullmatch(self.external_domain)),
             f"external domain {self.external_domain!r} is no domain name"),
        ]  # fmt: skip
        for is_possible, text in problems:
            if not is_possible:
                raise InvalidRequest(text)
        found = IMAGE.fullmatch(self.image)
        if found is None or found.group("tag") == "latest":
            raise InvalidRequest(
                f"image {self.image!r} is not fixed: it would change under running pods",
                hint="name a version or a digest: NAME:0.1.0 or NAME@sha256:…",
            )

    def check_follows(self, before: Answers) -> None:
        """Raises:
        InvalidRequest: a cluster that was made with the answers `before` cannot become this one.
        """
        if self.brokers < before.brokers:
            raise InvalidRequest(
                f"refused: {before.brokers} brokers cannot become {self.brokers}: partitions on the last ones would "
                "lose a replica each, and there is no command yet that moves them elsewhere first",
                hint="keep the number; see docs/kubernetes.md, Scaling",
            )
        for name in ("cluster_id", "namespace", "voters", "controllers"):
            if getattr(self, name) != getattr(before, name):
                raise InvalidRequest(
                    f"refused: {name.replace('_', ' ')} was {getattr(before, name)!r} when the cluster was made and "
                    f"cannot become {getattr(self, name)!r}",
                    hint="write a new cluster into another directory",
                )

    @property
    def voter_addresses(self) -> str:
        """`quorum.voters`, as the environment has it."""
        first, pod = (CONTROLLER_FIRST, "logcluster-controller") if self.controllers else (0, "logcluster")
        ids = range(first, first + self.voters)
        return ",".join(f"{node_id}@{pod}-{node_id}.logcluster-headless:7071" for node_id in ids)

    def to_json(self) -> str:
        """The text of `answers.json`."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Answers:
        """Raises:
        InvalidRequest: the text is not what `to_json` writes.
        """
        try:
            found = json.loads(text)
            known = {field.name for field in fields(cls)}
            return cls(**{name: value for name, value in found.items() if name in known})
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidRequest(f"answers.json cannot be read: {error}", hint="delete it to begin anew") from error


def overlay_files(answers: Answers, manifests: Mapping[str, str]) -> dict[str, str]:
    """Texts by path below the overlay's directory.

    Args:
        manifests: texts below `deploy/k8s` by path.
    """
    files = {path: text for path, text in manifests.items() if path.startswith("base/")}
    top = {
        **KUSTOMIZATION,
        "namespace": answers.namespace,
        "resources": ["namespace.yaml", "brokers", *(["controllers"] if answers.controllers else [])],
    }
    files["answers.json"] = answers.to_json()
    files["kustomization.yaml"] = yaml_text(
        top, comment="Written by `logcluster generate k8s`, which reads answers.json when it runs again.\n"
        "Apply it: kubectl apply -k . Your own patches go here: this file is kept, the others are written anew.",
    )  # fmt: skip
    files["namespace.yaml"] = yaml_text(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": answers.namespace,
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        }
    )
    files |= _broker_files(answers)
    if answers.controllers:
        files |= _controller_files(answers, manifests)
    return files


def _broker_files(answers: Answers) -> dict[str, str]:
    patches: list[object] = [{"path": "nodes.yaml"}]
    files = {"brokers/nodes.yaml": yaml_text(_node_patch(answers))}
    resources = ["../base"]
    if answers.brokers == 1:
        patches.append({"path": "single.yaml"})
        files["brokers/single.yaml"] = yaml_text({
            "$patch": "delete",
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "logcluster"},
        }, comment="A budget over one pod would keep its machine from ever being drained.")  # fmt: skip
    if answers.external_domain:
        resources.append("external.yaml")
        target = {"kind": "StatefulSet", "name": "logcluster"}
        patches.append({"path": "advertised-host.yaml", "target": target})
        patches.append({"path": "network-policy.yaml", "target": {"kind": "NetworkPolicy", "name": "logcluster"}})
        files |= _external_files(answers)
    files["brokers/kustomization.yaml"] = yaml_text(
        {
            **KUSTOMIZATION,
            "resources": resources,
            "images": [_image(answers.image)],
            "replicas": [{"name": "logcluster", "count": answers.brokers}],
            "configMapGenerator": [_environment(answers)],
            "patches": patches,
        }
    )
    return files


def _controller_files(answers: Answers, manifests: Mapping[str, str]) -> dict[str, str]:
    """The nodes of the base once more, as `deploy/k8s/overlays/separate-controllers` has them."""
    origin = "overlays/separate-controllers/controllers"
    names = ("controllers.yaml", "pod-disruption-budget.yaml")
    files = {f"controllers/{name}": manifests[f"{origin}/{name}"] for name in names}
    files["controllers/kustomization.yaml"] = yaml_text(
        {
            **KUSTOMIZATION,
            "nameSuffix": "-controller",
            "resources": ["../base/node", "pod-disruption-budget.yaml"],
            "images": [_image(answers.image)],
            "replicas": [{"name": "logcluster", "count": answers.controllers}],
            "configMapGenerator": [_environment(answers, "LOGCLUSTER_NODE_ROLES=controller")],
            "patches": [{"path": "controllers.yaml"}],
        }
    )
    return files


def _environment(answers: Answers, *others: str) -> dict[str, object]:
    literals = [
        f"LOGCLUSTER_CLUSTER_ID={answers.cluster_id}",
        f"LOGCLUSTER_QUORUM_VOTERS={answers.voter_addresses}",
        *others,
    ]
    return {"name": "logcluster-environment", "behavior": "merge", "literals": literals}


def _node_patch(answers: Answers) -> dict[str, object]:
    claim: dict[str, object] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": answers.storage}},
    }
    if answers.storage_class:
        claim["storageClassName"] = answers.storage_class
    resources = {
        "requests": {"cpu": answers.cpu, "memory": answers.memory},
        "limits": {"memory": answers.memory},
    }
    pod: dict[str, object] = {"containers": [{"name": "logcluster", "resources": resources}]}
    metadata = {"name": "data", "labels": LABELS}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "logcluster"},
        "spec": {"template": {"spec": pod}, "volumeClaimTemplates": [{"metadata": metadata, "spec": claim}]},
    }


def _external_files(answers: Answers) -> dict[str, str]:
    ports = [{"name": name, "port": port, "targetPort": name} for name, port in (("grpc", 7070), ("lane", 7071))]
    services = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": f"{pod}-external",
                "labels": LABELS,
                "annotations": {"external-dns.alpha.kubernetes.io/hostname": f"{pod}.{answers.external_domain}"},
            },
            "spec": {
                "type": "LoadBalancer",
                "externalTrafficPolicy": "Local",
                "publishNotReadyAddresses": True,
                "selector": {**LABELS, "statefulset.kubernetes.io/pod-name": pod},
                "ports": ports,
            },
        }
        for pod in (f"logcluster-{number}" for number in range(answers.brokers))
    ]
    advertised = [
        {"op": "test", "path": f"{ADVERTISED_POSITION}/name", "value": ADVERTISED_VARIABLE},
        {"op": "replace", "path": f"{ADVERTISED_POSITION}/value", "value": f"$(POD_NAME).{answers.external_domain}"},
    ]
    client_ports = [{"port": "grpc"}, {"port": "lane"}]
    policy = [
        {"op": "add", "path": "/spec/ingress/-",
         "value": {"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": client_ports}},
        {"op": "add", "path": "/spec/egress/-", "value": {"ports": [{"port": 7070}, {"port": 7071}]}},
    ]  # fmt: skip
    return {
        "brokers/external.yaml": yaml_documents(services),
        "brokers/advertised-host.yaml": yaml_list(advertised),
        "brokers/network-policy.yaml": yaml_list(policy),
    }


def _image(image: str) -> dict[str, str]:
    found = IMAGE.fullmatch(image)
    invariant(found is not None, "an image has a version or a digest", image=image)
    assert found is not None
    tag, digest = found.group("tag"), found.group("digest")
    return {"name": "logcluster", "newName": found.group("name"), **({"newTag": tag} if tag else {"digest": digest})}
