"""boto3 against a real server: what its users do first, and keys that break naive servers."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from tests.faults.server import Server

MIB = 1 << 20
KEYS = [
    "plain.txt", "a/b", "a/b/c", "//a", "/lead", "trail/", "a//b", ".", "..", "./a", "../a", "a/../b", "a/./b", "sp ace", "pl+us",
    "per%cent", "%2F", "%25", "q?u=e&r#y", "semi;colon", "eq=ual", "at@", "co:lon", "quo'te\"", "br(ack)[et]{s}", "tab\tkey",
    "ctrl\x01\x1f", "new\nline", "back\\slash", "ümläut", "日本語", "☃️🎉", "~tilde*star!", "x" * 1024, "é" * 512, "<xml>&amp;", "\x7f",
]  # fmt: skip


def client_of(server: Server, style: str = "path", **options: Any) -> Any:
    access_key, secret_key = server.credentials()
    host = "127.0.0.1" if style == "path" else "s3.localhost"
    return boto3.client(
        "s3", endpoint_url=f"http://{host}:{server.port}", aws_access_key_id=access_key, aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", s3={"addressing_style": style}, retries={"max_attempts": 1}, **options),
    )


@pytest.fixture(scope="module")
def s3(server: Server) -> Iterator[Any]:
    client = client_of(server)
    client.create_bucket(Bucket="boto")
    yield client
    client.close()


@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
def test_keys_round_trip(s3: Any, key: str) -> None:
    body = os.urandom(100)
    s3.put_object(Bucket="boto", Key=key, Body=body, Metadata={"name": "value"})
    answer = s3.get_object(Bucket="boto", Key=key)
    assert (answer["Body"].read(), answer["Metadata"]) == (body, {"name": "value"})
    s3.copy_object(Bucket="boto", Key="copy", CopySource={"Bucket": "boto", "Key": key})
    assert s3.get_object(Bucket="boto", Key="copy")["Body"].read() == body
    assert key in [item["Key"] for item in s3.list_objects_v2(Bucket="boto", Prefix=key)["Contents"]]
    assert key in [item["Key"] for item in s3.list_objects(Bucket="boto", Prefix=key)["Contents"]]
    if any(char < " " and char not in "\t\n" for char in key):  # XML 1.0 has no way to write it
        for name in (key, "copy"):
            s3.delete_object(Bucket="boto", Key=name)
    else:
        gone = s3.delete_objects(Bucket="boto", Delete={"Objects": [{"Key": key}, {"Key": "copy"}]})
        assert {item["Key"] for item in gone["Deleted"]} == {key, "copy"}
    with pytest.raises(s3.exceptions.ClientError) as caught:
        s3.head_object(Bucket="boto", Key=key)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


def test_a_listing_of_all_of_them_is_in_byte_order_and_pages(s3: Any) -> None:
    s3.create_bucket(Bucket="order")
    for key in KEYS:
        s3.put_object(Bucket="order", Key=key, Body=b"")
    for operation in ("list_objects", "list_objects_v2"):
        pages = s3.get_paginator(operation).paginate(Bucket="order", PaginationConfig={"PageSize": 7})
        assert [item["Key"] for page in pages for item in page.get("Contents", [])] == sorted(KEYS, key=str.encode)
    folders = s3.list_objects_v2(Bucket="order", Delimiter="/")
    prefixes = {key.split("/")[0] + "/" for key in KEYS if "/" in key}
    assert [item["Prefix"] for item in folders["CommonPrefixes"]] == sorted(prefixes, key=str.encode)


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 8 * MIB, 20 * MIB + 7])
def test_transfers_of_any_size(s3: Any, tmp_path: Path, size: int) -> None:
    body = os.urandom(size)
    source, back = tmp_path / "up", tmp_path / "down"
    source.write_bytes(body)
    config = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=5 * MIB, max_concurrency=4)
    s3.upload_file(str(source), "boto", f"size-{size}", Config=config, ExtraArgs={"ContentType": "text/x-test"})
    s3.download_file("boto", f"size-{size}", str(back), Config=config)
    assert back.read_bytes() == body
    head = s3.head_object(Bucket="boto", Key=f"size-{size}")
    assert (head["ContentLength"], head["ContentType"]) == (size, "text/x-test")
    if size < 8 * MIB:
        assert head["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    if size > 10:
        piece = s3.get_object(Bucket="boto", Key=f"size-{size}", Range=f"bytes={size // 2}-")["Body"].read()
        assert piece == body[size // 2 :]


def test_presigned_urls(s3: Any) -> None:
    url = s3.generate_presigned_url("put_object", Params={"Bucket": "boto", "Key": "pre signed+"}, ExpiresIn=60)
    with urllib.request.urlopen(urllib.request.Request(url, data=b"by url", method="PUT")) as answer:
        assert answer.status == 200
    params = {"Bucket": "boto", "Key": "pre signed+", "ResponseContentType": "text/odd"}
    url = s3.generate_presigned_url("get_object", Params=params, ExpiresIn=60)
    with urllib.request.urlopen(url) as answer:
        assert (answer.read(), answer.headers["content-type"]) == (b"by url", "text/odd")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url.replace("pre%20signed", "other"))
    assert caught.value.code == 403
    caught.value.close()


def test_virtual_host_style(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def to_loopback(host: str, *arguments: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if host.endswith(".s3.localhost") else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", to_loopback)
    s3 = client_of(server, "virtual")
    s3.create_bucket(Bucket="vhost.bucket")
    s3.put_object(Bucket="vhost.bucket", Key="a/b c", Body=b"here")
    assert s3.get_object(Bucket="vhost.bucket", Key="a/b c")["Body"].read() == b"here"
    assert s3.list_objects_v2(Bucket="vhost.bucket")["KeyCount"] == 1
    s3.close()


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums_are_kept_and_verified(s3: Any, algorithm: str) -> None:
    body = os.urandom(200_000)
    put = s3.put_object(Bucket="boto", Key=f"sum-{algorithm}", Body=io.BytesIO(body), ChecksumAlgorithm=algorithm)
    got = s3.get_object(Bucket="boto", Key=f"sum-{algorithm}", ChecksumMode="ENABLED")
    assert got[f"Checksum{algorithm}"] == put[f"Checksum{algorithm}"]
    assert got["Body"].read() == body  # botocore verifies it


def test_conditional_writes(s3: Any) -> None:
    s3.put_object(Bucket="boto", Key="once", Body=b"1", IfNoneMatch="*")
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        s3.put_object(Bucket="boto", Key="once", Body=b"2", IfNoneMatch="*")
    assert caught.value.response["Error"]["Code"] == "PreconditionFailed"
    etag = s3.head_object(Bucket="boto", Key="once")["ETag"]
    s3.put_object(Bucket="boto", Key="once", Body=b"3", IfMatch=etag)
    assert s3.get_object(Bucket="boto", Key="once")["Body"].read() == b"3"


def test_what_is_not_built_says_so(s3: Any) -> None:
    for call, arguments in (
        (s3.put_bucket_logging, {"BucketLoggingStatus": {}}),
        (s3.put_bucket_website, {"WebsiteConfiguration": {"IndexDocument": {"Suffix": "i"}}}),
    ):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            call(Bucket="boto", **arguments)
        assert caught.value.response["Error"]["Code"] == "NotImplemented"
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        s3.put_object(Bucket="boto", Key="k", Body=b"", ServerSideEncryption="AES256")
    assert caught.value.response["Error"]["Code"] == "NotImplemented"


def test_buckets_come_and_go(s3: Any) -> None:
    s3.create_bucket(Bucket="short-lived")
    assert "short-lived" in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    s3.put_object(Bucket="short-lived", Key="k", Body=b"")
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        s3.delete_bucket(Bucket="short-lived")
    assert caught.value.response["Error"]["Code"] == "BucketNotEmpty"
    s3.delete_object(Bucket="short-lived", Key="k")
    s3.delete_bucket(Bucket="short-lived")
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        s3.head_bucket(Bucket="short-lived")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404
