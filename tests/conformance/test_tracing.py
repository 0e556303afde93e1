"""Traces of real requests, as a collector gets them: one trace over two processes, who decides what is traced, and what it costs when
nobody listens. The collector decodes with OpenTelemetry's own protocol package.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.collector import CLIENT, SERVER, Collector, Told, collecting
from tests.conformance.served import Endpoint
from tests.faults.server import Server, free_port

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
METRICS = {"TITANS3_METRICS__PUBLIC": "true"}


@contextmanager
def serving(folder: Path, endpoint: str, **options: str) -> Iterator[Endpoint]:
    """A server with two workers that traces to ``endpoint``."""
    folder.mkdir(exist_ok=True)
    keys = {f"TITANS3_TRACING__{name.upper()}": value for name, value in options.items() if name.islower()}
    rest = {name: value for name, value in options.items() if not name.islower()}
    server = Server(folder / "data", env={"TITANS3_TRACING__ENDPOINT": endpoint, **METRICS, **keys, **rest})
    server.start()
    try:
        asyncio.run(server.wait_ready())
        yield Endpoint(server, "", server.credentials())
    finally:
        assert server.stop() == 0, server.tail()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def all_traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """Every request is traced, and says more in the logs than usual."""
    folder = tmp_path_factory.mktemp("traced")
    with serving(
        folder, collector.url, ratio="1", TITANS3_LOG__LEVEL="debug", TITANS3_LOG__FORMAT="json",
        TITANS3_ACCESS_LOG__PATH=str(folder / "access"),
    ) as served:  # fmt: skip
        served.client().create_bucket(Bucket="traced")
        yield served


def trace_of(answer: dict[str, Any]) -> str:
    """The trace id that an answer tells."""
    found = re.fullmatch(r"00-([0-9a-f]{32})-[0-9a-f]{16}-01", answer["ResponseMetadata"]["HTTPHeaders"]["traceresponse"])
    assert found is not None
    return found[1]


def one(spans: list[Told], name: str, **wanted: Any) -> Told:
    """The only span of a name, with these attributes."""
    found = [
        span for span in spans
        if span.name == name and all(span.attributes.get(f"titans3.{key}") == value for key, value in wanted.items())
    ]  # fmt: skip
    assert len(found) == 1, spans
    return found[0]


def hopping(collector: Collector, served: Endpoint) -> list[Told]:
    """The trace of the PUT of a key that the connection's worker does not own."""
    client = served.client()
    for number in range(20):
        key = f"key-{number}"
        trace = trace_of(client.put_object(Bucket="traced", Key=key, Body=b"x" * 4096))
        spans = collector.trace(trace, spans=5)
        if any(span.name == "hop" and span.attributes["titans3.call"] == "PUT" for span in spans):
            return collector.trace(trace, spans=7)
    raise AssertionError("twenty keys of one owner")


def test_one_trace_covers_front_worker_hop_and_flush(collector: Collector, all_traced: Endpoint) -> None:
    spans = hopping(collector, all_traced)
    root, hop, serve = one(spans, "PutObject"), one(spans, "hop", call="PUT"), one(spans, "serve", call="PUT")
    flush, applied = one(spans, "flush", command="PutObject"), one(spans, "metadata", call="apply")
    assert [root.kind, hop.kind, serve.kind] == [SERVER, CLIENT, SERVER]
    assert root.parent_id == "" and {one(spans, "parse").parent_id, one(spans, "authorize").parent_id} == {root.span_id}
    assert (hop.parent_id, serve.parent_id) == (root.span_id, hop.span_id)
    assert (flush.parent_id, applied.parent_id) == (serve.span_id, serve.span_id)
    assert root.worker == hop.worker == 1 - serve.worker and flush.worker == applied.worker == serve.worker
    assert root.resource["process.pid"] != serve.resource["process.pid"]
    assert {root.resource["process.pid"], serve.resource["process.pid"]} == set(all_traced.server.worker_pids())
    assert hop.attributes["titans3.to_worker"] == serve.worker
    assert root.begin <= hop.begin <= serve.begin <= flush.begin < flush.end <= applied.end <= serve.end <= hop.end <= root.end
    assert root.attributes["http.response.status_code"] == 200 and root.attributes["titans3.bucket"] == "traced"
    assert root.attributes["http.request.body.size"] == 4096 and root.attributes["client.address"] == "127.0.0.1"
    assert root.attributes["titans3.request_id"] == serve.attributes["titans3.request_id"]


