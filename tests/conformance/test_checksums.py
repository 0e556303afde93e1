"""Checksums: of objects, in headers and trailers; of uploads, composite and of the full object; in attributes.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html (algorithms and types),
https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObjectAttributes.html
"""

from __future__ import annotations

import hashlib
import zlib
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
import xxhash
from awscrt import checksums as crt

from tests.conformance.served import Endpoint, refused

BODY = b"The quick brown fox jumps over the lazy dog"
FIVE = 5 * 1024 * 1024
DIGESTS: dict[str, Callable[[bytes], bytes]] = {
    "CRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "CRC32C": lambda data: crt.crc32c(data).to_bytes(4, "big"),
    "CRC64NVME": lambda data: crt.crc64nvme(data).to_bytes(8, "big"),
    "SHA1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
    "SHA512": lambda data: hashlib.sha512(data).digest(),
    "MD5": lambda data: hashlib.md5(data, usedforsecurity=False).digest(),
    "XXHASH64": lambda data: xxhash.xxh64(data).digest(),
    "XXHASH3": lambda data: xxhash.xxh3_64(data).digest(),
    "XXHASH128": lambda data: xxhash.xxh3_128(data).digest(),
}
ALL = pytest.mark.parametrize("algorithm", DIGESTS)
OBJECTS = pytest.mark.operation("PutObject", "GetObject", "HeadObject")
UPLOADS = pytest.mark.operation("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")


def value(algorithm: str, data: bytes) -> str:
    return b64encode(DIGESTS[algorithm](data)).decode()


def told(answer: dict[str, Any]) -> dict[str, str]:
    """Checksums of an answer by their algorithm."""
    return {
        name.removeprefix("Checksum"): text for name, text in answer.items() if name.startswith("Checksum") and name != "ChecksumType"
    }


def test_known_values() -> None:
    """CRC catalogue check values of "123456789": of CRC-32/ISO-HDLC, CRC-32/ISCSI, CRC-64/NVME."""
    assert DIGESTS["CRC32"](b"123456789").hex() == "cbf43926"
    assert DIGESTS["CRC32C"](b"123456789").hex() == "e3069283"
    assert DIGESTS["CRC64NVME"](b"123456789").hex() == "ae8b14860a799888"


@OBJECTS
@ALL
def test_a_value_in_the_header(endpoint: Endpoint, bucket: str, algorithm: str) -> None:
    name = f"x-amz-checksum-{algorithm.lower()}"
    answer = endpoint.raw("PUT", f"/{bucket}/k", {name: value(algorithm, BODY)}, BODY)
    assert answer.status == 200, answer.body
    assert (answer.headers[name], answer.headers["x-amz-checksum-type"]) == (value(algorithm, BODY), "FULL_OBJECT")
    for method in ("GET", "HEAD"):
        answer = endpoint.raw(method, f"/{bucket}/k", {"x-amz-checksum-mode": "enabled"})
        assert (answer.headers[name], answer.headers["x-amz-checksum-type"]) == (value(algorithm, BODY), "FULL_OBJECT")
        assert name not in endpoint.raw(method, f"/{bucket}/k").headers
    listed = endpoint.raw("GET", f"/{bucket}").xml
    assert (listed.findtext("Contents/ChecksumAlgorithm"), listed.findtext("Contents/ChecksumType")) == (algorithm, "FULL_OBJECT")


@OBJECTS
@ALL
def test_a_wrong_value_stores_nothing(endpoint: Endpoint, bucket: str, algorithm: str) -> None:
    name = f"x-amz-checksum-{algorithm.lower()}"
    for given, code in (
        (value(algorithm, b"other"), "BadDigest"),
        ("nonsense", "InvalidRequest"),
        ("", "InvalidRequest"),
        ("YQ==", "InvalidRequest"),
    ):
        answer = endpoint.raw("PUT", f"/{bucket}/k", {name: given}, BODY)
        assert (answer.status, answer.code) == (400, code), given
    assert endpoint.raw("HEAD", f"/{bucket}/k").status == 404


@OBJECTS
@ALL
def test_a_value_in_the_trailer(endpoint: Endpoint, bucket: str, algorithm: str) -> None:
    name = f"x-amz-checksum-{algorithm.lower()}"
    for text, status in ((value(algorithm, BODY), 200), (value(algorithm, b"other"), 400)):
        coded = b"%x\r\n%b\r\n0\r\n%b:%b\r\n\r\n" % (len(BODY), BODY, name.encode(), text.encode())
        headers = {
            "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x-amz-decoded-content-length": str(len(BODY)),
            "x-amz-trailer": name, "Content-Encoding": "aws-chunked",
        }  # fmt: skip
        answer = endpoint.raw("PUT", f"/{bucket}/k{status}", headers, coded)
        assert answer.status == status, answer.body
        assert answer.headers.get(name, "") == (text if status == 200 else "")
    answer = endpoint.raw("GET", f"/{bucket}/k200", {"x-amz-checksum-mode": "ENABLED"})
    assert (answer.body, answer.headers[name]) == (BODY, value(algorithm, BODY))
    assert "content-encoding" not in answer.headers
    assert endpoint.raw("HEAD", f"/{bucket}/k400").status == 404


