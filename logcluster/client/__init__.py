"""The client: producer, consumer and admin calls against a cluster, over the lane or gRPC.

May import `rpc`, `wire`, `runtime`, `record` and `model`, and nothing of a server. Pure parts (`accumulator`,
`subscription`, `partitioner`) decide; `sender` and `fetcher` carry out; `producer`, `consumer` and `admin` are what a
user sees. Start reading at `client`.

This file imports nothing, so that `import logcluster` stays quick.
"""
