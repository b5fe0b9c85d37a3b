"""Local clusters of real broker processes: plan, start, signal, watch, stop.

Shared by `logcluster dev` (a cluster that outlives the command) and `logcluster.testing.Cluster` (one that ends
with the test). May import `client` and `runtime`; never `broker`, `storage` or `node`: brokers run in processes of
their own. Start reading at `cluster.py`.
"""
