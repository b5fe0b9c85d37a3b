"""Ports, directories and node.toml of local clusters."""

from __future__ import annotations

import random
import socket
import tomllib
from pathlib import Path

import pytest

from logcluster.config import load
from logcluster.devcluster.layout import (
    FREE_PORT_FIRST,
    FREE_PORT_LAST,
    dev_ports,
    free_ports,
    plan_nodes,
    port_is_free,
    render_toml,
    write_configs,
)
from logcluster.model.errors import InvalidRequest


def test_node_i_listens_on_port_plus_ten_times_i() -> None:
    assert [tuple(ports) for ports in dev_ports(7070, 3)] == [
        (7070, 7071, 7072),
        (7080, 7081, 7082),
        (7090, 7091, 7092),
    ]


def test_ports_beyond_the_last_one_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="65545"):
        dev_ports(65523, 3)


def test_free_ports_are_distinct_and_outside_the_range_of_outgoing_connections() -> None:
    found = free_ports(5, random.Random(1))

    flat = [port for ports in found for port in ports]
    assert len(set(flat)) == 15
    assert all(FREE_PORT_FIRST <= port <= FREE_PORT_LAST + 2 for port in flat)


def test_free_ports_leave_out_a_port_somebody_listens_on() -> None:
    first = free_ports(1, random.Random(7))[0]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", first.lane))
        listener.listen()

        assert not port_is_free("127.0.0.1", first.lane)
        assert free_ports(1, random.Random(7))[0] != first


def test_first_three_nodes_are_controllers_and_the_rest_are_not(tmp_path: Path) -> None:
    plans = plan_nodes(tmp_path, dev_ports(7070, 5))

    assert [plan.is_controller for plan in plans] == [True, True, True, False, False]
    voters = [tomllib.loads(render_toml(plan, plans, cluster_id="c"))["quorum"]["voters"] for plan in plans]
    assert voters == [["0@127.0.0.1:7071", "1@127.0.0.1:7081", "2@127.0.0.1:7091"]] * 5


def test_every_written_config_is_accepted_by_the_node(tmp_path: Path) -> None:
    odd_directory = tmp_path / 'with "quotes" and ünïcode'
    plans = plan_nodes(odd_directory, dev_ports(7070, 4))

    write_configs(plans, cluster_id="c1", settings={"broker": {"session_timeout_ms": 900}, "log": {"level": "debug"}})

    for plan in plans:
        config = load(plan.config_path)
        assert (config.cluster.id, config.node.id) == ("c1", plan.node_id)
        assert config.is_controller == plan.is_controller
        assert config.listeners.grpc_port == plan.ports.grpc
        assert config.data.dir == str(plan.data_directory)
        assert config.broker.session_timeout_ms == 900
