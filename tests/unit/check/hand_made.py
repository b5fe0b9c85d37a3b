"""Hand-made histories: each call is an operation that begins and ends, a millisecond apart."""

from __future__ import annotations

from typing import Any

from logcluster.check.checker import check
from logcluster.check.history import Recorder
from logcluster.check.registry import CheckOptions
from logcluster.check.report import Report

KEY = "t-0"


class HandMade:
    """Records operations; every method takes extra meta as keywords."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.recorder = Recorder(self._clock_ns)

    def _clock_ns(self) -> int:
        self.now_ms += 1
        return self.now_ms * 1_000_000

    def wait_ms(self, duration_ms: int) -> HandMade:
        self.now_ms += duration_ms
        return self

    def invoke(self, process: str, f: str, value: Any, **meta: Any) -> int:
        return self.recorder.invoke(process, process, f, value, **meta)

    def end(self, invoked: int, outcome: Any, value: Any, **meta: Any) -> HandMade:
        self.recorder.complete(invoked, outcome, value, **meta)
        return self

    def send(
        self, value: str, offset: int | None, *, process: str = "p", outcome: Any = "ok", key: str = KEY, **meta: Any
    ) -> HandMade:
        invoked = self.invoke(process, "send", [key, None, value], **meta)
        return self.end(invoked, outcome, [key, offset, value])

    def sends(self, *values: str, first: int = 0, **meta: Any) -> HandMade:
        for number, value in enumerate(values):
            self.send(value, first + number, **meta)
        return self

    def send_many(self, *sends: tuple[str, int], process: str = "p", **meta: Any) -> HandMade:
        invoked = self.invoke(process, "send", [[KEY, None, value] for value, _ in sends], **meta)
        return self.end(invoked, "ok", [[KEY, offset, value] for value, offset in sends])

    def poll(self, *records: tuple[int, str], process: str = "c", key: str = KEY, **meta: Any) -> HandMade:
        invoked = self.invoke(process, "poll", None, **meta)
        return self.end(invoked, "ok", {key: [list(record) for record in records]})

    def drain(self, *records: tuple[int, str], key: str = KEY, process: str = "d", **meta: Any) -> HandMade:
        self.assign({key: 0}, process=process)
        return self.poll(*records, process=process, key=key, drain=True, **meta)

    def assign(self, positions: dict[str, Any], *, process: str = "c", f: str = "assign", **meta: Any) -> HandMade:
        return self.end(self.invoke(process, f, positions, **meta), "ok", positions)

    def do(self, f: str, value: Any, *, process: str = "admin", outcome: Any = "ok", **meta: Any) -> HandMade:
        return self.end(self.invoke(process, f, value, **meta), outcome, value)

    def txn(self, *steps: tuple[str, Any], process: str = "x", outcome: Any = "ok", **meta: Any) -> HandMade:
        invoked = self.invoke(process, "txn", [[kind, argument] for kind, argument in steps], **meta)
        return self.end(invoked, outcome, [[kind, argument] for kind, argument in steps])

    def report(self, **options: Any) -> Report:
        return check(self.recorder.events, CheckOptions(**options))

    def names(self, **options: Any) -> list[str]:
        """The distinct anomalies found."""
        return self.report(**options).names


class HandMadeGroup(HandMade):
    """Members of the group "g"; each is a client of its own, and every commit a process of its own."""

    def of_member(
        self, member: str | None, f: str, value: Any, answer: Any = None, *, outcome: Any = "ok", **meta: Any
    ) -> HandMadeGroup:
        invoked = self.begin(member, f, value, **meta)
        self.end(invoked, outcome, value if answer is None else answer)
        return self

    def begin(self, member: str | None, f: str, value: Any, **meta: Any) -> int:
        client = member or "tool"
        about = {"group": "g"} if member is None else {"group": "g", "member": member}
        return self.recorder.invoke(self.recorder.new_process(client), client, f, value, **{**about, **meta})

    def assigned(self, member: str, epoch: int, *keys: str) -> HandMadeGroup:
        return self.of_member(member, "assigned", list(keys or (KEY,)), member_epoch=epoch)

    def revoked(self, member: str, *keys: str, f: str = "revoked") -> HandMadeGroup:
        return self.of_member(member, f, list(keys) or None)

    def resume(self, member: str, offset: int, why: str = "committed", **meta: Any) -> HandMadeGroup:
        return self.of_member(member, "resume", [KEY], {KEY: offset}, why=why, **meta)

    def handed(self, member: str, *offsets: int, key: str = KEY, **meta: Any) -> HandMadeGroup:
        """Records whose value is "v" and their offset."""
        records = [[offset, f"v{offset}"] for offset in offsets]
        return self.of_member(member, "poll", None, {key: records}, **meta)

    def commit(self, member: str | None, offset: int, **meta: Any) -> HandMadeGroup:
        return self.of_member(member, "commit", {KEY: offset}, **meta)

    def fetch(self, offset: int | None, member: str | None = None, **meta: Any) -> HandMadeGroup:
        return self.of_member(member, "fetch_offsets", [KEY], {KEY: offset}, **meta)

    def reset(self, offset: Any, **meta: Any) -> HandMadeGroup:
        return self.of_member(None, "reset_offsets", {KEY: offset}, **meta)

    def log(self, count: int) -> HandMadeGroup:
        """Sends "v0", "v1", …; somebody outside of the group reads them."""
        self.sends(*[f"v{offset}" for offset in range(count)])
        self.poll(*[(offset, f"v{offset}") for offset in range(count)], process="witness")
        return self
