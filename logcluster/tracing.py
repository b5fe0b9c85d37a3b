"""Traces by OpenTelemetry on the consumer's side; needs `pip install 'logcluster[traces]'`.

    async for record in consumer:
        with logcluster.tracing.processing(record):
            ...  # belongs to the trace in which the record was sent

Producers put the context into records by themselves with `logcluster.connect(..., traces=True)`, and
`GroupConsumer.process` takes it out again. See docs/tracing.md.
"""

from logcluster.client.tracing import context_of, processing

__all__ = ["context_of", "processing"]
