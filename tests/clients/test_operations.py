"""Every operation that is built, through boto3 against a real server, over HTTP and over TLS, where SDKs send trailers, not hashes."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
import trustme
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.faults.server import Server

MIB = 1 << 20
BUCKET = "operations"


def connect(server: Server, scheme: str, verify: str | None = None, **options: Any) -> Any:
    access_key, secret_key = server.credentials()
    return boto3.client(
        "s3",
        endpoint_url=f"{scheme}://127.0.0.1:{server.port}",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        verify=verify,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, **options),
    )


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server with TLS, and the file of the authority that clients trust."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    pair = authority.issue_cert("127.0.0.1")
    pair.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    pair.private_key_pem.write_to_path(folder / "key.pem")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    options = ("--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem"))
    made = Server(folder / "data", options=options, tls=trust)
    made.start()
    try:
        asyncio.run(made.wait_ready())
        yield made, str(folder / "authority.pem")
    finally:
        assert made.stop() == 0


@pytest.fixture(scope="module", params=["http", "https"])
def s3(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    if request.param == "https":
        tls, authority = request.getfixturevalue("secure")
        client = connect(tls, "https", authority)
    else:
        client = connect(server, "http")
    client.create_bucket(Bucket=BUCKET)
    yield client
    client.close()


def refused(call: Any, **arguments: Any) -> tuple[int, str]:
    """Status and code of a refusal."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def test_buckets(s3: Any) -> None:
    assert BUCKET in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    page = s3.list_buckets(MaxBuckets=1, Prefix="operat")
    assert [bucket["Name"] for bucket in page["Buckets"]] == [BUCKET]
    assert s3.head_bucket(Bucket=BUCKET)["BucketRegion"] == "us-east-1"
    assert s3.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] is None
    assert "Status" not in s3.get_bucket_versioning(Bucket=BUCKET)
    s3.create_bucket(Bucket="operations-eu", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    assert s3.get_bucket_location(Bucket="operations-eu")["LocationConstraint"] == "eu-west-1"
    assert refused(
        s3.create_bucket, Bucket="operations-eu", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    ) == (
        409,
        "BucketAlreadyOwnedByYou",
    )
    s3.delete_bucket(Bucket="operations-eu")
    assert refused(s3.delete_bucket, Bucket="operations-eu") == (404, "NoSuchBucket")
    assert refused(s3.create_bucket, Bucket="health") == (400, "InvalidBucketName")


@pytest.mark.parametrize("size", [0, 5, 70_000, 3 * MIB])
def test_objects(s3: Any, size: int) -> None:
    body = os.urandom(size)
    put = s3.put_object(
        Bucket=BUCKET,
        Key="object",
        Body=body,
        ContentType="text/x",
        CacheControl="no-store",
        ContentEncoding="gzip",
        Metadata={"a": "1", "b": ""},
    )
    assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    got = s3.get_object(Bucket=BUCKET, Key="object")
    assert got["Body"].read() == body
    head = s3.head_object(Bucket=BUCKET, Key="object", ChecksumMode="ENABLED")
    assert head["ChecksumCRC32"] == put["ChecksumCRC32"]
    for answer in (got, head):
        assert (answer["ContentType"], answer["CacheControl"], answer["ContentEncoding"]) == (
            "text/x",
            "no-store",
            "gzip",
        )
        assert (answer["Metadata"], answer["ContentLength"]) == ({"a": "1", "b": ""}, size)
    s3.delete_object(Bucket=BUCKET, Key="object")
    assert refused(s3.get_object, Bucket=BUCKET, Key="object") == (404, "NoSuchKey")
    assert refused(s3.head_object, Bucket=BUCKET, Key="object") == (404, "404")


def test_a_stream_of_unknown_length(s3: Any) -> None:
    class Stream(io.RawIOBase):
        def __init__(self, data: bytes) -> None:
            self._data = io.BytesIO(data)

        def readable(self) -> bool:
            return True

        def readinto(self, target: Any) -> int:
            piece = self._data.read(len(target))
            target[: len(piece)] = piece
            return len(piece)

    body = os.urandom(11 * MIB)
    config = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB, max_concurrency=3)
    s3.upload_fileobj(Stream(body), BUCKET, "stream", Config=config)
    digest, size = hashlib.sha256(), 0
    for piece in s3.get_object(Bucket=BUCKET, Key="stream")["Body"].iter_chunks(256 * 1024):
        digest.update(piece)
        size += len(piece)
    assert (size, digest.digest()) == (len(body), hashlib.sha256(body).digest())


