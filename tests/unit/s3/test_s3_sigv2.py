"""Signature Version 2 through the gateway, signed by botocore: headers, queries, both styles of address, and every refusal."""

from __future__ import annotations

import hashlib
import time
from base64 import b64encode
from email.utils import formatdate
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.auth import HmacV1Auth, HmacV1QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from tests.unit.s3.wire import OTHER, ROOT, Answer, Client, WireBody
from titans3.http.sigv2 import SUBRESOURCES, sign
from titans3.s3.operations import OPERATIONS

HOST = "127.0.0.1:9000"
KEYS = Credentials(ROOT.access_key, ROOT.secret)


def fresh(**options: object) -> Client:
    made = Client(**options)  # type: ignore[arg-type]
    made.clock.now_ms = int(time.time() * 1000)
    made.bucket()
    return made


@pytest.fixture
def client() -> Client:
    return fresh()


def send(client: Client, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> Answer:
    sent = {"host": HOST, **headers}
    if method in ("PUT", "POST"):
        sent["content-length"] = str(len(body))
    return client.send(method, target.encode(), sent, WireBody(body))


def signed(
    client: Client, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"", *, keys: Credentials = KEYS
) -> Answer:
    """With an Authorization header of botocore's."""
    request = AWSRequest(method, f"http://{HOST}{target}", headers=headers or {}, data=body)
    HmacV1Auth(keys).add_auth(request)
    return send(client, method, target, {name: request.headers[name] for name in request.headers}, body)


def presigned(method: str, target: str, headers: dict[str, str] | None = None, *, expires: int = 60) -> str:
    request = AWSRequest(method, f"http://{HOST}{target}", headers=headers or {}, data=b"")
    HmacV1QueryAuth(KEYS, expires).add_auth(request)
    parts = urlsplit(request.url)
    return f"{parts.path}?{parts.query}"


def test_objects(client: Client) -> None:
    headers = {"x-amz-meta-a": "1", "Content-Type": "text/plain"}
    assert signed(client, "PUT", "/bucket/a%20b", headers, b"body").status == 200
    answer = signed(client, "GET", "/bucket/a%20b")
    assert (answer.body, answer.headers["content-type"], answer.headers["x-amz-meta-a"]) == (b"body", "text/plain", "1")
    assert signed(client, "GET", "/bucket?prefix=a&list-type=2").all("Contents/Key") == ["a b"]
    assert signed(client, "DELETE", "/bucket/a%20b").status == 204
    assert signed(client, "GET", "/").all("Buckets/Bucket/Name") == ["bucket"]


def test_sub_resources(client: Client) -> None:
    upload = signed(client, "POST", "/bucket/key?uploads").xml.findtext("UploadId")
    etag = signed(client, "PUT", f"/bucket/key?partNumber=1&uploadId={upload}", body=b"part").headers["etag"]
    document = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>".encode()
    assert signed(client, "POST", f"/bucket/key?uploadId={upload}", body=document).xml.tag == "CompleteMultipartUploadResult"
    delete = b"<Delete><Object><Key>key</Key></Object></Delete>"
    proof = {"Content-MD5": b64encode(hashlib.md5(delete, usedforsecurity=False).digest()).decode()}
    assert signed(client, "POST", "/bucket?delete", proof, delete).all("Deleted/Key") == ["key"]


def test_what_selects_an_operation_is_under_the_signature() -> None:
    """Every sub-resource and every further parameter of the table; ListObjects is of one right in both its versions."""
    names = {item.resource for item in OPERATIONS.values() if item.resource} | {name for item in OPERATIONS.values() for name in item.query}
    assert names - {name.decode() for name in SUBRESOURCES} == {"list-type", "id"}


def test_virtual_host() -> None:
    client = fresh(domains=("s3.example.com",))
    date = formatdate(time.time(), usegmt=True)
    for path, resource in (("/key", "/bucket/key"), ("/", "/bucket/"), ("/?location", "/bucket/?location")):
        signature = sign(ROOT.secret, f"GET\n\n\n{date}\n{resource}".encode()).decode()
        headers = {"host": "bucket.s3.example.com", "date": date, "authorization": f"AWS {ROOT.access_key}:{signature}"}
        assert client.send("GET", path.encode(), headers, WireBody(b"")).status == (404 if path == "/key" else 200)


def test_signed_queries(client: Client) -> None:
    assert send(client, "PUT", presigned("PUT", "/bucket/key"), {}, b"body").status == 200
    answer = send(client, "GET", presigned("GET", "/bucket/key?response-content-type=text%2Fcsv"), {})
    assert (answer.body, answer.headers["content-type"]) == (b"body", "text/csv")
    assert send(client, "HEAD", presigned("HEAD", "/bucket/key"), {}).status == 200
    assert send(client, "GET", presigned("PUT", "/bucket/key"), {}).code == "SignatureDoesNotMatch"
    assert send(client, "DELETE", presigned("DELETE", "/bucket/key"), {}).status == 204


def test_headers_that_were_signed_into_the_query_count(client: Client) -> None:
    target = presigned("PUT", "/bucket/key", {"x-amz-meta-a": "1", "Content-Type": "text/plain"})
    assert send(client, "PUT", target, {}, b"body").status == 200
    answer = client("HEAD", "/bucket/key")
    assert (answer.headers["x-amz-meta-a"], answer.headers["content-type"]) == ("1", "text/plain")
    assert send(client, "PUT", target, {"x-amz-acl": "public-read"}, b"body").code == "SignatureDoesNotMatch"
    acl = presigned("PUT", "/bucket/acl", {"x-amz-acl": "public-read"})
    assert send(client, "PUT", acl, {}, b"body").status == 200
    assert client("GET", "/bucket/acl", identity=None).status == 200
    md5 = presigned("PUT", "/bucket/md5", {"Content-MD5": b64encode(bytes(16)).decode()})
    assert send(client, "PUT", md5, {}, b"body").code == "BadDigest"


def test_boto3_makes_such_urls(client: Client) -> None:
    made = boto3.client(
        "s3", endpoint_url=f"http://{HOST}", aws_access_key_id=ROOT.access_key, aws_secret_access_key=ROOT.secret,
        region_name="us-east-1", config=Config(signature_version="s3", s3={"addressing_style": "path"}),
    )  # fmt: skip
    url = made.generate_presigned_url("put_object", {"Bucket": "bucket", "Key": "a b+c", "ContentType": "text/plain"}, ExpiresIn=60)
    assert "AWSAccessKeyId=" in url
    parts = urlsplit(url)
    assert send(client, "PUT", f"{parts.path}?{parts.query}", {"content-type": "text/plain"}, b"body").status == 200
    assert client("GET", "/bucket/a%20b%2Bc").body == b"body"


def test_errors_have_the_fields_that_aws_shows(client: Client) -> None:
    date = formatdate(time.time(), usegmt=True)
    answer = send(client, "GET", "/bucket/key?acl", {"date": date, "authorization": f"AWS {ROOT.access_key}:d3Jvbmc="})
    assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch")
    text = f"GET\n\n\n{date}\n/bucket/key?acl"
    assert answer.xml.findtext("StringToSign") == text
    assert answer.xml.findtext("StringToSignBytes") == text.encode().hex(" ")
    assert answer.xml.findtext("SignatureProvided") == "d3Jvbmc="
    assert answer.xml.findtext("AWSAccessKeyId") == ROOT.access_key
    assert answer.xml.find("CanonicalRequest") is None
    assert answer.xml.find("CanonicalRequestBytes") is None
    answer = signed(client, "GET", "/bucket/key", keys=Credentials("NOBODY", "secret"))
    assert (answer.status, answer.code, answer.xml.findtext("AWSAccessKeyId")) == (403, "InvalidAccessKeyId", "NOBODY")
    answer = send(client, "GET", "/bucket/key", {"date": date, "authorization": "AWS nothing"})
    assert (answer.status, answer.code, answer.xml.findtext("ArgumentName")) == (400, "InvalidArgument", "Authorization")


@pytest.mark.parametrize("date", ["", "Bad Date", "Tue, 99 Foo 2026 00:00:00 GMT", "2026"])
def test_bad_dates(client: Client, date: str) -> None:
    answer = send(client, "GET", "/bucket/key", {"date": date, "authorization": f"AWS {ROOT.access_key}:x="})
    assert (answer.status, answer.code) == (403, "AccessDenied")


@pytest.mark.parametrize("moved", [-1000, 1000])
def test_skew(client: Client, moved: int) -> None:
    client.clock.now_ms += moved * 1000
    answer = signed(client, "GET", "/bucket/key")
    assert (answer.status, answer.code) == (403, "RequestTimeTooSkewed")
    assert answer.xml.findtext("MaxAllowedSkewMilliseconds") == "900000"
    assert answer.xml.findtext("RequestTime")
    assert answer.xml.findtext("ServerTime")


def test_expiry(client: Client) -> None:
    target = presigned("GET", "/bucket/key", expires=60)
    assert send(client, "GET", target, {}).code == "NoSuchKey"
    client.clock.now_ms += 62_000
    answer = send(client, "GET", target, {})
    assert (answer.status, answer.code, answer.xml.findtext("Message")) == (403, "AccessDenied", "Request has expired")
    assert str(answer.xml.findtext("Expires")) < str(answer.xml.findtext("ServerTime"))
    answer = send(client, "GET", target.replace("Expires=", "Expires=x"), {})
    assert (answer.status, answer.code) == (403, "AccessDenied")


def test_rights_are_those_of_the_key(client: Client) -> None:
    answer = signed(client, "GET", "/bucket/key", keys=Credentials(OTHER.access_key, OTHER.secret))
    assert (answer.status, answer.code) == (403, "AccessDenied")
    answer = signed(client, "GET", "/bucket/key", {"x-amz-security-token": "x"})
    assert (answer.status, answer.code) == (400, "InvalidToken")


def test_switched_off() -> None:
    client = fresh(signature_v2=False)
    for answer in (signed(client, "GET", "/bucket/key"), send(client, "GET", presigned("GET", "/bucket/key"), {})):
        assert (answer.status, answer.code) == (400, "InvalidRequest")
        assert answer.xml.findtext("Message") == (
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
        )
    assert client("GET", "/bucket").status == 200