def test_a_get_shows_the_lookup_and_the_read_in_the_owner(collector: Collector, all_traced: Endpoint) -> None:
    client = all_traced.client()
    traces = []
    for number in range(8):  # read at once: what is in the sibling's tree is read from there without a hop
        client.put_object(Bucket="traced", Key=f"read-{number}", Body=b"x" * 4096)
        traces.append(trace_of(client.get_object(Bucket="traced", Key=f"read-{number}")))
    found = [collector.trace(trace, spans=5) for trace in traces]
    spans = next(spans for spans in found if any(span.name == "hop" for span in spans))
    root, hop, serve = one(spans, "GetObject"), one(spans, "hop"), one(spans, "serve")
    lookup, read = one(spans, "metadata", call="find"), one(spans, "read")
    assert (hop.parent_id, serve.parent_id, lookup.parent_id) == (root.span_id, hop.span_id, serve.span_id)
    assert read.parent_id == lookup.span_id and read.worker == serve.worker == 1 - root.worker
    assert root.attributes["http.response.body.size"] == 4096


def test_a_large_body_shows_its_flush_and_its_read(collector: Collector, all_traced: Endpoint) -> None:
    client = all_traced.client()
    body = b"y" * (3 << 20)
    put = collector.trace(trace_of(client.put_object(Bucket="traced", Key="large", Body=body)), spans=5)
    assert one(put, "flush", call="body").attributes["titans3.body.bytes"] == len(body)
    assert one(put, "flush", call=None).attributes["titans3.command"] == "PutObject"
    answer = client.get_object(Bucket="traced", Key="large")
    assert answer["Body"].read() == body
    spans = collector.trace(trace_of(answer), spans=5)
    root, read = one(spans, "GetObject"), one(spans, "read")
    assert read.parent_id == root.span_id and read.attributes["titans3.read.bytes"] == len(body)
    assert 0 < read.attributes["titans3.read.seconds"] * 1e9 <= read.end - read.begin


def test_refusals_are_named_and_secrets_are_not_told(collector: Collector, all_traced: Endpoint) -> None:
    client = all_traced.client()
    url = client.generate_presigned_url("get_object", Params={"Bucket": "traced", "Key": "absent"})
    answer = all_traced.raw("GET", url.removeprefix(all_traced.url), sign=False)
    assert answer.status == 404
    (root, *rest) = collector.trace(answer.headers["traceresponse"].split("-")[1], spans=3)
    root = one([root, *rest], "GetObject")
    assert root.attributes["error.type"] == "NoSuchKey" and not root.failed
    assert root.attributes["url.path"] == "/traced/absent"
    everything = repr([(span.name, span.attributes, span.resource) for span in collector.spans])
    signature = re.search(r"Signature=([^&]+)", url)
    assert signature is not None
    for secret in (signature[1], all_traced.keys[1], "Authorization", "X-Amz-"):
        assert secret not in everything


def test_log_lines_tell_request_and_trace(collector: Collector, all_traced: Endpoint) -> None:
    answer = all_traced.raw("GET", "/traced/not-there")
    trace, request = answer.headers["traceresponse"].split("-")[1], answer.headers["x-amz-request-id"]
    lines = [json.loads(line) for line in all_traced.server.log.read_text().splitlines() if line.startswith("{")]
    mine = [line for line in lines if line.get("request_id") == request]
    assert mine and {line["trace_id"] for line in mine} == {trace}
    deadline = time.monotonic() + 5
    while True:
        text = "".join(path.read_text() for path in (all_traced.server.data.parent / "access").glob("access.*.log"))
        found = [line for line in map(json.loads, text.splitlines()) if line["request_id"] == request]
        if found or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert [line["trace_id"] for line in found] == [trace]


def test_probes_and_scrapes_are_not_traced(all_traced: Endpoint) -> None:
    for path in ("/health/live", "/_titans3/metrics"):
        assert "traceresponse" not in all_traced.raw("GET", path, sign=False).headers


def test_traces_go_on_through_a_rolling_restart(collector: Collector, all_traced: Endpoint) -> None:
    server, client = all_traced.server, all_traced.client()
    assert server.process is not None
    before = set(server.worker_pids())
    server.process.send_signal(signal.SIGUSR2)
    deadline, number = time.monotonic() + 60, 0
    while before & set(server.worker_pids()) or len(server.worker_pids()) != len(before):
        number += 1
        client.put_object(Bucket="traced", Key=f"during-{number}", Body=b"x")  # asked once: a failure is a failure
        assert time.monotonic() < deadline, server.tail()
    spans = hopping(collector, all_traced)
    assert {span.resource["process.pid"] for span in spans} == set(server.worker_pids())
    assert number > 3


# who decides -----------------------------------------------------------------------------------------------------------


