"""The disk: partition logs as segment files, and keyed state over RocksDB. Synchronous; knows bytes and offsets only.

May import `record`, `model` and the ports below it; no asyncio, no clock, no randomness. Start reading at `log` (one
partition's log), then `recovery` (what a restart may cut), `log_manager` (one directory of logs) and `filesystem` (the
port behind which everything happens; the simulator's is `sim.disk`). `kv_store` and `raft_store` are the keyed half.
"""
