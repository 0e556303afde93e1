"""CORS: its configuration, preflight, and what answers say to other origins.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/userguide/ManageCorsUsing.html,
https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutBucketCors.html, https://docs.aws.amazon.com/AmazonS3/latest/API/RESTOPTIONSobject.html
"""

from __future__ import annotations

import base64
import zlib
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conformance.served import Answer, Endpoint, fields_of, refused

pytestmark = pytest.mark.operation("GetBucketCors", "PutBucketCors", "DeleteBucketCors")

RULE = {"AllowedOrigins": ["https://app.example"], "AllowedMethods": ["GET", "PUT"]}


def configure(s3: Any, bucket: str, *rules: dict[str, Any]) -> None:
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": list(rules)})


def ask(endpoint: Endpoint, target: str, origin: str | None, method: str | None, headers: str | None = None) -> Answer:
    """A preflight as a browser sends it."""
    sent = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return endpoint.raw("OPTIONS", target, {name: value for name, value in sent.items() if value is not None}, sign=False)


def allowed(answer: Answer) -> str | None:
    return answer.headers.get("access-control-allow-origin")


def test_rules_come_back_as_they_were_given(s3: Any, bucket: str) -> None:
    rules = [
        {"ID": "first", "AllowedOrigins": ["https://*.example", "http://a.test"],
         "AllowedMethods": ["GET", "PUT", "POST", "DELETE", "HEAD"],
         "AllowedHeaders": ["x-amz-*", "Content-Type"], "ExposeHeaders": ["ETag", "x-amz-request-id"], "MaxAgeSeconds": 3000},
        {"AllowedOrigins": ["*"], "AllowedMethods": ["GET"], "MaxAgeSeconds": 0},
    ]  # fmt: skip
    assert s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": rules})["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"] == rules


def test_there_are_none_before_and_after(s3: Any, bucket: str) -> None:
    with refused("NoSuchCORSConfiguration", 404):
        s3.get_bucket_cors(Bucket=bucket)
    for _ in range(2):
        assert s3.delete_bucket_cors(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 204
    configure(s3, bucket, RULE)
    s3.delete_bucket_cors(Bucket=bucket)
    with refused("NoSuchCORSConfiguration", 404):
        s3.get_bucket_cors(Bucket=bucket)


def test_a_second_configuration_replaces_the_first(s3: Any, bucket: str) -> None:
    configure(s3, bucket, RULE)
    configure(s3, bucket, {"AllowedOrigins": ["*"], "AllowedMethods": ["HEAD"]})
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"] == [{"AllowedOrigins": ["*"], "AllowedMethods": ["HEAD"]}]


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ({"AllowedOrigins": ["*"], "AllowedMethods": ["PATCH"]}, "InvalidRequest"),
        ({"AllowedOrigins": ["*"], "AllowedMethods": ["get"]}, "InvalidRequest"),
        ({"AllowedOrigins": ["*"], "AllowedMethods": ["OPTIONS"]}, "InvalidRequest"),
        ({"AllowedOrigins": ["https://*.*.example"], "AllowedMethods": ["GET"]}, "InvalidRequest"),
        ({"AllowedOrigins": ["*"], "AllowedMethods": ["GET"], "AllowedHeaders": ["*-*"]}, "InvalidRequest"),
        ({"AllowedOrigins": ["*"], "AllowedMethods": ["GET"], "ExposeHeaders": ["x-*"]}, "InvalidRequest"),
        ({"AllowedOrigins": [], "AllowedMethods": ["GET"]}, "MalformedXML"),
        ({"AllowedOrigins": ["*"], "AllowedMethods": []}, "MalformedXML"),
        ({"AllowedOrigins": ["*"], "AllowedMethods": ["GET"], "ID": "i" * 256}, "MalformedXML"),
    ],
)
def test_rules_that_are_refused(s3: Any, bucket: str, rule: dict[str, Any], code: str) -> None:
    with refused(code, 400):
        configure(s3, bucket, rule)
    with refused("NoSuchCORSConfiguration", 404):
        s3.get_bucket_cors(Bucket=bucket)


