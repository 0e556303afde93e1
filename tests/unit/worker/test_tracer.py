"""Who is traced, what spans a request makes, and a queue that never makes anybody wait."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from titans3.clock import SystemClock
from titans3.config.schema import TracingConfig
from titans3.errors import ClientError, Reason
from titans3.http.forwarded import TrustedProxies
from titans3.http.message import Request, Response, trace_id_of
from titans3.limits import TRACE_SPANS_MAX
from titans3.observe.asking import ASKING
from titans3.worker import spans as spans_module
from titans3.worker.body import EMPTY_BODY
from titans3.worker.parts import Parts, choose_parts
from titans3.worker.spans import SpanQueue, Spans
from titans3.worker.tracer import SPAN, Tracer, current, whose_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01".encode(), f"00-{TRACE}-{PARENT}-00".encode()


class Exporter(SpanExporter):
    """Keeps what it is given; may be shut, or fail."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.open = threading.Event()
        self.open.set()
        self.result: SpanExportResult | Exception = SpanExportResult.SUCCESS

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        assert self.open.wait(10)
        if isinstance(self.result, Exception):
            raise self.result
        if self.result is SpanExportResult.SUCCESS:
            self.spans += spans
        else:
            logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter").warning("nobody there")
        return self.result

    def shutdown(self) -> None:
        pass


