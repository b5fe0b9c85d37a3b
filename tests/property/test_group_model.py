"""A group under members that join, lose answers, change their minds, leave and are evicted keeps its promises.

The members follow the protocol: one heartbeat at a time, and `owned` says what they really have. Their requests may be
refused by the log, answered without the answer coming through, or held up and arrive much later. Coordinators fail over
to what the newest records make of the group. After each step: every invariant of `check`; no two members have a
partition at once; a member can commit what it has, and nothing that it has lost, whatever epoch it says. Nobody is
fenced who follows the protocol. Left alone, the group settles with every partition read. What was committed stays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from logcluster.core.coordinators.groups.coordinator import GroupCoordinator
from logcluster.core.coordinators.groups.draft import key_of
from logcluster.core.coordinators.groups.group import Group
from logcluster.core.coordinators.groups.requests import (
    CommitItem,
    CommitOffsets,
    FetchOffsets,
    GroupSettings,
    Heartbeat,
    Subscription,
)
from logcluster.model.errors import (
    FencedMemberEpoch,
    LogClusterError,
    PartitionNotAssigned,
    UnknownMemberId,
    UnreleasedInstanceId,
)
from logcluster.model.ids import TopicId, TopicIdPartition

NAMES = ("t", "u", "v")
SUBSCRIPTIONS = st.sampled_from(
    [
        Subscription(topics=("t",)),
        Subscription(topics=("t", "u")),
        Subscription(topics=("v", "missing")),
        Subscription(topic_regex="[tu]"),
        Subscription(topics=("v",), topic_regex="t"),
        Subscription(topic_regex=".*"),
    ]
)
ASSIGNORS = st.sampled_from(["", "", "uniform", "range"])
SETTINGS = GroupSettings(members_max=6, events_max=10)


class Topics:
    def __init__(self):
        self.sizes = {}
        self.made = 0

    def create(self, name, partitions):
        self.made += 1
        self.sizes[name] = (TopicId(b"%s%d" % (name.encode(), self.made)), partitions)

    def size(self, name):
        return self.sizes.get(name)

    def name(self, topic_id):
        return next((name for name, (known, _) in self.sizes.items() if known == topic_id), None)

    def matching(self, regex):
        return [name for name in sorted(self.sizes) if re.fullmatch(regex, name)]

    def partition_racks(self, topic_id, partition):
        return frozenset()


@dataclass
class Client:
    """A member as it sees itself."""

    member_id: str
    subscription: Subscription
    assignor: str = ""
    instance_id: str | None = None
    epoch: int = 0
    owned: set = field(default_factory=set)
    """What it reads."""
    may: frozenset = frozenset()
    """What it was told last."""
    said: frozenset | None = None
    """What the coordinator is known to have heard; None: it must be told."""
    had: set = field(default_factory=set)
    """Partitions it had, with the epochs that it had meanwhile."""
    unsaid: set = field(default_factory=set)
    """What it gave up, and no request that says so was accepted: the coordinator has to keep it for this member."""
    told: frozenset = frozenset()
    """The newest assignment of an answer, also of one that did not come through."""
    version: int = 0
    is_evicted: bool = False
    """Its membership is over, and it may not have noticed."""
    held_up: Heartbeat | None = None
    streams: int = 0


class World:
    """Clients, a coordinator, and the newest records; the machine below says what happens."""

    def __init__(self, **topics):
        self.topics = Topics()
        for name, partitions in topics.items():
            self.topics.create(name, partitions)
        self.coordinator = GroupCoordinator(SETTINGS, lambda: self.topics)
        self.group = Group("g")
        self.store = {}
        self.clients = {}
        self.made = 0
        self.now_ms = 0
        self.epoch = 0
        self.committed = {}
        self.wake = []

    def accept(self, result):
        for record in result.records:
            self.group.replay(record)
            if record.value is None:
                self.store.pop(key_of(record), None)
            else:
                self.store[key_of(record)] = record
        if result.on_appended is not None:
            result.on_appended()
        self.wake.extend(result.wake)
        for client in self.clients.values():
            # One who joins and has not heard yet is no member either, and has nothing to lose.
            client.is_evicted = client.is_evicted or (bool(client.epoch) and client.member_id not in self.group.members)
        return result.response

    def add(self, subscription, assignor="", instance_id=None):
        self.made += 1
        client = Client(f"m{self.made:02}", subscription, assignor=assignor, instance_id=instance_id)
        self.clients[client.member_id] = client
        return client

    def beat(self, client, outcome="answered", *, says=True, **fields):
        """One heartbeat; to join when the client has no epoch. Returns the error, or None."""
        joins = client.epoch == 0
        owned = frozenset(client.owned)
        request = Heartbeat(
            group="g",
            member_id=client.member_id,
            member_epoch=client.epoch,
            instance_id=client.instance_id,
            owned=owned if joins or says or client.said != owned else None,
            assignment_version=None if joins else client.version,
            **({"subscription": client.subscription, "assignor": client.assignor, **fields} if joins else fields),
        )
        if outcome == "held up":
            client.held_up = request
            client.said = None
            return None
        try:
            result = self.coordinator.heartbeat(self.group, request, self.now_ms, self.now_ms)
        except LogClusterError as error:
            assert error.definite
            if client.epoch and isinstance(error, UnknownMemberId | FencedMemberEpoch):
                assert client.is_evicted, f"{error} for a member that follows the protocol"
                del self.clients[client.member_id]
            return error
        if outcome == "refused":
            client.said = None
            return None
        response = self.note_heard(client, request, result)
        if outcome == "lost":
            client.said = None
            return None
        client.epoch = response.member_epoch
        client.said = owned
        client.version = response.assignment_version
        if response.assignment is not None:
            client.may = response.assignment
        client.owned |= client.may
        client.unsaid -= client.owned
        self.note_had(client)
        return None

    def note_had(self, client):
        client.had |= {(partition, client.epoch) for partition in client.owned}

    def note_heard(self, client, request, result):
        current = self.group.currents.get(client.member_id)
        known = None if current is None else (current.member_epoch, current.version)
        response = self.accept(result)
        # Who joins again, or has not heard the newest answer, gives nothing up.
        if request.owned is not None and known == (request.member_epoch, request.assignment_version):
            client.unsaid &= request.owned
        if response.assignment is not None:
            client.told = response.assignment
        return response

    def give_up(self, client):
        client.unsaid |= client.owned - client.may
        client.owned &= client.may

    def deliver_late(self, client):
        """A request that was held up arrives, and nobody hears the answer."""
        request, client.held_up = client.held_up, None
        try:
            result = self.coordinator.heartbeat(self.group, request, self.now_ms, self.now_ms)
        except LogClusterError:
            return
        self.note_heard(client, request, result)

    def leave(self, client, outcome, *, for_a_while=False):
        del self.clients[client.member_id]
        request = Heartbeat(group="g", member_id=client.member_id, member_epoch=-2 if for_a_while else -1)
        try:
            result = self.coordinator.heartbeat(self.group, request, self.now_ms, self.now_ms)
        except UnknownMemberId:
            return
        if outcome != "refused":
            self.accept(result)

    def commit(self, client, partition, epoch, offset):
        name = self.topics.name(partition.topic_id)
        item = CommitItem(topic=name, topic_id=partition.topic_id, partition=partition.partition, offset=offset)
        request = CommitOffsets(group="g", member_id=client.member_id, member_epoch=epoch, items=(item,))
        try:
            (error,) = self.accept(self.coordinator.commit(self.group, request, self.now_ms, self.now_ms)).errors
        except UnknownMemberId as unknown:
            error = unknown
        if error is None:
            self.committed[partition] = offset
        return error

    def pass_time(self, ms):
        self.now_ms += ms
        deadline_ms = self.group.next_deadline_ms()
        if deadline_ms is not None and deadline_ms <= self.now_ms:
            self.accept(self.coordinator.expire(self.group, self.now_ms, self.now_ms))
            deadline_ms = self.group.next_deadline_ms()
            assert deadline_ms is None or deadline_ms > self.now_ms, "expire leaves something that is due"

    def fail_over(self):
        before = self.group
        self.group = Group("g")
        for key in sorted(self.store, key=repr):
            self.group.replay(self.store[key])
        assert self.group.describe() == before.describe()
        self.group.on_loaded(self.now_ms)
        for client in self.clients.values():
            client.streams = 0

    def look_at_topics(self):
        self.accept(self.coordinator.on_metadata_changed(self.group, self.now_ms, self.now_ms))

    def check(self):
        self.group.check()
        assert self.group.epoch >= self.epoch
        self.epoch = self.group.epoch
        owners = {}
        for client in self.clients.values():
            if not client.is_evicted:
                for partition in client.owned:
                    assert owners.setdefault(partition, client.member_id) == client.member_id, "two members read it"
        assert len(self.group.events) <= SETTINGS.events_max

    def settle(self):
        """Nothing is lost any more; everybody comes regularly, and says again what it wants."""
        for client in self.clients.values():
            client.held_up = None
        self.look_at_topics()
        for _ in range(12):
            for client in list(self.clients.values()):
                self.give_up(client)
                fields = {"subscription": client.subscription} if client.epoch else {}
                self.beat(client, **fields)
                self.check()
            self.pass_time(2_500)
            self.check()
        members = [client for client in self.clients.values() if client.epoch]
        assert sorted(self.group.members) == sorted(client.member_id for client in members)
        assert self.group.state == ("stable" if members else "empty"), self.group.describe()
        read = [partition for client in members for partition in client.owned]
        wanted = {
            TopicIdPartition(topic_id, number)
            for name, (topic_id, partitions) in self.topics.sizes.items()
            if any(reads(client.subscription, name) for client in members)
            for number in range(partitions)
        }
        assert sorted(read) == sorted(wanted)
        for client in members:
            current = self.group.currents[client.member_id]
            assert client.owned == set(current.assigned)
            assert client.epoch == current.member_epoch


def reads(subscription, name):
    regex = subscription.topic_regex
    return name in subscription.topics or (regex is not None and re.fullmatch(regex, name) is not None)


OUTCOMES = st.sampled_from(["answered", "answered", "answered", "lost", "refused", "held up"])


class GroupModel(RuleBasedStateMachine):
    @initialize(sizes=st.tuples(*(st.integers(1, 5) for _ in NAMES)))
    def start(self, sizes):
        self.world = World(**dict(zip(NAMES, sizes, strict=True)))

    def some_client(self, data):
        return self.world.clients[data.draw(st.sampled_from(sorted(self.world.clients)))]

    @rule(
        subscription=SUBSCRIPTIONS, assignor=ASSIGNORS, static=st.sampled_from([None, None, "i", "j"]), outcome=OUTCOMES
    )
    def join(self, subscription, assignor, static, outcome):
        if len(self.world.clients) < 5:
            client = self.world.add(subscription, assignor, static)
            error = self.world.beat(client, outcome)
            if isinstance(error, UnreleasedInstanceId):
                del self.world.clients[client.member_id]

    @precondition(lambda self: self.world.clients)
    @rule(data=st.data(), outcome=OUTCOMES, says=st.booleans(), gives_up=st.booleans())
    def heartbeat(self, data, outcome, says, gives_up):
        client = self.some_client(data)
        if gives_up:
            self.world.give_up(client)
        self.world.beat(client, outcome, says=says)

    @precondition(lambda self: self.world.clients)
    @rule(gives_up=st.booleans())
    def all_heartbeats(self, gives_up):
        for client in list(self.world.clients.values()):
            if gives_up:
                self.world.give_up(client)
            self.world.beat(client, says=False)

    @precondition(lambda self: any(client.held_up for client in self.world.clients.values()))
    @rule(data=st.data())
    def late(self, data):
        waiting = sorted(member_id for member_id, client in self.world.clients.items() if client.held_up)
        self.world.deliver_late(self.world.clients[data.draw(st.sampled_from(waiting))])

    @precondition(lambda self: self.world.clients)
    @rule(data=st.data(), subscription=SUBSCRIPTIONS, outcome=OUTCOMES)
    def change_subscription(self, data, subscription, outcome):
        client = self.some_client(data)
        if client.epoch:
            client.subscription = subscription
            self.world.beat(client, outcome, subscription=subscription)

    @precondition(lambda self: self.world.clients)
    @rule(data=st.data(), outcome=st.sampled_from(["answered", "refused"]), for_a_while=st.booleans())
    def leave(self, data, outcome, for_a_while):
        client = self.some_client(data)
        if client.epoch:
            self.world.leave(client, outcome, for_a_while=for_a_while and client.instance_id is not None)

    @precondition(lambda self: self.world.clients)
    @rule(data=st.data())
    def crash(self, data):
        del self.world.clients[self.some_client(data).member_id]

    @rule(ms=st.sampled_from([100, 499, 500, 3_000, 10_000, 60_000]))
    def pass_time(self, ms):
        self.world.pass_time(ms)

    @precondition(lambda self: self.world.clients)
    @rule(data=st.data())
    def connect(self, data):
        client = self.some_client(data)
        if client.member_id in self.world.group.members:
            client.streams += 1
            self.world.coordinator.connected(self.world.group, client.member_id)

    @precondition(lambda self: any(client.streams for client in self.world.clients.values()))
    @rule(data=st.data())
    def disconnect(self, data):
        connected = sorted(member_id for member_id, client in self.world.clients.items() if client.streams)
        client = self.world.clients[data.draw(st.sampled_from(connected))]
        client.streams -= 1
        self.world.coordinator.disconnected(self.world.group, client.member_id, self.world.now_ms)

    @rule()
    def fail_over(self):
        self.world.fail_over()

    @rule(name=st.sampled_from(NAMES), partitions=st.integers(1, 6), is_noticed=st.booleans())
    def change_topic(self, name, partitions, is_noticed):
        topics = self.world.topics
        if name not in topics.sizes:
            topics.create(name, partitions)
        elif partitions > topics.sizes[name][1]:
            topics.sizes[name] = (topics.sizes[name][0], partitions)
        elif partitions == 1:
            del topics.sizes[name]
        if is_noticed:
            self.world.look_at_topics()

    @rule()
    def look_at_topics(self):
        self.world.look_at_topics()

    @precondition(lambda self: self.world.clients)
    @rule(data=st.data(), offset=st.integers(0, 100))
    def commit_what_it_has(self, data, offset):
        client = self.some_client(data)
        for partition in sorted(client.owned):
            if self.world.topics.name(partition.topic_id) is not None:
                error = self.world.commit(client, partition, client.epoch, offset)
                assert (error is not None) == client.is_evicted, f"{client} {partition} {error}"

    @invariant()
    def what_was_lost_cannot_be_committed(self):
        for client in self.world.clients.values():
            for partition, epoch in sorted(client.had):
                is_lost = client.is_evicted or partition not in client.owned | client.unsaid | client.told
                if is_lost and self.world.topics.name(partition.topic_id) is not None:
                    error = self.world.commit(client, partition, epoch, 999)
                    assert error is not None, f"{client} committed {partition} with epoch {epoch}"
                    assert error.definite

    @rule()
    def sweep(self):
        if self.world.group.members:
            group = self.world.group
            self.world.accept(self.world.coordinator.offsets_to_expire(group, self.world.now_ms))
            for partition in sorted(self.world.committed):
                if self.world.topics.name(partition.topic_id) is None:
                    del self.world.committed[partition]

    @rule()
    def settle(self):
        self.world.settle()

    @invariant()
    def state_is_consistent(self):
        self.world.check()
        result = self.world.coordinator.fetch(self.world.group, FetchOffsets(group="g", partitions=None))
        found = {TopicIdPartition(item.topic_id, item.partition): item.value.offset for item in result.response}
        known = {
            partition: offset
            for partition, offset in self.world.committed.items()
            if self.world.topics.name(partition.topic_id) is not None
        }
        assert found == known

    def teardown(self):
        if hasattr(self, "world"):
            self.world.settle()


TestGroupModel = GroupModel.TestCase
TestGroupModel.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_who_is_woken_is_enough_to_settle(data):
    """Nobody comes by itself: only who was just answered something to give up, and who is woken."""
    world = World(t=data.draw(st.integers(1, 6)), u=3, v=2)
    for _ in range(data.draw(st.integers(1, 8))):
        step = data.draw(st.sampled_from(["join", "join", "leave", "subscribe", "grow", "evict"]))
        clients = sorted(world.clients)
        if step == "join" and len(clients) < 5:
            world.beat(world.add(data.draw(SUBSCRIPTIONS), data.draw(ASSIGNORS)))
        elif step == "grow":
            topic_id, partitions = world.topics.sizes["t"]
            world.topics.sizes["t"] = (topic_id, partitions + 1)
            world.look_at_topics()
        elif clients:
            client = world.clients[data.draw(st.sampled_from(clients))]
            if step == "leave":
                world.leave(client, "answered")
            elif step == "evict":
                del world.clients[client.member_id]
                world.coordinator.connected(world.group, client.member_id)
                world.coordinator.disconnected(world.group, client.member_id, world.now_ms)
                world.pass_time(500)
            else:
                client.subscription = data.draw(SUBSCRIPTIONS)
                world.beat(client, subscription=client.subscription)
        give_up_and_follow_wakes(world)
        world.check()
        assert world.group.state in ("stable", "empty"), world.group.describe()


def give_up_and_follow_wakes(world):
    for _ in range(100):
        todo = [client for client in world.clients.values() if client.owned - client.may]
        woken = [world.clients[member_id] for member_id in world.wake if member_id in world.clients]
        world.wake.clear()
        if not todo and not woken:
            return
        for client in todo:
            world.give_up(client)
        for client in {client.member_id: client for client in (*todo, *woken)}.values():
            world.beat(client, says=False)
    raise AssertionError("they wake one another forever")


def test_what_was_given_up_can_be_committed_until_the_coordinator_hears_of_it():
    """Nobody else has it before that; from then on its old epoch is worth nothing."""
    world = World(t=1, u=1)
    client = world.add(Subscription(topics=("t", "u")))
    world.beat(client)
    client.subscription = Subscription(topics=("t",))
    world.beat(client, subscription=client.subscription)
    (partition,) = client.owned - client.may
    world.give_up(client)
    world.beat(client, "refused", says=False)
    assert world.commit(client, partition, client.epoch, 1) is None
    epoch = client.epoch
    world.beat(client)
    assert isinstance(world.commit(client, partition, epoch, 2), PartitionNotAssigned | FencedMemberEpoch)


def test_a_late_heartbeat_frees_nothing_that_came_and_was_called_back_since():
    """All with one member epoch, so that only the version of the assignment tells that it is from before."""
    world = World(t=4)
    first, second, third = (world.add(Subscription(topics=("t",))) for _ in range(3))
    world.beat(first)
    world.beat(second)
    world.beat(second, "held up")  # It has nothing, and says so.
    world.give_up(first)
    for client in (first, first, second):
        world.give_up(client)
        world.beat(client)
    assert len(second.owned) == 2
    world.beat(third)
    world.beat(second)
    (called_back,) = second.owned - second.may
    world.deliver_late(second)
    world.beat(third)
    assert third.owned == set(), f"the second member reads {called_back} still"
    world.check()
    world.settle()
    assert called_back in third.owned


def test_a_stranger_commits_nothing_in_the_name_of_the_group():
    world = World(t=1)
    client = world.add(Subscription(topics=("t",)))
    world.beat(client)
    other = world.add(Subscription(topics=("t",)))
    world.beat(other)
    (partition,) = client.owned
    assert isinstance(world.commit(other, partition, other.epoch, 1), PartitionNotAssigned)
