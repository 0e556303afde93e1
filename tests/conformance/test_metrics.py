"""``/_titans3/metrics`` of a real server: who may read it; what is documented is there, counts what was done, and has no series more."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open

from tests.conformance.scraped import TOKEN, Scraped, ask, scrape
from tests.conformance.served import Endpoint, certificate
from tests.faults.server import Server, free_port
from titans3.observe.metrics import COUNTER, HISTOGRAM, METRICS

SERIES_MAX = 1_600  # of two workers, two volumes, four buckets and some twenty operations
USAGE_SECONDS_MAX = 25.0
MIB = 1 << 20


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "token").write_text(f"{TOKEN}\n")
    file = folder / "titans3.toml"
    file.write_text(f"[metrics]\ntoken_file = '{folder}/token'\n")
    return file


@pytest.fixture(scope="module")
def served(config: Path) -> Iterator[Endpoint]:
    """A server of its own, over TLS: nobody else counts on it. It traces, to nobody, so that what traces count is there."""
    cert, key, authority = certificate(config.parent)
    env = {"TITANS3_S3__TLS_CERT": cert, "TITANS3_S3__TLS_KEY": key, "TITANS3_TRACING__ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    server = Server(config.parent / "data", options=("--config", str(config)), env=env)
    server.start()
    try:
        found = Endpoint(server, authority)
        wait(lambda: server.is_announced(), 30, "the server is ready")
        found.keys = server.credentials()
        yield found
    finally:
        assert server.stop() == 0
    assert TOKEN not in server.log.read_text(errors="replace")


@pytest.fixture(scope="module")
def s3(served: Endpoint) -> Any:
    return served.client()


def wait(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def seen(served: Endpoint) -> Scraped:
    return scrape(served.url, trust=served.authority)


def test_without_a_token_and_not_public_nobody_reads_them(plain: Endpoint) -> None:
    for token in (None, "", TOKEN):
        status, _, body = ask(plain.url, token)
        assert status == 403
        assert all(word in body.decode() for word in ("metrics.token", "metrics.token_file", "metrics.public"))


def test_wrong_signatures_at_every_door_are_counted(served: Endpoint) -> None:
    wrong = (served.keys[0], "x" * 40)
    before = seen(served)
    for service, call in (("iam", "list_users"), ("sts", "get_caller_identity"), ("s3", "list_buckets")):
        with pytest.raises(ClientError):
            getattr(served.client(service=service, keys=wrong), call)()
    assert served.admin("GET", "/info", keys=wrong)[0] == 403
    assert served.admin("GET", "/info", keys=("nobody", "x" * 40))[0] == 403
    after = seen(served)
    assert after.moved(before, "titans3_auth_failures_total", reason="signature_mismatch") == 4
    assert after.moved(before, "titans3_auth_failures_total", reason="access_key_unknown") == 1


def test_a_token_is_asked_for_and_a_wrong_one_is_counted(served: Endpoint) -> None:
    before = seen(served)
    for token in (None, "", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper()):
        status, headers, body = ask(served.url, token, trust=served.authority)
        assert (status, headers["www-authenticate"].split()[0]) == (401, "Bearer"), token
        assert TOKEN.encode() not in body
    for scheme in ("Basic", "Bearer:", ""):
        assert ask(served.url, None, trust=served.authority, Authorization=f"{scheme} {TOKEN}")[0] == 401
    assert ask(served.url, None, trust=served.authority, Authorization=f"bearer  {TOKEN}")[0] == 200
    assert ask(served.url, trust=served.authority, method="HEAD")[::2] == (200, b"")
    assert ask(served.url, trust=served.authority, method="DELETE")[0] == 405
    after = seen(served)
    assert after.moved(before, "titans3_scrapes_refused_total") == 9
    assert after.moved(before, "titans3_requests_total", operation="Metrics", code="401") == 9


def test_the_admin_api_does_not_show_the_token(served: Endpoint) -> None:
    status, answer = served.admin("GET", "/config")
    shown = answer["items"]
    assert status == 200
    assert [item["value"] for item in shown if item["name"] == "metrics.token"] == ["***"]
    assert served.admin("GET", "/config/metrics.token")[1]["value"] == "***"


def test_the_s3_port_has_no_other_way_to_them(served: Endpoint) -> None:
    for path in ("/_titans3/metrics/", "/_titans3/Metrics", "/_titans3//metrics", "/_titans3/metrics%2F"):
        assert served.raw("GET", path, sign=False).status == 404, path


def test_open_metrics_is_given_to_whoever_asks(served: Endpoint) -> None:
    status, headers, body = ask(served.url, trust=served.authority, Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert (status, headers["content-type"]) == (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    families = list(parse_open(body.decode()))
    assert {family.name for family in families} == {name.removesuffix("_total") for name in METRICS}
    assert ask(served.url, trust=served.authority)[1]["content-type"].startswith("text/plain; version=0.0.4")


def play(s3: Any, served: Endpoint, bucket: str) -> None:
    """One of each kind of thing that is counted."""
    large = os.urandom(2 * MIB)
    for number in range(5):
        s3.put_object(Bucket=bucket, Key=f"small {number}", Body=b"x" * 4096)
    s3.put_object(Bucket=bucket, Key="large", Body=large)
    for number in range(3):
        assert len(s3.get_object(Bucket=bucket, Key=f"small {number}")["Body"].read()) == 4096
    assert s3.get_object(Bucket=bucket, Key="large")["Body"].read() == large
    s3.head_object(Bucket=bucket, Key="large")
    for _ in range(2):
        assert served.raw("GET", f"/{bucket}/nothing").status == 404
    s3.delete_object(Bucket=bucket, Key="small 0")
    s3.list_objects_v2(Bucket=bucket)
    upload = s3.create_multipart_upload(Bucket=bucket, Key="open")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="open", UploadId=upload, PartNumber=1, Body=b"y" * 100_000)
    assert served.raw("GET", f"/{bucket}/large", keys=(served.keys[0], "wrong")).status == 403
    assert served.raw("GET", f"/{bucket}/large", keys=("NOBODY", "wrong")).status == 403


EXPECTED = {
    ("PutObject", "200"): 6, ("GetObject", "200"): 4, ("GetObject", "404"): 2, ("HeadObject", "200"): 1, ("DeleteObject", "204"): 1,
    ("ListObjectsV2", "200"): 1, ("CreateMultipartUpload", "200"): 1, ("UploadPart", "200"): 1, ("Unrouted", "403"): 2,
}  # fmt: skip


def test_counters_move_by_exactly_what_was_done(served: Endpoint, s3: Any) -> None:
    s3.create_bucket(Bucket="counted")
    before = seen(served)
    play(s3, served, "counted")
    after = seen(served)
    for (operation, code), count in EXPECTED.items():
        assert after.moved(before, "titans3_requests_total", operation=operation, code=code) == count, (operation, code)
    done = sum(count for (operation, _), count in EXPECTED.items() if operation != "Unrouted")
    assert after.moved(before, "titans3_requests_total") - after.moved(before, "titans3_requests_total", operation="Metrics") == done + 2
    assert after.moved(before, "titans3_request_duration_seconds_count", operation="GetObject") == 6
    assert after.moved(before, "titans3_first_byte_duration_seconds_count", operation="GetObject") == 6
    assert after.moved(before, "titans3_response_body_bytes_total", operation="PutObject") == 0
    assert after.moved(before, "titans3_request_body_bytes_total", operation="UploadPart") >= 100_000
    assert after.moved(before, "titans3_errors_total", code="NoSuchKey") == 2
    assert after.moved(before, "titans3_errors_total", code="SignatureDoesNotMatch") == 1
    assert after.moved(before, "titans3_client_errors_total") == 4
    assert after.moved(before, "titans3_server_errors_total") == 0
    assert after.moved(before, "titans3_auth_failures_total") == 2
    assert after.moved(before, "titans3_auth_failures_total", reason="signature_mismatch") == 1
    assert after.moved(before, "titans3_auth_failures_total", reason="access_key_unknown") == 1
    assert after.moved(before, "titans3_bucket_requests_total", bucket="counted") == done
    assert after.moved(before, "titans3_bucket_client_errors_total", bucket="counted") == 2
    assert after.moved(before, "titans3_bucket_server_errors_total", bucket="counted") == 0
    sent = 3 * 4096 + 2 * MIB
    assert sent < after.moved(before, "titans3_bucket_sent_bytes_total", bucket="counted") < sent + 10_000  # and documents
    assert after.moved(before, "titans3_data_syncs_total") >= 2
    assert after.moved(before, "titans3_extent_reads_total") >= 2
    read = ("titans3_small_reads_total", "titans3_neighbour_small_reads_total")
    assert sum(after.moved(before, name) for name in read) == 3
    # PUT, DELETE, create, part: an entry each. Each flush holds at least one; each entry is in one.
    entries = 6 + 1 + 1 + 1
    assert after.moved(before, "titans3_proposals_total") == after.moved(before, "titans3_proposals_applied_total") == entries
    assert after.moved(before, "titans3_log_records_total") == after.moved(before, "titans3_log_flush_records_sum") == entries
    assert 1 <= after.moved(before, "titans3_log_flush_duration_seconds_count") <= entries
    assert after.moved(before, "titans3_dispatch_total") >= done - 1


def test_everything_that_is_documented_is_there(served: Endpoint, s3: Any) -> None:
    s3.create_bucket(Bucket="present")
    play(s3, served, "present")
    wait(lambda: seen(served).or_zero("titans3_bucket_keys", bucket="present"), USAGE_SECONDS_MAX, "usage is counted")
    found = seen(served)
    assert found.families == {name.removesuffix("_total") for name in METRICS}
    samples = {name for name, _ in found.values}
    for metric in METRICS.values():
        names = {f"{metric.name}{suffix}" for suffix in ("_bucket", "_sum", "_count")} if metric.kind == HISTOGRAM else {metric.name}
        assert names <= samples, metric.name
        for name, labels in found.values:
            if name in names:
                assert {label for label, _ in labels} - {"le"} == set(metric.labels), metric.name
    assert all(value >= 0 for (name, _), value in found.values.items() if name in METRICS and METRICS[name].kind == COUNTER)
    assert found.total("titans3_worker_up") == found.total("titans3_workers") == 2
    assert found.labels("titans3_connections", "worker") == {"0", "1"}
    assert (found.total("titans3_ready"), found.total("titans3_healthy")) == (1, 1)
    days = (found.total("titans3_certificate_expiry_timestamp_seconds") - time.time()) / 86_400
    assert days > 1
    assert 0 < found.total("titans3_process_start_time_seconds") / 2 - time.time() + 600 < 601
    assert len(found.values) < SERIES_MAX


def test_usage_of_a_bucket_is_exact(served: Endpoint, s3: Any) -> None:
    s3.create_bucket(Bucket="weighed")
    s3.put_bucket_versioning(Bucket="weighed", VersioningConfiguration={"Status": "Enabled"})
    for number in range(20):
        s3.put_object(Bucket="weighed", Key=f"key {number}", Body=b"x" * 1000)
    s3.put_object(Bucket="weighed", Key="key 0", Body=b"x" * 500)
    s3.delete_object(Bucket="weighed", Key="key 1")
    upload = s3.create_multipart_upload(Bucket="weighed", Key="open")["UploadId"]
    s3.upload_part(Bucket="weighed", Key="open", UploadId=upload, PartNumber=1, Body=b"y" * 100_000)
    expected = {"keys": 20, "versions": 21, "delete_markers": 1, "stored_bytes": 20_500, "uploads": 1, "upload_bytes": 100_000}

    def told() -> dict[str, float]:
        found = seen(served)
        return {name: found.or_zero(f"titans3_bucket_{name}", bucket="weighed") for name in expected}

    wait(lambda: told() == expected, USAGE_SECONDS_MAX, f"{told()} is {expected}")
    assert seen(served).total("titans3_bucket_usage_age_seconds") < 60


def test_nothing_that_a_client_says_makes_a_series(served: Endpoint, s3: Any) -> None:
    s3.create_bucket(Bucket="bounded")
    play(s3, served, "bounded")

    def garbage(number: int) -> None:
        word = hashlib.sha256(str(number).encode()).hexdigest()[:12]
        for method, path in (("GET", f"/{word}/key"), ("PUT", f"/bounded/{word}"), ("GET", f"/bounded/{word}?{word}={word}"),
                             ("GET", f"/_titans3/{word}"), ("GET", f"/health/{word}"), ("OPTIONS", f"/{word}")):  # fmt: skip
            served.raw(method, path)
        served.raw("GET", f"/bounded/{word}", sign=False)
        served.raw(word.upper(), "/bounded/x")
        served.raw("GET", "/bounded/x", keys=(word, word))

    garbage(0)
    before = seen(served)
    for number in range(1, 30):
        garbage(number)
    after = seen(served)
    new = set(after.values) - set(before.values)
    known = {frozenset((label, value) for label, value in labels if label != "worker") for _, labels in before.values}
    assert not [key for key in new if frozenset(item for item in key[1] if item[0] != "worker") not in known]  # at most of the other worker
    assert len(after.values) < SERIES_MAX


def test_a_deleted_bucket_takes_its_series_with_it(served: Endpoint, s3: Any) -> None:
    s3.create_bucket(Bucket="going")
    s3.list_objects_v2(Bucket="going")
    assert seen(served).total("titans3_bucket_requests_total", bucket="going") == 1
    buckets = seen(served).total("titans3_buckets")
    s3.delete_bucket(Bucket="going")
    after = seen(served)
    assert "going" not in after.labels("titans3_bucket_requests_total", "bucket")
    assert after.total("titans3_buckets") == buckets - 1


def test_a_worker_that_stands_still_is_left_out_in_time(served: Endpoint) -> None:
    wait(lambda: seen(served).total("titans3_worker_up") == 2, 10, "both answer")
    board = served.server.board()
    stopped = next(pid for worker in range(2) if (pid := board.get(worker, 6)) and worker == 1)
    board.close()
    os.kill(stopped, signal.SIGSTOP)
    try:
        time.sleep(3)  # siblings hand it no connections any more
        for _ in range(4):
            begin = time.monotonic()
            try:
                found = seen(served)
            except OSError:  # the kernel gave the connection to the one that stands still
                continue
            if found.total("titans3_worker_up", worker="1") == 0:
                assert time.monotonic() - begin < 5
                assert found.total("titans3_worker_up", worker="0") == 1
                assert found.labels("titans3_connections", "worker") == {"0"}
                assert found.labels("titans3_volume_state", "volume") == {"0", "1"}  # the board has what it last said
                assert not any(name == "titans3_bucket_keys" for name, _ in found.values)  # a part would be a wrong number
                break
        else:
            pytest.fail("no scrape reached the worker that goes on")
    finally:
        os.kill(stopped, signal.SIGCONT)
    wait(lambda: seen(served).total("titans3_worker_up") == 2, 10, "it is back")


def test_a_reload_changes_who_may_read_and_how_many_buckets_are_shown(served: Endpoint, s3: Any, config: Path) -> None:
    for name in ("largest", "second", "third"):
        s3.create_bucket(Bucket=name)
    s3.put_object(Bucket="largest", Key="x", Body=b"x" * 8 * MIB)
    wait(lambda: seen(served).or_zero("titans3_bucket_stored_bytes", bucket="largest"), USAGE_SECONDS_MAX, "usage is counted")
    kept = config.read_text()

    def reload(text: str) -> None:
        config.write_text(text)
        assert served.server.process is not None
        served.server.process.send_signal(signal.SIGHUP)

    try:
        reload("[metrics]\npublic = true\nbuckets_max = 1\n")
        wait(lambda: ask(served.url, None, trust=served.authority)[0] == 200, 10, "they are public")
        wait(lambda: seen(served).labels("titans3_bucket_keys", "bucket") == {"largest"}, 10, "one bucket is shown")
        reload("[metrics]\ntoken = 'short'\n")
        time.sleep(0.5)
        assert ask(served.url, None, trust=served.authority)[0] == 200  # a bad configuration changes nothing
        reload("[metrics]\ntoken = 'another-token-of-the-tests'\n")
        wait(lambda: ask(served.url, None, trust=served.authority)[0] == 401, 10, "they are not public any more")
        wait(lambda: ask(served.url, "another-token-of-the-tests", trust=served.authority)[0] == 200, 10, "the new token is asked for")
        assert ask(served.url, trust=served.authority)[0] == 401
    finally:
        reload(kept)
        wait(lambda: ask(served.url, trust=served.authority)[0] == 200, 10, "the old token is back")
