"""Endpoints as people write them."""

from __future__ import annotations

import pytest

from logcluster.model.ids import Endpoint


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [("localhost:1", Endpoint("localhost", 1)), ("[::1]:65535", Endpoint("::1", 65535))],
)
def test_an_endpoint_reads_and_writes_itself(text: str, endpoint: Endpoint) -> None:
    assert Endpoint.parse(text) == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:0", "host:65536", "host:x", "host:-1"])
def test_what_is_not_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|65535"):
        Endpoint.parse(text)