def test_ranges_and_conditions(s3: Any) -> None:
    etag = s3.put_object(Bucket=BUCKET, Key="ranges", Body=b"0123456789")["ETag"]
    part = s3.get_object(Bucket=BUCKET, Key="ranges", Range="bytes=2-4")
    assert (part["Body"].read(), part["ContentRange"]) == (b"234", "bytes 2-4/10")
    assert s3.get_object(Bucket=BUCKET, Key="ranges", Range="bytes=-3")["Body"].read() == b"789"
    assert refused(s3.get_object, Bucket=BUCKET, Key="ranges", Range="bytes=10-") == (416, "InvalidRange")
    modified = s3.head_object(Bucket=BUCKET, Key="ranges")["LastModified"]
    assert s3.get_object(Bucket=BUCKET, Key="ranges", IfMatch=etag)["Body"].read() == b"0123456789"
    assert refused(s3.get_object, Bucket=BUCKET, Key="ranges", IfMatch='"x"') == (412, "PreconditionFailed")
    assert refused(s3.get_object, Bucket=BUCKET, Key="ranges", IfNoneMatch=etag) == (304, "304")
    assert refused(s3.get_object, Bucket=BUCKET, Key="ranges", IfModifiedSince=modified) == (304, "304")
    assert refused(s3.head_object, Bucket=BUCKET, Key="ranges", IfUnmodifiedSince=modified - timedelta(seconds=5)) == (
        412,
        "412",
    )
    assert refused(s3.put_object, Bucket=BUCKET, Key="ranges", Body=b"x", IfNoneMatch="*") == (
        412,
        "PreconditionFailed",
    )
    assert refused(s3.put_object, Bucket=BUCKET, Key="absent", Body=b"x", IfMatch=etag) == (404, "NoSuchKey")
    assert refused(s3.delete_object, Bucket=BUCKET, Key="ranges", IfMatch='"x"') == (412, "PreconditionFailed")
    s3.delete_object(Bucket=BUCKET, Key="ranges", IfMatch=etag)


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
@pytest.mark.parametrize("size", [10, 2 * MIB])
def test_checksums(s3: Any, algorithm: str, size: int) -> None:
    body = os.urandom(size)
    put = s3.put_object(Bucket=BUCKET, Key="sum", Body=io.BytesIO(body), ChecksumAlgorithm=algorithm)
    assert put["ChecksumType"] == "FULL_OBJECT"
    got = s3.get_object(Bucket=BUCKET, Key="sum", ChecksumMode="ENABLED")
    assert (got["Body"].read(), got[f"Checksum{algorithm}"]) == (body, put[f"Checksum{algorithm}"])
    wrong = put[f"Checksum{algorithm}"].swapcase()
    if wrong != put[f"Checksum{algorithm}"]:
        assert refused(s3.put_object, Bucket=BUCKET, Key="sum", Body=body, **{f"Checksum{algorithm}": wrong}) == (
            400,
            "BadDigest",
        )
    assert s3.get_object(Bucket=BUCKET, Key="sum")["Body"].read() == body


def test_delete_objects(s3: Any) -> None:
    keys = [f"many/{number:04d} +%&<>\u00e9" for number in range(250)]
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"")
    objects = [{"Key": key} for key in keys] + [{"Key": f"absent/{number}"} for number in range(750)]
    gone = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": objects})
    assert [item["Key"] for item in gone["Deleted"]] == [item["Key"] for item in objects]
    assert "Errors" not in gone
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="many/")["KeyCount"] == 0
    assert "Deleted" not in s3.delete_objects(Bucket=BUCKET, Delete={"Objects": objects[:2], "Quiet": True})
    assert refused(s3.delete_objects, Bucket=BUCKET, Delete={"Objects": [*objects, {"Key": "one more"}]}) == (
        400,
        "MalformedXML",
    )


