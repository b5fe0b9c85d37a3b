"""The bytes of a record batch: Kafka's format v2, on the wire, on disk and in replication.

Pure: bytes in, bytes out. May import `model`, aiokafka's compiled codec and the compression libraries only.
Start reading at `header` (layout, reading, stamping), then `batch` (validation, decoding), `builder`, `control`
(transaction markers), `compression`; `reference` is the slow second opinion that tests compare with.

This file imports nothing, because aiokafka takes about 50 ms to load.
"""
