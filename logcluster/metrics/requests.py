"""Requests as they are served: how many, how they ended, how long they took, how large they were.

One `ApiMeasure` exists per carrier and method; it is bound when the method is, so a call looks nothing up. The lane
calls it from `rpc.lane.context`, where a call's only exit is; grpc.aio has `MeasuringInterceptor`. Streams are counted,
neither timed nor sized: how long one lives says nothing, and what replica streams carry is counted by the logs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

from logcluster.metrics.exposition import Sink
from logcluster.metrics.histogram import Histogram
from logcluster.model.errors import LogClusterError
from logcluster.rpc.interceptors import Behaviour, Handler, behaviour_of, replace_behaviour
from logcluster.wire.status import status_code_of

CODE_NAMES: Final[dict[int, str]] = {code.value[0]: code.name for code in grpc.StatusCode}
OK: Final = grpc.StatusCode.OK.value[0]
CANCELLED: Final = grpc.StatusCode.CANCELLED.value[0]
UNKNOWN: Final = grpc.StatusCode.UNKNOWN.value[0]
INTERNAL: Final = grpc.StatusCode.INTERNAL.value[0]


class ApiMeasure:
    """One method on one carrier; the counters are plain integers of the event loop's thread."""

    __slots__ = (
        "_observe",
        "api",
        "durations",
        "ok_count",
        "other_counts",
        "request_size_bytes",
        "response_size_bytes",
    )

    def __init__(self, api: str, *, is_stream: bool) -> None:
        self.api = api
        self.durations = None if is_stream else Histogram()
        self._observe = None if self.durations is None else self.durations.observe
        self.ok_count = 0
        self.other_counts: dict[int, int] = {}
        """By code, without OK."""
        self.request_size_bytes = 0
        self.response_size_bytes = 0

    @property
    def is_used(self) -> bool:
        """Whether anybody has called."""
        return bool(self.ok_count or self.other_counts or self.request_size_bytes)

    def ended(self, code: int, seconds: float) -> None:
        """Note that a call is over; only good answers are timed, so that refusals do not look like speed."""
        if code:
            self.other_counts[code] = self.other_counts.get(code, 0) + 1
            return
        self.ok_count += 1
        if self._observe is not None:
            self._observe(seconds)

    def sized_in(self, deserialize: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The deserializer, counting the bytes it is given."""

        def count_and_read(payload: Any) -> Any:
            self.request_size_bytes += len(payload)
            return deserialize(payload)

        return count_and_read

    def sized_out(self, serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
        """The serializer, counting the bytes it makes."""

        def write_and_count(message: Any) -> bytes:
            payload = serialize(message)
            self.response_size_bytes += len(payload)
            return payload

        return write_and_count


class RequestMeasures:
    """All methods of one carrier.

    Args:
        transport: "lane" or "grpc".
    """

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self._apis: dict[str, ApiMeasure] = {}

    def measure_of(self, path: str, *, is_stream: bool) -> ApiMeasure:
        """The measure of a method path (`/package.Service/Name`); made when first asked for."""
        api = path.rpartition("/")[2]
        measure = self._apis.get(api)
        if measure is None:
            measure = self._apis[api] = ApiMeasure(api, is_stream=is_stream)
        return measure

    def collect(self, sink: Sink) -> None:
        """Put what was measured."""
        for measure in self._apis.values():
            if not measure.is_used:
                continue
            labels = (self.transport, measure.api)
            sink.put("logcluster_broker_requests_total", measure.ok_count, *labels, CODE_NAMES[OK])
            for code, count in sorted(measure.other_counts.items()):
                sink.put("logcluster_broker_requests_total", count, *labels, CODE_NAMES.get(code, "UNKNOWN"))
            if measure.durations is not None:
                sink.put("logcluster_broker_request_bytes_total", measure.request_size_bytes, *labels)
                sink.put("logcluster_broker_response_bytes_total", measure.response_size_bytes, *labels)
                sink.put_histogram("logcluster_broker_request_duration_seconds", measure.durations, *labels)


class MeasuringInterceptor:
    """Measures the calls of grpc.aio; it stands inside of the boundary, which maps errors to statuses."""

    def __init__(self, measures: RequestMeasures) -> None:
        self._measures = measures

    def intercept(self, method: str, handler: Handler) -> Handler:
        """The handler, measured."""
        is_stream = bool(handler.request_streaming or handler.response_streaming)
        measure = self._measures.measure_of(method, is_stream=is_stream)
        behaviour = behaviour_of(handler)
        if is_stream:
            wrap = _stream if handler.response_streaming else _single
            return replace_behaviour(handler, wrap(behaviour, measure))
        return replace_behaviour(handler, _single(behaviour, measure))._replace(
            request_deserializer=measure.sized_in(handler.request_deserializer or bytes),
            response_serializer=measure.sized_out(handler.response_serializer or bytes),
        )


def _single(behaviour: Behaviour, measure: ApiMeasure) -> Behaviour:
    async def run(request: Any, context: Any) -> Any:
        return await _measured(behaviour, request, context, measure)

    return run


def _stream(behaviour: Behaviour, measure: ApiMeasure) -> Behaviour:
    async def write_all(request: Any, context: Any) -> None:
        produced = behaviour(request, context)
        if not hasattr(produced, "__aiter__"):
            await produced
            return
        try:
            async for response in produced:
                await context.write(response)
        finally:
            close: Callable[[], Awaitable[None]] | None = getattr(produced, "aclose", None)
            if close is not None:
                await close()

    async def run(request: Any, context: Any) -> None:
        await _measured(write_all, request, context, measure)

    return run


async def _measured(behaviour: Behaviour, request: Any, context: Any, measure: ApiMeasure) -> Any:
    loop = asyncio.get_running_loop()
    started = loop.time()
    code = INTERNAL
    try:
        response = await behaviour(request, context)
        code = OK
        return response
    except asyncio.CancelledError:
        code = CANCELLED
        raise
    except LogClusterError as error:
        code = status_code_of(error).value[0]
        raise
    except (grpc.aio.AbortError, NotImplementedError):
        code = _number(context.code())
        raise
    finally:
        measure.ended(code, loop.time() - started)


def _number(code: Any) -> int:
    """The status that an aborted call was given; grpc.aio says it as a number or as a member of its enumeration."""
    if isinstance(code, grpc.StatusCode):
        number: int = code.value[0]
        return number
    return code if isinstance(code, int) and code else UNKNOWN
