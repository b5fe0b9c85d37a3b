"""The image and the compose file, as far as they can be told without a Docker engine."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

import yaml
from pod_support import ROOT, entry_point

from logcluster.config import load

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
STAGES = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))


def test_the_base_is_a_build_argument_and_no_mutable_tag() -> None:
    (default,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+(\.\d+)?-slim-\w+", default)
    assert all(stage.startswith("${BASE_IMAGE}") for stage in STAGES)


def test_the_image_serves_as_a_user_without_rights() -> None:
    assert entry_point() == (["logcluster"], ["serve"])
    assert re.search(r"^USER 10001:10001$", STAGES[-1], re.MULTILINE)
    assert "USER" not in "".join(STAGES[:-1])
    last_user = STAGES[-1].index("USER")
    assert "RUN" not in STAGES[-1][last_user:]


def test_dependencies_are_locked_by_hash_and_cover_the_server() -> None:
    assert "--require-hashes --only-binary :all: -r requirements/server.txt" in DOCKERFILE
    pinned = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements" / "server.txt").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["server"]]
    names = {re.match(r"[a-z0-9-]+", text.lower()).group() for text in wanted}  # type: ignore[union-attr]
    assert names <= pinned.keys(), "run scripts/lock"
    developed = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements" / "dev.txt").read_text(), re.MULTILINE))
    assert {name: developed.get(name) for name in pinned} == pinned, "the image has what is tested"


def test_everything_that_is_copied_is_there_and_let_through() -> None:
    lines = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(source == name or fnmatch.fnmatch(source, f"{name}/*") for name in allowed), source


def test_the_configuration_of_the_image_lacks_only_what_differs() -> None:
    path = ROOT / "deploy" / "k8s" / "base" / "node" / "node.toml"
    assert f"COPY {path.relative_to(ROOT)} /etc/logcluster/node.toml" in STAGES[-1]
    assert "LOGCLUSTER_CONFIG=/etc/logcluster/node.toml" in STAGES[-1]
    data = Path(tomllib.loads(path.read_text())["data"]["dir"])
    (volume,) = re.findall(r"^VOLUME (\S+)$", STAGES[-1], re.MULTILINE)
    assert data.is_relative_to(volume)
    (ports,) = re.findall(r"^EXPOSE (.+)$", STAGES[-1], re.MULTILINE)
    listeners = tomllib.loads(path.read_text())["listeners"]
    assert ports.split() == [str(listeners[f"{name}_port"]) for name in ("grpc", "lane", "http")]


def test_compose_starts_three_nodes_that_agree() -> None:
    services = COMPOSE["services"]
    configs = []
    for name, service in services.items():
        assert service["hostname"] == name
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        (volume,) = service["volumes"]
        assert volume.split(":")[0] in COMPOSE["volumes"]
        configs.append(
            load(
                ROOT / "deploy" / "k8s" / "base" / "node" / "node.toml",
                environment={**service["environment"], "HOSTNAME": name},
            )
        )
        assert configs[-1].listeners.advertised_host == name
    assert [config.node.id for config in configs] == [0, 1, 2]
    assert all(config.is_controller and config.is_broker for config in configs)
    voters = configs[0].voter_endpoints()
    assert {endpoint.host for endpoint in voters.values()} == set(services)
    assert len({config.quorum.voters for config in configs}) == 1


def test_the_chaos_image_copies_what_is_let_through_and_its_versions_are_fixed() -> None:
    text = (ROOT / "deploy" / "Dockerfile.chaos").read_text(encoding="utf-8")
    ignored = (ROOT / "deploy" / "Dockerfile.chaos.dockerignore").read_text(encoding="utf-8").splitlines()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists() and f"!{source}" in ignored
    for default in re.findall(r"^ARG \w+IMAGE=(\S+)$|^ARG IMAGE=(\S+)$", text, re.MULTILINE):
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", "".join(default))
