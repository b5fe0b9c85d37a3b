"""The runtime of coordinators: shards on partitions of internal topics, in front of pure state machines.

See docs/protocol/coordinators.md. `runtime` routes, `shard` is one partition, `standby` keeps its store up to date,
`turn` appends what one turn of the event loop decided, `rewriting` keeps the log short.
"""