def test_a_trusted_parent_decides_and_its_trace_goes_on(collector: Collector, tmp_path: Path) -> None:
    with serving(tmp_path, collector.url, ratio="0", trusted="127.0.0.0/8", traces_max="3") as served:

        def asked(header: str) -> str:
            headers = {"traceparent": header, "tracestate": "vendor=1"}
            return served.raw("GET", "/", headers).headers.get("traceresponse", "")

        answer = asked(f"00-{TRACE}-{PARENT}-01")
        assert answer.startswith(f"00-{TRACE}-") and answer.endswith("-01") and PARENT not in answer
        root = one(collector.trace(TRACE), "ListBuckets")
        assert (root.parent_id, root.state) == (PARENT, "vendor=1") and root.span_id == answer.split("-")[2]
        assert asked(f"00-{TRACE}-{PARENT}-00") == ""
        for nonsense in (f"00-{TRACE.upper()}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", "x" * 5000, "01"):
            assert asked(nonsense) == ""
        time.sleep(1)  # what the first ones took of the limit is back
        many = [asked(f"00-{TRACE}-{PARENT}-01") for _ in range(40)]
        assert 3 <= sum(map(bool, many)) < 30
        assert served.raw("GET", "/_titans3/metrics", sign=False).body.count(b"titans3_traces_limited_total{") == 2


def test_a_stranger_can_neither_ask_for_traces_nor_keep_from_them(collector: Collector, tmp_path: Path) -> None:
    other = "5" * 32
    with serving(tmp_path, collector.url, ratio="1", trusted="192.0.2.0/24", traces_max="1") as served:
        answer = served.raw("GET", "/", {"traceparent": f"00-{other}-{PARENT}-00"})
        trace = answer.headers["traceresponse"].split("-")[1]
        assert trace != other
        root = one(collector.trace(trace), "ListBuckets")
        assert (root.parent_id, root.links) == ("", [other])
        many = [served.raw("GET", "/", {"traceparent": f"00-{other}-{PARENT}-01"}).headers for _ in range(20)]
        assert any("traceresponse" not in headers for headers in many)


# nobody listens --------------------------------------------------------------------------------------------------------


def test_a_collector_that_is_not_there_costs_requests_nothing_and_is_told_once(tmp_path: Path) -> None:
    with serving(tmp_path, f"http://127.0.0.1:{free_port()}", ratio="1", traces_max="1000") as served:
        client = served.client()
        client.create_bucket(Bucket="unheard")
        slowest = 0.0
        deadline = time.monotonic() + 30
        while True:
            begin = time.monotonic()
            client.list_objects_v2(Bucket="unheard")
            slowest = max(slowest, time.monotonic() - begin)
            metrics = served.raw("GET", "/_titans3/metrics", sign=False).body.decode()
            failed = re.findall(r'titans3_trace_spans_total\{worker="\d+",outcome="failed"\} (\d+)', metrics)
            if len(failed) == 2 and all(map(int, failed)):
                break
            assert time.monotonic() < deadline, served.server.tail()
            time.sleep(0.05)
        assert slowest < 2  # a batch is tried for five seconds
        lines = [line for line in served.server.log.read_text().splitlines() if "traces do not reach" in line]
        assert len(lines) == 2 and all("Connection refused" in line or "refused" in line.lower() for line in lines), lines
        assert len({line.partition(" worker ")[2][:1] for line in lines}) == 2


def without_opentelemetry(folder: Path) -> dict[str, str]:
    """Environment of a server for which the extra is not installed; a file says if anybody looked for it."""
    (folder / "opentelemetry").mkdir(parents=True)
    (folder / "opentelemetry/__init__.py").write_text(
        f"open({str(folder / 'asked')!r}, 'w').close()\nraise ModuleNotFoundError('No module named opentelemetry')\n"
    )
    return {"PYTHONPATH": str(folder)}


def test_switched_off_nothing_of_opentelemetry_is_loaded(tmp_path: Path) -> None:
    with serving(tmp_path, "", ratio="1", trusted="127.0.0.1", **without_opentelemetry(tmp_path / "path")) as served:
        answer = served.raw("GET", "/", {"traceparent": f"00-{TRACE}-{PARENT}-01"})
        assert answer.status == 200 and "traceresponse" not in answer.headers
        metrics = served.raw("GET", "/_titans3/metrics", sign=False).body.decode()
        assert re.findall(r'titans3_traces_total\{worker="\d"\} (.+)', metrics) == ["0", "0"]
    assert not (tmp_path / "path/asked").exists()


def test_the_extra_that_is_missing_is_named_at_the_start(tmp_path: Path) -> None:
    environment = {"TITANS3_TRACING__ENDPOINT": "http://127.0.0.1:4318", **without_opentelemetry(tmp_path / "path")}
    server = Server(tmp_path / "data", env=environment)
    server.start()
    assert server.process is not None
    assert server.process.wait(20) != 0
    assert "TITANS3_TRACING__ENDPOINT: tracing.endpoint: traces need the extra otel: pip install 'titans3[otel]'" in server.tail()
