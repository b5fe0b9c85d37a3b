"""Events as records of the standard library, and as the lines a node makes of them."""

from __future__ import annotations

import json
import logging

import pytest

from logcluster.observability import logs
from logcluster.runtime.event_log import FEW, Event, get_logger

log = get_logger("tested")


@pytest.fixture
def line(caplog: pytest.LogCaptureFixture):
    """What a node would write for the newest record."""
    caplog.set_level(logging.DEBUG, logger="logcluster")

    def written(format_name: str = "json") -> str:
        return logs.formatter(format_name=format_name, node_id=3).format(caplog.records[-1])

    return written


def failing() -> ZeroDivisionError:
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError as error:
        return error


def test_where_nothing_is_set_up_an_event_is_a_readable_message(caplog: pytest.LogCaptureFixture) -> None:
    log.warning("broker_fenced", broker_id=2, reason="silent for 1500 ms")
    (record,) = caplog.records
    assert record.getMessage() == "broker_fenced broker_id=2 reason=silent for 1500 ms"
    assert (record.name, record.levelname, record.funcName) == (
        "logcluster.tested",
        "WARNING",
        "test_where_nothing_is_set_up_an_event_is_a_readable_message",
    )


def test_a_node_writes_an_object_that_begins_with_its_time(line) -> None:
    log.info("partition_led", partition="orders-0", leader_epoch=1, in_sync_replicas=(1, 2), leader_id=None)
    found = json.loads(line())
    assert list(found)[:5] == ["timestamp", "level", "node", "area", "event"]
    assert found.pop("timestamp").endswith("Z")
    assert found == {
        "level": "info", "node": 3, "area": "tested", "event": "partition_led", "partition": "orders-0",
        "leader_epoch": 1, "in_sync_replicas": [1, 2], "leader_id": None,
    }  # fmt: skip


def test_what_libraries_say_stands_where_events_do(line) -> None:
    logging.getLogger("logcluster.client").warning("group %s: %s", "billing", "gone")
    found = json.loads(line())
    assert (found["area"], found["event"], found["level"]) == ("client", "group billing: gone", "warning")


def test_a_field_cannot_break_a_line_or_hide_another(line) -> None:
    log.info("registration_failed", error='"\n{"event": "stopped"}')
    assert "\n" not in line()
    assert json.loads(line())["error"] == '"\n{"event": "stopped"}'
    assert json.loads(line())["event"] == "registration_failed"


@pytest.mark.parametrize("format_name", ["json", "console"])
def test_an_error_comes_with_its_traceback_and_without_anybodys_data(line, format_name: str) -> None:
    log.error("task_failed", task="heartbeats", exc_info=failing())
    written = line(format_name)
    assert "task_failed" in written and "heartbeats" in written
    assert "ZeroDivisionError: by nothing" in written and "in failing" in written
    assert "locals" not in written


def test_of_many_events_at_once_only_debug_tells_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="logcluster")
    log.each("partition_led", of=FEW, partition="t-0")
    log.each("partition_led", of=FEW + 1, partition="t-1")
    assert (log.tells_each(FEW), log.tells_each(FEW + 1)) == (True, False)
    caplog.set_level(logging.DEBUG, logger="logcluster")
    log.each("partition_led", of=FEW + 1, partition="t-2")
    assert [(record.levelname, str(record.msg)) for record in caplog.records] == [
        ("INFO", "partition_led partition=t-0"),
        ("DEBUG", "partition_led partition=t-2"),
    ]


def test_what_is_not_wanted_is_not_even_made_into_text(caplog: pytest.LogCaptureFixture) -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError("nobody asked")

    caplog.set_level(logging.INFO, logger="logcluster")
    log.debug("subscription_refused", error=Costly())
    assert caplog.records == []
    assert Event("stopped", {}).fields == {}


def test_configuring_makes_the_root_logger_a_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    root, own = logging.getLogger(), logging.getLogger("logcluster")
    handlers, root_level, own_level = root.handlers[:], root.level, own.level
    try:
        logs.configure(level="info", format_name="json", node_id=7)
        log.info("stopped")
        log.debug("subscription_refused")
        logging.getLogger("asyncio").info("chatter")
        logging.getLogger("asyncio").warning("trouble")
    finally:
        root.handlers[:] = handlers
        root.setLevel(root_level)
        own.setLevel(own_level)
    lines = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    assert [(found["node"], found["area"], found["event"]) for found in lines] == [
        (7, "tested", "stopped"), (7, "asyncio", "trouble"),
    ]  # fmt: skip