class Still(SystemClock):
    """Time that a test moves."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@contextmanager
def tracing(**config: Any) -> Iterator[tuple[Tracer, Exporter, Still]]:
    exporter, clock = Exporter(), Still()
    tracer = Tracer(TracingConfig("http://x", **config), Spans(exporter, "here", "cluster", 3), clock, TrustedProxies(()))
    try:
        yield tracer, exporter, clock
    finally:
        exporter.open.set()
        tracer.close()


def request_of(traceparent: bytes = b"", *, peer: str = "10.0.0.1", target: bytes = b"/bucket/key?X-Amz-Signature=abc") -> Request:
    path, _, query = target.partition(b"?")
    fields = {b"traceparent": traceparent} if traceparent else {}
    return Request("GET", target, path, query, "", fields, EMPTY_BODY, peer, "R1")


def ask(tracer: Tracer, request: Request, handler: Any = None) -> Response:
    """One request, answered."""

    async def plain(request: Request) -> Response:
        return Response(200)

    async def run() -> Response:
        response = await tracer.tracing(handler or plain)(request)
        tracer.answered(request, response.status, 0, 0, 0.1, 0.0)
        return response

    return asyncio.run(run())


def names(exporter: Exporter) -> list[str]:
    return sorted(span.name for span in exporter.spans)


@pytest.mark.parametrize(
    ("config", "traceparent", "is_traced"),
    [
        ({"ratio": 1.0}, b"", True), ({"ratio": 0.0}, b"", False),
        ({"ratio": 0.0}, SAMPLED, False), ({"ratio": 1.0}, UNSAMPLED, True),  # nobody is trusted
        ({"ratio": 0.0, "trusted": ("10.0.0.0/8",)}, SAMPLED, True), ({"ratio": 1.0, "trusted": ("10.0.0.0/8",)}, UNSAMPLED, False),
        ({"ratio": 0.0, "trusted": ("10.1.0.0/16",)}, SAMPLED, False), ({"ratio": 1.0, "trusted": ("10.0.0.0/8",)}, b"nonsense", True),
    ],
)  # fmt: skip
def test_who_is_traced(config: dict[str, Any], traceparent: bytes, is_traced: bool) -> None:
    with tracing(**config) as (tracer, exporter, _):
        request = request_of(traceparent)
        response = ask(tracer, request)
        assert bool(trace_id_of(request)) is is_traced
        assert [name for name, _ in response.headers] == [b"traceresponse"] * is_traced
    assert names(exporter) == ["GET", "parse"] * is_traced


def test_a_request_that_is_not_traced_makes_no_span_and_runs_where_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    with tracing(ratio=0.0) as (tracer, _, _):
        monkeypatch.setattr(Spans, "start", None)
        made = []

        async def handler(request: Request) -> Response:
            return Response(200)

        def handle(request: Request) -> Any:
            made.append(handler(request))
            return made[-1]

        request = request_of(SAMPLED)
        assert tracer.tracing(handle)(request) is made[0]  # the very coroutine, nothing around it
        assert request.trace is None and SPAN.get() is None
        made[0].close()


def test_the_ratio_is_kept_by_chance() -> None:
    with tracing(ratio=0.2, traces_max=100_000) as (tracer, _, _):
        traced = sum(bool(trace_id_of(request)) for request in [request_of() for _ in range(3000)] if ask(tracer, request))
    assert 450 < traced < 750


def test_no_more_than_so_many_a_second_whoever_asks() -> None:
    with tracing(ratio=0.0, trusted=("10.0.0.0/8",), traces_max=5) as (tracer, _, clock):

        def burst() -> int:
            requests = [request_of(SAMPLED) for _ in range(20)]
            return sum(bool(trace_id_of(request)) for request in requests if ask(tracer, request))

        assert burst() == 5
        clock.now += 0.4
        assert burst() == 2
        clock.now += 1000
        assert burst() == 5
        assert (tracer.statistics().traces, tracer.statistics().limited) == (12, 48)


def test_a_span_knows_no_secret_and_a_trace_has_a_bound() -> None:
    async def handler(request: Request) -> Response:
        for number in range(TRACE_SPANS_MAX + 50):
            active = current()
            if active is not None:
                active.begin(f"part {number}").end()
        return Response(200)

    with tracing(ratio=1.0) as (tracer, exporter, _):
        ask(tracer, request_of(), handler)
    assert len(exporter.spans) == TRACE_SPANS_MAX + 2
    (root,) = [span for span in exporter.spans if span.name == "GET"]
    assert root.attributes is not None
    assert root.attributes["titans3.spans.omitted"] == 50
    assert root.attributes["url.path"] == "/bucket/key" and "abc" not in repr(dict(root.attributes))


def test_spans_nest_over_waits_and_cancellation_ends_them() -> None:
    async def part(name: str) -> None:
        active = current()
        assert active is not None
        with active.begin(name):
            await asyncio.sleep(0.01)
            inner = current()
            assert inner is not None
            inner.begin(f"in {name}").end()
            await asyncio.sleep(30 if name == "slow" else 0.01)

    async def handler(request: Request) -> Response:
        await asyncio.gather(part("left"), part("right"), part("slow"))
        return Response(200)

    async def run(tracer: Tracer) -> None:
        task = asyncio.ensure_future(tracer.tracing(handler)(request_of()))
        await asyncio.sleep(0.1)
        assert SPAN.get() is None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with tracing(ratio=1.0) as (tracer, exporter, _):
        asyncio.run(run(tracer))
    spans = {span.name: span for span in exporter.spans}
    assert set(spans) == {"parse", "left", "right", "slow", "in left", "in right", "in slow"}
    for name in ("left", "right", "slow"):
        parent = spans[f"in {name}"].parent
        assert parent is not None
        assert parent.span_id == spans[name].context.span_id
    assert spans["slow"].attributes is not None
    assert spans["slow"].attributes["error.type"] == "CancelledError"


def test_what_a_request_leaves_behind_is_not_its_own() -> None:
    later: list[Any] = []

    async def run(tracer: Tracer) -> None:
        async def behind() -> None:
            await asyncio.sleep(0.02)
            later.append(current())

        async def handler(request: Request) -> Response:
            later.append(current() is not None)
            handler.task = asyncio.ensure_future(behind())  # type: ignore[attr-defined]
            return Response(200)

        request = request_of()
        await tracer.tracing(handler)(request)
        tracer.answered(request, 200, 0, 0, 0.1, 0.0)
        await handler.task  # type: ignore[attr-defined]

    with tracing(ratio=1.0) as (tracer, _, _):
        asyncio.run(run(tracer))
    assert later == [True, None]


def test_a_trace_goes_on_in_a_sibling_and_a_word_that_is_not_understood_does_no_harm() -> None:
    told: list[bytes] = []

    async def handler(request: Request) -> Response:
        active = current()
        assert active is not None
        told.append(whose_of(active))
        return Response(200)

    def there() -> tuple[str, str]:
        active = current()
        assert active is not None
        active.begin("there").end(ClientError(Reason.KEY_ABSENT))
        return ASKING.get()()

    with tracing(ratio=1.0) as (tracer, exporter, _):
        request = request_of()
        ask(tracer, request, handler)
        assert tracer.within(told[0]).run(there) == ("R1", trace_id_of(request))
        for nonsense in (b"", b"\xc1", told[0][:-4], b"\x94\x01\x02\x03\x04"):
            assert tracer.within(nonsense).run(SPAN.get) is None
    spans = {span.name: span for span in exporter.spans}
    parent = spans["there"].parent
    assert parent is not None
    assert parent.span_id == spans["parse"].context.span_id and parent.is_remote
    assert spans["there"].status.is_unset  # a key that is not there is an answer, no failure


# the queue -------------------------------------------------------------------------------------------------------------


def test_a_collector_that_stands_still_makes_nobody_wait_and_what_is_dropped_is_counted() -> None:
    exporter = Exporter()
    exporter.open.clear()
    queue = SpanQueue(exporter, "here", spans_max=1000)
    for _ in range(3000):
        queue.on_end(ReadableSpan("x"))  # were it to wait for the collector, it would be for ever
    found = queue.statistics()
    assert found.waiting <= 1000 and found.dropped >= 3000 - 1000 - spans_module.BATCH_SPANS and not found.sent
    exporter.open.set()
    queue.close()
    found = queue.statistics()
    assert found.sent == len(exporter.spans) == 3000 - found.dropped and not found.waiting


def test_a_collector_that_is_gone_is_told_once_with_the_cause_and_again_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    exporter = Exporter()
    exporter.result = SpanExportResult.FAILURE
    queue = SpanQueue(exporter, "http://there", spans_max=5000)

    def send(count: int) -> None:
        for _ in range(count):
            queue.on_end(ReadableSpan("x"))
        deadline = time.monotonic() + 10
        while sum((queue.statistics().sent, queue.statistics().failed)) < total[0] + count:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        total[0] += count

    total = [0]
    send(600)
    send(600)
    exporter.result = ValueError("worse")
    send(512)
    exporter.result = SpanExportResult.SUCCESS
    send(512)
    queue.close()
    assert [record.getMessage() for record in caplog.records if record.name == "titans3.tracing"] == [
        "traces do not reach http://there, their spans are lost until they do: nobody there",
        "traces reach http://there again; 1712 spans were lost",
    ]
    assert (queue.statistics().sent, queue.statistics().failed) == (512, 1712)


# off -------------------------------------------------------------------------------------------------------------------


def test_without_an_endpoint_the_parts_are_the_plain_ones() -> None:
    assert choose_parts(TracingConfig(ratio=1.0), "c", 0, SystemClock(), TrustedProxies(())) == Parts()


def test_a_worker_loads_nothing_of_it_by_itself() -> None:
    import subprocess

    code = "import sys, titans3.worker.shell; print([name for name in sys.modules if 'opentelemetry' in name or 'requests' == name])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
