"""The names users import, what importing costs, and what it must not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

import logcluster
from logcluster.model import errors

SERVER = ["broker", "storage", "api", "node", "core.controller", "core.raft", "core.replication", "config"]


def test_every_error_is_there_under_its_name() -> None:
    for error_type in errors.ERRORS_BY_CODE.values():
        assert getattr(logcluster, error_type.__name__) is error_type
    assert logcluster.LogClusterError is errors.LogClusterError
    assert issubclass(logcluster.RecordsLost, logcluster.LogClusterError)


@pytest.mark.parametrize(
    "name", ["connect", "Client", "Producer", "Consumer", "RecordAck", "ConsumerRecord", "Tls", "sync", "tracing"]
)
def test_name_is_there(name: str) -> None:
    assert getattr(logcluster, name) is not None
    assert name in dir(logcluster)


def test_unknown_names_are_attribute_errors() -> None:
    for name in ("Nonsense", "nonsense", "ClassVar", "ERRORS_BY_CODE"):
        with pytest.raises(AttributeError):
            getattr(logcluster, name)


def test_importing_the_client_loads_no_server() -> None:
    names = ", ".join(f"'logcluster.{name}'" for name in SERVER)
    source = (
        "import sys, logcluster; logcluster.connect('127.0.0.1:1'); logcluster.sync; logcluster.Producer\n"
        f"print([name for name in [{names}, 'rocksdict', 'msgspec', 'structlog'] if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_loads_next_to_nothing() -> None:
    names = "('grpc', 'aiokafka', 'asyncio', 'opentelemetry')"
    source = f"import sys, logcluster; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("address", ["localhost", "localhost:0", ":7070", "localhost:99999"])
def test_malformed_addresses_are_refused(address: str) -> None:
    with pytest.raises(logcluster.InvalidConfig):
        logcluster.connect(address)


def test_addresses_may_be_listed_in_one_text() -> None:
    client = logcluster.connect("a:1,b:2", "c:3")
    assert [str(endpoint) for endpoint in client._bootstrap] == ["a:1", "b:2", "c:3"]
    assert [str(endpoint) for endpoint in logcluster.connect()._bootstrap] == ["127.0.0.1:7070"]


async def test_records_lost_survives_pickling_and_splitting() -> None:
    import pickle

    group = logcluster.RecordsLost("lost", [logcluster.InvalidRecord("a"), logcluster.Disconnected("b")])
    assert not group.definite
    copy = pickle.loads(pickle.dumps(group))
    assert [type(error) for error in copy.exceptions] == [logcluster.InvalidRecord, logcluster.Disconnected]
    part = group.subgroup(logcluster.InvalidRecord)
    assert isinstance(part, logcluster.RecordsLost)
    assert part.definite
