"""Write ten records, read them back.

logcluster dev up -n 3 --detach
python -m examples.produce_consume 127.0.0.1:7070
"""

from __future__ import annotations

import asyncio
import sys

import logcluster


async def main(bootstrap: str) -> None:
    """Send with acknowledgement, then read from the beginning to the present end."""
    async with logcluster.connect(bootstrap) as client:
        await client.admin.create_topic("example-orders", partitions=3, exist_ok=True)
        async with client.producer() as producer:
            for number in range(10):
                ack = await producer.send("example-orders", b'{"id": %d}' % number, key=b"customer-%d" % (number % 3))
                print(f"wrote {ack.topic}-{ack.partition} offset {ack.offset}")
        async with client.consumer("example-orders", start="earliest", until="end") as consumer:
            async for record in consumer:
                print(record.partition, record.offset, record.key, record.value)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7070"))
