"""Faults overlap and nest: what is in force follows from all of them, and the last one restores."""

import random

import pytest

from logcluster.runtime import failpoints
from logcluster.runtime.failpoints import CrashNow, failpoint
from logcluster.sim.event_loop import CURRENT_PROCESS, Schedulable
from logcluster.sim.faults.failpoint_arms import Arm, FailpointArms
from logcluster.sim.faults.holds import LinkHolds, LinkTrouble, NodeHolds
from logcluster.sim.loopback import LoopbackNetwork
from logcluster.sim.world import World, WorldOptions

CUT = LinkTrouble(is_cut=True)


class Clock:
    def now_ms(self) -> int:
        return 0

    def monotonic_ms(self) -> int:
        return 0

    async def sleep_ms(self, delay_ms: int) -> None:
        del delay_ms


@pytest.fixture
def network() -> LoopbackNetwork:
    network = LoopbackNetwork(Clock(), random.Random(1))
    network.default_link.delay_ms_min, network.default_link.delay_ms_max = 1, 2
    return network


def test_a_link_is_cut_while_anybody_cuts_it(network: LoopbackNetwork) -> None:
    holds = LinkHolds(network)
    holds.hold(1, [("a", "b")], CUT)
    holds.hold(2, [("a", "b"), ("b", "a")], CUT)
    holds.release(1)
    assert network.link("a", "b").is_cut
    assert network.link("b", "a").is_cut
    holds.release(2, [("a", "b")])
    assert not network.link("a", "b").is_cut
    assert network.link("b", "a").is_cut
    holds.clear()
    assert not network.link("b", "a").is_cut


def test_the_worst_trouble_of_a_link_counts_and_the_usual_returns(network: LoopbackNetwork) -> None:
    holds = LinkHolds(network)
    holds.hold(1, [("a", "b")], LinkTrouble(delay_ms_min=5, delay_ms_max=50, reset_probability=0.1))
    holds.hold(
        2, [("a", "b")], LinkTrouble(delay_ms_min=20, delay_ms_max=30, tail_probability=0.2, tail_delay_ms_max=9)
    )
    link = network.link("a", "b")
    assert (link.delay_ms_min, link.delay_ms_max, link.reset_probability) == (20, 50, 0.1)
    assert (link.tail_probability, link.tail_delay_ms_max) == (0.2, 9)
    holds.release(2)
    assert (link.delay_ms_min, link.delay_ms_max, link.tail_probability) == (5, 50, 0)
    holds.release(1)
    assert link == network.default_link


def test_nobody_is_cut_off_from_itself(network: LoopbackNetwork) -> None:
    LinkHolds(network).hold(1, [("a", "a")], CUT)
    assert not network.link("a", "a").is_cut


def test_a_slow_tail_delays_some_segments(network: LoopbackNetwork) -> None:
    LinkHolds(network).hold(1, [("a", "b")], LinkTrouble(tail_probability=0.1, tail_delay_ms_max=1_000))
    delays_ms = [1000 * network.delay(network.link("a", "b")) for _ in range(1_000)]
    assert 40 < sum(delay_ms > 2 for delay_ms in delays_ms) < 200
    assert max(delays_ms) <= 1_002


@pytest.fixture
def world() -> World:
    return World(1, WorldOptions(brokers=3))


def test_a_node_stays_down_until_the_last_hold_is_gone(world: World) -> None:
    node = world.nodes[0]
    holds = NodeHolds(node)

    async def main() -> None:
        await world.start()
        assert holds.take_down(1, power_loss=False)
        assert not holds.take_down(2, power_loss=True)
        holds.down.release(1)
        await world.sleep_ms(2_000)  # longer than a supervisor waits
        assert node.state == "down"
        holds.down.release(2)
        assert node.state == "starting"

    world.run(main)


