"""How the command line learns of TLS: options, the variables of a node, and a node's own configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from logcluster.cli.command import Settings, command, initial_settings, new_group, with_options
from logcluster.cli.doctor_checks import Status
from logcluster.cli.doctor_node import certificate
from logcluster.cli.drain import own_settings
from logcluster.config import TlsSection, load
from logcluster.devcluster import processes
from logcluster.devcluster.layout import NodePorts, plan_nodes
from logcluster.model.errors import InvalidConfig
from logcluster.model.tls import Tls

CA, CERT, KEY = (f"LOGCLUSTER_TLS_{name}_FILE" for name in ("CA", "CERT", "KEY"))
NODE = ["cluster.id=c", "node.id=1", 'quorum.voters=["1@127.0.0.1:7071"]', "data.dir=/tmp/x"]
FILES = ["tls.cert_file=a.crt", "tls.key_file=a.key", "tls.ca_file=ca.crt"]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (CA, CERT, KEY, "LOGCLUSTER_BOOTSTRAP"):
        monkeypatch.delenv(name, raising=False)


def settings_of(*arguments: str) -> Settings:
    """What a command of a group sees of the words before, between and after."""
    seen: list[Settings] = []
    app, group = typer.Typer(), new_group("A group.")
    command(group, "look", example="group look")(seen.append)
    command(group, "idle", example="group idle")(lambda settings: None)
    app.add_typer(group, name="group")
    new_group("Another group.")
    shown = CliRunner().invoke(app, ["group", *arguments])
    assert shown.exit_code == 0, shown.output
    return seen[0]


def test_without_options_and_variables_it_is_plain_text() -> None:
    assert settings_of("look").tls is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("look", "--tls"), Tls()),
        (("--tls", "look"), Tls()),
        (("look", "--tls-ca", "ca.crt"), Tls(ca_file="ca.crt")),
        (("--tls-ca", "old.crt", "look", "--tls-ca", "ca.crt"), Tls(ca_file="ca.crt")),
        (
            ("--tls-ca", "ca.crt", "look", "--tls-cert", "a.crt", "--tls-key", "a.key"),
            Tls(ca_file="ca.crt", cert_file="a.crt", key_file="a.key"),
        ),
        (("--tls-ca", "ca.crt", "look", "--no-tls"), None),
    ],
)
def test_options_may_stand_before_and_after_and_the_later_one_wins(
    arguments: tuple[str, ...], expected: Tls | None
) -> None:
    assert settings_of(*arguments).tls == expected


def test_an_authority_in_the_environment_turns_tls_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CERT, "a.crt")
    monkeypatch.setenv(KEY, "a.key")
    assert settings_of("look").tls is None
    monkeypatch.setenv(CA, "")
    assert settings_of("look").tls is None
    monkeypatch.setenv(CA, "ca.crt")
    assert settings_of("look").tls == Tls(ca_file="ca.crt", cert_file="a.crt", key_file="a.key")
    assert settings_of("look", "--tls-ca", "b.crt").tls == Tls(ca_file="b.crt", cert_file="a.crt", key_file="a.key")
    assert settings_of("look", "--no-tls").tls is None


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="without key_file"):
        _ = with_options(initial_settings(), tls_cert="a.crt").tls


def test_a_nodes_own_commands_use_its_certificate_and_the_name_that_it_is_for() -> None:
    node = load(None, [*NODE, *FILES, "listeners.host=0.0.0.0", "listeners.advertised_host=b.example"])
    own = own_settings(Settings(), node)
    assert own.bootstrap == "b.example:7070"
    assert own.tls == Tls(ca_file="ca.crt", cert_file="a.crt", key_file="a.key")
    told = with_options(Settings(bootstrap="x:1", has_bootstrap=True), tls_ca="other.crt")
    assert own_settings(told, node).tls == Tls(ca_file="other.crt")
    assert own_settings(told, node).bootstrap == "x:1"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (FILES[:1], r"tls\.cert_file is set, and tls\.key_file and tls\.ca_file are not"),
        (FILES[:2], r"tls\.cert_file is set, and tls\.ca_file is not"),
        (FILES[1:], r"tls\.key_file is set, and tls\.cert_file is not"),
        (FILES[2:], r"tls\.ca_file is set, and tls\.cert_file and tls\.key_file are not"),
        (["tls.client_auth=required"], r"tls\.client_auth"),
        ([*FILES, "tls.client_auth=maybe"], r"tls\.client_auth"),
        ([*FILES, "tls.reload_interval_s=0"], r"tls\.reload_interval_s"),
    ],
)
def test_a_node_refuses_half_of_tls(given: list[str], named: str) -> None:
    with pytest.raises(InvalidConfig, match=named) as caught:
        load(None, [*NODE, *given])
    assert caught.value.definite


def test_a_node_takes_tls_from_the_same_variables() -> None:
    config = load(None, NODE, environment={CA: "ca.crt", CERT: "a.crt", KEY: "a.key"})
    assert config.tls == TlsSection(cert_file="a.crt", key_file="a.key", ca_file="ca.crt")
    assert config.tls.is_on
    assert not load(None, NODE).tls.is_on


def test_local_clusters_do_not_take_the_variables_of_the_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CA, "ca.crt")
    monkeypatch.setenv("LOGCLUSTER_LOG_LEVEL", "debug")
    started: dict[str, Any] = {}
    monkeypatch.setattr(processes.subprocess, "Popen", lambda command, **options: started.update(options))
    (plan,) = plan_nodes(tmp_path, [NodePorts(1, 2, 3)])
    plan.directory.mkdir()
    processes.spawn_node(plan)
    assert CA not in started["env"]
    assert started["env"]["LOGCLUSTER_LOG_LEVEL"] == "debug"


def test_doctor_says_what_is_wrong_with_the_files(tmp_path: Path) -> None:
    missing = tmp_path / "a.crt"
    found = certificate(TlsSection(cert_file=str(missing), key_file="a.key", ca_file="ca.crt"), 0)
    assert found.status is Status.FAILED
    assert str(missing) in found.found
    assert found.next_step


@pytest.mark.parametrize(("days", "status"), [(100, Status.OK), (10, Status.WARNING), (-1, Status.FAILED)])
def test_doctor_warns_before_a_certificate_expires(tmp_path: Path, days: int, status: Status) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    section = TlsSection(
        cert_file=str(tmp_path / "a.crt"), key_file=str(tmp_path / "a.key"), ca_file=str(tmp_path / "ca.crt")
    )
    issued.cert_chain_pems[0].write_to_path(section.cert_file)
    issued.private_key_pem.write_to_path(section.key_file)
    authority.cert_pem.write_to_path(section.ca_file)
    from logcluster.rpc.node_tls import load_tls

    expires_at_ms = int(load_tls(section).expires_at_s * 1000)
    assert certificate(section, expires_at_ms - days * 24 * 60 * 60 * 1000).status is status
