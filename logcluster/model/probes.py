"""Coverage probes: named rare states, so that a run can say which of them it ever reached.

A probe stands where something uncommon happens: a suffix is cut, a vote refused, a duplicate answered. A simulator
that never meets a state proves nothing about it, so runs count hits and report the names that stayed at zero
("sometimes assertions" of Antithesis, `TEST` of FoundationDB). Nothing is decided by a probe and nothing changes by
observing one. Without an observer a call costs one global read and a None check.

Invariant, held by a test: every call names a key of `PROBES` literally, and every key has at least one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

Observer = Callable[[str], None]
"""Told the name of a probe at each hit; on whichever thread hits it, so it must be quick and must not raise."""

PROBES: Final[Mapping[str, str]] = {
    # Raft.
    "raft.pre_vote.refused_hears_leader": "a voter that hears its leader refused a pre-vote",
    "raft.vote.refused_stale_log": "a vote was refused because the candidate's log is behind the voter's",
    "raft.pre_vote.refused_stale_log": "a pre-vote was refused because the asker's log is behind",
    "raft.vote.refused_voted_otherwise": "a vote was refused because this term's went to somebody else",
    "raft.vote.refused_other_disk": "a candidate runs on another disk than the voter set knows",
    "raft.request.refused_other_disk": "a request was meant for another disk or node, and refused",
    "raft.election.hint_shortened_wait": "a broken connection shortened the wait for an election",
    "raft.election.by_transfer": "a node campaigned at once because the leader handed over",
    "raft.election.round_lost": "a round of votes could not be won any more, and the node backed off",
    "raft.election.overtaken_by_term": "somebody who campaigned learned of a later term",
    "raft.vote.refused_without_history": "a node that has accepted no voters was asked for its vote",
    "raft.founding.accepted": "a disk accepted the first voters of a cluster",
    "raft.founding.founded": "a node learned that all first voters agree, and may campaign",
    "raft.founding.other_voters_refused": "a node was asked to accept first voters that are not the configured ones",
    "raft.founding.foreign_answer_ignored": "an answer to the census of an earlier process, or of another node, came",
    "raft.founding.voter_with_new_disk": "a voter came back with an empty disk, and another voter noticed",
    "raft.start.resigned": "a node that had voted for itself restarted, and did not lead under its old term",
    "raft.append.refused_old_leader": "entries of a leader whose term is over were refused",
    "raft.append.refused_gap": "entries were refused because those before them are missing",
    "raft.append.refused_conflict": "entries were refused because the one before them is of another term",
    "raft.log.conflicting_suffix_truncated": "a follower cut uncommitted entries that its leader does not have",
    "raft.log.compacted": "entries that a snapshot holds were cut from the log",
    "raft.snapshot.sent": "a leader sent a snapshot because the entries are gone",
    "raft.snapshot.installed": "a follower replaced its log and state by a snapshot",
    "raft.snapshot.already_in_log": "a snapshot arrived whose last entry was in the log already",
    "raft.leader.inherited_uncommitted": "a new leader found uncommitted entries of earlier terms in its log",
    "raft.leader.backed_up_after_conflict": "a leader went back to where a follower's log may agree",
    "raft.leader.deposed": "a leader learned of a later term and followed",
    "raft.leader.resigned_without_majority": "a leader did not hear from a majority and stopped leading",
    "raft.leader.resigned_with_stuck_disk": "a leader's own disk did not answer and it stopped leading",
    "raft.leader.removed_itself": "a leader's own removal was committed",
    "raft.commit.waits_for_own_term": "a majority holds an entry of an earlier term, which does not commit it",
    "raft.propose.refused_while_transferring": "a proposal came while leadership was being handed over",
    "raft.propose.refused_overloaded": "a proposal was refused because too much is uncommitted",
    "raft.transfer.target_told": "the target of a hand-over holds everything and was told to campaign",
    "raft.transfer.expired": "a hand-over was given up because the target did not catch up in time",
    "raft.voters.changed": "another voter set was appended",
    "raft.voters.joiner_gave_up": "a node that was to become a voter did not catch up in time",
    "raft.propose.outcome_unknown": "leadership was lost while proposals were not committed",
    "raft.driver.stopped": "a node's quorum driver stopped for good after a fault",
    # Storage.
    "storage.segment.rolled": "the active segment was full, too old or retired, and a new one began",
    "storage.log.begins_inside_batch": "a follower's log began with a batch that holds its start, but begins below it",
    "storage.log.first_gap": "a follower appended beyond its log end, as after compaction",
    "storage.start.clean": "logs were opened after a clean shutdown",
    "storage.start.after_process_crash": "logs were opened after a crash in which the machine lost nothing",
    "storage.start.after_power_loss": "logs were opened after a crash in which unsynced data may be gone",
    "storage.start.checkpoint_damaged": "the checkpoint of a directory failed its checksum at the start",
    "storage.recovery.torn_tail_cut": "bytes that were never acknowledged were cut off the end of a log",
    "storage.recovery.rewritten": "batches that a failed sync may have lost were written again as they were read",
    "storage.recovery.later_segments_removed": "segments behind a torn one were removed",
    "storage.recovery.epochs_rebuilt": "the leader epochs of a log were missing or damaged and came from its batches",
    "storage.index.rebuilt_at_start": "a closed segment's index was missing or did not fit, so it was scanned",
    "storage.index.rebuilt_on_read": "a closed segment's index was missing or did not fit when somebody read",
    "storage.damage.after_clean_shutdown": "a log was damaged although the last shutdown was clean",
    "storage.damage.below_recovery_point": "damage lies below the recovery point, so it is no torn tail",
    "storage.damage.before_sound_batch": "damage lies before a sound batch while nothing unsynced can be lost",
    "storage.damage.found_by_reader": "a reader met damage in a log that was opened as sound",
    "storage.quarantine.at_start": "a log was found damaged when it was opened, and set aside",
    "storage.quarantine.while_running": "a log was found damaged while it was in use, and set aside",
    "storage.quarantine.replaced": "a quarantined log made room for a fresh one",
    "storage.quarantine.ended_by_second_look": "a log that could not be read was found whole, and is in use again",
    "storage.flush.failed": "a sync failed, so what it covered counts as lost",
    "storage.flush.of_moved_log": "a log was deleted or set aside while its flush was under way",
    "storage.flush.overtaken_by_truncation": "a log was cut while its flush was under way",
    "storage.checkpoint.overtaken_by_truncation": "a log was cut while a checkpoint was about to be written",
    "storage.directory.stopped": "a failed write or sync stopped a whole log directory",
    "storage.disk.full": "a write failed because the disk or the quota was full",
    "storage.preallocate.failed": "space for a segment could not be reserved ahead of its use",
    "storage.truncate.whole_segments": "a truncation removed more than the end of the active segment",
    "storage.truncate.everything": "a log was emptied to start over at another offset",
    "storage.truncate.below_checkpoint": "a truncation went below what the checkpoint promised",
    "storage.retention.deleted_segments": "retention deleted segments",
    "storage.retention.rolled_active": "retention was about to delete the active segment and rolled it first",
    "storage.producer_snapshot.damaged": "a producer snapshot failed its checksum and was ignored",
    "storage.read.overtaken_by_cut": "a reader met a log that was being cut or cleaned, and tried again",
    "storage.stray.kept": "a log that the metadata does not know was kept",
    # Controller.
    "controller.register.same_process_again": "a process repeated its registration",
    "controller.register.refused_while_earlier_lives": "a process was refused, as an earlier one seems to run",
    "controller.register.after_clean_stop": "a broker came back after a clean shutdown",
    "controller.register.after_unclean_stop": "a broker came back after it stopped without notice",
    "controller.register.other_disk": "a broker came back with another disk",
    "controller.session.process_gone": "a broker's process was proved dead",
    "controller.session.silent": "a broker's session was over because it said nothing",
    "controller.session.disconnected": "a broker's session was over because its connection broke and did not come back",
    "controller.request.stale_broker_epoch": "a request of a process that is not the registered one was refused",
    "controller.broker.unfenced": "a broker that had caught up with the metadata became active",
    "controller.fence.overtaken": "a broker was to be fenced that had registered again, or was fenced already",
    "controller.fence.log_directory_failed": "a broker was fenced because its log directory failed",
    "controller.shutdown.begun": "a broker asked to leave and gave away its leaderships",
    "controller.shutdown.inherited": "a broker was leaving when another controller took over",
    "controller.shutdown.granted": "a leaving broker was let go",
    "controller.election.in_sync_replica": "another in-sync replica took a leader's place",
    "controller.election.in_sync_replicas_inactive": "there are in-sync replicas, and none of them is active",
    "controller.election.eligible_replica": "nobody was in sync, and an eligible leader replica was elected",
    "controller.election.last_known_leader": "nobody was in sync or eligible, and the last known leader was elected",
    "controller.election.unclean": "a replica that may lack committed records was elected",
    "controller.election.unclean_refused": "active replicas were left without a leader because none is safe to elect",
    "controller.in_sync.shrunk_below_min": "fewer replicas were left in sync than are needed to commit",
    "controller.eligible.doubtful_kept": "a replica with a doubtful copy stayed eligible, behind all others",
    "controller.copy.lost": "a replica's copy is gone with its disk",
    "controller.vacancy.filled": "a partition without a leader got one because a broker came back",
    "controller.damage.replica_stepped_aside": "a replica with a damaged log left the in-sync replicas",
    "controller.damage.report_overtaken": "a report of damage spoke of another leader epoch",
    "controller.alter.sender_knows_newer_epochs": "a proposal knew newer epochs than this controller",
    "controller.alter.stale_leader_epoch": "a proposal of an earlier leader epoch was refused",
    "controller.alter.stale_partition_epoch": "a proposal that builds on an older set was refused",
    "controller.alter.confirmed": "a proposal of the set that is committed already only made a newer partition epoch",
    "controller.alter.ineligible_member": "a proposal named a member that may not be in sync",
    "controller.leadership.evened_out": "a leadership moved back to its preferred replica, or off a draining broker",
    "controller.metadata.snapshot_loaded": "committed metadata was replaced by a snapshot",
    "controller.refused_while_handing_over": "a change was refused because leadership is being handed over",
    "controller.reign.began_again": "a controller whose proposal was refused went on as the same term's leader",
    "controller.reign.ended_with_requests": "leadership ended while requests were not committed",
    "controller.read.waits_for_commit": "a request that changes nothing waited for what it saw to be committed",
    "controller.session.replaced": "a broker opened a session while an earlier one was open",
    "controller.session.sent_snapshot": "a broker was so far behind that it got the whole metadata",
    "controller.probe.found_dead": "a probe proved that a broker without a session does not run",
    # Replication.
    "replication.leader.refused_to_lead_twice": "a broker refused an epoch in which its log has records already",
    "replication.damaged_log.refetched": "a damaged log made room, to be fetched again from the leader",
    "replication.feed.subscription_refused": "a follower asked a broker that does not lead, or in another epoch",
    "replication.feed.subscription_replaced": "a follower subscribed while an earlier subscription was there",
    "replication.feed.diverging_epoch_found": "a leader found that a follower's history differs from its own",
    "replication.feed.follower_out_of_range": "a leader has nothing at a follower's position",
    "replication.feed.out_of_credit": "a follower had more data on the way than it allowed, and got no more",
    "replication.feed.cold_read": "what a follower needs had left the leader's memory",
    "replication.follower.late_data_dropped": "data arrived for a subscription that had ended",
    "replication.follower.refused_batches": "a follower could not append what its leader sent",
    "replication.follower.damaged_batch_refused": "a replicated batch failed its checksum",
    "replication.follower.unused_epoch_dropped": "a former leader dropped an epoch in which it wrote nothing",
    "replication.follower.log_start_advanced": "a follower moved its log start after its leader",
    "replication.follower.leader_registered_again": "a stream was given up because the leader is another process now",
    "replication.append.refused_under_min": "a write was refused because too few replicas are in sync",
    "replication.leader.offset_not_available": "a new leader does not know yet how far readers have seen",
    "replication.report.ignored": "a report came from an older process, or from a broker that is no replica",
    "replication.follower.subscribed_again": "what an earlier stream reported counts no longer",
    "replication.follower.gone": "the subscription of a follower ended",
    "replication.high_watermark.frozen_under_min": "records stay uncommitted because too few replicas are in sync",
    "replication.high_watermark.waits_for_newcomer": "a replica that is about to join was waited for",
    "replication.high_watermark.moved_under_maximal_set": "records were committed while a change was unanswered",
    "replication.isr.expand_proposed": "a replica that caught up was proposed",
    "replication.isr.shrink_proposed": "a laggard was to leave the in-sync set",
    "replication.isr.recovery_proposed": "a leader that was elected uncleanly said that it has recovered",
    "replication.isr.answer_overtaken": "the controller's answer spoke of a set that counts no longer",
    "replication.isr.join_refused": "a member of a proposed set was refused",
    "replication.isr.newcomer_in_doubt": "a newcomer was refused while an earlier copy of the change may still arrive",
    "replication.isr.waits_for_metadata": "a proposal was too old, so metadata has to tell what holds",
    "replication.isr.proposed_again": "a proposal without a clear answer went out again",
    "replication.isr.settled_by_metadata": "metadata told of a newer set while a proposal was unanswered",
    "replication.follower.truncated_by_diverging_epoch": "a follower cut what its leader's history does not have",
    "replication.follower.truncated_beyond_leader_end": "a follower's log was longer than its leader's, and was cut",
    "replication.follower.truncated_below_high_watermark": "a follower cut records it knew to be committed",
    "replication.follower.restarted_at_leader_start": "a follower started over where its leader's log begins",
    "replication.follower.diverged_below_log_start": "a follower shares nothing with its leader, and started over",
    "replication.follower.divergence_overtaken": "a divergence had disappeared when the follower looked",
    # Produce, fetch and the broker's life.
    "produce.not_enough_replicas_after_append": "the in-sync set fell below its minimum while records waited for it",
    "produce.leader_changed_before_commit": "a leader lost its role while records waited to be committed",
    "produce.timed_out_before_commit": "a record was not committed within its request's time",
    "coordinator.append.refused": "a coordinator's records were refused, and nothing had changed",
    "coordinator.batch.full": "a turn of a coordinator needed more than one batch",
    "coordinator.commit.end_offset_asked": "a leader was asked where its log ends, because an offset may lie beyond",
    "coordinator.entity.forgotten": "an idle entity was dropped from memory",
    "coordinator.load.ended_late": "a load ended for a leadership that was over",
    "coordinator.log.rewriting_given_up": "the rewriting of a shard's log was given up after an error",
    "coordinator.log.rewritten": "a shard's log was rewritten, and its superseded part deleted",
    "coordinator.queue.full": "a coordinator refused a request because too many waited",
    "coordinator.request.waits_for_load": "a request waited for its shard to be loaded",
    "coordinator.standby.cannot_read": "a shard's log could not be read at the moment",
    "coordinator.store.behind_log_start": "a shard was read anew, because its log begins behind what the store has",
    "coordinator.store.position_not_believed": "a shard was read anew, because its log does not agree with the store",
    "coordinator.topic.made": "an internal topic was made when it was first needed",
    "produce.refused_by_damage_just_found": "a write was refused because a reader had just found damage",
    "fetch.diverging_epoch_found": "a consumer's last record is not in the leader's history",
    "fetch.reader_of_later_epoch": "a consumer comes from a later leader epoch than the one this broker leads in",
    "fetch.leader_changed_while_reading": "a partition got another leader while a read was on the disk",
    "broker.request.other_leader_epoch": "a request believed in an older or newer leader epoch",
    "broker.metadata.older_leader_epoch_ignored": "metadata named an older leader epoch than the replica's",
    "broker.lifecycle.registers_again": "a broker found that its registration is not the current one",
    "broker.lifecycle.waits_for_predecessor": "a broker waited because an earlier process of it counts as alive",
    "broker.lifecycle.controller_silent": "a broker gave up a session whose controller said nothing",
    "broker.records.deleted": "an operator deleted records",
    # Producers.
    "producer.duplicate_answered": "a retry was answered with the place of its first attempt",
    "producer.state.rebuilt_after_truncation": "producers were read again because a log was cut below them",
    "producer.state.snapshot_damaged": "a producer snapshot could not be used, and the log said it all again",
    "producer.state.replayed_from_log": "producers were rebuilt from batches behind the snapshot",
    "producer.unknown_in_mid_sequence": "a producer that is not known went on in mid-sequence, and was let in",
    "producer.out_of_order_refused": "a batch was refused because one before it is missing, or it is too old",
    "producer.epoch_fenced": "a batch of an older instance of a producer was refused",
    "producer.new_epoch_refused_in_mid_sequence": "a new producer epoch did not begin at sequence 0",
    "producer.new_epoch_accepted": "a producer went on under another epoch",
    "producer.sequence_wrapped": "a sequence went past 2^31-1 and began again at 0",
    "producer.state.evicted": "a producer was forgotten to make room for another",
    "producer.state.expired": "a producer was forgotten because it wrote nothing for long",
    # Clients.
    "client.producer.first_batch_alone": "nothing went out behind a first batch that no broker has accepted yet",
    "client.producer.waits_behind_retry": "nothing new went out behind a retry, or past a change of leader",
    "client.producer.waits_for_new_epoch": "a refused batch waited for a new producer epoch",
    "client.producer.gap_left": "a batch that was sent was given up, which left a gap in the sequence",
    "client.producer.new_epoch_waits_for_outcome": "a new epoch had to wait for a batch whose outcome is unknown",
    "client.producer.new_epoch_begun": "a producer began a new epoch for one partition",
    "client.producer.new_id_needed": "a producer could not raise its epoch and asked for another id",
    "client.producer.request_stalled": "a broker kept the connection and did not answer a write for long",
    "client.producer.request_overtaken_by_new_leader": "a write to a silent broker was given up for the new leader",
    "client.producer.topic_gone": "records were given up because their topic was deleted",
    "client.batch.retried_with_unknown_outcome": "a batch that may have been written was sent again",
    "client.batch.out_of_order_waits_its_turn": "a batch was refused because one before it was still on its way",
    "client.batch.refused_with_unknown_outcome": "a batch was refused after an attempt whose outcome is unknown",
    "client.batch.retry_expired": "a batch was given up after it had been sent",
    "client.batch.split": "a batch was too large for its topic and was split",
    "client.metadata.leader_learned_from_refusal": "a refusal named a newer leader",
    "client.metadata.refreshed_after_refused_write": "a write was refused for old metadata, without a hint",
    "client.metadata.older_answer_ignored": "a broker's metadata was older than what the client knew",
    "client.metadata.older_hint_ignored": "a refusal named a leader that the client knew, or an older one",
    "client.fetch.metadata_refreshed": "a fetch was refused for old metadata",
    "client.fetch.moved_back_by_diverging_epoch": "a reader's position is not in the leader's history any more",
    "client.fetch.refusal_doubted": "a position beyond the end, or an unknown topic, was asked for again",
    "client.fetch.out_of_range_reset": "a reader's position was gone, and it went on elsewhere",
    # Connections.
    "lane.connection.broken_frame": "bytes on a connection made no frame",
    "lane.connection.told_to_go_away": "a server that shuts down asked for no new calls",
    "lane.connection.not_in_time": "a connection was not made in time",
    "lane.connection.refused": "a connection was refused",
}
"""Every probe: its name and the state it stands for."""

_observer: Observer | None = None


def probe(name: str) -> None:
    """The state called `name` was reached; `name` is a key of `PROBES`."""
    if _observer is not None:
        _observer(name)


def observe(observer: Observer | None) -> Observer | None:
    """Have every hit reported to `observer`, or to nobody; returns who was told before."""
    global _observer
    previous, _observer = _observer, observer
    return previous


@contextmanager
def counting() -> Iterator[dict[str, int]]:
    """Count hits while the block runs; names never hit stand at 0. Meant for one thread, as the simulator is."""
    counts = dict.fromkeys(PROBES, 0)

    def count(name: str) -> None:
        counts[name] += 1

    previous = observe(count)
    try:
        yield counts
    finally:
        observe(previous)


def never_hit(counts: Mapping[str, int]) -> list[str]:
    """Names of the catalogue that `counts` has no hit of, in the catalogue's order."""
    return [name for name in PROBES if not counts.get(name)]
