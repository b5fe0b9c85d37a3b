"""`logcluster generate k8s`: what it writes renders, equals the overlays kept by hand, refuses what cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from pod_support import OVERLAYS, named, need_kubectl, of_kind, overlay, pods_of, render
from typer.testing import CliRunner, Result

from logcluster.cli import generate
from logcluster.cli.app import app
from logcluster.cli.generate_overlay import Answers, overlay_files
from logcluster.cli.generate_yaml import yaml_text
from logcluster.model.errors import InvalidRequest

DIGEST = "sha256:" + "a" * 64


def write(directory: Path, *options: str, answers: str | None = None) -> Result:
    return CliRunner().invoke(app, ["generate", "k8s", str(directory), *options], input=answers)


def written(directory: Path, *options: str) -> Path:
    result = write(directory, *options)
    assert result.exit_code == 0, result.output
    return directory


def test_without_options_it_is_the_overlay_of_three_nodes(tmp_path: Path) -> None:
    need_kubectl()
    assert render(written(tmp_path / "x")) == overlay("three-node")


def test_with_three_controllers_it_is_the_overlay_with_separate_controllers(tmp_path: Path) -> None:
    need_kubectl()
    assert render(written(tmp_path / "x", "--controllers", "3")) == overlay("separate-controllers")


def test_every_option_arrives(tmp_path: Path) -> None:
    need_kubectl()
    directory = written(
        tmp_path / "x", "--namespace", "streams", "--cluster-id", "orders", "--brokers", "5", "--controllers", "3",
        "--image", f"images.example.net/logcluster@{DIGEST}", "--storage", "500Gi", "--storage-class", "fast",
        "--cpu", "2", "--memory", "8Gi", "--external-domain", "streams.example.net",
    )  # fmt: skip
    objects = render(directory)
    for found in objects:
        kubernetes_validate.validate(found, "1.27", strict=True)
        assert found["metadata"].get("namespace", "streams") == "streams"
    brokers = named(objects, "StatefulSet", "logcluster")
    (claim,) = brokers["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"]["requests"]["storage"] == "500Gi"
    pods = pods_of(objects, brokers)
    assert len(pods) == 5
    for pod in pods:
        assert pod.container["image"] == f"images.example.net/logcluster@{DIGEST}"
        assert pod.container["resources"] == {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "8Gi"}}
        assert pod.environment["LOGCLUSTER_CLUSTER_ID"] == "orders"
        assert pod.environment["LOGCLUSTER_LISTENERS_ADVERTISED_HOST"] == f"{pod.name}.streams.example.net"
        outside = named(objects, "Service", f"{pod.name}-external")["spec"]["selector"]
        assert outside.items() <= pod.labels.items()
    controllers = pods_of(objects, named(objects, "StatefulSet", "logcluster-controller"))
    assert {pod.container["image"] for pod in controllers} == {f"images.example.net/logcluster@{DIGEST}"}


def test_one_broker_has_no_disruption_budget_and_votes_alone(tmp_path: Path) -> None:
    need_kubectl()
    objects = render(written(tmp_path / "x", "--brokers", "1"))
    assert not of_kind(objects, "PodDisruptionBudget")
    (pod,) = pods_of(objects, named(objects, "StatefulSet", "logcluster"))
    assert pod.environment["LOGCLUSTER_QUORUM_VOTERS"] == "0@logcluster-0.logcluster-headless:7071"


def test_run_again_it_keeps_answers_and_voters_and_what_people_added(tmp_path: Path) -> None:
    directory = written(tmp_path / "x", "--storage", "100Gi")
    mine = directory / "kustomization.yaml"
    mine.write_text(mine.read_text() + "# mine\n")
    written(directory, "--brokers", "6", "--image", "logcluster:0.2.0")
    answers = json.loads((directory / "answers.json").read_text())
    assert (answers["storage"], answers["brokers"], answers["voters"]) == ("100Gi", 6, 3)
    assert "# mine" in mine.read_text()
    brokers = yaml.safe_load((directory / "brokers" / "kustomization.yaml").read_text())
    assert brokers["replicas"] == [{"name": "logcluster", "count": 6}]
    assert brokers["images"] == [{"name": "logcluster", "newName": "logcluster", "newTag": "0.2.0"}]


def test_a_single_broker_that_grows_keeps_its_one_voter(tmp_path: Path) -> None:
    directory = written(tmp_path / "x", "--brokers", "1")
    written(directory, "--brokers", "3")
    text = (directory / "brokers" / "kustomization.yaml").read_text()
    assert "VOTERS=0@logcluster-0.logcluster-headless:7071\n" in text.replace('"', "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--brokers", "2"], "3 brokers cannot become 2"),
        (["--controllers", "3"], "controllers was 0"),
        (["--cluster-id", "other"], "cluster id was 'logcluster'"),
        (["--namespace", "other"], "namespace was 'logcluster'"),
    ],
)
def test_what_a_cluster_cannot_become_is_refused_and_nothing_is_written(
    tmp_path: Path, options: list[str], said: str
) -> None:
    directory = written(tmp_path / "x")
    before = {path: path.read_text() for path in directory.rglob("*") if path.is_file()}
    result = write(directory, *options)
    assert result.exit_code == 1
    assert said in result.stderr
    assert {path: path.read_text() for path in directory.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--image", "logcluster"),
        ("--image", "logcluster:latest"),
        ("--brokers", "0"),
        ("--controllers", "2"),
        ("--storage", "much"),
        ("--memory", "2"),
        ("--cpu", "fast"),
        ("--namespace", "My Namespace"),
        ("--external-domain", "x"),
    ],
)
def test_an_impossible_answer_is_refused(tmp_path: Path, option: str, value: str) -> None:
    result = write(tmp_path / "x", option, value)
    assert result.exit_code == 1, result.output
    assert not (tmp_path / "x").exists()


def test_answers_may_come_from_the_terminal(tmp_path: Path) -> None:
    result = write(tmp_path / "x", "--ask", "--image", "a/b:1.0.0", answers="streams\n5\n0\n\nfast\n\n\n\n")
    assert result.exit_code == 0, result.output
    answers = Answers.from_json((tmp_path / "x" / "answers.json").read_text())
    assert (answers.namespace, answers.brokers, answers.storage, answers.storage_class) == (
        "streams", 5, "20Gi", "fast",
    )  # fmt: skip


def test_answers_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "answers.json").write_text("[]")
    assert write(tmp_path).exit_code == 1
    with pytest.raises(InvalidRequest):
        Answers.from_json('{"brokers": 3}')


def test_the_yaml_that_is_written_reads_back_as_what_was_meant() -> None:
    manifests = generate.read_manifests(generate.manifests_directory())
    answers = Answers(image="a:1.0.0", brokers=2, controllers=3, external_domain="x.example.net").completed()
    for name, text in overlay_files(answers, manifests).items():
        if name.endswith(".yaml"):
            assert list(yaml.safe_load_all(text)), name
    tricky = {
        "a": "yes",
        "b": "1.5",
        "c": "",
        "d": "x: y",
        "e": ["on", 1, True, None, {"k": ["v"]}],
        "f": {},
        "g": "é#",
    }
    assert yaml.safe_load(yaml_text(tricky, comment="why\nso")) == tricky


def test_an_installed_package_finds_its_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = generate.manifests_directory()
    assert {f"overlays/{name}/kustomization.yaml" for name in OVERLAYS} <= set(generate.read_manifests(source))
    installed = tmp_path / "share" / "logcluster" / "k8s"
    shutil.copytree(source, installed)
    monkeypatch.setattr(generate, "__file__", str(tmp_path / "site-packages" / "logcluster" / "cli" / "generate.py"))
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert generate.manifests_directory() == installed
    shutil.rmtree(installed)
    with pytest.raises(generate.CommandFailed):
        generate.manifests_directory()
