"""One trace from a producer through a consumer group and on to another topic, printed to the terminal.

logcluster dev up -n 3 --detach
pip install 'logcluster[traces]'
python -m examples.traces 127.0.0.1:7070
"""

from __future__ import annotations

import asyncio
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

import logcluster


def line_of(span: ReadableSpan) -> str:
    """One line per span, instead of the exporter's JSON."""
    context = span.get_span_context()
    assert context is not None
    parent = f"{span.parent.span_id:016x}" if span.parent else "-"
    offset = (span.attributes or {}).get("messaging.logcluster.offset", "")
    return f"{context.trace_id:032x}  {context.span_id:016x}  parent {parent:16}  {span.name} {offset}".rstrip() + "\n"


async def main(bootstrap: str) -> None:
    """Order three things; a group of one member bills them."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=line_of)))
    trace.set_tracer_provider(provider)
    tracer = trace.get_tracer("examples")
    async with logcluster.connect(bootstrap, traces=True) as client, client.producer() as producer:
        for topic in ("example-traced-orders", "example-traced-bills"):
            await client.admin.create_topic(topic, exist_ok=True)
        for number in range(3):
            with tracer.start_as_current_span(f"order {number}"):
                await producer.send("example-traced-orders", b"%d" % number, key=b"customer-%d" % number)

        async def bill(record: logcluster.ConsumerRecord) -> None:
            await producer.send("example-traced-bills", record.value, key=record.key)

        async with client.consumer("example-traced-orders", group="example-billing", max_records=3) as consumer:
            await consumer.process(bill, concurrency=2)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7070"))
