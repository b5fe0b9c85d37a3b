"""`logcluster group`: what each command asks of the client, and what it prints as a table, as JSON and as lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Self

import pytest
import typer
from typer.testing import CliRunner, Result

from logcluster.cli import group as group_commands
from logcluster.cli.app import app
from logcluster.cli.group_reset import reset_point, reset_topics
from logcluster.cli.group_text import event_line, partitions_text, span_text
from logcluster.cli.group_watch import Screen
from logcluster.client.group_descriptions import (
    CommittedOffset,
    GroupEvent,
    GroupFacts,
    GroupListing,
    MemberFacts,
    OffsetChange,
    Shift,
)
from logcluster.client.lag import PartitionLag
from logcluster.client.records import Timestamp
from logcluster.model import errors
from logcluster.model.ids import TopicPartition
from logcluster.runtime.clock import SystemClock

NOW_MS = 1_700_000_000_000
MEMBER_ID = "6f1c2a7e-0000-4000-8000-000000000001"
MEMBER = MemberFacts(
    member_id=MEMBER_ID,
    instance_id=None,
    client_id="worker",
    client_host="10.0.0.7",
    rack_id="",
    member_epoch=4,
    state="waiting",
    topics=("orders",),
    topic_regex=None,
    assignment=(TopicPartition("orders", 0), TopicPartition("orders", 1), TopicPartition("orders", 3)),
    target=(TopicPartition("orders", 0), TopicPartition("orders", 1), TopicPartition("orders", 2)),
    joined_ms=NOW_MS - 100_000,
    silent_ms=1_500,
    is_connected=True,
    processing_since_ms=NOW_MS - 200_000,
)
FACTS = GroupFacts(
    group="billing",
    state="reconciling",
    group_epoch=5,
    assignment_epoch=4,
    assignor="uniform",
    coordinator_id=2,
    members=(MEMBER,),
    offsets=(
        CommittedOffset(
            topic="orders",
            partition=0,
            topic_id=b"i" * 16,
            offset=40,
            leader_epoch=3,
            metadata="note",
            commit_time_ms=NOW_MS - 9_000,
        ),
    ),
)


def lag(committed: int | None = 40, end: int = 100, *, partition: int = 0, seconds: float | None = 75) -> PartitionLag:
    return PartitionLag(
        topic="orders",
        partition=partition,
        committed=committed,
        log_start_offset=0,
        end_offset=end,
        records=None if committed is None else end - committed,
        seconds=seconds,
        member_id=MEMBER_ID,
    )


def event(sequence: int, kind: str = "joined", **others: Any) -> GroupEvent:
    values: dict[str, Any] = {
        "sequence": sequence,
        "time_ms": NOW_MS,
        "kind": kind,
        "group_epoch": 5,
        "reason": "a new member",
        "member_id": MEMBER_ID,
        "instance_id": None,
        "client_host": "10.0.0.7",
        "partition_counts": {},
        "moved": 0,
    }
    return GroupEvent(**values | others)


class FakeGroups:
    """Answers from lists, one after the other; when a list is used up, the user presses Ctrl-C."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        async def answer(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            left = self.answers.get(name, [])
            if not left:
                raise KeyboardInterrupt
            found = left.pop(0)
            if isinstance(found, BaseException):
                raise found
            return found

        return answer


class FakeClient:
    def __init__(self, groups: FakeGroups) -> None:
        self.admin = SimpleNamespace(groups=groups)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


class FakeClock(SystemClock):
    """Time passes only by sleeping."""

    elapsed_ms = 0

    def now_ms(self) -> int:
        return NOW_MS

    def monotonic_ms(self) -> int:
        return FakeClock.elapsed_ms

    async def sleep_ms(self, delay_ms: int) -> None:
        FakeClock.elapsed_ms += delay_ms


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> FakeGroups:
    fake = FakeGroups()
    monkeypatch.setattr(group_commands, "open_client", lambda settings: FakeClient(fake))
    monkeypatch.setattr(group_commands, "SystemClock", FakeClock)
    return fake


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["group", *arguments])


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


