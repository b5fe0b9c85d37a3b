"""Control planes of three nodes in one process, over the lane: membership, topics, failover."""

from __future__ import annotations

import asyncio

from control_plane_support import ControlPlane, ControlPlaneNode

from logcluster.model.errors import DuplicateBrokerRegistration
from logcluster.wire.gen.logcluster.internal.v1 import controller_pb2
from logcluster.wire.gen.logcluster.v1 import admin_pb2, metadata_pb2


async def create_topic(cluster: ControlPlane, node_id: int, name: str, *, partitions: int = 6, replicas: int = 3):
    return await cluster.admin(node_id).CreateTopics(
        admin_pb2.CreateTopicsRequest(
            topics=[admin_pb2.NewTopic(name=name, partitions=partitions, replication_factor=replicas)]
        ),
        timeout=10,
    )


async def test_brokers_become_active_and_a_created_topic_is_known_at_once_where_it_was_asked_for():
    async with ControlPlane(3) as cluster:
        await cluster.until_active()
        for node_id in range(3):
            name = f"orders-{node_id}"
            answer = await create_topic(cluster, node_id, name)
            assert not answer.topics[0].HasField("error")
            found = await cluster.metadata(node_id).GetMetadata(metadata_pb2.GetMetadataRequest(topics=[name]))
            assert len(found.topics[0].partitions) == 6
            assert all(part.HasField("leader_id") for part in found.topics[0].partitions)
        quorum = await cluster.metadata(1).DescribeQuorum(metadata_pb2.DescribeQuorumRequest(), timeout=5)
        assert quorum.leader_id == cluster.controller().node_id
        first, count = await cluster.nodes[0].client.allocate_producer_ids()
        other_first, _ = await cluster.nodes[1].client.allocate_producer_ids()
        assert {first, other_first} == {0, count}


async def test_killing_the_active_controller_gives_its_partitions_new_leaders_at_once():
    async with ControlPlane(3) as cluster:
        await cluster.until_active()
        victim = cluster.controller()
        asked = (victim.node_id + 1) % 3
        await create_topic(cluster, asked, "orders", partitions=9)
        for node in cluster.running():
            assert await node.loader.wait_until(lambda image: "orders" in image.topic_ids, timeout_ms=3_000)

        def is_healed(image):
            parts = image.topic_by_name("orders").partitions.values()
            return all(part.leader_id not in (None, victim.node_id) for part in parts)

        assert not is_healed(victim.loader.image)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await victim.kill()
        for node in cluster.running():
            assert await node.loader.wait_until(is_healed, timeout_ms=5_000)
        elapsed_ms = (loop.time() - started) * 1000
        print(f"active controller killed: new leaders known everywhere after {elapsed_ms:.0f} ms")
        image = cluster.running()[0].loader.image
        for part in image.topic_by_name("orders").partitions.values():
            assert victim.node_id not in part.in_sync_replicas
        await create_topic(cluster, cluster.running()[0].node_id, "after", replicas=2)

        await victim.start()
        await cluster.until_active()
        assert victim.loader.image.topic_by_name("after") is not None


async def test_killing_another_broker_gives_its_partitions_new_leaders_at_once():
    async with ControlPlane(3) as cluster:
        await cluster.until_active()
        controller = cluster.controller()
        await create_topic(cluster, controller.node_id, "orders", partitions=9)
        victim = cluster.nodes[(controller.node_id + 1) % 3]

        def is_healed(image):
            return all(part.leader_id != victim.node_id for part in image.topic_by_name("orders").partitions.values())

        loop = asyncio.get_running_loop()
        started = loop.time()
        await victim.kill()
        for node in cluster.running():
            assert await node.loader.wait_until(is_healed, timeout_ms=5_000)
        print(f"broker killed: new leaders known everywhere after {(loop.time() - started) * 1000:.0f} ms")
        assert cluster.controller() is controller


async def test_a_controlled_shutdown_moves_leaders_before_it_is_confirmed():
    async with ControlPlane(3) as cluster:
        await cluster.until_active()
        controller = cluster.controller()
        await create_topic(cluster, controller.node_id, "orders", partitions=9)
        leaving = cluster.nodes[(controller.node_id + 1) % 3]
        assert await leaving.lifecycle.shut_down(timeout_ms=5_000)
        for node in cluster.running():
            if node is not leaving:
                parts = node.loader.image.topic_by_name("orders").partitions.values()
                assert all(part.leader_id != leaving.node_id for part in parts)
                assert all(leaving.node_id not in part.in_sync_replicas for part in parts)
        epoch = leaving.lifecycle.broker_epoch
        await leaving.kill()
        await leaving.start(previous_broker_epoch=epoch)
        await cluster.until_active()


async def test_a_second_process_under_a_live_id_is_turned_away(monkeypatch):
    monkeypatch.setattr("logcluster.broker.lifecycle.DUPLICATE_PATIENCE_MS", 200)
    async with ControlPlane(1) as cluster:
        await cluster.until_active()
        (node,) = cluster.nodes.values()
        lifecycle = node.lifecycle
        request = lifecycle._registration()
        request.incarnation_id = b"another"
        try:
            await node.client.register(request)
        except DuplicateBrokerRegistration:
            pass
        else:
            raise AssertionError("a duplicate was accepted")
        assert not node.fatal
        assert lifecycle.is_connected


async def test_a_node_restarted_from_its_log_knows_what_was_committed():
    async with ControlPlane(1) as cluster:
        await cluster.until_active()
        await create_topic(cluster, 0, "orders", partitions=2, replicas=1)
        node: ControlPlaneNode = cluster.nodes[0]
        await node.kill()
        await node.start()
        await cluster.until_active()
        partitions = node.loader.image.topic_by_name("orders").partitions
        assert [part.leader_id for part in partitions.values()] == [0, 0]
        assert [part.leader_epoch for part in partitions.values()] == [2, 2]


async def test_an_isr_change_of_a_stale_leader_is_refused_by_item():
    async with ControlPlane(3) as cluster:
        await cluster.until_active()
        await create_topic(cluster, 0, "orders", partitions=1)
        node = cluster.nodes[0]
        image = node.loader.image
        topic = image.topic_by_name("orders")
        part = topic.partitions[0]
        leader = cluster.nodes[part.leader_id]
        request = controller_pb2.AlterPartitionsRequest(
            broker_id=leader.node_id, broker_epoch=leader.lifecycle.broker_epoch
        )
        item = request.partitions.add(
            topic_id=topic.topic_id, partition=0, leader_epoch=part.leader_epoch, partition_epoch=part.partition_epoch
        )
        item.new_in_sync_replicas.add(broker_id=leader.node_id, broker_epoch=leader.lifecycle.broker_epoch)
        first = await leader.client.alter_partitions(request)
        assert not first.partitions[0].HasField("error")
        assert list(first.partitions[0].in_sync_replicas) == [leader.node_id]
        again = await leader.client.alter_partitions(request)
        assert again.partitions[0].error.name == "InvalidUpdateVersion"
        assert again.partitions[0].partition_epoch == part.partition_epoch + 1
