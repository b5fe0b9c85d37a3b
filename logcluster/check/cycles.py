"""Checks of dependency between operations that both send and poll.

Owns precommitted-read and the wr-only G1c check: an edge goes from the operation that wrote a value to each that read
it; a cycle means that transactions saw one another's effects in a circle. Operations that only send or only poll
cannot be on a cycle, so the graph holds transactions alone. G0 (write cycles) and G1c with ww edges are legal in this
model, whose transactions do not isolate writes, and are not computed; process and real-time edges wait for the
transaction checks, except the simplest case, a value read before its send began (G1c-realtime in log_values.py).
Sources: Jepsen Kafka workload, Adya's phenomena; components by Tarjan's algorithm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from logcluster.check.entries import Index, Transaction
from logcluster.check.registry import Check, Findings

Graph = list[list[int]]


def check_own_reads(index: Index, findings: Findings) -> None:
    """A transaction's records are invisible to every consumer until it commits, itself included."""
    for transaction in index.transactions:
        sent = {(write.key, write.value) for write in transaction.writes}
        for key, offset, value in transaction.reads:
            if (key, value) in sent:
                detail = f"the transaction polled {value!r} at offset {offset}, which it sent itself"
                events = [transaction.invoke.index, transaction.last.index]
                findings.add("precommitted-read", key, detail, events, [offset])


def check_cycles(index: Index, findings: Findings) -> None:
    """One witness per strongly connected component of the wr graph."""
    graph, keys = _graph(index.transactions)
    for component in components(graph):
        if len(component) < 2:
            continue
        cycle = shortest_cycle(graph, set(component), min(component))
        steps = []
        events = []
        for place, number in enumerate(cycle):
            following = cycle[(place + 1) % len(cycle)]
            key, value = keys[number, following]
            operation, reader = index.transactions[number].last.index, index.transactions[following].last.index
            steps.append(f"#{operation} wrote {value!r} to {key}, which #{reader} read")
            events += [index.transactions[number].invoke.index, operation]
        findings.add("G1c", "", "; ".join(steps), events)


def _graph(transactions: list[Transaction]) -> tuple[Graph, dict[tuple[int, int], tuple[str, str]]]:
    """Edges from writers to readers, without self-edges; and for each edge a (key, value) that proves it."""
    writer_of = {
        (write.key, write.value): number
        for number, transaction in enumerate(transactions)
        for write in transaction.writes
    }
    graph: Graph = [[] for _ in transactions]
    proof: dict[tuple[int, int], tuple[str, str]] = {}
    for reader, transaction in enumerate(transactions):
        for key, _, value in transaction.reads:
            writer = writer_of.get((key, value))
            if writer is not None and writer != reader and (writer, reader) not in proof:
                proof[writer, reader] = (key, value)
                graph[writer].append(reader)
    return graph, proof


def components(graph: Graph) -> Iterator[list[int]]:
    """Strongly connected components, by Tarjan's algorithm without recursion."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    for root in range(len(graph)):
        if root in order:
            continue
        work = [(root, 0)]
        while work:
            node, place = work.pop()
            if place == 0:
                order[node] = low[node] = len(order)
                stack.append(node)
                on_stack.add(node)
            else:
                low[node] = min(low[node], low[graph[node][place - 1]])
            while place < len(graph[node]):
                following = graph[node][place]
                place += 1
                if following not in order:
                    work += [(node, place), (following, 0)]
                    break
                if following in on_stack:
                    low[node] = min(low[node], order[following])
            else:
                if low[node] == order[node]:
                    component = _unwind(stack, on_stack, node)
                    yield component


def _unwind(stack: list[int], on_stack: set[int], root: int) -> list[int]:
    component = []
    while True:
        node = stack.pop()
        on_stack.discard(node)
        component.append(node)
        if node == root:
            return component


def shortest_cycle(graph: Graph, component: set[int], start: int) -> list[int]:
    """The shortest cycle through `start` inside its component, beginning there; by breadth-first search."""
    came_from: dict[int, int] = {}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for following in graph[node]:
            if following == start:
                cycle = [node]
                while cycle[-1] != start:
                    cycle.append(came_from[cycle[-1]])
                return cycle[::-1]
            if following in component and following not in came_from:
                came_from[following] = node
                queue.append(following)
    return []


CHECKS = (
    Check(
        check_own_reads,
        {"precommitted-read": "A transaction read a value that it sent itself, before it was committed."},
    ),
    Check(
        check_cycles,
        {"G1c": "Transactions read from one another in a circle: at least one saw something not yet committed."},
    ),
)
