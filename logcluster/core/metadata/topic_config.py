"""Topic settings: names, ranges, defaults and meaning; Kafka's names where Kafka has them.

What is stored in the metadata log are overrides as text; `TopicConfig` is their parsed form. A value that
does not parse never enters the log, because the controller validates before it proposes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from logcluster.model.errors import InvalidConfig
from logcluster.model.limits import (
    BATCH_SIZE_BYTES_MAX,
    MESSAGE_SIZE_BYTES_DEFAULT,
    REPLICATION_FACTOR_MAX,
    SEGMENT_SIZE_BYTES_DEFAULT,
    SEGMENT_SIZE_BYTES_MIN,
)

DAY_MS: Final = 24 * 60 * 60 * 1000
INT64_MAX: Final = 2**63 - 1

ConfigValue = int | bool | str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigKey:
    """One setting of a topic: how it reads, its default as text, and what it means."""

    name: str
    default: str
    parse: Callable[[str], ConfigValue]
    """Text to value; raises ValueError whose text says what is allowed."""
    description: str


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"must be a whole number from {low} to {high}") from None
        if not low <= value <= high:
            raise ValueError(f"must be from {low} to {high}")
        return value

    return parse


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return text.lower() == "true"


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    return parse


def _cleanup_policy(text: str) -> str:
    if text != "delete":
        raise ValueError("must be delete (key compaction is not there yet)")
    return text


CONFIG_KEYS: Final[Mapping[str, ConfigKey]] = {
    key.name: key
    for key in (
        ConfigKey(
            name="cleanup.policy",
            default="delete",
            parse=_cleanup_policy,
            description="What happens to old records: delete by time and size.",
        ),
        ConfigKey(
            name="compression.type",
            default="producer",
            parse=_choice("producer", "none", "gzip", "snappy", "lz4", "zstd"),
            description="Codec for batches the broker packs itself from typed records; "
            "a producer's own batches are kept as they are.",
        ),
        ConfigKey(
            name="flush.mode",
            default="sync",
            parse=_choice("sync", "async"),
            description="sync: a replica counts what fdatasync put on disk; async: its page cache.",
        ),
        ConfigKey(
            name="max.message.bytes",
            default=str(MESSAGE_SIZE_BYTES_DEFAULT),
            parse=_integer(0, BATCH_SIZE_BYTES_MAX),
            description="Largest record batch accepted, header included, in bytes.",
        ),
        ConfigKey(
            name="message.timestamp.type",
            default="CreateTime",
            parse=_choice("CreateTime", "LogAppendTime"),
            description="Whose clock stamps records: the producer's or the leader's.",
        ),
        ConfigKey(
            name="min.insync.replicas",
            default="2",
            parse=_integer(1, REPLICATION_FACTOR_MAX),
            description="Writes with acks=all need this many in-sync replicas (at most the replication factor).",
        ),
        ConfigKey(
            name="retention.bytes",
            default="-1",
            parse=_integer(-1, INT64_MAX),
            description="Oldest segments of a partition are deleted beyond this size in bytes; -1: no limit.",
        ),
        ConfigKey(
            name="retention.ms",
            default=str(7 * DAY_MS),
            parse=_integer(-1, INT64_MAX),
            description="Segments older than this are deleted, in milliseconds; -1: never.",
        ),
        ConfigKey(
            name="segment.bytes",
            default=str(SEGMENT_SIZE_BYTES_DEFAULT),
            parse=_integer(SEGMENT_SIZE_BYTES_MIN, 2**31 - 1),
            description="A log segment is closed before it grows beyond this size in bytes.",
        ),
        ConfigKey(
            name="segment.ms",
            default=str(7 * DAY_MS),
            parse=_integer(1, INT64_MAX),
            description="A log segment is closed when its first record is older than this, in milliseconds.",
        ),
        ConfigKey(
            name="unclean.leader.election.enable",
            default="false",
            parse=_boolean,
            description="May a replica that lacks acknowledged records lead when no other is left? Loses data.",
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfig:
    """Settings of one topic, parsed. Fields correspond to `CONFIG_KEYS`; None stands for "no limit"."""

    cleanup_policy: str
    compression_type: str
    flush_mode: Literal["sync", "async"]
    max_message_bytes: int
    message_timestamp_type: Literal["CreateTime", "LogAppendTime"]
    min_insync_replicas: int
    retention_bytes: int | None
    retention_ms: int | None
    segment_bytes: int
    segment_ms: int
    unclean_leader_election_enable: bool

    @classmethod
    def from_overrides(cls, overrides: Mapping[str, str]) -> TopicConfig:
        """Parse committed overrides on top of the defaults.

        Raises:
            InvalidConfig: a key is unknown or a value not allowed.
        """
        return _parsed(tuple(sorted(overrides.items())))


@lru_cache(maxsize=1024)
def _parsed(overrides: tuple[tuple[str, str], ...]) -> TopicConfig:
    values: dict[str, ConfigValue | None] = {
        name.replace(".", "_"): key.parse(key.default) for name, key in CONFIG_KEYS.items()
    }
    for name, text in overrides:
        values[name.replace(".", "_")] = parse_value(name, text)
    for name in ("retention_bytes", "retention_ms"):
        if values[name] == -1:
            values[name] = None
    return TopicConfig(**values)  # type: ignore[arg-type]  # names and types follow CONFIG_KEYS; checked by a test


def parse_value(name: str, text: str) -> ConfigValue:
    """Parse one setting.

    Raises:
        InvalidConfig: the key is unknown (near names are suggested) or the value not allowed; says what is.
    """
    key = CONFIG_KEYS.get(name)
    if key is None:
        raise InvalidConfig(
            f"unknown topic setting {name!r}", hint=f"known settings: {', '.join(sorted(CONFIG_KEYS))}", key=name
        )
    try:
        return key.parse(text)
    except ValueError as error:
        raise InvalidConfig(f"{name}={text!r} {error}", key=name, value=text) from error


def validate_overrides(overrides: Mapping[str, str]) -> None:
    """Check every key and value.

    Raises:
        InvalidConfig: names the first key that is unknown or whose value is not allowed.
    """
    for name in sorted(overrides):
        parse_value(name, overrides[name])
