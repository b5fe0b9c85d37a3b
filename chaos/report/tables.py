"""The tables of a page: gaps by kind of fault, partitions, clients, faults."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.report.analysis import Figures
from chaos.report.colours import colour_of
from chaos.report.drawing import spark
from chaos.report.facts import done_by_kind
from chaos.report.gap_picture import gap_picture
from chaos.report.gaps import UNEXPLAINED, KindFigures
from chaos.report.markup import Safe, number_cell, table, tag
from chaos.report.reading import Record
from chaos.report.wording import count, microseconds, milliseconds, moment, percent

_FAULTS_SHOWN_MAX = 400
_FAULT_WORDS = ("kind", "aimed at", "struck", "detail")


def gap_section(figures: Figures) -> Iterator[Safe]:
    """Gaps by kind of fault, as a table and as a picture."""
    yield tag("h2", "How long writes stopped, by kind of fault")
    if not figures.kinds:
        yield tag("p", "No fault was done, and writes never stopped.")
        return
    yield tag(
        "p",
        "A gap: writes to a partition were tried, and none was acknowledged for 200 ms or longer. It belongs to the "
        "faults in force meanwhile, or else to the one that ended last within 5 s. The bound is on the p99 of faults, "
        "each with its longest gap.",
        class_="soft",
    )
    head = [
        "Fault",
        "done",
        "stopped writes",
        "gaps",
        "gap p50",
        "gap p99",
        "longest",
        "worst per fault p50",
        "p99",
        "bound",
    ]
    yield table(head, [_kind_row(line) for line in figures.kinds], class_="figures")
    picture = gap_picture(figures)
    if picture is not None:
        yield tag("p", "Each gap a dot; thin mark: median, thick: p99, red dashes: bound.", class_="soft")
        yield picture.svg("gaps by kind of fault")


def _kind_row(line: KindFigures) -> list[str]:
    mood = {True: "fine", False: "harm", None: ""}[line.is_met]
    swatch = tag("span", class_="swatch", style=f"background:{colour_of(line.kind)}")
    return [
        tag("td", swatch, "no fault explains it" if line.kind == UNEXPLAINED else line.kind),
        number_cell("–" if line.kind == UNEXPLAINED else count(line.faults)),
        number_cell("–" if line.kind == UNEXPLAINED else count(line.stopping)),
        number_cell(count(line.gaps)),
        *(number_cell(milliseconds(value)) for value in (line.p50_ms, line.p99_ms, line.max_ms, line.worst_p50_ms)),
        number_cell(milliseconds(line.worst_p99_ms), class_=mood),
        number_cell(milliseconds(line.bound_ms)),
    ]


def partition_section(figures: Figures) -> Iterator[Safe]:
    """A line for each partition."""
    yield tag("h2", f"Partitions ({len(figures.partitions)})")
    rows = []
    for part in figures.partitions.values():
        tally = part.tally
        longest_ms = None if part.longest_gap_ns is None else part.longest_gap_ns // 1_000_000
        rows.append(
            [
                part.key,
                number_cell(percent(part.availability), class_="" if not part.bad else "harm"),
                number_cell(f"{count(part.bad)} of {count(part.good + part.bad)}"),
                number_cell(milliseconds(longest_ms)),
                *(number_cell(count(number)) for number in (tally.ok, tally.fail, tally.unknown)),
                *(number_cell(microseconds(tally.latency_us(share))) for share in (0.5, 0.99, 1.0)),
                number_cell(count(len(part.history.leader_changes_ns))),
                number_cell("–" if part.history.smallest is None else str(part.history.smallest)),
                tag("td", spark(tally.ok_per_bucket)),
            ]
        )
    head = ["Partition", "available", "bad seconds", "longest gap", "acked", "failed", "unknown"]
    yield table(
        [*head, "p50", "p99", "max", "new leaders", "min in sync", "acked writes over time"], rows, class_="figures"
    )


def client_section(figures: Figures) -> Iterator[Safe]:
    """A line for each client and operation."""
    yield tag("h2", "Clients")
    rows = [
        [
            client,
            operation,
            *(number_cell(count(number)) for number in (tally.ok, tally.fail, tally.unknown)),
            number_cell(count(tally.never_completed)),
            *(number_cell(microseconds(tally.latency_us(share))) for share in (0.5, 0.99, 1.0)),
            tag("td", spark(tally.ok_per_bucket)),
        ]
        for (client, operation), tally in figures.clients.items()
    ]
    head = ["Client", tag("th", "operation", class_="text"), "acked", "failed", "unknown", "of these never completed"]
    yield table([*head, "p50", "p99", "max", "acked over time"], rows, class_="figures")


def fault_section(record: Record, figures: Figures) -> Iterator[Safe]:
    """What was left out and why, then every fault."""
    done = done_by_kind(record.faults)
    yield tag("h2", f"Faults ({sum(done.values())} done)")
    undone = [fault for fault in record.faults if fault.status != "done"]
    if undone or record.run.skipped:
        yield tag("h3", "Skipped and failed")
        yield tag(
            "ul",
            *(tag("li", f"{name} cannot be done here: {reason}") for name, reason in record.run.skipped.items()),
            *(
                tag("li", f"{fault.number} {fault.kind} {fault.role} {fault.status}: {fault.detail}")
                for fault in undone
            ),
        )
    rows = []
    for fault in record.faults[:_FAULTS_SHOWN_MAX]:
        lasting = None if fault.end_ns is None else (fault.end_ns - fault.begin_ns) // 1_000_000
        worst = max((gap.length_ms for gap in figures.gaps if fault.number in gap.faults), default=None)
        rows.append(
            [
                str(fault.number),
                number_cell(moment(fault.begin_ns, figures.scale.begin_ns)),
                number_cell(milliseconds(lasting) if fault.status == "done" else fault.status),
                number_cell(milliseconds(worst)),
                fault.kind,
                fault.role,
                ", ".join(fault.nodes),
                fault.detail,
            ]
        )
    if rows:
        yield table(
            ["No.", *(tag("th", name, class_="number") for name in ("at", "for", "longest gap")), *_FAULT_WORDS], rows
        )
    if len(record.faults) > _FAULTS_SHOWN_MAX:
        yield tag("p", f"The first {_FAULTS_SHOWN_MAX} of {len(record.faults)}; faults.jsonl has all.")