def json_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def listing(group: str, state: str) -> GroupListing:
    return GroupListing(group=group, state=state, member_count=3, group_epoch=9, coordinator_id=1)


def test_list_shows_groups_in_the_states_asked_for(groups: FakeGroups) -> None:
    groups.answers["list"] = [[listing("billing", "stable"), listing("fraud", "empty")]]

    shown = run("ls", "--state", "stable", "--state", "empty")

    assert shown.exit_code == 0
    assert groups.calls == [("list", (), {"states": ["stable", "empty"]})]
    assert rows(shown.stdout) == [
        ["GROUP", "STATE", "MEMBERS", "GROUP-EPOCH", "COORDINATOR-ID"],
        ["billing", "stable", "3", "9", "1"],
        ["fraud", "empty", "3", "9", "1"],
    ]


def test_list_refuses_a_state_that_is_none(groups: FakeGroups) -> None:
    shown = run("ls", "--state", "happy")

    assert shown.exit_code == 2
    assert groups.calls == []


def test_description_says_what_members_have_do_and_wait_for(groups: FakeGroups) -> None:
    groups.answers |= {"describe": [[FACTS]], "lag": [[lag(), lag(None, 5, partition=1, seconds=None)]]}

    shown = run("describe", "billing")

    assert shown.exit_code == 0
    assert "reconciling   1 member   epoch 5 (assignment of 4)   uniform   coordinator 2" in shown.stdout
    lines = shown.stdout.splitlines()
    member = next(line for line in lines if line.startswith("worker/6f1c2a7e"))
    for part in ("10.0.0.7", "waiting", "orders:0-1,3", "orders:2", "1.5 s", "since 3m 20s"):
        assert part in member
    assert ["orders", "0", "40", "100", "60", "1m", "15s", "6f1c2a7e"] in rows(shown.stdout)
    assert ["orders", "1", "-", "5", "-", "-", "6f1c2a7e"] in rows(shown.stdout)
    assert "60 records behind; oldest unread 1m 15s old; 1 partition not known" in shown.stdout


def test_description_as_json_has_all_members_and_offsets(groups: FakeGroups) -> None:
    groups.answers |= {"describe": [[FACTS]], "lag": [[lag(), lag(None, 5, partition=1, seconds=None)]]}

    document = json.loads(run("describe", "billing", "-o", "json").stdout)

    assert (document["state"], document["group_epoch"], document["assignment_epoch"]) == ("reconciling", 5, 4)
    assert document["members"][0]["member_id"] == MEMBER_ID
    assert document["members"][0]["processing_since_ms"] == NOW_MS - 200_000
    assert document["members"][0]["assignment"][2] == {"topic": "orders", "partition": 3}
    assert document["offsets"][0]["metadata"] == "note"
    assert document["offsets"][1]["commit_time_ms"] is None
    assert document["lag_records"] == 60


def test_member_that_lost_its_connection_is_marked(groups: FakeGroups) -> None:
    lost = replace(FACTS, members=(replace(MEMBER, is_connected=False, processing_since_ms=None),))
    groups.answers |= {"describe": [[lost]], "lag": [[]]}

    shown = run("describe", "billing")

    assert "1.5 s, not connected" in shown.stdout
    assert "since" not in shown.stdout


def test_unknown_group_is_an_error_with_a_next_step(groups: FakeGroups) -> None:
    groups.answers["describe"] = [errors.GroupIdNotFound("there is no group 'billing'")]

    shown = run("describe", "billing")

    assert shown.exit_code != 0
    assert shown.stdout == ""
    assert "there is no group 'billing'" in shown.stderr
    assert "logcluster group ls" in shown.stderr


