"""A test as you would write it: three real brokers, the leader killed between two writes, nothing lost.

python -m examples.survive_a_kill
"""

from __future__ import annotations

import asyncio

from logcluster.testing import Cluster


async def main() -> None:
    """Write, kill -9 the leader, write on, read everything."""
    async with Cluster(brokers=3) as cluster, cluster.client() as client:
        await client.admin.create_topic("orders", partitions=1, replication_factor=3)
        async with client.producer() as producer:
            await producer.send("orders", b"before the kill")
            leader = await cluster.leader_of("orders", 0)
            await cluster.kill(leader)
            await producer.send("orders", b"after the kill")
        async with client.consumer("orders", start="earliest", until="end") as consumer:
            values = [record.value async for record in consumer]
        print(f"killed broker {leader}; read {values}")
        assert values == [b"before the kill", b"after the kill"]


if __name__ == "__main__":
    asyncio.run(main())