def test_listings(s3: Any) -> None:
    s3.create_bucket(Bucket="operations-list")
    keys = sorted(f"{folder}/{number:03d}" for folder in ("a", "b", "b/c", "d") for number in range(20))
    for key in [*keys, "top"]:
        s3.put_object(Bucket="operations-list", Key=key, Body=b"")
    for operation in ("list_objects", "list_objects_v2"):
        pager = s3.get_paginator(operation)
        for size in (1, 7, 1000):
            pages = list(pager.paginate(Bucket="operations-list", PaginationConfig={"PageSize": size}))
            assert [item["Key"] for page in pages for item in page.get("Contents", [])] == [*keys, "top"]
            pages = list(pager.paginate(Bucket="operations-list", Delimiter="/", PaginationConfig={"PageSize": size}))
            assert [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])] == ["a/", "b/", "d/"]
            assert [item["Key"] for page in pages for item in page.get("Contents", [])] == ["top"]
    page = s3.list_objects_v2(Bucket="operations-list", Prefix="b/", Delimiter="/", StartAfter="b/010", FetchOwner=True)
    assert [item["Key"] for item in page["Contents"]] == [f"b/{number:03d}" for number in range(11, 20)]
    assert [item["Prefix"] for item in page["CommonPrefixes"]] == ["b/c/"]
    assert page["Contents"][0]["Owner"]["ID"]
    page = s3.list_objects(Bucket="operations-list", Delimiter="/", Marker="b/010", MaxKeys=2)
    assert [item["Prefix"] for item in page["CommonPrefixes"]] == ["b/", "d/"], (
        "what is behind the marker in its group is still shown"
    )
    s3.delete_objects(Bucket="operations-list", Delete={"Objects": [{"Key": key} for key in [*keys, "top"]]})
    s3.delete_bucket(Bucket="operations-list")


def test_copies(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="from +%\u00e9", Body=b"copied", ContentType="a/b", Metadata={"k": "v"})
    source = {"Bucket": BUCKET, "Key": "from +%\u00e9"}
    s3.copy_object(Bucket=BUCKET, Key="to", CopySource=source)
    assert s3.head_object(Bucket=BUCKET, Key="to")["Metadata"] == {"k": "v"}
    s3.copy_object(
        Bucket=BUCKET,
        Key="to",
        CopySource=source,
        MetadataDirective="REPLACE",
        Metadata={"n": "w"},
        ChecksumAlgorithm="SHA256",
    )
    head = s3.head_object(Bucket=BUCKET, Key="to", ChecksumMode="ENABLED")
    assert (head["Metadata"], head["ContentType"], "ChecksumSHA256" in head) == (
        {"n": "w"},
        "binary/octet-stream",
        True,
    )
    assert refused(s3.copy_object, Bucket=BUCKET, Key="to", CopySource={"Bucket": BUCKET, "Key": "to"}) == (
        400,
        "InvalidRequest",
    )
    assert refused(s3.copy_object, Bucket=BUCKET, Key="to", CopySource=source, CopySourceIfMatch='"x"') == (
        412,
        "PreconditionFailed",
    )
    body = os.urandom(20 * MIB)
    config = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB)
    s3.upload_fileobj(io.BytesIO(body), BUCKET, "large", Config=config)
    s3.copy({"Bucket": BUCKET, "Key": "large"}, BUCKET, "large copy", Config=config)  # parts by UploadPartCopy
    assert s3.get_object(Bucket=BUCKET, Key="large copy")["Body"].read() == body
    assert s3.head_object(Bucket=BUCKET, Key="large copy")["ETag"].endswith('-3"')


