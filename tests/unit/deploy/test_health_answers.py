"""What a node says of itself, from what its components say; and the standard health service follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from logcluster.api.node_health import (
    ADMIN_SERVICE,
    DATA_SERVICES,
    METADATA_SERVICE,
    WHOLE_SERVER,
    HealthWatch,
    Observed,
    not_joined,
    not_live,
    not_ready,
    not_started,
    serving,
    state_of,
)
from logcluster.node import PUBLIC_SERVICES

FINE = Observed(is_broker=True, is_controller=True, is_started=True, is_shutting_down=False, silence_ms=100)
CONTROLLER = replace(FINE, is_broker=False, silence_ms=None, has_metadata=False)


def test_a_node_without_a_complaint_is_alive_started_ready_and_serves() -> None:
    assert not [*not_live(FINE), *not_started(FINE), *not_ready(FINE)]
    assert state_of(FINE) == "active"
    assert all(serving(FINE).values())
    assert set(serving(FINE)) == {*PUBLIC_SERVICES, WHOLE_SERVER}


@pytest.mark.parametrize(
    ("change", "reason", "state"),
    [
        ({"is_started": False}, "still recovering logs", "starting"),
        ({"has_controller": False, "hindrance": "waiting for voters 1"}, "no leader: waiting for voters 1", "active"),
        ({"log_failure": "disk gone"}, "the log directory has failed: disk gone", "failed"),
        ({"is_registered": False}, "not registered", "starting"),
        ({"is_fenced": True}, "fenced by the active controller", "fenced"),
        ({"silence_ms": None}, "no heartbeat was answered yet", "active"),
        ({"silence_ms": 1_501}, "no heartbeat was answered for 1.5 s", "active"),
        ({"standstill_ms": 5_000}, "stood still for 5.0 s", "active"),
        ({"is_shutting_down": True}, "shutting down", "shutting-down"),
    ],
)
def test_whatever_keeps_a_node_from_working_closes_it_and_is_no_reason_to_kill_it(
    change: dict[str, object], reason: str, state: str
) -> None:
    seen = replace(FINE, **change)  # type: ignore[arg-type]
    assert any(reason in text for text in not_joined(seen)), not_joined(seen)
    assert not_ready(seen) == not_joined(seen)
    assert state_of(seen) == state
    assert not any(serving(seen).values())
    assert not_live(seen) == []


def test_only_what_is_fatal_is_a_reason_to_kill() -> None:
    seen = replace(FINE, fatal="another process is broker 1")
    assert not_live(seen) == ["the node cannot go on: another process is broker 1"]
    assert state_of(seen) == "failed"
    assert not_ready(seen)


def test_a_replica_that_lags_makes_the_node_unready_and_closes_no_service() -> None:
    seen = replace(FINE, behind=tuple(f"orders-{number}" for number in range(7)))
    assert not_ready(seen) == ["replicas not in sync: orders-0, orders-1, orders-2, orders-3, orders-4 and 2 more"]
    assert serving(seen) == {**dict.fromkeys(serving(seen), True), WHOLE_SERVER: False}


def test_a_controller_is_ready_without_a_session_and_serves_no_data() -> None:
    assert not_ready(CONTROLLER) == []
    assert serving(CONTROLLER) == {
        **dict.fromkeys(DATA_SERVICES, False),
        METADATA_SERVICE: False,
        ADMIN_SERVICE: True,
        WHOLE_SERVER: True,
    }


def test_the_start_and_the_life_of_a_node_do_not_depend_on_others() -> None:
    alone = replace(FINE, has_controller=False, is_registered=False, silence_ms=None, behind=("a-0",))
    assert not_live(alone) == []
    assert not_started(alone) == []


class StoppedClock:
    """Stands where it is put."""

    def __init__(self) -> None:
        self.now_ms = 1_000

    def monotonic_ms(self) -> int:
        return self.now_ms


async def test_the_watch_tells_changes_once_and_notices_a_standstill() -> None:
    clock, told, seen = StoppedClock(), [], [FINE]

    async def set_serving(name: str, is_serving: bool) -> None:
        told.append((name, is_serving))

    watch = HealthWatch(
        clock=clock,  # type: ignore[arg-type]
        observe=lambda: replace(seen[0], standstill_ms=watch.standstill_ms()),
        set_serving=set_serving,
        standstill_ms_min=1_500,
    )
    watch._ticked_ms = clock.now_ms
    await watch._tick()
    assert len(told) == len(serving(FINE))
    clock.now_ms += 200
    await watch._tick()
    assert len(told) == len(serving(FINE)), "nothing has changed"

    clock.now_ms += 10_000
    assert watch.standstill_ms() == 10_000, "known before the first tick"
    await watch._tick()
    assert (WHOLE_SERVER, False) in told
    clock.now_ms += 1_400
    assert watch.standstill_ms() == 10_000, "what it knows may still be from before"
    await watch._tick()
    clock.now_ms += 200
    assert watch.standstill_ms() == 0
    await watch._tick()
    assert told[-1][1] is True
