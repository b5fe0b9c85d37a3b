"""The course of `logcluster doctor`: each address is asked, then the cluster as one of them describes it.

A check that fails or takes too long is a result like any other; the rest runs all the same.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from logcluster.cli.doctor_checks import (
    Check,
    advertised_host,
    broker_states,
    cluster_ids,
    failed,
    needs_min_in_sync,
    not_checked,
    partitions,
    passed,
    quorum,
)
from logcluster.cli.doctor_network import Carrier, Network, reason_of
from logcluster.model.errors import LogClusterError, TlsHandshakeFailed
from logcluster.model.ids import Endpoint
from logcluster.runtime.scope import TaskScope

if TYPE_CHECKING:
    from logcluster.client.descriptions import QuorumFacts
    from logcluster.client.metadata_cache import Answer, BrokerFacts, TopicFacts
    from logcluster.runtime.clock import Clock

Result = TypeVar("Result")
SECOND_LOOK_MS: Final = 1_000
OF_THE_CLUSTER: Final = ("quorum-leader", "broker-state", "partitions")


class Examination:
    """One round of checks over a cluster.

    Args:
        timeout_ms: for each check.
    """

    def __init__(self, network: Network, clock: Clock, *, timeout_ms: int) -> None:
        self._network = network
        self._clock = clock
        self._timeout_ms = timeout_ms
        self._answers: dict[Endpoint, Answer] = {}
        self._cluster_ids: dict[str, str] = {}
        self._is_far = False

    async def run(self, bootstrap: str) -> list[Check]:
        """All checks, in the order in which they should be read."""
        results: list[Check] = []
        endpoints: list[Endpoint] = []
        for text in bootstrap.split(","):
            try:
                endpoints.append(Endpoint.parse(text))
            except ValueError as error:
                step = "write HOST:PORT, several with commas: --bootstrap or LOGCLUSTER_BOOTSTRAP"
                results.append(failed("bootstrap-address", text.strip(), str(error), step))
        if endpoints and not results:
            results.append(passed("bootstrap-address", "", bootstrap))
        results += await self._all([self._bootstrap(endpoint) for endpoint in dict.fromkeys(endpoints)])
        answers = sorted(self._answers.items(), key=lambda item: item[1].metadata_offset, reverse=True)
        if not answers:
            return [*results, *(not_checked(name) for name in ("advertised", "cluster-id", *OF_THE_CLUSTER))]
        asked, newest = [endpoint for endpoint, _ in answers], answers[0][1]
        brokers = sorted(newest.brokers, key=lambda broker: broker.broker_id)
        results += await self._all([self._advertised(broker) for broker in brokers])
        results.append(cluster_ids(self._cluster_ids))
        results += await self._quorum(asked)
        results += broker_states(brokers)
        return results + await self._partitions(asked, newest.topics)

    async def _all(self, work: Sequence[Coroutine[Any, Any, list[Check]]]) -> list[Check]:
        async with TaskScope("doctor") as scope:
            tasks = [scope.spawn(part, name="check") for part in work]
            return [check for task in tasks for check in await task]

    async def _try(self, work: Awaitable[Result]) -> tuple[Result | None, str]:
        """The result, or why there is none."""
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                return await work, ""
        except (OSError, TimeoutError, UnicodeError, LogClusterError) as error:
            return None, reason_of(error, self._timeout_ms)

    async def _first(
        self, asked: Sequence[Endpoint], ask: Callable[[Endpoint], Awaitable[Result]]
    ) -> tuple[Result | None, str]:
        """The first answer of several brokers, or why the last one gave none."""
        problem = ""
        for endpoint in asked:
            found, problem = await self._try(ask(endpoint))
            if not problem:
                return found, ""
        return None, problem

    async def _bootstrap(self, endpoint: Endpoint) -> list[Check]:
        subject = str(endpoint)
        addresses, problem = await self._try(self._network.resolve(endpoint.host))
        if addresses is None:
            step = f"correct the name, or make {endpoint.host} known to the resolver of this machine"
            results = [failed("bootstrap-dns", subject, problem, step)]
        else:
            self._is_far = self._is_far or not any(is_local(address) for address in addresses)
            results = [passed("bootstrap-dns", subject, ", ".join(addresses))]
        results.append(await self._tcp("bootstrap-tcp", subject, endpoint))
        answer, problem = await self._try(self._network.metadata(endpoint))
        if answer is None:
            step = "see that a broker listens there, that it is the gRPC port, and what its log and /readyz say"
            return [*results, failed("bootstrap-grpc", subject, problem, _next_step(problem, step))]
        self._answers[endpoint] = answer
        self._cluster_ids[subject] = answer.cluster_id
        return [*results, passed("bootstrap-grpc", subject, f"answers, knows {len(answer.brokers)} brokers")]

    async def _tcp(self, name: str, subject: str, endpoint: Endpoint) -> Check:
        _, problem = await self._try(self._network.connect(endpoint))
        if not problem:
            return passed(name, subject, "connected")
        step = f"start the broker at {endpoint}, or open the way to it: port, firewall, network policy"
        return failed(name, subject, problem, step)

    async def _advertised(self, broker: BrokerFacts) -> list[Check]:
        subject = f"broker {broker.broker_id}"
        addresses, problem = await self._try(self._network.resolve(broker.host))
        if addresses is None:
            step = f"set listeners.advertised_host of broker {broker.broker_id} to a name that its clients can resolve"
            results = [failed("advertised-dns", subject, f"{broker.host} {problem}", step)]
        else:
            results = [advertised_host(subject, broker, addresses, is_far=self._is_far)]
        results.append(await self._port(broker, "grpc", broker.grpc_endpoint))
        results.append(await self._port(broker, "lane", broker.lane_endpoint))
        return results

    async def _port(self, broker: BrokerFacts, carrier: Carrier, endpoint: Endpoint) -> Check:
        """Whether the broker itself is what answers at an address that it advertises."""
        name, subject = f"advertised-{carrier}", f"broker {broker.broker_id}"
        step = (
            f"start broker {broker.broker_id} if it is down; otherwise make {endpoint} reachable from here, or correct "
            f"its listeners.advertised_host and {carrier}_port"
        )
        _, problem = await self._try(self._network.connect(endpoint))
        if problem:
            return failed(name, subject, f"{endpoint}: {problem}", step)
        found, problem = await self._try(self._network.identity(endpoint, carrier))
        if found is None:
            found_out = f"{endpoint} takes connections, but no call: {problem}"
            return failed(name, subject, found_out, _next_step(problem, step))
        node_id, cluster_id = found
        if node_id != broker.broker_id:
            return failed(name, subject, f"{endpoint} is node {node_id}, another one", step)
        self._cluster_ids[subject] = cluster_id
        return passed(name, subject, f"{endpoint} answers")

    async def _quorum(self, asked: Sequence[Endpoint]) -> list[Check]:
        first, problem = await self._first(asked, self._network.quorum)
        if first is None:
            step = "start more than half of the voters in quorum.voters, and see that they reach each other's lane port"
            return [failed("quorum-leader", "", f"no leader answers: {problem}", step)]
        now: QuorumFacts | None = first
        if any(voter.match_index < first.commit_index for voter in first.voters):
            await self._clock.sleep_ms(SECOND_LOOK_MS)
            now, _ = await self._first(asked, self._network.quorum)
        unreachable = {}
        for voter in first.voters:
            _, problem = await self._try(self._network.identity(Endpoint(voter.host, voter.port), "lane"))
            if problem:
                unreachable[voter.node_id] = problem
        return quorum(first, now or first, unreachable)

    async def _partitions(self, asked: Sequence[Endpoint], topics: Sequence[TopicFacts]) -> list[Check]:
        min_in_sync: dict[str, int] = {}
        unknown: list[Check] = []
        for topic in needs_min_in_sync(topics):

            async def ask(endpoint: Endpoint, topic: str = topic) -> int:
                return await self._network.min_in_sync(endpoint, topic)

            found, problem = await self._first(asked, ask)
            if found is None:
                unknown.append(not_checked("min-insync-replicas", f"{topic}: {problem}"))
            else:
                min_in_sync[topic] = found
        return [*partitions(topics, min_in_sync), *unknown]


def _next_step(problem: str, otherwise: str) -> str:
    """What to do about an address that takes connections, and no call."""
    return TlsHandshakeFailed.default_hint if TlsHandshakeFailed.__name__ in problem else otherwise


def is_local(address: str) -> bool:
    """Whether an IP address means the machine that uses it."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return parsed.is_loopback or parsed.is_unspecified
