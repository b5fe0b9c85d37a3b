"""The manifests as files: what can be told without kubectl, and that the texts around them keep up."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from pod_support import K8S, OVERLAYS, ROOT

from logcluster.cli.generate_overlay import ADVERTISED_POSITION, ADVERTISED_VARIABLE

FILES = sorted(K8S.rglob("*.yaml"))
OBJECTS = [path for path in FILES if path.name != "kustomization.yaml" and "patch" not in path.read_text()]
WHOLE = {"statefulset.yaml", "services.yaml", "pod-disruption-budget.yaml", "network-policy.yaml", "policy.yaml",
         "service-account.yaml", "namespace.yaml", "pod.yaml", "rights.yaml"}  # fmt: skip


def relative(path: Path) -> str:
    return path.relative_to(K8S).as_posix()


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_every_file_is_yaml_with_every_key_once(path: Path) -> None:
    class Strict(yaml.SafeLoader):
        """Refuses what other loaders silently take the last of."""

    def mapping(loader: Strict, node: yaml.MappingNode) -> dict[str, object]:
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{path}: a key stands twice among {keys}"
        return {loader.construct_object(key): loader.construct_object(value, deep=True) for key, value in node.value}

    Strict.add_constructor("tag:yaml.org,2002:map", mapping)
    assert list(yaml.load_all(path.read_text(), Loader=Strict))  # a SafeLoader


@pytest.mark.parametrize("path", [path for path in OBJECTS if path.name in WHOLE], ids=relative)
def test_whole_objects_are_valid_to_the_letter(path: Path) -> None:
    for found in yaml.safe_load_all(path.read_text()):
        if isinstance(found, dict):
            kubernetes_validate.validate(found, "1.37", strict=True)


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "kustomization.yaml"], ids=relative)
def test_a_kustomization_names_files_that_exist_and_versions_that_are_fixed(path: Path) -> None:
    found = yaml.safe_load(path.read_text())
    named = [*found.get("resources", []), *found.get("components", [])]
    named += [patch["path"] for patch in found.get("patches", []) if "path" in patch]
    named += [name for generator in found.get("configMapGenerator", []) for name in generator.get("files", [])]
    assert [name for name in named if not (path.parent / name).exists()] == []
    for image in found.get("images", []):
        assert image.get("digest") or re.fullmatch(r"\d+\.\d+\.\d+", image["newTag"])


def test_the_overlays_take_the_image_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in OVERLAYS:
        found = yaml.safe_load((K8S / "overlays" / name / "kustomization.yaml").read_text())
        assert [image["newTag"] for image in found["images"]] == [version]
    assert f"image: logcluster:{version}" in (ROOT / "deploy" / "compose.yaml").read_text()


def test_the_advertised_host_is_where_patches_expect_it() -> None:
    (found,) = yaml.safe_load_all((K8S / "base" / "node" / "statefulset.yaml").read_text())
    variables = found["spec"]["template"]["spec"]["containers"][0]["env"]
    position = int(ADVERTISED_POSITION.rpartition("/")[2])
    assert variables[position]["name"] == ADVERTISED_VARIABLE
    defined = {variable["name"] for variable in variables[:position]}
    assert set(re.findall(r"\$\((\w+)\)", variables[position]["value"])) <= defined


@pytest.mark.parametrize("name", ["smoke.sh", "scale.sh"])
def test_scripts_are_executable_and_read_by_a_shell(name: str) -> None:
    path = K8S / name
    assert os.access(path, os.X_OK)
    assert subprocess.run(["sh", "-n", str(path)], check=False).returncode == 0


STUB = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in *jsonpath*) echo 3 ;; esac
"""


def scale(tmp_path: Path, *arguments: str) -> tuple[int, str, list[str]]:
    """Exit code, what it says, and the calls of kubectl, on a cluster of three brokers."""
    stub = tmp_path / "kubectl"
    stub.write_text(STUB)
    stub.chmod(0o755)
    calls = tmp_path / "calls"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls)}
    finished = subprocess.run(
        [str(K8S / "scale.sh"), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    return finished.returncode, finished.stdout + finished.stderr, calls.read_text().splitlines()


def test_scaling_up_waits_for_the_cluster(tmp_path: Path) -> None:
    code, said, calls = scale(tmp_path, "5")
    assert code == 0, said
    assert "--namespace logcluster scale statefulset logcluster --replicas 5" in calls
    assert any("logcluster cluster wait --brokers 5" in call for call in calls)


@pytest.mark.parametrize("arguments", [("2",), ("0", "streams"), ("5", "streams", "logcluster-controller"), ("x",)])
def test_shrinking_other_voters_and_nonsense_are_refused_and_nothing_is_changed(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    code, said, calls = scale(tmp_path, *arguments)
    assert code != 0
    assert "scale:" in said
    assert not any(" scale " in call for call in calls)