def test_lag_takes_two_looks_and_says_when_it_is_cleared(groups: FakeGroups) -> None:
    groups.answers["lag"] = [[lag(0, 1_400)], [lag(600, 1_600, seconds=4)]]

    shown = run("lag", "billing")

    assert shown.exit_code == 0
    assert (
        "1,000 records behind; oldest unread 4 s old; 100.0/s in, 300.0/s out; shrinking, clear in 5 s" in shown.stdout
    )
    assert ["orders", "0", "600", "1600", "1000", "4", "s", "100.00", "300.00", "shrinking", "5", "s"] in rows(
        shown.stdout
    )


def test_lag_that_grows_never_clears(groups: FakeGroups) -> None:
    groups.answers["lag"] = [[lag(0, 1_000)], [lag(100, 2_000)]]

    shown = run("lag", "billing", "--interval", "1s", "-o", "json")

    document = json.loads(shown.stdout)
    assert (document["trend"], document["never_clears"], document["clear_seconds"]) == ("growing", True, None)
    assert document["partitions"][0]["produced_per_second"] == 1_000
    assert document["partitions"][0]["consumed_per_second"] == 100


def test_lag_with_interval_0_takes_one_look(groups: FakeGroups) -> None:
    groups.answers["lag"] = [[lag()]]

    shown = run("lag", "billing", "--interval", "0")

    assert shown.exit_code == 0
    assert len(groups.calls) == 1
    assert "unknown" in shown.stdout


def test_watched_lag_is_a_line_per_interval_when_piped(groups: FakeGroups) -> None:
    groups.answers["lag"] = [[lag(0, 100)], [lag(50, 100)], [lag(100, 100, seconds=0)]]

    shown = run("lag", "billing", "--watch", "--interval", "1s")

    assert shown.exit_code == 130
    lines = shown.stdout.splitlines()
    assert len(lines) == 2
    assert "50 records behind" in lines[0]
    assert "0.0/s in, 50.0/s out; shrinking, clear in 1 s" in lines[0]
    assert "0 records behind" in lines[1]


def test_watched_lag_as_json_is_a_document_per_line(groups: FakeGroups) -> None:
    groups.answers["lag"] = [[lag(0, 100)], [lag(50, 100)], [lag(100, 100, seconds=0)]]

    shown = run("lag", "billing", "--watch", "-o", "json")

    assert [document["lag_records"] for document in json_lines(shown.stdout)] == [50, 0]


def test_watching_without_a_pause_is_refused(groups: FakeGroups) -> None:
    shown = run("lag", "billing", "--watch", "--interval", "0")

    assert shown.exit_code == 2
    assert groups.calls == []


def change(partition: int, before: int | None, after: int, *, is_clamped: bool = False) -> OffsetChange:
    return OffsetChange(topic="orders", partition=partition, before=before, after=after, is_clamped=is_clamped)


def test_dry_run_of_a_reset_shows_before_and_after(groups: FakeGroups) -> None:
    groups.answers["reset"] = [[change(0, 40, 0), change(1, None, 7, is_clamped=True)]]

    shown = run("reset", "billing", "--to", "beginning", "--dry-run")

    assert shown.exit_code == 0
    assert groups.calls == [("reset", ("billing",), {"to": "beginning", "topics": None, "dry_run": True})]
    assert rows(shown.stdout)[1:] == [
        ["orders", "0", "40", "0", "-40"],
        ["orders", "1", "-", "7", "-", "nearest", "in", "the", "log"],
    ]
    assert "would set 2 offsets" in shown.stderr


def test_reset_passes_place_and_partitions_on(groups: FakeGroups) -> None:
    groups.answers["reset"] = [[change(0, 40, 30)]]

    shown = run("reset", "billing", "--to", "-10", "--topic", "orders:0", "--topic", "payments", "--yes", "-o", "json")

    assert shown.exit_code == 0
    (_, _, options), *others = groups.calls
    assert not others
    assert isinstance(options["to"], Shift)
    assert options == {"to": -10, "topics": {"orders": [0], "payments": None}, "dry_run": False}
    assert json.loads(shown.stdout) == {
        "group": "billing",
        "dry_run": False,
        "changes": [{"topic": "orders", "partition": 0, "before": 40, "after": 30, "clamped": False}],
    }


