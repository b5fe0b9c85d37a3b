"""precommitted-read and circles of transactions that read from one another."""

from __future__ import annotations

from hand_made import HandMade

from logcluster.check.cycles import components, shortest_cycle


def test_precommitted_read() -> None:
    made = HandMade().txn(("send", ["t-0", 0, "a"]), ("poll", {"t-0": [[0, "a"]]}))
    assert made.names() == ["precommitted-read"]
    made = HandMade().send("z", 0).txn(("send", ["t-0", 1, "a"]), ("poll", {"t-0": [[0, "z"]]}))
    assert made.names() == []


def test_two_transactions_that_read_from_one_another() -> None:
    made = HandMade()
    first = made.invoke("x1", "txn", [["send", ["t-0", None, "a"]]])
    second = made.invoke("x2", "txn", [["send", ["u-0", None, "b"]]])
    made.end(first, "ok", [["send", ["t-0", 0, "a"]], ["poll", {"u-0": [[0, "b"]]}]])
    made.end(second, "ok", [["send", ["u-0", 0, "b"]], ["poll", {"t-0": [[0, "a"]]}]])
    report = made.report()
    assert report.names == ["G1c"]
    assert len(report.anomalies) == 1
    assert "wrote 'a' to t-0" in report.anomalies[0].detail


def test_a_chain_is_no_circle() -> None:
    made = HandMade().txn(("send", ["t-0", 0, "a"]), process="x1")
    made.txn(("poll", {"t-0": [[0, "a"]]}), ("send", ["t-0", 1, "b"]), process="x2")
    made.txn(("poll", {"t-0": [[0, "a"], [1, "b"]]}), process="x3")
    assert made.names() == []


def test_components_and_the_shortest_cycle() -> None:
    graph = [[1], [2, 3], [0], [0], [0]]
    found = sorted(sorted(component) for component in components(graph))
    assert found == [[0, 1, 2, 3], [4]]
    assert shortest_cycle(graph, {0, 1, 2, 3}, 0) == [0, 1, 2]
    assert all(len(component) == 1 for component in components([[1], [2], []]))


def test_a_long_chain_needs_no_recursion() -> None:
    size = 5000
    assert len(list(components([[number + 1] if number + 1 < size else [] for number in range(size)]))) == size
    ring = [[(number + 1) % size] for number in range(size)]
    assert len(shortest_cycle(ring, set(range(size)), 0)) == size