@OBJECTS
@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_what_boto3_asks_for(s3: Any, bucket: str, algorithm: str) -> None:
    answer = s3.put_object(Bucket=bucket, Key="k", Body=BODY, ChecksumAlgorithm=algorithm)
    assert told(answer) == {algorithm: value(algorithm, BODY)}
    found = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (found["Body"].read(), told(found), found["ChecksumType"]) == (BODY, {algorithm: value(algorithm, BODY)}, "FULL_OBJECT")


@OBJECTS
def test_who_asks_for_none_gets_crc64nvme(endpoint: Endpoint, bucket: str) -> None:
    answer = endpoint.raw("PUT", f"/{bucket}/k", {}, BODY)
    assert answer.headers["x-amz-checksum-crc64nvme"] == value("CRC64NVME", BODY)
    assert answer.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    answer = endpoint.raw("HEAD", f"/{bucket}/k", {"x-amz-checksum-mode": "ENABLED"})
    assert answer.headers["x-amz-checksum-crc64nvme"] == value("CRC64NVME", BODY)


@OBJECTS
def test_a_range_has_no_checksum(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    assert told(s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED", Range="bytes=0-3")) == {}


@OBJECTS
def test_headers_that_are_refused(endpoint: Endpoint, bucket: str) -> None:
    one, two = {"x-amz-checksum-crc32": value("CRC32", BODY)}, {"x-amz-checksum-sha1": value("SHA1", BODY)}
    for headers in (
        {**one, **two}, {"x-amz-checksum-crc16": "AAA="}, {"x-amz-sdk-checksum-algorithm": "CRC32"},
        {"x-amz-sdk-checksum-algorithm": "NONSENSE", **one},
    ):  # fmt: skip
        answer = endpoint.raw("PUT", f"/{bucket}/k", headers, BODY)
        assert (answer.status, answer.code) == (400, "InvalidRequest"), headers


@pytest.mark.operation("CopyObject")
def test_a_copy_keeps_or_gets_another(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=BODY, ChecksumAlgorithm="SHA256")
    source = {"Bucket": bucket, "Key": "k"}
    for arguments, algorithm in (({}, "SHA256"), ({"ChecksumAlgorithm": "CRC32C"}, "CRC32C")):
        answer = s3.copy_object(Bucket=bucket, Key="c", CopySource=source, **arguments)
        assert told(answer["CopyObjectResult"]) == {algorithm: value(algorithm, BODY)}
        assert told(s3.head_object(Bucket=bucket, Key="c", ChecksumMode="ENABLED")) == {algorithm: value(algorithm, BODY)}


# uploads


def upload(s3: Any, bucket: str, bodies: list[bytes], algorithm: str = "", kind: str = "", **arguments: Any) -> Any:
    """A whole upload with boto3; what its completion answered."""
    chosen = ({"ChecksumAlgorithm": algorithm} if algorithm else {}) | ({"ChecksumType": kind} if kind else {})
    made = s3.create_multipart_upload(Bucket=bucket, Key="k", **chosen)
    if algorithm:
        assert made["ChecksumAlgorithm"] == algorithm
    parts = []
    for number, body in enumerate(bodies, 1):
        part = {"ChecksumAlgorithm": algorithm} if algorithm else {}
        answer = s3.upload_part(Bucket=bucket, Key="k", UploadId=made["UploadId"], PartNumber=number, Body=body, **part)
        if algorithm:
            assert told(answer) == {algorithm: value(algorithm, body)}
        parts.append({"PartNumber": number, "ETag": answer["ETag"], **{f"Checksum{name}": text for name, text in told(answer).items()}})
    return s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=made["UploadId"], MultipartUpload={"Parts": parts}, **arguments)


BODIES = [bytes(FIVE), b"\1" * FIVE, b"the end"]


@UPLOADS
@pytest.mark.parametrize(
    ("algorithm", "kind", "expected"),
    [
        ("CRC32", "", "COMPOSITE"), ("CRC32", "COMPOSITE", "COMPOSITE"), ("CRC32", "FULL_OBJECT", "FULL_OBJECT"),
        ("CRC32C", "", "COMPOSITE"), ("CRC32C", "FULL_OBJECT", "FULL_OBJECT"), ("CRC64NVME", "", "FULL_OBJECT"),
        ("CRC64NVME", "FULL_OBJECT", "FULL_OBJECT"), ("SHA1", "", "COMPOSITE"), ("SHA256", "COMPOSITE", "COMPOSITE"),
    ],
)  # fmt: skip
def test_the_checksum_of_an_upload(s3: Any, bucket: str, algorithm: str, kind: str, expected: str) -> None:
    done = upload(s3, bucket, BODIES, algorithm, kind)
    if expected == "FULL_OBJECT":
        text = value(algorithm, b"".join(BODIES))
    else:
        text = value(algorithm, b"".join(DIGESTS[algorithm](body) for body in BODIES)) + "-3"
    assert (told(done), done["ChecksumType"]) == ({algorithm: text}, expected)
    found = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (told(found), found["ChecksumType"]) == ({algorithm: text}, expected)
    part = s3.head_object(Bucket=bucket, Key="k", PartNumber=2, ChecksumMode="ENABLED")
    assert told(part) == {algorithm: value(algorithm, BODIES[1])}
    attributes = s3.get_object_attributes(
        Bucket=bucket, Key="k", ObjectAttributes=["Checksum", "ObjectParts", "ETag", "ObjectSize", "StorageClass"]
    )
    assert told(attributes["Checksum"]) == {algorithm: text.partition("-")[0]} or told(attributes["Checksum"]) == {algorithm: text}
    assert attributes["ETag"] == found["ETag"].strip('"')
    assert (attributes["ObjectSize"], attributes["StorageClass"]) == (sum(map(len, BODIES)), "STANDARD")
    parts = attributes["ObjectParts"]
    assert (parts["TotalPartsCount"], parts["IsTruncated"]) == (3, False)
    assert [(item["PartNumber"], item["Size"], told(item)) for item in parts["Parts"]] == [
        (number, len(body), {algorithm: value(algorithm, body)}) for number, body in enumerate(BODIES, 1)
    ]


@UPLOADS
@pytest.mark.parametrize(
    ("algorithm", "kind"), [("SHA1", "FULL_OBJECT"), ("SHA256", "FULL_OBJECT"), ("CRC64NVME", "COMPOSITE"), ("", "FULL_OBJECT")]
)
def test_types_that_an_algorithm_does_not_have(endpoint: Endpoint, bucket: str, algorithm: str, kind: str) -> None:
    headers = {"x-amz-checksum-type": kind} | ({"x-amz-checksum-algorithm": algorithm} if algorithm else {})
    answer = endpoint.raw("POST", f"/{bucket}/k?uploads", headers)
    assert (answer.status, answer.code) == (400, "InvalidRequest")
    answer = endpoint.raw("POST", f"/{bucket}/k?uploads", {"x-amz-checksum-algorithm": "NONSENSE"})
    assert (answer.status, answer.code) == (400, "InvalidRequest")


@UPLOADS
def test_an_upload_that_asks_for_none_gets_crc64nvme(plain: Endpoint) -> None:
    s3 = plain.client(request_checksum_calculation="when_required")
    s3.create_bucket(Bucket="checksums-none")
    done = upload(s3, "checksums-none", BODIES)
    assert (told(done), done["ChecksumType"]) == ({"CRC64NVME": value("CRC64NVME", b"".join(BODIES))}, "FULL_OBJECT")


@UPLOADS
def test_a_full_checksum_at_completion_is_compared(s3: Any, bucket: str) -> None:
    for text, fine in ((value("CRC32", b"x"), True), (value("CRC32", b"y"), False)):
        if fine:
            done = upload(s3, bucket, [b"x"], "CRC32", "FULL_OBJECT", ChecksumCRC32=text, ChecksumType="FULL_OBJECT")
            assert told(done) == {"CRC32": text}
        else:
            with refused("BadDigest", 400):
                upload(s3, bucket, [b"x"], "CRC32", "FULL_OBJECT", ChecksumCRC32=text, ChecksumType="FULL_OBJECT")


@UPLOADS
def test_parts_of_another_algorithm_are_refused(s3: Any, bucket: str) -> None:
    made = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="SHA256")["UploadId"]
    with refused("InvalidRequest", 400):
        s3.upload_part(Bucket=bucket, Key="k", UploadId=made, PartNumber=1, Body=b"x", ChecksumAlgorithm="CRC32")


