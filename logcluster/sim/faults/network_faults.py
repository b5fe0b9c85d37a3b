"""Faults of the network: cuts of every shape, delays, resets. Links are directed, so most cuts come in two ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Final

from logcluster.sim.faults.holds import LinkTrouble
from logcluster.sim.faults.kinds import FaultKind
from logcluster.sim.faults.strike import Action, Skipped, Strike

CUT: Final = LinkTrouble(is_cut=True)
Links = list[tuple[str, str]]


def _outward(sources: Iterable[str], targets: Iterable[str]) -> Links:
    target_names = list(targets)
    return [(source, target) for source in sources for target in target_names]


def _both_ways(links: Links) -> Links:
    return links + [(target, source) for source, target in links]


async def _trouble(strike: Strike, links: Links, trouble: LinkTrouble) -> None:
    if not links:
        raise Skipped("there is no link to trouble")
    try:
        strike.tools.links.hold(strike.number, links, trouble)
        await strike.last()
    finally:
        strike.tools.links.release(strike.number)


def _names(strike: Strike) -> list[str]:
    return [node.name for node in strike.nodes]


async def isolate(strike: Strike) -> None:
    links = _outward(_names(strike), strike.others(clients=strike.fault.flag("clients")))
    await _trouble(strike, _both_ways(links), CUT)


async def isolate_one_way(strike: Strike) -> None:
    links = _outward(_names(strike), strike.others(clients=strike.fault.flag("clients")))
    if strike.fault.text("direction") == "in":
        links = [(target, source) for source, target in links]
    await _trouble(strike, links, CUT)


async def cut_link(strike: Strike) -> None:
    names = _names(strike)
    if len(names) < 2:
        raise Skipped("both ends are the same node")
    links = [(names[0], names[1])]
    await _trouble(strike, links if strike.fault.flag("one_way") else _both_ways(links), CUT)


async def majority_ring(strike: Strike) -> None:
    """Each node sees just enough neighbours on a shuffled ring to be one of a majority (Jepsen's majorities ring).

    Of three nodes two neighbours are all there are; one link is cut then, so that one node sees both others.
    """
    nodes = strike.tools.world.nodes
    names = [nodes[node_id].name for node_id in sorted(nodes)]
    strike.rng.shuffle(names)
    count = len(names)
    reach = max(1, (count // 2 + 1) // 2)
    links = [
        (names[first], names[second])
        for first, second in combinations(range(count), 2)
        if min(second - first, count - second + first) > reach
    ]
    if not links and count > 2:
        links = [(names[0], names[1])]
    await _trouble(strike, _both_ways(links), CUT)


async def swizzle(strike: Strike) -> None:
    """FoundationDB's swizzle-clogging: a random subset is cut off one by one, and comes back in another order."""
    nodes = strike.tools.world.nodes
    names = [nodes[node_id].name for node_id in sorted(nodes)]
    chosen = strike.rng.sample(names, min(len(names), strike.fault.integer("nodes")))
    step_ms = max(1, strike.fault.duration_ms // (2 * len(chosen) + 1))
    links = strike.tools.links
    # Each node's cut is a hold of its own under the fault's number; links between two chosen ones belong to the later.
    held: dict[str, Links] = {}
    try:
        for name in chosen:
            taken = {link for own in held.values() for link in own}
            own = [link for link in _both_ways(_outward([name], names)) if link not in taken and link[0] != link[1]]
            held[name] = own
            links.hold(strike.number, own, CUT)
            strike.note("swizzle_cut", node=name)
            await strike.sleep(step_ms)
        await strike.sleep(step_ms)
        order = list(chosen)
        strike.rng.shuffle(order)
        for name in order:
            links.release(strike.number, held[name])
            strike.note("swizzle_heal", node=name)
            await strike.sleep(step_ms)
    finally:
        links.release(strike.number)


async def clients_cut(strike: Strike) -> None:
    clients = strike.tools.clients()
    count = (len(clients) * strike.fault.integer("percent") + 99) // 100
    links = _outward(strike.rng.sample(clients, count), _names(strike))
    if not strike.fault.flag("one_way"):
        links = _both_ways(links)
    elif strike.rng.random() < 0.5:
        links = [(target, source) for source, target in links]
    await _trouble(strike, links, CUT)


def _all_links(strike: Strike) -> Links:
    """Both ways between the targets and everybody, each other included."""
    names = _names(strike)
    between = list(combinations(names, 2))
    return _both_ways(_outward(names, strike.others(clients=True)) + between)


async def delay(strike: Strike) -> None:
    low, high = strike.fault.integer("delay_ms_min"), strike.fault.integer("delay_ms_max")
    await _trouble(strike, _all_links(strike), LinkTrouble(delay_ms_min=low, delay_ms_max=max(low, high)))


async def slow_tail(strike: Strike) -> None:
    trouble = LinkTrouble(
        tail_probability=strike.fault.number_of("probability"),
        tail_delay_ms_max=strike.fault.integer("delay_ms_max"),
    )
    await _trouble(strike, _all_links(strike), trouble)


async def resets(strike: Strike) -> None:
    trouble = LinkTrouble(reset_probability=strike.fault.number_of("probability"))
    await _trouble(strike, _all_links(strike), trouble)


async def reset_storm(strike: Strike) -> None:
    times = strike.fault.integer("times")
    interval_ms = max(1, strike.fault.duration_ms // times)
    for _ in range(times):
        for source, target in _all_links(strike):
            strike.tools.world.network.reset(source, target)
        await strike.sleep(interval_ms)


ACTIONS: Final[Mapping[FaultKind, Action]] = {
    FaultKind.ISOLATE: isolate,
    FaultKind.ISOLATE_ONE_WAY: isolate_one_way,
    FaultKind.CUT_LINK: cut_link,
    FaultKind.MAJORITY_RING: majority_ring,
    FaultKind.SWIZZLE: swizzle,
    FaultKind.CLIENTS_CUT: clients_cut,
    FaultKind.DELAY: delay,
    FaultKind.SLOW_TAIL: slow_tail,
    FaultKind.RESETS: resets,
    FaultKind.RESET_STORM: reset_storm,
}