def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commands, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))


@pytest.mark.parametrize(("said", "exit_code", "dry_runs"), [("y\n", 0, [True, False]), ("n\n", 1, [True])])
def test_reset_on_a_terminal_shows_the_change_and_asks(
    groups: FakeGroups, monkeypatch: pytest.MonkeyPatch, said: str, exit_code: int, dry_runs: list[bool]
) -> None:
    terminal(monkeypatch)
    groups.answers["reset"] = [[change(0, 40, 0)], [change(0, 40, 0)]]

    shown = CliRunner().invoke(app, ["group", "reset", "billing", "--to", "beginning"], input=said)

    assert shown.exit_code == exit_code
    assert [options["dry_run"] for _, _, options in groups.calls] == dry_runs
    assert ("nothing was changed" in shown.stderr) == (exit_code == 1)


def test_reset_of_a_group_with_members_says_why_not_and_what_next(groups: FakeGroups) -> None:
    groups.answers["reset"] = [errors.NonEmptyGroup("group 'billing' has 2 members; nothing was changed")]

    shown = run("reset", "billing", "--to", "end", "--yes")

    assert shown.exit_code == 1
    assert "has 2 members" in shown.stderr
    assert "next:  stop its members first" in shown.stderr


@pytest.mark.parametrize("arguments", [("--to", "yesterday"), ("--to", "1.5"), (), ("--to", "end", "--topic", "a:x")])
def test_reset_to_nowhere_is_a_usage_error(groups: FakeGroups, arguments: tuple[str, ...]) -> None:
    shown = run("reset", "billing", *arguments)

    assert shown.exit_code == 2
    assert groups.calls == []


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("beginning", str, "beginning"),
        ("end", str, "end"),
        ("17", int, 17),
        ("+10", Shift, 10),
        ("-10", Shift, -10),
        ("-15m", Timestamp, NOW_MS - 900_000),
        ("now", Timestamp, NOW_MS),
        ("2023-11-14T22:13:20Z", Timestamp, NOW_MS),
    ],
)
def test_place_of_a_reset(text: str, kind: type, expected: object) -> None:
    found = reset_point(text, now_ms=NOW_MS)

    assert type(found) is kind
    assert found == expected


def test_topics_of_a_reset_are_drawn_together() -> None:
    assert reset_topics(None) is None
    assert reset_topics(["a:3,1", "a:2", "b", "c:0", "c"]) == {"a": [1, 2, 3], "b": None, "c": None}


@pytest.mark.parametrize("text", ["", "a:", "a:1,", "a:1-3", "a b"])
def test_topic_of_a_reset_that_cannot_be_read_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="TOPIC"):
        reset_topics([text])


def test_group_is_deleted(groups: FakeGroups) -> None:
    groups.answers["delete"] = [None]

    shown = run("delete", "billing", "--yes")

    assert (shown.exit_code, shown.stdout) == (0, "deleted billing\n")
    assert groups.calls == [("delete", ("billing",), {})]