@UPLOADS
def test_a_composite_upload_needs_each_parts_checksum(s3: Any, bucket: str) -> None:
    made = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="SHA256")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="k", UploadId=made, PartNumber=1, Body=b"x", ChecksumAlgorithm="SHA256")
    place = {"Bucket": bucket, "Key": "k", "UploadId": made}
    with refused("InvalidRequest", 400):
        s3.complete_multipart_upload(**place, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    with refused("InvalidPart", 400):
        wrong = {"PartNumber": 1, "ETag": part["ETag"], "ChecksumSHA256": value("SHA256", b"y")}
        s3.complete_multipart_upload(**place, MultipartUpload={"Parts": [wrong]})
    right = {"PartNumber": 1, "ETag": part["ETag"], "ChecksumSHA256": value("SHA256", b"x")}
    s3.complete_multipart_upload(**place, MultipartUpload={"Parts": [right]})


@pytest.mark.operation("ListParts")
def test_parts_are_listed_with_their_checksums(s3: Any, bucket: str) -> None:
    made = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="CRC32C")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="k", UploadId=made, PartNumber=1, Body=b"x", ChecksumAlgorithm="CRC32C")
    answer = s3.list_parts(Bucket=bucket, Key="k", UploadId=made)
    assert (answer["ChecksumAlgorithm"], answer["ChecksumType"]) == ("CRC32C", "COMPOSITE")
    assert told(answer["Parts"][0]) == {"CRC32C": value("CRC32C", b"x")}
    (listed,) = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert (listed["ChecksumAlgorithm"], listed["ChecksumType"]) == ("CRC32C", "COMPOSITE")


