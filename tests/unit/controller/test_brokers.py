"""Registration, sessions, fencing, controlled shutdown, draining, removal."""

from __future__ import annotations

import pytest
from controller_bench import Bench

from logcluster.core.controller.requests import (
    AllocateProducerIds,
    DrainBroker,
    FenceBroker,
    Heartbeat,
    UnregisterBroker,
)
from logcluster.model.errors import (
    DuplicateBrokerRegistration,
    InconsistentClusterId,
    InvalidRequest,
    NotFound,
    StaleBrokerEpoch,
)
from logcluster.model.limits import PRODUCER_ID_BLOCK_SIZE
from logcluster.wire.records import decode_snapshot, encode_snapshot


def test_a_broker_of_another_cluster_is_refused():
    bench = Bench(1)
    with pytest.raises(InconsistentClusterId):
        bench.register(1, cluster_id="other")
    assert bench.image.cluster_id == "cluster"


def test_a_registration_starts_fenced_and_ends_fenced_until_its_own_entry_is_applied():
    bench = Bench(1)
    epoch = bench.register(1)
    assert epoch == bench.index
    assert bench.image.brokers[1].is_fenced
    assert bench.beat(1, offset=epoch - 1).is_fenced
    assert not bench.beat(1, offset=epoch).is_fenced
    assert not bench.image.brokers[1].is_fenced


def test_a_fenced_broker_must_apply_its_own_fencing_first():
    bench = Bench(2)
    bench.fence(1)
    fenced_at = bench.index
    assert bench.beat(1, offset=fenced_at - 1).is_fenced
    assert not bench.beat(1, offset=fenced_at).is_fenced


def test_the_same_process_registers_again_under_its_epoch():
    bench = Bench(2)
    epoch, index = bench.epoch(1), bench.index
    assert bench.register(1) == epoch
    assert bench.index == index
    assert bench.register(1, rack="b") == epoch
    assert bench.image.brokers[1].rack == "b"
    assert not bench.image.brokers[1].is_fenced


def test_another_process_is_refused_while_the_first_one_lives_and_accepted_once_it_does_not():
    bench = Bench(2)
    with pytest.raises(DuplicateBrokerRegistration):
        bench.register(1, incarnation=b"b")
    bench.now_ms = 1_499
    with pytest.raises(DuplicateBrokerRegistration):
        bench.register(1, incarnation=b"b")
    bench.now_ms = 1_500
    assert bench.register(1, incarnation=b"b") == bench.index


def test_proof_that_a_process_is_gone_makes_room_for_the_next_at_once_but_not_while_it_is_connected():
    bench = Bench(2)
    sessions = bench.controller.sessions
    sessions.gone(1, broker_epoch=bench.epoch(1))
    with pytest.raises(DuplicateBrokerRegistration):
        bench.register(1, incarnation=b"b")
    sessions.dropped(1, broker_epoch=bench.epoch(1), now_ms=0)
    with pytest.raises(DuplicateBrokerRegistration):
        bench.register(1, incarnation=b"b")
    sessions.gone(1, broker_epoch=bench.epoch(1))
    bench.register(1, incarnation=b"b")


def test_a_silent_broker_is_fenced_after_the_session_timeout_and_no_sooner():
    bench = Bench(2)
    bench.topic(assignments=((1, 0),))
    bench.now_ms = 1_499
    bench.beat(0)
    bench.run_due()
    assert not bench.image.brokers[1].is_fenced
    bench.now_ms = 1_500
    bench.run_due()
    assert bench.image.brokers[1].is_fenced
    assert not bench.image.brokers[0].is_fenced
    assert bench.part().leader_id == 0


def test_a_dropped_session_has_a_grace_in_which_the_broker_may_come_back():
    bench = Bench(2)
    sessions = bench.controller.sessions
    sessions.dropped(1, broker_epoch=bench.epoch(1), now_ms=0)
    bench.now_ms = 299
    bench.run_due()
    assert not bench.image.brokers[1].is_fenced
    bench.beat(1)
    bench.now_ms = 400
    bench.run_due()
    assert not bench.image.brokers[1].is_fenced
    sessions.dropped(1, broker_epoch=bench.epoch(1), now_ms=400)
    bench.now_ms = 700
    bench.run_due()
    assert bench.image.brokers[1].is_fenced


def test_the_end_of_an_earlier_session_does_not_touch_the_present_one():
    bench = Bench(2)
    old = bench.epoch(1)
    bench.crash(1)
    bench.restart(1)
    bench.controller.sessions.dropped(1, broker_epoch=old, now_ms=0)
    bench.controller.sessions.gone(1, broker_epoch=old)
    bench.do(FenceBroker(broker_id=1, broker_epoch=old, reason="late"))
    bench.now_ms = 400
    bench.run_due()
    assert not bench.image.brokers[1].is_fenced


def test_a_new_controller_gives_every_broker_a_whole_session_timeout():
    bench = Bench(2)
    successor = Bench(image=bench.image)
    successor.now_ms = 1_499
    successor.run_due()
    assert not successor.image.brokers[0].is_fenced
    successor.now_ms = 1_500
    successor.run_due()
    assert successor.image.brokers[0].is_fenced
    assert successor.image.brokers[1].is_fenced


def test_a_heartbeat_of_an_earlier_process_is_refused():
    bench = Bench(2)
    old = bench.epoch(1)
    bench.crash(1)
    bench.restart(1)
    with pytest.raises(StaleBrokerEpoch):
        bench.do(Heartbeat(broker_id=1, broker_epoch=old, metadata_offset=bench.index))


