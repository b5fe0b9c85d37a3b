"""The figures of the made-up run are those that it was made of; corner cases of gaps, seconds and files."""

from __future__ import annotations

import math

import pytest
from report_fixture import BEGIN_NS, DOWN, KEYS, MS, SECOND, Fixture, fault_lines, make_fixture, state_lines

from chaos.report.analysis import Figures, analyse, make_scale
from chaos.report.cluster import Fault, PartitionStates, pair_faults
from chaos.report.gaps import GapBounds, explain, figures_by_kind, find_gaps, percentile
from chaos.report.operations import Operation, collect_operations
from logcluster.check.history import Event

KILLS = {(5000, 5600), (25000, 25700), (45000, 45800)}


@pytest.fixture(scope="module")
def fixture() -> Fixture:
    return make_fixture()


@pytest.fixture(scope="module")
def figures(fixture: Fixture) -> Figures:
    states = PartitionStates()
    for line in state_lines():
        states.add(line)
    return analyse(
        collect_operations(fixture.events),
        pair_faults(fault_lines()),
        states,
        begin_ns=BEGIN_NS,
        end_ns=BEGIN_NS + 63 * SECOND,
        gap_bounds=GapBounds(4000, {"kill": 2000}),
    )


def gap_ms(key: str, begin_ms: int, end_ms: int) -> int:
    """From the first attempt of producer 1 while the partition is down to the first acknowledgement after."""
    return end_ms + 5 - (begin_ms + 7 + KEYS.index(key))


def beats(key: str, producer: int) -> int:
    """Writes of a producer: one each 100 ms, but those that fall into its own waiting."""
    shift_ms = KEYS.index(key) + 7 * producer
    skipped = sum(math.ceil((end_ms + 5 - begin_ms - shift_ms) / 100) - 1 for begin_ms, end_ms in DOWN[key])
    return 600 - skipped


def test_operations_per_client_are_exact(figures: Figures) -> None:
    for producer in (1, 2):
        tally = figures.clients[f"producer-{producer}", "send"]
        assert (tally.ok, tally.fail, tally.unknown) == (sum(beats(key, producer) for key in KEYS), 0, 0)
        assert tally.latency_us(0.5) == 5000
    probe = figures.clients["probe-1", "send"]
    assert (probe.ok, probe.fail, probe.unknown, probe.never_completed) == (353, 0, 7, 0)
    assert probe.latency_us(1.0) == 700_000, "a probe at 37.505 s is answered at 38.205 s"
    assert figures.clients["drain-1", "drain"].ok == 1


def test_buckets_hold_what_ended_in_them(figures: Figures) -> None:
    assert (figures.scale.width_ns, figures.scale.count) == (SECOND, 63)
    assert figures.writes_ok[10] == 2 * 6 * 10 + 6
    assert figures.writes_ok[15] == 2 * 4 * 10 + 4, "two of six partitions are down all the second"
    assert sum(figures.writes_unknown) == 7
    # Given up 999 ms after they began, at 15.5 and 16.5 s.
    assert [number for number, value in enumerate(figures.writes_unknown) if value] == [16, 17, 36, 37]
    assert figures.records_read[-1] == 0, "the drain is not part of the load"


def test_latency_counts_where_the_write_began(figures: Figures) -> None:
    assert figures.latency_us["max"][35] == gap_ms("orders-5", 35000, 38200) * 1000
    assert figures.latency_us["p50"][10] == 5000
    assert figures.latency_us["p99"][61] is None


def test_availability_is_judged_by_probes(figures: Figures) -> None:
    bad = {key: part.bad_seconds for key, part in figures.partitions.items()}
    assert bad == {
        "orders-0": [15, 16],
        "orders-1": [],
        "orders-2": [35],
        "orders-3": [15, 16],
        "orders-4": [],
        "orders-5": [35, 36],
    }
    assert figures.partitions["orders-0"].availability == 58 / 60
    assert figures.availabilities[0] == 58 / 60


def test_gaps_are_exact_and_belong_to_their_faults(figures: Figures) -> None:
    found = {(gap.key, gap.length_ms, gap.kind, gap.is_open) for gap in figures.gaps}
    assert found == {
        (
            key,
            gap_ms(key, *span),
            "kill" if span in KILLS else "pause" if span[0] == 15000 else "isolate",
            False,
        )
        for key, spans in DOWN.items()
        for span in spans
    }
    assert {gap.faults for gap in figures.gaps if gap.kind == "kill"} == {(1,), (3,), (5,)}
    assert figures.partitions["orders-1"].longest_gap_ns == gap_ms("orders-1", 25000, 25700) * MS


