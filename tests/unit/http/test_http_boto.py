"""boto3 against the connection, SigV4 and payload together, plain and TLS: the signed and the streaming forms it really sends."""

from __future__ import annotations

import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
import trustme
from botocore.config import Config
from botocore.exceptions import ClientError as BotoError

from tests.unit.http.wire_server import Server, Toy, serving
from titans3.errors import ClientError
from titans3.http.authentication import AuthError, PayloadMode
from titans3.http.hashing import BodyHashing
from titans3.http.message import Request, Response
from titans3.http.payload import open_payload
from titans3.http.sigv4 import SigV4

SIZES = [0, 1, 4096, 65536, 70_000, 1 << 20, (5 << 20) + 3]


class SignedToy(Toy):
    """Stores bodies by raw path; only what verifies gets in or out."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: dict[bytes, bytes] = {}
        self.modes: list[PayloadMode] = []
        self.trailers: dict[str, str] = {}
        self._verifier = SigV4({"AK": "SK"}.get)
        self.executor = ThreadPoolExecutor(2)
        self.hashing = BodyHashing(self.executor, with_lanes=True)

    async def handle(self, request: Request) -> Response:
        try:
            verified = self._verifier.verify(request.method, request.path, request.query, request.fields, time.time())
            if verified is None:
                return Response(403, body=b"anonymous")
            if request.method != "PUT":
                headers = [(b"last-modified", b"Sat, 31 Jan 2026 12:00:00 GMT"), (b"etag", b'"e"')]
                return Response(200, headers, self.stored[request.path])
            payload = open_payload(request.body, verified, request.fields, self.hashing)
            data = bytearray()
            while (piece := await payload.next()) is not None:
                data += piece
                payload.release(piece)
        except AuthError as error:
            return Response(403, body=f"<Error><Code>{error.reason}</Code></Error>".encode())
        except ClientError as error:
            return Response(400, body=f"<Error><Code>{error.reason}</Code></Error>".encode())
        self.stored[request.path] = bytes(data)
        self.modes.append(verified.payload)
        self.trailers = payload.trailers
        return Response(200, [(b"etag", b'"e"')])


def client_of(server: Server, scheme: str, secret: str = "SK", **options: Any) -> Any:
    config = Config(signature_version="s3v4", retries={"max_attempts": 0}, s3={"addressing_style": "path"})
    return boto3.client(
        "s3", endpoint_url=f"{scheme}://127.0.0.1:{server.port}", aws_access_key_id="AK", aws_secret_access_key=secret,
        region_name="eu-west-1", config=config, **options,
    )  # fmt: skip


@pytest.fixture
def plain() -> Iterator[tuple[Server, SignedToy]]:
    toy = SignedToy()
    with serving(toy=toy) as server:
        yield server, toy
    toy.executor.shutdown()


@pytest.mark.parametrize("key", ["k", "a b/ä+(1)'!*~", "x//y/../z", "%2F", "=&?#"])
def test_plain(plain: tuple[Server, SignedToy], key: str) -> None:
    server, toy = plain
    s3 = client_of(server, "http")
    for size in SIZES:
        data = os.urandom(size)
        s3.put_object(Bucket="b", Key=key, Body=data, Metadata={"note": "  two   spaces "})
        assert s3.get_object(Bucket="b", Key=key)["Body"].read() == data
        assert s3.head_object(Bucket="b", Key=key)["ContentLength"] == size
    assert set(toy.modes) == {PayloadMode.HASHED}
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": key})
    with urllib.request.urlopen(url) as answer:
        assert len(answer.read()) == SIZES[-1]
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url.replace("/b/", "/c/"))
    assert caught.value.code == 403
    caught.value.close()
    s3.close()


def test_a_wrong_secret_is_refused_before_the_body(plain: tuple[Server, SignedToy]) -> None:
    server, toy = plain
    s3 = client_of(server, "http", "wrong")
    with pytest.raises(BotoError) as caught:
        s3.put_object(Bucket="b", Key="k", Body=bytes(3 << 20))
    assert caught.value.response["Error"]["Code"] == "signature_mismatch"
    assert server.context.counters.continues == 0
    assert server.context.counters.bytes_in < 10_000
    assert toy.stored == {}
    s3.close()


def test_tls_streams_with_trailers(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    pem = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(pem))
    toy = SignedToy()
    with serving(toy=toy, tls=tls) as server:
        s3 = client_of(server, "https", verify=str(pem))
        for size in SIZES:
            data = os.urandom(size)
            path = tmp_path / "body"
            path.write_bytes(data)
            with path.open("rb") as file:
                s3.put_object(Bucket="b", Key="k", Body=file)
            assert toy.stored[b"/b/k"] == data
            assert list(toy.trailers) == ["x-amz-checksum-crc32"]
            assert s3.get_object(Bucket="b", Key="k")["Body"].read() == data
        assert set(toy.modes) == {PayloadMode.UNSIGNED_TRAILER}
        s3.close()
    toy.executor.shutdown()
