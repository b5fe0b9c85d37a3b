"""The smallest parts of the coordinators' runtime: requests that are answered once, and streams of members."""

from __future__ import annotations

import asyncio

import pytest
from coordinator_bench import in_virtual_time, look

from logcluster.broker.coordinators.requests import Request
from logcluster.broker.coordinators.watchers import Watcher, Watchers
from logcluster.model.errors import NotCoordinator, UnknownMemberId


def request(future: asyncio.Future[object] | None) -> Request:
    return Request("group", look, deadline_ms=1, future=future)


# -- requests --------------------------------------------------------------------------------------------------------


async def test_a_request_gets_the_first_answer_and_no_other() -> None:
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    asked = request(future)
    over = [asked.is_over]
    asked.answer("first")
    asked.answer("second")
    asked.fail(NotCoordinator())
    over.append(asked.is_over)
    assert over == [False, True]
    assert future.result() == "first"


async def test_a_request_that_failed_stays_failed() -> None:
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    asked = request(future)
    asked.fail(NotCoordinator("moved"))
    asked.answer("late")
    asked.fail(UnknownMemberId())
    assert isinstance(future.exception(), NotCoordinator)


async def test_a_request_whose_caller_has_gone_is_over_and_can_be_answered_without_harm() -> None:
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    asked = request(future)
    future.cancel()
    assert asked.is_over
    asked.answer("late")
    asked.fail(NotCoordinator())
    assert future.cancelled()


def test_a_request_of_the_runtime_itself_is_never_over() -> None:
    asked = request(None)
    asked.answer("nobody hears it")
    asked.fail(NotCoordinator())
    assert not asked.is_over
    assert not asked.was_appended


# -- watchers --------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_several_reasons_before_the_member_looks_are_one_heartbeat() -> None:
    watcher = Watcher()
    watcher.wake()
    watcher.wake()
    await watcher.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await watcher.wait()


@in_virtual_time
async def test_a_stream_that_is_over_says_why_and_the_first_reason_stays() -> None:
    watcher = Watcher()
    watcher.wake()
    watcher.end(NotCoordinator("first"))
    watcher.end(UnknownMemberId("second"))
    with pytest.raises(NotCoordinator, match="first"):
        await watcher.wait()


@in_virtual_time
async def test_waiting_ends_when_the_member_is_woken() -> None:
    watcher = Watcher()
    waiting = asyncio.ensure_future(watcher.wait())
    await asyncio.sleep(1)
    assert not waiting.done()
    watcher.wake()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert waiting.done()


async def is_woken(watcher: Watcher) -> bool:
    try:
        async with asyncio.timeout(1):
            await watcher.wait()
    except TimeoutError:
        return False
    return True


@in_virtual_time
async def test_only_the_named_member_of_the_named_entity_is_woken() -> None:
    watchers = Watchers()
    ours, sister, stranger = watchers.add("g", "m"), watchers.add("g", "n"), watchers.add("h", "m")
    watchers.wake("g", "m")
    watchers.wake("nobody", "watches")
    assert [await is_woken(watcher) for watcher in (ours, sister, stranger)] == [True, False, False]
    watchers.end("g", "n", UnknownMemberId())
    watchers.end("g", "unknown", UnknownMemberId())
    with pytest.raises(UnknownMemberId):
        await sister.wait()
    assert not await is_woken(ours)


@in_virtual_time
async def test_a_member_may_have_two_streams_for_a_moment_and_both_hear() -> None:
    watchers = Watchers()
    old, new = watchers.add("g", "m"), watchers.add("g", "m")
    watchers.wake("g", "m")
    assert await is_woken(old) and await is_woken(new)
    watchers.remove("g", "m", old)
    watchers.wake("g", "m")
    assert [await is_woken(old), await is_woken(new)] == [False, True]


def test_who_watches_no_more_leaves_nothing_behind() -> None:
    watchers = Watchers()
    added = [(key, member, watchers.add(key, member)) for key in ("g", "h") for member in ("m", "n", "n")]
    assert len(watchers) == 6
    assert watchers.keys() == ["g", "h"]
    assert watchers.members("g") == ["m", "n"]
    for number, (key, member, watcher) in enumerate(added, 1):
        watchers.remove(key, member, watcher)
        watchers.remove(key, member, watcher)  # again: nothing
        assert len(watchers) == 6 - number
    assert watchers.keys() == []
    assert watchers.members("g") == []
