"""Traces as the receiver of OpenTelemetry's own collector takes them (``python tools/clients.py otlp``), with ``TITANS3_LONG=1``.

It takes minutes to build; tests/conformance/test_tracing.py shows the same by OpenTelemetry's protocol package in every run.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.clients.installed import program
from tests.faults.server import Server, free_port

pytestmark = pytest.mark.skipif(not os.environ.get("TITANS3_LONG"), reason="TITANS3_LONG=1: the collector takes minutes to build")


def wait_for_listening(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line == "listening\n":
            return
    raise AssertionError("the collector ended")


def test_a_real_collector_gets_one_trace_of_front_worker_hop_and_flush(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    told = tmp_path / "spans"
    server = Server(tmp_path / "data", env={"TITANS3_TRACING__ENDPOINT": f"http://{address}", "TITANS3_TRACING__RATIO": "1"})
    with open(told, "wb") as out, subprocess.Popen(
        [program("otlp", "otlp"), address], stdin=subprocess.PIPE, stdout=out, stderr=subprocess.PIPE, text=True
    ) as collector:  # fmt: skip
        wait_for_listening(collector)
        server.start()
        try:
            asyncio.run(server.wait_ready())
            traces = put_some(server)
        finally:
            assert server.stop() == 0  # which sends what waits
            assert collector.stdin is not None
            collector.stdin.close()
            assert collector.wait(10) == 0
    spans = [json.loads(line) for line in told.read_text().splitlines()]
    hopped = 0
    for trace in traces:
        mine = {span["name"]: span for span in spans if span["trace"] == trace}
        assert {"PutObject", "parse", "authorize", "flush"} <= set(mine), mine
        if "hop" in mine:
            hopped += 1
            root, hop, serve, flush = (mine[name] for name in ("PutObject", "hop", "serve", "flush"))
            assert (hop["parent"], serve["parent"], flush["parent"]) == (root["span"], hop["span"], serve["span"])
            assert root["parent"] == "" and (root["kind"], hop["kind"], serve["kind"]) == ("Server", "Client", "Server")
            assert root["resource"]["process.pid"] != flush["resource"]["process.pid"] == serve["resource"]["process.pid"]
    assert 0 < hopped < len(traces)


def put_some(server: Server) -> list[str]:
    """Trace ids of some PUTs."""
    access_key, secret = server.credentials()
    client: Any = boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{server.port}", region_name="us-east-1", aws_access_key_id=access_key,
        aws_secret_access_key=secret,
    )  # fmt: skip
    client.create_bucket(Bucket="traced")
    time.sleep(0.1)
    answers = [client.put_object(Bucket="traced", Key=f"key-{number}", Body=b"x") for number in range(12)]
    return [answer["ResponseMetadata"]["HTTPHeaders"]["traceresponse"].split("-")[1] for answer in answers]