def test_an_unsupported_method_is_named(s3: Any, bucket: str) -> None:
    with refused("InvalidRequest", 400) as caught:
        configure(s3, bucket, {"AllowedOrigins": ["*"], "AllowedMethods": ["PATCH"]})
    assert fields_of(caught)["Message"] == "Found unsupported HTTP method in CORS config. Unsupported method is PATCH"


def test_a_hundred_rules_and_no_more(s3: Any, bucket: str) -> None:
    configure(s3, bucket, *[RULE] * 100)
    with refused("InvalidRequest", 400):
        configure(s3, bucket, *[RULE] * 101)
    assert len(s3.get_bucket_cors(Bucket=bucket)["CORSRules"]) == 100


def test_no_rules_and_no_xml_are_malformed(endpoint: Endpoint, bucket: str) -> None:
    for body in (b"<CORSConfiguration/>", b"", b"<CORS", b"<CORSConfiguration><Rule/></CORSConfiguration>"):
        answer = endpoint.raw("PUT", f"/{bucket}?cors", {"x-amz-checksum-crc32": crc32(body)}, body)
        assert (answer.status, answer.code) == (400, "MalformedXML"), body


def test_a_configuration_must_prove_itself(endpoint: Endpoint, bucket: str) -> None:
    answer = endpoint.raw("PUT", f"/{bucket}?cors", {}, b"<CORSConfiguration/>")
    assert (answer.status, answer.code) == (400, "InvalidRequest")
    answer = endpoint.raw("PUT", f"/{bucket}?cors", {"x-amz-checksum-crc32": crc32(b"other")}, b"<CORSConfiguration/>")
    assert (answer.status, answer.code) == (400, "BadDigest")


def crc32(body: bytes) -> str:
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


# preflight


