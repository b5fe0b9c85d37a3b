"""Identifiers and small frozen values that every layer shares.

Distinct ids are distinct types, so that an offset cannot be passed where a leader epoch is meant.
Absent values are `None` here; the -1 of the record format exists only in `record` and `wire`.
"""

from __future__ import annotations

from typing import NamedTuple, NewType

BrokerId = NewType("BrokerId", int)
TopicId = NewType("TopicId", bytes)
"""16 random bytes given at creation; a topic created again under its old name gets a new one."""
PartitionIndex = NewType("PartitionIndex", int)
Offset = NewType("Offset", int)
"""Number of a record in its partition; never reused, never changed."""
LeaderEpoch = NewType("LeaderEpoch", int)
PartitionEpoch = NewType("PartitionEpoch", int)
"""Version of a partition's metadata: grows by one with every committed change."""
BrokerEpoch = NewType("BrokerEpoch", int)
"""Id of one registration of one broker process: the metadata offset of its registration record."""
ProducerId = NewType("ProducerId", int)
ProducerEpoch = NewType("ProducerEpoch", int)
Term = NewType("Term", int)
"""Raft term of the controller quorum."""


class TopicPartition(NamedTuple):
    """A partition by topic name, as users say it."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


class TopicIdPartition(NamedTuple):
    """A partition of one incarnation of a topic, as replicas and directories say it."""

    topic_id: TopicId
    partition: int

    def __str__(self) -> str:
        return f"{self.topic_id.hex()}-{self.partition}"


class Endpoint(NamedTuple):
    """Where a process listens: host name or address, and TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read `HOST:PORT`, where an IPv6 host is written in brackets.

        Raises:
            ValueError: there is no host or no port from 1 to 65535.
        """
        host, separator, port_text = text.strip().rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not separator or not host or not port_text.isascii() or not port_text.isdigit():
            raise ValueError(f"{text!r} is not HOST:PORT")
        port = int(port_text)
        if not 1 <= port <= 65535:
            raise ValueError(f"port {port} of {text!r} is outside 1..65535")
        return cls(host, port)