def test_kinds_have_percentiles_over_gaps_and_over_faults(figures: Figures) -> None:
    lines = {line.kind: line for line in figures.kinds}
    assert list(lines) == ["isolate", "kill", "pause"]
    kill = lines["kill"]
    lengths = sorted(gap_ms(key, *span) for key, spans in DOWN.items() for span in spans if span in KILLS)
    assert (kill.faults, kill.stopping, kill.gaps) == (3, 3, 6)
    assert (kill.p50_ms, kill.p99_ms, kill.max_ms) == (lengths[2], lengths[5], lengths[5])
    assert (kill.worst_p50_ms, kill.worst_p99_ms) == (gap_ms("orders-1", 25000, 25700), lengths[5])
    assert (kill.bound_ms, kill.is_met) == (2000, True)
    assert lines["isolate"].bound_ms == 4000


def test_in_sync_replicas_and_leaders(figures: Figures) -> None:
    assert figures.replica_counts[10] == {3: 6}
    assert figures.replica_counts[21] == {1: 1, 3: 5}
    assert figures.replica_counts[5] == {0: 1.5, 2: 4.5}, "two had no leader in three of four samples"
    assert figures.leader_changes == 20
    assert figures.controller_changes == 1
    assert figures.partitions["orders-4"].history.smallest == 1


# -- corner cases ----------------------------------------------------------------------------------------------------


def write(begin_ms: int, end_ms: int, outcome: str = "ok", client: str = "c") -> Operation:
    return Operation(begin_ms * MS, end_ms * MS, client, f"{client}/0", "send", ("t-0",), outcome, 1, False)  # type: ignore[arg-type]


def fault(number: int, kind: str, begin_ms: int, end_ms: int | None, status: str = "done") -> Fault:
    end_ns = None if end_ms is None else end_ms * MS
    return Fault(
        number=number,
        kind=kind,
        status=status,  # type: ignore[arg-type]
        nodes=("1",),
        role="leader",
        detail="",
        begin_ns=begin_ms * MS,
        end_ns=end_ns,
    )


def test_idle_time_is_no_gap() -> None:
    gaps, longest_ns = find_gaps("t-0", [write(0, 5), write(9000, 9010)], [], 10_000 * MS)
    assert not gaps
    assert longest_ns == 10 * MS


def test_a_gap_begins_with_the_acknowledgement_while_others_wait() -> None:
    gaps, _ = find_gaps("t-0", [write(0, 900), write(10, 100)], [], 1000 * MS)
    assert [(gap.begin_ns, gap.end_ns) for gap in gaps] == [(100 * MS, 900 * MS)]


def test_failed_attempts_keep_the_gap_open() -> None:
    gaps, _ = find_gaps("t-0", [write(0, 5), write(10, 20, "fail"), write(700, 710)], [], 1000 * MS)
    assert [(gap.begin_ns, gap.end_ns, gap.is_open) for gap in gaps] == [(10 * MS, 710 * MS, False)]


def test_a_gap_without_an_end_is_open() -> None:
    gaps, longest_ns = find_gaps("t-0", [write(0, 5), write(10, 3000, "info")], [], 9000 * MS)
    assert [(gap.end_ns, gap.is_open) for gap in gaps] == [(3000 * MS, True)]
    assert longest_ns == 2990 * MS


def test_a_write_that_never_completed_waits_until_the_run_ends_or_its_client_is_killed() -> None:
    hanging = write(10, 10, "open")
    gaps, _ = find_gaps("t-0", [hanging], [], 9000 * MS)
    assert gaps[0].length_ms == 8990
    gaps, _ = find_gaps("t-0", [hanging], [fault(1, "client-kill", 50, 60)], 9000 * MS)
    assert not gaps


def test_a_write_that_takes_no_time_is_counted_once() -> None:
    gaps, longest_ns = find_gaps("t-0", [write(5, 5), write(5, 5), write(400, 400)], [], 500 * MS)
    assert not gaps
    assert longest_ns == 0


@pytest.mark.parametrize(
    ("faults", "kind", "numbers"),
    [
        ([], "none", ()),
        ([fault(1, "kill", 0, 1100)], "kill", (1,)),
        ([fault(1, "kill", 1500, None), fault(2, "pause", 0, 5000)], "kill + pause", (1, 2)),
        ([fault(1, "kill", 0, 100), fault(2, "pause", 0, 900)], "pause", (2,)),
        ([fault(1, "kill", 2001, 3000)], "none", ()),
        ([fault(1, "kill", 0, 5000, "skipped")], "none", ()),
        ([fault(1, "client-pause", 0, 5000), fault(2, "kill", 0, 5000)], "kill", (2,)),
        ([fault(1, "client-pause", 0, 5000), fault(2, "kill", 0, 900)], "client-pause", (1,)),
    ],
)
def test_gaps_are_explained(faults: list[Fault], kind: str, numbers: tuple[int, ...]) -> None:
    gaps, _ = find_gaps("t-0", [write(1000, 2000)], [], 9000 * MS)
    explained = explain(gaps[0], faults)
    assert (explained.kind, explained.faults) == (kind, numbers)