def test_delete_on_a_terminal_wants_the_name(groups: FakeGroups, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal(monkeypatch)

    shown = CliRunner().invoke(app, ["group", "delete", "billing"], input="biling\n")

    assert shown.exit_code == 1
    assert groups.calls == []
    assert "the name does not match" in shown.stderr


def test_events_tell_who_what_and_why(groups: FakeGroups) -> None:
    moved = event(8, "rebalanced", member_id=None, client_host=None, reason="a member came",
                  partition_counts={MEMBER_ID: 2, "b": 1}, moved=1)  # fmt: skip
    groups.answers["events"] = [[event(7), moved]]

    shown = run("events", "billing", "-n", "2")

    assert groups.calls == [("events", ("billing",), {"limit": 2})]
    first, second = shown.stdout.splitlines()
    assert first.split()[0] == "7"
    assert "joined" in first
    assert "6f1c2a7e at 10.0.0.7  a new member" in first
    assert "a member came  [6f1c2a7e 2, b 1; 1 move]" in second


def test_events_as_json_are_one_list(groups: FakeGroups) -> None:
    groups.answers["events"] = [[event(7), event(8)]]

    document = json.loads(run("events", "billing", "-o", "json").stdout)

    assert [found["sequence"] for found in document] == [7, 8]
    assert document[0]["member_id"] == MEMBER_ID


def test_followed_events_go_on_after_the_last_one_and_none_comes_twice(groups: FakeGroups) -> None:
    groups.answers["events"] = [[event(7)], [], [event(8), event(9)], [event(10)]]

    shown = run("events", "billing", "--follow", "-o", "json")

    assert shown.exit_code == 130
    assert [found["sequence"] for found in json_lines(shown.stdout)] == [7, 8, 9, 10]
    assert [options.get("after") for _, _, options in groups.calls] == [None, 7, 7, 9, 10]


def watched(*states: GroupFacts) -> dict[str, list[Any]]:
    later: Iterable[list[GroupEvent]] = ([event(number)] if number == 3 else [] for number in range(2, 20))
    return {"describe": [[facts] for facts in states], "events": [[event(1)], *later]}


def test_watched_group_is_a_line_per_change_when_piped(groups: FakeGroups) -> None:
    heartbeat = replace(FACTS, members=(replace(MEMBER, silent_ms=10),))
    settled = replace(FACTS, state="stable", assignment_epoch=5)
    groups.answers |= watched(FACTS, heartbeat, settled, settled)

    shown = run("watch", "billing")

    assert shown.exit_code == 130
    lines = shown.stdout.splitlines()
    assert len(lines) == 3, "a heartbeat alone is no change"
    assert "reconciling" in lines[0]
    assert lines[1].split()[0] == "3"
    assert "stable" in lines[2]


def test_watched_group_as_json_is_a_document_per_change(groups: FakeGroups) -> None:
    groups.answers |= watched(FACTS, FACTS, replace(FACTS, state="stable", members=()))

    first, new_event, second = json_lines(run("watch", "billing", "-o", "json").stdout)

    assert (first["state"], new_event["kind"], second["state"]) == ("reconciling", "joined", "stable")


def test_watch_ends_with_the_error_when_the_group_is_deleted(groups: FakeGroups) -> None:
    groups.answers |= watched(FACTS)
    groups.answers["describe"].append(errors.GroupIdNotFound("there is no group 'billing'"))

    shown = run("watch", "billing")

    assert shown.exit_code not in {0, 130}
    assert "there is no group 'billing'" in shown.stderr


def test_screen_is_drawn_again_only_when_something_changed() -> None:
    screen, drawn = Screen(), []

    for content in ("a", "a", "b"):
        screen.draw(content, lambda content=content: drawn.append(content))  # type: ignore[misc]

    assert drawn == ["a", "b"]


@pytest.mark.parametrize(
    ("span_ms", "expected"),
    [
        (None, "-"),
        (0, "0 ms"),
        (250, "250 ms"),
        (1_500, "1.5 s"),
        (4_000, "4 s"),
        (59_990, "1m 0s"),
        (200_000, "3m 20s"),
        (7_500_000, "2h 5m"),
        (273_600_000, "3d 4h"),
    ],
)
def test_span_of_time_for_people(span_ms: float | None, expected: str) -> None:
    assert span_text(span_ms) == expected


def test_partitions_are_drawn_together_in_runs() -> None:
    found = [("b", 1), ("a", 5), ("a", 0), ("a", 1), ("a", 2)]

    assert partitions_text(found) == "a:0-2,5 b:1"
    assert partitions_text([]) == "-"


def test_event_without_member_or_reason_leaves_no_gap() -> None:
    line = event_line(event(3, "settled", member_id=None, client_host=None, reason=""))

    assert line.endswith("settled")
