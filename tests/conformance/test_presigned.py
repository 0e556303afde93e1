"""Presigned URLs.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html,
https://docs.aws.amazon.com/AmazonS3/latest/userguide/RESTAuthentication.html (version 2)
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conformance.served import Answer, Endpoint

BOTH = pytest.mark.parametrize("version", ["s3v4", "s3"])


def open_url(endpoint: Endpoint, method: str, url: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    parts = urlsplit(url)
    return endpoint.raw(method, f"{parts.path}?{parts.query}", headers or {}, body, sign=False)


def presign(endpoint: Endpoint, version: str, step: str, bucket: str, seconds: int = 60, **arguments: Any) -> str:
    client = endpoint.client(signature_version=version)
    return str(client.generate_presigned_url(step, Params={"Bucket": bucket, "Key": "a b/ü+%", **arguments}, ExpiresIn=seconds))


@BOTH
@pytest.mark.operation("PutObject", "GetObject", "HeadObject", "DeleteObject")
def test_an_object_from_birth_to_death(endpoint: Endpoint, bucket: str, version: str) -> None:
    put = presign(endpoint, version, "put_object", bucket, ContentType="text/plain")
    assert open_url(endpoint, "PUT", put, b"body", {"Content-Type": "text/plain"}).status == 200
    answer = open_url(endpoint, "GET", presign(endpoint, version, "get_object", bucket))
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"body", "text/plain")
    head = open_url(endpoint, "HEAD", presign(endpoint, version, "head_object", bucket))
    assert (head.status, head.headers["content-length"]) == (200, "4")
    ranged = open_url(endpoint, "GET", presign(endpoint, version, "get_object", bucket), headers={"Range": "bytes=1-2"})
    assert (ranged.status, ranged.body) == (206, b"od")
    assert open_url(endpoint, "DELETE", presign(endpoint, version, "delete_object", bucket)).status == 204
    assert open_url(endpoint, "GET", presign(endpoint, version, "get_object", bucket)).status == 404


@BOTH
@pytest.mark.operation("GetObject")
def test_headers_of_the_answer_are_under_the_signature(endpoint: Endpoint, s3: Any, bucket: str, version: str) -> None:
    s3.put_object(Bucket=bucket, Key="a b/ü+%", Body=b"body")
    url = presign(
        endpoint, version, "get_object", bucket, ResponseContentDisposition='attachment; filename="x y.txt"', ResponseContentType="a/b"
    )
    answer = open_url(endpoint, "GET", url)
    assert (answer.headers["content-disposition"], answer.headers["content-type"]) == ('attachment; filename="x y.txt"', "a/b")
    answer = open_url(endpoint, "GET", url.replace("a%2Fb", "text%2Fhtml"))
    assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch")


@BOTH
@pytest.mark.operation("GetObject")
def test_what_is_changed_is_refused(endpoint: Endpoint, s3: Any, bucket: str, version: str) -> None:
    s3.put_object(Bucket=bucket, Key="a b/ü+%", Body=b"body")
    url = presign(endpoint, version, "get_object", bucket)
    for method, target in (("PUT", url), ("DELETE", url), ("GET", url.replace("a%20b", "a%20c")), ("GET", url + "&versionId=null")):
        answer = open_url(endpoint, method, target)
        assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch"), target
    assert open_url(endpoint, "GET", url.replace(endpoint.keys[0], "NOBODY")).code == "InvalidAccessKeyId"


@BOTH
@pytest.mark.operation("GetObject")
def test_what_has_expired_is_refused(endpoint: Endpoint, s3: Any, bucket: str, version: str) -> None:
    import time

    s3.put_object(Bucket=bucket, Key="a b/ü+%", Body=b"body")
    url = presign(endpoint, version, "get_object", bucket, seconds=1)
    time.sleep(2.1)
    answer = open_url(endpoint, "GET", url)
    assert (answer.status, answer.code) == (403, "AccessDenied")
    assert answer.xml.findtext("Message") == "Request has expired"
    assert answer.xml.find("ServerTime") is not None


@pytest.mark.operation("GetObject")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("X-Amz-Expires=60", "X-Amz-Expires=604801"), ("X-Amz-Expires=60", "X-Amz-Expires=-1"), ("X-Amz-Expires=60", "X-Amz-Expires=x"),
        ("X-Amz-Expires=60&", ""), ("X-Amz-Algorithm=AWS4-HMAC-SHA256", "X-Amz-Algorithm=AWS4-HMAC-MD5"), ("aws4_request", "aws3_request"),
        ("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders="), ("X-Amz-Date=", "X-Amz-Date=x"),
    ],
)  # fmt: skip
def test_parameters_that_are_malformed(endpoint: Endpoint, bucket: str, old: str, new: str) -> None:
    url = presign(endpoint, "s3v4", "get_object", bucket)
    assert old in url
    answer = open_url(endpoint, "GET", url.replace(old, new))
    assert (answer.status, answer.code) == (400, "AuthorizationQueryParametersError")


@pytest.mark.operation("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload", "ListParts")
@BOTH
def test_a_whole_upload(endpoint: Endpoint, s3: Any, bucket: str, version: str) -> None:
    answer = open_url(endpoint, "POST", presign(endpoint, version, "create_multipart_upload", bucket))
    upload = answer.xml.findtext("UploadId")
    etags = []
    for number, body in ((1, bytes(5 << 20)), (2, b"end")):
        part = open_url(endpoint, "PUT", presign(endpoint, version, "upload_part", bucket, UploadId=upload, PartNumber=number), body)
        assert part.status == 200, part.body
        etags.append(part.headers["etag"])
    listed = open_url(endpoint, "GET", presign(endpoint, version, "list_parts", bucket, UploadId=upload))
    assert listed.all("Part/ETag") == etags
    parts = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in enumerate(etags, 1))
    document = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    done = open_url(endpoint, "POST", presign(endpoint, version, "complete_multipart_upload", bucket, UploadId=upload), document)
    assert (done.status, done.xml.tag) == (200, "CompleteMultipartUploadResult")
    assert s3.head_object(Bucket=bucket, Key="a b/ü+%")["ContentLength"] == (5 << 20) + 3


@BOTH
@pytest.mark.operation("PutObject")
def test_headers_that_were_signed_must_come(endpoint: Endpoint, s3: Any, bucket: str, version: str) -> None:
    url = presign(endpoint, version, "put_object", bucket, Metadata={"a": "1"})
    headers = {} if "x-amz-meta-a=1" in url else {"x-amz-meta-a": "1"}
    assert open_url(endpoint, "PUT", url, b"body", headers).status == 200
    assert s3.head_object(Bucket=bucket, Key="a b/ü+%")["Metadata"] == {"a": "1"}
    if headers:
        assert open_url(endpoint, "PUT", url, b"body").status == 403
    assert open_url(endpoint, "PUT", url, b"body", {"x-amz-meta-a": "2"}).status == 403


@pytest.mark.operation("PutObject")
def test_a_checksum_of_the_empty_body_in_the_query_is_ignored(endpoint: Endpoint, bucket: str) -> None:
    """What the JavaScript SDK puts into the URLs that it presigns for PUT."""
    client = endpoint.client()
    url = client.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k", "ChecksumCRC32": "AAAAAA=="})
    headers = {} if "x-amz-checksum-crc32=" in url else {"x-amz-checksum-crc32": "AAAAAA=="}
    answer = open_url(endpoint, "PUT", url, b"body" if not headers else b"", headers)
    assert answer.status == 200, answer.body


@pytest.mark.operation("ListObjectsV2")
def test_buckets_too(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    url = endpoint.client().generate_presigned_url("list_objects_v2", Params={"Bucket": bucket, "Prefix": "k"})
    assert open_url(endpoint, "GET", url).all("Contents/Key") == ["k"]
