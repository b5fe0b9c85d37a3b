"""`logcluster group …` on real processes, as somebody would use it who wonders what a group does."""

from __future__ import annotations

import json

import pytest
from e2e_support import run_cli

from logcluster.testing import SyncCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


def test_the_life_of_a_group_on_the_command_line(cluster: SyncCluster) -> None:
    def cli(*arguments: str, standard_input: bytes = b"") -> str:
        finished = run_cli(*arguments, bootstrap=cluster.bootstrap, standard_input=standard_input)
        assert finished.returncode == 0, f"{finished.args}\n{finished.stdout}\n{finished.stderr}"
        return finished.stdout

    cli("topic", "create", "parcels", "--partitions", "3")
    cli("produce", "parcels", standard_input=b"\n".join(b"parcel-%d" % number for number in range(30)))

    first = cli("consume", "parcels", "--group", "sorting", "-n", "12")
    second = cli("consume", "parcels", "--group", "sorting", "-n", "18")
    assert len(set(first.split()) | set(second.split())) == 30, "the second one goes on where the first one stopped"

    assert "sorting" in cli("group", "ls")
    described = json.loads(cli("group", "describe", "sorting", "-o", "json"))
    assert described["state"] == "empty"
    lags = json.loads(cli("group", "lag", "sorting", "-o", "json"))
    assert "parcels" in json.dumps(lags)
    cli("group", "reset", "sorting", "--to", "beginning", "--topic", "parcels", "--yes")
    again = cli("consume", "parcels", "--group", "sorting", "-n", "30")
    assert len(set(again.split())) == 30
    events = cli("group", "events", "sorting")
    assert "joined" in events
    assert "left" in events
    cli("group", "delete", "sorting", "--yes")
    gone = run_cli("group", "describe", "sorting", bootstrap=cluster.bootstrap)
    assert gone.returncode == 3
    assert "there is no group 'sorting'" in gone.stderr