# attributes

ATTRIBUTES = pytest.mark.operation("GetObjectAttributes")


@ATTRIBUTES
def test_attributes_of_a_plain_object(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=BODY, ChecksumAlgorithm="SHA1")["ETag"]
    found = s3.get_object_attributes(
        Bucket=bucket, Key="k", ObjectAttributes=["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"]
    )
    assert (found["ETag"], found["ObjectSize"], found["StorageClass"]) == (etag.strip('"'), len(BODY), "STANDARD")
    assert (told(found["Checksum"]), found["Checksum"]["ChecksumType"]) == ({"SHA1": value("SHA1", BODY)}, "FULL_OBJECT")
    assert "ObjectParts" not in found
    assert found["LastModified"] == s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    found = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["ObjectSize"])
    assert {"ETag", "Checksum", "StorageClass"}.isdisjoint(found)


@ATTRIBUTES
def test_parts_of_attributes_in_pages(s3: Any, bucket: str) -> None:
    upload(s3, bucket, [bytes(FIVE), bytes(FIVE), b"x"], "CRC32")
    found: list[int] = []
    marker = 0
    while True:
        page = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["ObjectParts"], MaxParts=2, PartNumberMarker=marker)[
            "ObjectParts"
        ]
        found += [item["PartNumber"] for item in page["Parts"]]
        assert (page["MaxParts"], page["PartNumberMarker"], page["TotalPartsCount"]) == (2, marker, 3)
        if not page["IsTruncated"]:
            break
        marker = page["NextPartNumberMarker"]
    assert found == [1, 2, 3]


@ATTRIBUTES
def test_attributes_that_are_refused(s3: Any, endpoint: Endpoint, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    assert endpoint.raw("GET", f"/{bucket}/k?attributes").code == "InvalidRequest"
    assert endpoint.raw("GET", f"/{bucket}/k?attributes", {"x-amz-object-attributes": "ETag,Nonsense"}).code == "InvalidArgument"
    with refused("NoSuchKey", 404):
        s3.get_object_attributes(Bucket=bucket, Key="missing", ObjectAttributes=["ETag"])


@OBJECTS
def test_listings_tell_a_checksum_that_somebody_asked_for(endpoint: Endpoint, bucket: str) -> None:
    """What the server computes by itself is told by HEAD, GET and GetObjectAttributes; copies of it likewise."""
    own = value("CRC64NVME", BODY)
    put = endpoint.raw("PUT", f"/{bucket}/own", {}, BODY)
    assert put.headers["x-amz-checksum-crc64nvme"] == own
    assert endpoint.raw("PUT", f"/{bucket}/given", {"x-amz-checksum-crc64nvme": own}, BODY).status == 200
    for source in ("own", "given"):
        copied = endpoint.raw("PUT", f"/{bucket}/copy-of-{source}", {"x-amz-copy-source": f"/{bucket}/{source}"})
        assert copied.status == 200
    asked = {"x-amz-copy-source": f"/{bucket}/own", "x-amz-checksum-algorithm": "CRC32"}
    assert endpoint.raw("PUT", f"/{bucket}/other-copy", asked).status == 200
    for query in ("", "?list-type=2", "?versions"):
        listed = endpoint.raw("GET", f"/{bucket}{query}").xml
        told = {item.findtext("Key"): item.findtext("ChecksumAlgorithm") for item in [*listed.iter("Contents"), *listed.iter("Version")]}
        assert told == {"own": None, "copy-of-own": None, "given": "CRC64NVME", "copy-of-given": "CRC64NVME", "other-copy": "CRC32"}
    for key in ("own", "copy-of-own"):
        head = endpoint.raw("HEAD", f"/{bucket}/{key}", {"x-amz-checksum-mode": "ENABLED"})
        assert head.headers["x-amz-checksum-crc64nvme"] == own