def test_multipart(s3: Any) -> None:
    parts = [os.urandom(5 * MIB), os.urandom(5 * MIB + 1), b"last"]
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="parts", ContentType="x/y", ChecksumAlgorithm="CRC32C")
    uid = upload["UploadId"]
    assert uid in [item["UploadId"] for item in s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]]
    lines = []
    for number, body in reversed(list(enumerate(parts, 1))):
        answer = s3.upload_part(
            Bucket=BUCKET, Key="parts", UploadId=uid, PartNumber=number, Body=body, ChecksumAlgorithm="CRC32C"
        )
        lines.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32C": answer["ChecksumCRC32C"]})
    lines.reverse()
    listed = s3.list_parts(Bucket=BUCKET, Key="parts", UploadId=uid, MaxParts=2)
    assert [part["Size"] for part in listed["Parts"]] == [5 * MIB, 5 * MIB + 1]
    assert (listed["IsTruncated"], listed["NextPartNumberMarker"], listed["ChecksumType"]) == (True, 2, "COMPOSITE")
    assert refused(s3.head_object, Bucket=BUCKET, Key="parts") == (404, "404")
    made = s3.complete_multipart_upload(Bucket=BUCKET, Key="parts", UploadId=uid, MultipartUpload={"Parts": lines})
    again = s3.complete_multipart_upload(Bucket=BUCKET, Key="parts", UploadId=uid, MultipartUpload={"Parts": lines})
    assert (
        made["ETag"]
        == again["ETag"]
        == f'"{hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()}-3"'
    )
    assert made["ChecksumCRC32C"].endswith("-3")
    assert s3.get_object(Bucket=BUCKET, Key="parts")["Body"].read() == b"".join(parts)
    for number, body in enumerate(parts, 1):
        part = s3.get_object(Bucket=BUCKET, Key="parts", PartNumber=number, ChecksumMode="ENABLED")
        assert (part["Body"].read(), part["PartsCount"]) == (body, 3)
    assert s3.head_object(Bucket=BUCKET, Key="parts")["ContentType"] == "x/y"


def test_multipart_refusals(s3: Any) -> None:
    uid = s3.create_multipart_upload(Bucket=BUCKET, Key="refused")["UploadId"]
    where = {"Bucket": BUCKET, "Key": "refused", "UploadId": uid}
    etags = [s3.upload_part(**where, PartNumber=number, Body=b"x")["ETag"] for number in (1, 2)]
    lines = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
    assert refused(s3.complete_multipart_upload, **where, MultipartUpload={"Parts": lines}) == (400, "EntityTooSmall")
    assert refused(s3.complete_multipart_upload, **where, MultipartUpload={"Parts": lines[::-1]}) == (
        400,
        "InvalidPartOrder",
    )
    wrong = [{"PartNumber": 3, "ETag": etags[0]}]
    assert refused(s3.complete_multipart_upload, **where, MultipartUpload={"Parts": wrong}) == (400, "InvalidPart")
    assert refused(s3.complete_multipart_upload, **where, MultipartUpload={"Parts": []}) == (400, "MalformedXML")
    s3.abort_multipart_upload(**where)
    for call in (s3.abort_multipart_upload, s3.list_parts):
        assert refused(call, **where) == (404, "NoSuchUpload")
    assert refused(s3.upload_part, **where, PartNumber=1, Body=b"x") == (404, "NoSuchUpload")


def test_single_parts_keep_their_numbers_meaning(s3: Any) -> None:
    """An upload of one part, whatever its number: part 1 of one."""
    uid = s3.create_multipart_upload(Bucket=BUCKET, Key="single")["UploadId"]
    etag = s3.upload_part(Bucket=BUCKET, Key="single", UploadId=uid, PartNumber=7, Body=b"single")["ETag"]
    s3.complete_multipart_upload(
        Bucket=BUCKET, Key="single", UploadId=uid, MultipartUpload={"Parts": [{"PartNumber": 7, "ETag": etag}]}
    )
    part = s3.get_object(Bucket=BUCKET, Key="single", PartNumber=1)
    assert (part["Body"].read(), part["PartsCount"]) == (b"single", 1)


def test_files_by_the_transfer_manager(s3: Any, tmp_path: Path) -> None:
    body = os.urandom(33 * MIB)
    (tmp_path / "up").write_bytes(body)
    config = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB, max_concurrency=8)
    s3.upload_file(str(tmp_path / "up"), BUCKET, "file", Config=config)
    s3.download_file(BUCKET, "file", str(tmp_path / "down"), Config=config)
    assert (tmp_path / "down").read_bytes() == body