def test_a_fault_that_ended_long_ago_explains_nothing() -> None:
    gaps, _ = find_gaps("t-0", [write(6001, 7000)], [fault(1, "kill", 0, 1000)], 9000 * MS)
    assert gaps[0].kind == "none"


def test_a_mixture_is_bounded_only_if_all_its_kinds_are() -> None:
    faults = [fault(1, "kill", 0, None), fault(2, "pause", 0, None)]
    gaps, _ = find_gaps("t-0", [write(0, 3000)], faults, 3000 * MS)
    half = {line.kind: line.bound_ms for line in figures_by_kind(gaps, faults, GapBounds(None, {"kill": 2000}))}
    both = {line.kind: line for line in figures_by_kind(gaps, faults, GapBounds(None, {"kill": 2000, "pause": 4000}))}
    assert half == {"kill": 2000, "pause": None, "kill + pause": None}
    assert both["kill + pause"].bound_ms == 4000
    assert both["kill + pause"].is_met is True
    assert both["kill"].is_met is True, "it was done, and stopped nothing by itself"


def test_seconds_behind_a_probe_that_hangs_are_bad() -> None:
    operations = collect_operations(
        [
            Event(0, 500 * MS, "p/0", "probe", "invoke", "send", ["t-0", None, "a"]),
            Event(1, 3600 * MS, "p/0", "probe", "ok", "send", ["t-0", 0, "a"], None, {"invoked": 0}),
            Event(2, 3700 * MS, "p/0", "probe", "invoke", "send", ["t-0", None, "b"]),
            Event(3, 3710 * MS, "p/0", "probe", "ok", "send", ["t-0", 1, "b"], None, {"invoked": 2}),
        ]
    )
    part = analyse(operations, [], PartitionStates(), begin_ns=0).partitions["t-0"]
    assert (part.bad_seconds, part.good_seconds) == ([0, 1, 2], [3])


def test_operations_of_several_sends_and_transactions_name_their_partitions() -> None:
    operations = collect_operations(
        [
            Event(0, 0, "a/0", "a", "invoke", "send", [["t-0", None, "1"], ["t-1", None, "2"], ["t-0", None, "3"]]),
            Event(1, 1, "b/0", "b", "invoke", "txn", [["send", ["t-2", None, "4"]], ["poll", None]]),
            Event(2, 2, "c/0", "c", "ok", "crash", None),
            Event(3, 3, "a/0", "a", "fail", "send", None, "refused", {"invoked": 0}),
        ]
    )
    assert [(item.keys, item.outcome) for item in operations.items] == [(("t-0", "t-1"), "fail"), (("t-2",), "open")]


def test_nothing_at_all_has_figures() -> None:
    figures = analyse(collect_operations([]), [], PartitionStates())
    assert (figures.gaps, figures.kinds, figures.availabilities, figures.longest_gap) == ([], [], [], None)


def test_long_runs_have_bounded_buckets() -> None:
    assert make_scale(0, 60 * SECOND).count == 60
    for seconds in (1, 59, 301, 7200, 86_400, 10**6, 10**7):
        scale = make_scale(0, seconds * SECOND)
        assert scale.count <= 300
        assert scale.count * scale.width_ns >= seconds * SECOND
        assert scale.bucket_of(seconds * SECOND) == scale.count - 1


@pytest.mark.parametrize(("share", "value"), [(0.5, 5), (0.99, 10), (1.0, 10), (0.01, 1), (0.51, 6)])
def test_percentiles_are_by_nearest_rank(share: float, value: int) -> None:
    assert percentile(range(1, 11), share) == value


def test_faults_are_paired_by_their_number() -> None:
    common = {"kind": "kill", "nodes": [2], "role": "leader"}
    faults = pair_faults(
        [
            {"t_ns": 5, "number": 1, "phase": "begin", "detail": "", **common},
            {"t_ns": 6, "number": 2, "phase": "skipped", "detail": "nobody leads", "kind": "pause", "nodes": []},
            {"t_ns": 7, "number": 3, "phase": "begin", "detail": "", **common},
            {"t_ns": 8, "number": 3, "phase": "failed", "detail": "no such process", **common},
            {"t_ns": 9, "number": 3, "phase": "end", "detail": "", **common},
            {"t_ns": 10, "number": 1, "phase": "end", "detail": {"signal": 9}, **common},
            {"t_ns": 11, "number": 4, "phase": "begin", **common},
        ]
    )
    assert [(item.number, item.status, item.begin_ns, item.end_ns, item.detail) for item in faults] == [
        (1, "done", 5, 10, '{"signal": 9}'),
        (2, "skipped", 6, None, "nobody leads"),
        (3, "failed", 7, 9, "no such process"),
        (4, "done", 11, None, ""),
    ]