def test_preflight_of_an_allowed_request(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    configure(s3, bucket, {**RULE, "AllowedHeaders": ["Content-*", "x-amz-date"], "ExposeHeaders": ["ETag"], "MaxAgeSeconds": 60})
    answer = ask(endpoint, f"/{bucket}/a/key", "https://app.example", "PUT", "content-TYPE, X-Amz-Date")
    assert answer.status == 200
    assert answer.body == b""
    assert allowed(answer) == "https://app.example"
    assert answer.headers["access-control-allow-methods"] == "GET, PUT"
    assert answer.headers["access-control-allow-headers"] == "content-type, x-amz-date"
    assert answer.headers["access-control-expose-headers"] == "ETag"
    assert answer.headers["access-control-max-age"] == "60"
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "Origin" in answer.headers["vary"]


def test_preflight_where_every_origin_may(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    configure(s3, bucket, {"AllowedOrigins": ["*"], "AllowedMethods": ["GET"]})
    answer = ask(endpoint, f"/{bucket}", "https://anything.test", "GET")
    assert (answer.status, allowed(answer)) == (200, "*")
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("origin", "method", "headers"),
    [
        ("https://app.example:444", "GET", None),
        ("http://app.example", "GET", None),
        ("https://APP.example", "GET", None),
        ("https://app.example", "DELETE", None),
        ("https://app.example", "GET", "x-other"),
    ],
)
def test_preflight_that_is_not_allowed(
    endpoint: Endpoint, s3: Any, bucket: str, origin: str, method: str, headers: str | None
) -> None:
    configure(s3, bucket, RULE)
    answer = ask(endpoint, f"/{bucket}/k", origin, method, headers)
    assert (answer.status, answer.code) == (403, "AccessForbidden")
    assert allowed(answer) is None


def test_preflight_of_a_bucket_without_rules_and_of_none(endpoint: Endpoint, bucket: str) -> None:
    answer = ask(endpoint, f"/{bucket}/k", "https://app.example", "GET")
    assert (answer.status, answer.code) == (403, "AccessForbidden")
    assert answer.xml.findtext("Message") == "CORSResponse: CORS is not enabled for this bucket."
    assert ask(endpoint, f"/{bucket}-not-there/k", "https://app.example", "GET").status == 403


def test_preflight_that_says_too_little(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    configure(s3, bucket, RULE)
    assert ask(endpoint, f"/{bucket}/k", None, "GET").status == 400
    assert ask(endpoint, f"/{bucket}/k", "https://app.example", None).status == 400
    assert ask(endpoint, f"/{bucket}/k", "https://app.example", "PATCH").status == 400


def test_preflight_of_a_presigned_url(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    configure(s3, bucket, RULE)
    url = urlsplit(s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"}))
    assert ask(endpoint, f"{url.path}?{url.query}", "https://app.example", "PUT").status == 200


@pytest.mark.parametrize(
    ("pattern", "origin", "matches"),
    [
        ("https://*.example", "https://a.example", True),
        ("https://*.example", "https://a.b.example", True),
        ("https://*.example", "https://.example", True),
        ("https://*.example", "https://example", False),
        ("*suffix", "http://suffix", True),
        ("*suffix", "http://suffix.test", False),
        ("prefix*", "prefix", True),
        ("prefix*", "http://prefix", False),
        ("start*end", "startend", True),
        ("start*end", "starten", False),
        ("aa*aa", "aaa", False),
    ],
)
def test_one_wildcard_stands_for_any_text(
    endpoint: Endpoint, s3: Any, bucket: str, pattern: str, origin: str, matches: bool
) -> None:
    configure(s3, bucket, {"AllowedOrigins": [pattern], "AllowedMethods": ["GET"]})
    assert allowed(ask(endpoint, f"/{bucket}/k", origin, "GET")) == (origin if matches else None)


def test_the_first_rule_that_matches_decides(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    configure(
        s3, bucket,
        {"AllowedOrigins": ["https://a.test"], "AllowedMethods": ["PUT"], "MaxAgeSeconds": 1},
        {"AllowedOrigins": ["https://*.test"], "AllowedMethods": ["GET"], "MaxAgeSeconds": 2},
        {"AllowedOrigins": ["https://a.test"], "AllowedMethods": ["GET"], "MaxAgeSeconds": 3},
    )  # fmt: skip
    assert ask(endpoint, f"/{bucket}/k", "https://a.test", "GET").headers["access-control-max-age"] == "2"
    assert ask(endpoint, f"/{bucket}/k", "https://a.test", "PUT").headers["access-control-max-age"] == "1"


# answers


def test_answers_to_an_allowed_origin_say_so(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    configure(s3, bucket, {**RULE, "ExposeHeaders": ["ETag"]})
    s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    answer = endpoint.raw("GET", f"/{bucket}/k", {"Origin": "https://app.example"})
    assert (answer.status, answer.body, allowed(answer)) == (200, b"body", "https://app.example")
    assert answer.headers["access-control-expose-headers"] == "ETag"
    assert "Origin" in answer.headers["vary"]
    assert allowed(endpoint.raw("PUT", f"/{bucket}/k", {"Origin": "https://app.example"}, b"x")) == "https://app.example"


def test_answers_to_others_do_not(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    configure(s3, bucket, RULE)
    s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    for headers in ({}, {"Origin": "https://other.example"}):
        answer = endpoint.raw("GET", f"/{bucket}/k", headers)
        assert (answer.status, allowed(answer)) == (200, None)
    answer = endpoint.raw("DELETE", f"/{bucket}/k", {"Origin": "https://app.example"})
    assert (answer.status, allowed(answer)) == (204, None)


def test_refusals_say_so_too(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    configure(s3, bucket, RULE)
    answer = endpoint.raw("GET", f"/{bucket}/missing", {"Origin": "https://app.example"})
    assert (answer.status, allowed(answer)) == (404, "https://app.example")
    answer = endpoint.raw("GET", f"/{bucket}/missing", {"Origin": "https://app.example"}, sign=False)
    assert (answer.status, allowed(answer)) == (403, "https://app.example")


def test_rules_are_gone_with_their_bucket(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    configure(s3, bucket, RULE)
    s3.delete_bucket(Bucket=bucket)
    s3.create_bucket(Bucket=bucket)
    with refused("NoSuchCORSConfiguration", 404):
        s3.get_bucket_cors(Bucket=bucket)
    assert ask(endpoint, f"/{bucket}/k", "https://app.example", "GET").status == 403