def test_a_power_loss_may_tear_more_than_usual_once(world: World) -> None:
    node = world.nodes[0]
    holds = NodeHolds(node)
    seen: list[float] = []

    async def main() -> None:
        node.start()
        usual = node.disk.tear_probability
        original = node.disk.crash

        def crash(*, power_loss: bool, rng: random.Random) -> None:
            seen.append(node.disk.tear_probability)
            original(power_loss=power_loss, rng=rng)

        node.disk.crash = crash  # type: ignore[method-assign]
        holds.take_down(1, power_loss=True, tear_probability=0.9)
        assert node.disk.tear_probability == usual

    world.run(main)
    assert seen == [0.9]


def test_pauses_slowness_clocks_and_disks_are_restored(world: World) -> None:
    node = world.nodes[1]
    usual_latency = node.disk_latency_ms
    holds = NodeHolds(node)

    async def main() -> None:
        await world.start()
        for number in (1, 2):
            holds.paused.hold(number, None)
            holds.slowness.hold(number, 1.0 + number)
            holds.skew_ms.hold(number, 100 * number)
            holds.drift.hold(number, 0.1 * number)
            holds.latency_ms.hold(number, (10.0 * number, 50.0 / number))
            holds.capacity_bytes.hold(number, 1_000 * number)
        assert node.is_paused
        assert node.process is not None
        assert node.process.slowness == 3.0
        assert node.clock.skew_ms == 300
        assert node.clock.drift == pytest.approx(0.3)
        assert node.disk_latency_ms == (20.0, 50.0)
        assert node.disk.capacity_bytes == 1_000
        holds.paused.release(1)
        holds.capacity_bytes.release(1)
        assert node.is_paused
        assert node.disk.capacity_bytes == 2_000
        holds.clear()
        assert not node.is_paused
        assert (node.process.slowness, node.clock.skew_ms, node.clock.drift) == (1.0, 0, 0)
        assert node.disk_latency_ms == usual_latency
        assert node.disk.capacity_bytes is None

    world.run(main)


# -- failpoints ---------------------------------------------------------------------------------------------------

NAME = next(iter(failpoints.FAILPOINTS))
OTHER = list(failpoints.FAILPOINTS)[1]


@pytest.fixture
def arms() -> object:
    arms = FailpointArms()
    arms.install()
    yield arms
    arms.uninstall()


def hit_as(process_name: str, name: str) -> None:
    process = Schedulable(process_name, 1)
    token = CURRENT_PROCESS.set(process)
    try:
        failpoint(name)
    finally:
        CURRENT_PROCESS.reset(token)


def test_an_armed_failpoint_strikes_once_at_its_hit_in_its_process(arms: FailpointArms) -> None:
    struck: list[str] = []
    arms.arm(Arm("node-1", NAME, 2, lambda: struck.append("node-1")))
    hit_as("node-1", NAME)
    hit_as("node-0", NAME)
    hit_as("node-1", OTHER)
    assert struck == []
    with pytest.raises(CrashNow):
        hit_as("node-1", NAME)
    hit_as("node-1", NAME)
    assert struck == ["node-1"]
    assert arms.struck == {NAME: 1}


def test_a_disarmed_failpoint_does_not_strike(arms: FailpointArms) -> None:
    arm = Arm("node-1", NAME, 1, lambda: pytest.fail("it struck"))
    arms.arm(arm)
    arms.disarm(arm)
    arms.disarm(arm)
    hit_as("node-1", NAME)


def test_hits_outside_of_processes_do_not_count(arms: FailpointArms) -> None:
    arms.arm(Arm("node-1", NAME, 1, lambda: pytest.fail("it struck")))
    failpoint(NAME)


def test_the_hook_of_somebody_else_is_told_too_and_comes_back() -> None:
    told: list[str] = []
    before = failpoints.install(told.append)
    try:
        arms = FailpointArms()
        arms.install()
        failpoint(NAME)
        arms.uninstall()
        arms.uninstall()
        failpoint(OTHER)
        assert told == [NAME, OTHER]
    finally:
        failpoints.install(before)