def test_a_broker_with_a_failed_directory_leaves_everything_and_stays_fenced():
    bench = Bench(3)
    bench.topic()
    assert bench.beat(0, log_directory_failed=True).is_fenced
    assert bench.part().leader_id == 1
    assert bench.beat(0).is_fenced
    assert bench.image.brokers[0].is_fenced
    bench.crash(0)
    bench.restart(0)
    assert not bench.image.brokers[0].is_fenced


def test_a_controlled_shutdown_moves_leaders_and_waits_until_all_active_brokers_know():
    bench = Bench(3)
    bench.topic()
    assert not bench.beat(0, want_shutdown=True).may_shut_down
    shut_at = bench.index
    part = bench.part()
    assert (part.leader_id, part.in_sync_replicas) == (1, (1, 2))
    assert not bench.image.brokers[0].is_active
    bench.beat(1, offset=shut_at)
    assert not bench.beat(0, want_shutdown=True).may_shut_down
    bench.beat(2, offset=shut_at - 1)
    assert not bench.beat(0, want_shutdown=True).may_shut_down
    bench.beat(2, offset=shut_at)
    assert bench.beat(0, want_shutdown=True).may_shut_down


def test_the_last_broker_may_shut_down_and_leads_again_when_it_comes_back():
    bench = Bench(1)
    bench.topic(assignments=((0,),))
    bench.beat(0, want_shutdown=True)
    assert bench.beat(0, want_shutdown=True).may_shut_down
    assert bench.part().leader_id is None
    bench.crash(0)
    bench.restart(0, clean=True)
    assert bench.part().leader_id == 0


def test_a_shutdown_begun_under_another_controller_is_confirmed_by_the_next():
    bench = Bench(2)
    bench.beat(0, want_shutdown=True)
    successor = Bench(image=bench.image)
    assert not successor.beat(0, want_shutdown=True).may_shut_down
    successor.beat(1)
    assert successor.beat(0, want_shutdown=True).may_shut_down


def test_a_drained_broker_loses_leaderships_and_gets_none_while_others_can():
    bench = Bench(3)
    bench.topic()
    bench.topic("alone", assignments=((0,),))
    assert bench.do(DrainBroker(broker_id=0, drain=True)).leaders_remaining == 1
    assert bench.part().leader_id == 1
    assert bench.part().in_sync_replicas == (0, 1, 2)
    bench.topic("u")
    assert bench.part("u").leader_id == 1
    bench.fence(1)
    assert bench.part("u").leader_id == 2
    bench.fence(2)
    assert bench.part("u").leader_id == 0, "better a draining leader than none"


def test_a_drain_outlives_a_restart_and_is_taken_back():
    bench = Bench(3)
    bench.do(DrainBroker(broker_id=0, drain=True))
    bench.crash(0)
    bench.restart(0)
    assert bench.image.brokers[0].is_draining
    bench.do(DrainBroker(broker_id=0, drain=False))
    assert not bench.image.brokers[0].is_draining
    with pytest.raises(NotFound):
        bench.do(DrainBroker(broker_id=9, drain=True))


def test_a_drain_until_the_restart_ends_with_it_also_under_a_controller_that_read_a_snapshot():
    bench = Bench(3)
    bench.topic()
    bench.do(DrainBroker(broker_id=0, drain=True, until_restart=True))
    assert bench.part().leader_id == 1
    assert decode_snapshot(encode_snapshot(bench.image), offset=bench.image.offset, term=1) == bench.image
    bench.crash(0)
    assert bench.image.brokers[0].is_draining, "nobody has restarted it yet"
    bench.restart(0)
    assert not bench.image.brokers[0].is_draining


def test_an_operators_drain_is_stronger_than_one_until_the_restart():
    bench = Bench(3)
    bench.do(DrainBroker(broker_id=0, drain=True, until_restart=True))
    bench.do(DrainBroker(broker_id=0, drain=True))
    bench.do(DrainBroker(broker_id=0, drain=True, until_restart=True))
    bench.do(DrainBroker(broker_id=0, drain=False, until_restart=True))
    bench.crash(0)
    bench.restart(0)
    assert bench.image.brokers[0].is_draining
    bench.do(DrainBroker(broker_id=0, drain=False))
    assert not bench.image.brokers[0].is_draining


def test_a_broker_is_forgotten_only_when_dead_and_empty():
    bench = Bench(3)
    bench.topic(assignments=((0, 1),))
    with pytest.raises(InvalidRequest, match="alive"):
        bench.do(UnregisterBroker(broker_id=2))
    bench.crash(1)
    with pytest.raises(InvalidRequest, match="hosts 1"):
        bench.do(UnregisterBroker(broker_id=1))
    bench.crash(2)
    bench.do(UnregisterBroker(broker_id=2))
    assert 2 not in bench.image.brokers
    with pytest.raises(NotFound):
        bench.do(UnregisterBroker(broker_id=2))
    bench.join(2)


def test_producer_ids_are_given_once():
    bench = Bench(2)
    blocks = [
        bench.do(AllocateProducerIds(broker_id=broker_id, broker_epoch=bench.epoch(broker_id)))
        for broker_id in (0, 1, 0)
    ]
    assert [block.first_producer_id for block in blocks] == [0, PRODUCER_ID_BLOCK_SIZE, 2 * PRODUCER_ID_BLOCK_SIZE]
    with pytest.raises(StaleBrokerEpoch):
        bench.do(AllocateProducerIds(broker_id=0, broker_epoch=999))


def test_fencing_a_broker_is_one_atomic_entry():
    bench = Bench(3)
    bench.topic(assignments=((0, 1, 2),) * 50)
    before = bench.index
    bench.fence(0)
    assert bench.index == before + 1
    assert all(bench.part(index=index).leader_id == 1 for index in range(50))
