"""The rendered overlays, object by object: valid, and true to what nodes do."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, cast

import kubernetes_validate
import pytest
import typer.main
from pod_support import K8S, OVERLAYS, Object, Pod, command_of, named, need_kubectl, of_kind, overlay, pods_of, render

from logcluster import node
from logcluster.api.node_observer import NodeObserver
from logcluster.cli.app import app
from logcluster.cli.values import duration_ms
from logcluster.config import NodeConfig, load

VERSIONS = ("1.27", "1.37")
"""The oldest with StatefulSet ordinals switched on, and the newest schemas there are."""
FOREIGN = "cert-manager.io/"

pytestmark = pytest.mark.usefixtures("_kubectl")


@pytest.fixture(scope="module")
def _kubectl() -> None:
    need_kubectl()


def sets(name: str) -> list[tuple[list[Object], Object]]:
    objects = overlay(name)
    return [(objects, found) for found in of_kind(objects, "StatefulSet")]


def all_pods(name: str) -> list[Pod]:
    return [pod for objects, found in sets(name) for pod in pods_of(objects, found)]


def configuration(pod: Pod, tmp_path: Path) -> NodeConfig:
    """What the node in the pod would be told."""
    path = pod.environment["LOGCLUSTER_CONFIG"]
    text = pod.files[str(Path(path).parent)][Path(path).name]
    copy = tmp_path / f"{pod.name}.toml"
    copy.write_text(text)
    return load(copy, environment=pod.environment)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_every_object_is_valid_to_the_letter(name: str, version: str) -> None:
    for found in overlay(name):
        kubernetes_validate.validate(found, version, strict=True)


def test_the_policy_against_shrinking_is_valid() -> None:
    for found in render(K8S / "refuse-shrinking"):
        kubernetes_validate.validate(found, "1.37", strict=True)
        assert "namespace" not in found["metadata"]


def test_a_misspelt_field_would_be_noticed() -> None:
    (found,) = of_kind(overlay("dev"), "StatefulSet")
    broken = {**found, "spec": {**found["spec"], "podManagmentPolicy": "Parallel"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_chaos_suite_as_a_pod_is_valid_and_may_touch_one_namespace(version: str) -> None:
    objects = render(K8S / "chaos")
    for found in objects:
        kubernetes_validate.validate(found, version, strict=True)
    (pod,) = of_kind(objects, "Pod")
    assert pod["metadata"]["labels"]["logcluster-client"] == "true", "the network policy lets it through"
    (everywhere,) = of_kind(objects, "ClusterRole")
    assert everywhere["rules"] == [{"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]}]
    assert {found["metadata"].get("namespace") for found in objects if found["kind"] != "ClusterRole"} <= {
        "logcluster",
        None,
    }


@pytest.mark.parametrize("name", OVERLAYS)
def test_probes_of_three_depths_reach_paths_that_nodes_serve(name: str) -> None:
    served = set(NodeObserver(cast(Any, object())).pages(dict))
    for pod in all_pods(name):
        probes = [pod.container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
        assert [probe["path"] for probe in probes] == ["/startupz", "/readyz", "/livez"]
        assert {probe["path"] for probe in probes} <= served
        assert {pod.port(probe["port"]) for probe in probes} == {7072}
        liveness, startup = pod.container["livenessProbe"], pod.container["startupProbe"]
        assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 30, "a stall is no death"
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 600, "recovery reads logs"


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_pod_is_told_who_it_is_and_its_ports_are_those_of_the_manifest(name: str, tmp_path: Path) -> None:
    for pod in all_pods(name):
        config = configuration(pod, tmp_path)
        listeners = config.listeners
        assert config.node.id == pod.ordinal
        assert listeners.host == "0.0.0.0"
        assert listeners.advertised_host == f"{pod.name}.{pod.service_name}.{pod.namespace}.svc"
        ports = {port["name"]: port["containerPort"] for port in pod.container["ports"]}
        assert ports == {"grpc": listeners.grpc_port, "lane": listeners.lane_port, "http": listeners.http_port}


@pytest.mark.parametrize("name", OVERLAYS)
def test_voters_are_pods_that_exist_and_all_agree_on_them(name: str, tmp_path: Path) -> None:
    pods = {pod.name: pod for pod in all_pods(name)}
    configs = {pod.name: configuration(pod, tmp_path) for pod in pods.values()}
    assert len({config.quorum.voters for config in configs.values()}) == 1
    assert len({config.cluster.id for config in configs.values()}) == 1
    assert len({config.node.id for config in configs.values()}) == len(pods)
    voters = next(iter(configs.values())).voter_endpoints()
    assert len(voters) == {"dev": 1}.get(name, 3)
    for node_id, endpoint in voters.items():
        pod_name, service = endpoint.host.split(".")
        assert configs[pod_name].node.id == node_id
        assert configs[pod_name].is_controller
        assert service == pods[pod_name].service_name
        assert endpoint.port == configs[pod_name].listeners.lane_port
    are_separate = name == "separate-controllers"
    assert all(config.is_broker is not (config.is_controller and are_separate) for config in configs.values())


@pytest.mark.parametrize("name", OVERLAYS)
def test_data_is_on_a_claim_that_outlives_the_set_and_nothing_else_is_written(name: str, tmp_path: Path) -> None:
    for _, found in sets(name):
        assert found["spec"]["persistentVolumeClaimRetentionPolicy"] == {
            "whenDeleted": "Retain",
            "whenScaled": "Retain",
        }
    for pod in all_pods(name):
        data = Path(configuration(pod, tmp_path).data.dir)
        (claim,) = pod.claims
        assert data.is_relative_to(claim)
        assert data != Path(claim), "file systems put lost+found into their root"
        assert pod.scratch == ("/tmp",)
        security = pod.container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_have_no_privilege(name: str) -> None:
    for pod in all_pods(name):
        security = pod.container["securityContext"]
        assert (security["allowPrivilegeEscalation"], security["privileged"]) == (False, False)
        assert security["capabilities"] == {"drop": ["ALL"]}
        shared = pod.spec["securityContext"]
        assert shared["runAsNonRoot"] is True
        assert shared["runAsUser"] == shared["fsGroup"] == 10001
        assert shared["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.spec["automountServiceAccountToken"] is False
        assert pod.spec["enableServiceLinks"] is False
        assert f"USER {shared['runAsUser']}:" in (K8S.parent / "Dockerfile").read_text()


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_image_can_change_under_its_tag(name: str) -> None:
    for pod in all_pods(name):
        image = pod.container["image"]
        assert re.search(r":\d+\.\d+\.\d+$|@sha256:[0-9a-f]{64}$", image), image
        assert pod.container["imagePullPolicy"] == "IfNotPresent"


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_commands_of_the_manifest_are_commands_of_ours(name: str) -> None:
    tree: Any = typer.main.get_command(app)
    for pod in all_pods(name):
        for words in (command_of(pod), pod.container["lifecycle"]["preStop"]["exec"]["command"]):
            command, left = tree, list(words[1:])
            assert words[0] == "logcluster"
            while hasattr(command, "commands"):
                command = command.commands[left.pop(0)]
            command.make_context(words[1], left)  # raises when an option is unknown


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_grace_period_covers_all_that_a_stop_may_take(name: str) -> None:
    for pod in all_pods(name):
        words = pod.container["lifecycle"]["preStop"]["exec"]["command"]
        waits_ms = duration_ms(words[words.index("--timeout") + 1])
        stops_ms = node.SHUTDOWN_TIMEOUT_MS + node.RESIGN_TIMEOUT_MS + 2 * node.DRAIN_GRACE_MS
        assert pod.spec["terminationGracePeriodSeconds"] * 1000 >= waits_ms + stops_ms + 30_000


@pytest.mark.parametrize("name", OVERLAYS)
def test_services_reach_the_pods_by_ports_that_they_have(name: str) -> None:
    objects, pods = overlay(name), all_pods(name)
    for service in of_kind(objects, "Service"):
        selector = service["spec"]["selector"].items()
        chosen = [pod for pod in pods if selector <= pod.labels.items()]
        assert chosen, service["metadata"]["name"]
        for pod in chosen:
            assert all(pod.port(port["targetPort"]) == port["port"] for port in service["spec"]["ports"])
    headless = named(objects, "Service", "logcluster-headless")["spec"]
    assert (headless["clusterIP"], headless["publishNotReadyAddresses"]) == ("None", True)
    assert len([pod for pod in pods if headless["selector"].items() <= pod.labels.items()]) == len(pods)
    clients = named(objects, "Service", "logcluster")["spec"]
    assert "publishNotReadyAddresses" not in clients
    for pod in pods:
        is_for_clients = clients["selector"].items() <= pod.labels.items()
        assert is_for_clients is not pod.name.startswith("logcluster-controller")


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_start_together_and_are_spread_and_taken_one_at_a_time(name: str) -> None:
    objects = overlay(name)
    budgets = of_kind(objects, "PodDisruptionBudget")
    for found in of_kind(objects, "StatefulSet"):
        spec, labels = found["spec"], found["spec"]["template"]["metadata"]["labels"]
        assert spec["podManagementPolicy"] == "Parallel"
        assert spec["selector"]["matchLabels"] == labels
        budget = [item for item in budgets if item["spec"]["selector"]["matchLabels"] == labels]
        pod = spec["template"]["spec"]
        if name == "dev":
            assert not budget
            assert "affinity" not in pod
            continue
        assert [item["spec"]["maxUnavailable"] for item in budget] == [1]
        (rule,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert rule["labelSelector"]["matchLabels"] == labels
        (spread,) = pod["topologySpreadConstraints"]
        assert spread["labelSelector"]["matchLabels"] == labels


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_network_policy_opens_ports_that_exist_and_no_more(name: str) -> None:
    (policy,) = of_kind(overlay(name), "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    names = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    for pod in all_pods(name):
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod.labels.items()
        assert names == {port["name"] for port in pod.container["ports"]}
    assert all(rule.get("from") for rule in policy["spec"]["ingress"])


def test_components_can_be_added_to_every_overlay(tmp_path: Path) -> None:
    copy = tmp_path / "k8s"
    shutil.copytree(K8S, copy)
    for name in OVERLAYS:
        folder = copy / "overlays" / f"{name}-all"
        folder.mkdir()
        (folder / "kustomization.yaml").write_text(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: streams\n"
            f"resources: [../{name}]\ncomponents: [../../components/external-access, ../../components/tls]\n"
        )
        objects = render(folder)
        for found in objects:
            if not found["apiVersion"].startswith(FOREIGN):
                kubernetes_validate.validate(found, VERSIONS[0], strict=True)
        for pod in [pod for found in of_kind(objects, "StatefulSet") for pod in pods_of(objects, found)]:
            is_broker = pod.labels["app.kubernetes.io/component"] == "broker"
            outside = f"{pod.name}.streams.example.net"
            assert (pod.environment["LOGCLUSTER_LISTENERS_ADVERTISED_HOST"] == outside) is is_broker
            assert "$(" not in "".join(pod.environment.values())
            assert "/etc/logcluster/tls" in {mount["mountPath"] for mount in pod.container["volumeMounts"]}
