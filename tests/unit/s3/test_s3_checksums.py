"""Content-MD5 and all additional checksums, in headers and trailers, right and wrong.

Expected: https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html and the model's documentation of PutObject.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode

import pytest

from tests.unit.s3 import checksums
from tests.unit.s3.wire import Client
from titans3.http.authentication import PayloadMode

SMALL = b"123456789"
LARGE = bytes(range(256)) * 300  # past what stays in memory
TRAILER_MODES = (PayloadMode.UNSIGNED_TRAILER, PayloadMode.SIGNED_CHUNKS_TRAILER)


@pytest.fixture
def client() -> Client:
    made = Client()
    made.bucket()
    return made


def md5_text(data: bytes) -> str:
    return b64encode(hashlib.md5(data).digest()).decode()


def test_the_reference_agrees_with_published_check_values() -> None:
    """https://reveng.sourceforge.io/crc-catalogue/all.htm"""
    assert checksums.raw("crc32", SMALL).hex() == "cbf43926"
    assert checksums.raw("crc32c", SMALL).hex() == "e3069283"
    assert checksums.raw("crc64nvme", SMALL).hex() == "ae8b14860a799888"
    assert checksums.raw("xxhash64", b"").hex() == "ef46db3751d8e999"


def sent(
    client: Client, algorithm: str, value: str, data: bytes, mode: PayloadMode
) -> tuple[int, str | None, dict[str, str]]:
    """Status, code and headers of a PUT with a checksum in the header or, by mode, in the trailer."""
    name = f"x-amz-checksum-{algorithm}"
    if mode in TRAILER_MODES:
        answer = client(
            "PUT",
            "/bucket/key",
            {"x-amz-sdk-checksum-algorithm": algorithm.upper()},
            data,
            mode=mode,
            trailers={name: value},
        )
    else:
        answer = client("PUT", "/bucket/key", {name: value}, data, mode=mode)
    return answer.status, answer.code if answer.status >= 400 else None, answer.headers


@pytest.mark.parametrize("mode", list(PayloadMode))
@pytest.mark.parametrize("algorithm", checksums.ALGORITHMS)
@pytest.mark.parametrize("data", [SMALL, LARGE, b""], ids=["small", "large", "empty"])
def test_right_ones_are_kept(client: Client, algorithm: str, mode: PayloadMode, data: bytes) -> None:
    name, value = f"x-amz-checksum-{algorithm}", checksums.text(algorithm, data)
    status, code, headers = sent(client, algorithm, value, data, mode)
    assert (status, code) == (200, None)
    assert (headers[name], headers["x-amz-checksum-type"]) == (value, "FULL_OBJECT")
    for method in ("GET", "HEAD"):
        for word in ("ENABLED", "enabled"):
            got = client(method, "/bucket/key", {"x-amz-checksum-mode": word})
            assert (got.headers[name], got.headers["x-amz-checksum-type"]) == (value, "FULL_OBJECT")
        plain = client(method, "/bucket/key")
        assert not [header for header in plain.headers if header.startswith("x-amz-checksum")]
    assert client("GET", "/bucket/key").body == data


@pytest.mark.parametrize("mode", [PayloadMode.HASHED, PayloadMode.UNSIGNED, *TRAILER_MODES])
@pytest.mark.parametrize("algorithm", checksums.ALGORITHMS)
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_wrong_ones_change_nothing(client: Client, algorithm: str, mode: PayloadMode, data: bytes) -> None:
    client("PUT", "/bucket/key", body=b"old")
    status, code, _ = sent(client, algorithm, checksums.text(algorithm, b"other"), data, mode)
    assert (status, code) == (400, "BadDigest")
    assert client("GET", "/bucket/key").body == b"old"
    assert client.store.data == {}
    assert all(sink.abandoned for sink in client.store.sinks)


@pytest.mark.parametrize("mode", [PayloadMode.HASHED, PayloadMode.UNSIGNED_TRAILER])
@pytest.mark.parametrize("value", ["", "not base64!", "AAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==", "0"])
def test_malformed_ones(client: Client, mode: PayloadMode, value: str) -> None:
    status, code, _ = sent(client, "crc32", value, SMALL, mode)
    assert (status, code) == (400, "InvalidRequest")
    assert client("HEAD", "/bucket/key").status == 404


def test_one_checksum_is_enough(client: Client) -> None:
    both = {f"x-amz-checksum-{name}": checksums.text(name, SMALL) for name in ("crc32", "sha256")}
    answer = client("PUT", "/bucket/key", both, SMALL)
    assert (answer.status, answer.code) == (400, "InvalidRequest")
    crc = {"x-amz-checksum-crc32": checksums.text("crc32", SMALL)}
    sha = {"x-amz-checksum-sha256": checksums.text("sha256", SMALL)}
    answer = client("PUT", "/bucket/key", crc, SMALL, mode=PayloadMode.UNSIGNED_TRAILER, trailers=sha)
    assert (answer.status, answer.code) == (400, "InvalidRequest")
    answer = client("PUT", "/bucket/key", {"x-amz-checksum-crc16": "AAA="}, SMALL)
    assert (answer.status, answer.code) == (400, "InvalidRequest")


def test_trailers_that_are_not_checksums_or_do_not_come(client: Client) -> None:
    answer = client("PUT", "/bucket/key", body=SMALL, mode=PayloadMode.UNSIGNED_TRAILER, trailers={"x-other": "1"})
    assert (answer.status, answer.code) == (400, "InvalidRequest")
    announced = {"x-amz-trailer": "x-amz-checksum-crc32"}
    answer = client("PUT", "/bucket/key", announced, SMALL, mode=PayloadMode.UNSIGNED_TRAILER)
    assert (answer.status, answer.code) == (400, "MalformedTrailerError")
    answer = client("PUT", "/bucket/key", announced, SMALL)
    assert (answer.status, answer.code) == (400, "MalformedTrailerError")
    assert client("HEAD", "/bucket/key").status == 404


@pytest.mark.parametrize("target", ["/bucket/key", "/bucket?delete"])
def test_the_sdk_algorithm_needs_its_checksum(client: Client, target: str) -> None:
    """The model: without a corresponding checksum or trailer 400 Bad Request; one of another algorithm is BadDigest."""
    method, body = (
        ("PUT", SMALL) if target == "/bucket/key" else ("POST", b"<Delete><Object><Key>a</Key></Object></Delete>")
    )
    proof = {"content-md5": md5_text(body)}
    answer = client(method, target, {"x-amz-sdk-checksum-algorithm": "CRC32", **proof}, body)
    assert (answer.status, answer.code) == (400, "InvalidRequest")
    answer = client(method, target, {"x-amz-sdk-checksum-algorithm": "CRC99", **proof}, body)
    assert (answer.status, answer.code) == (400, "InvalidRequest")
    value = {"x-amz-checksum-sha1": checksums.text("sha1", body)}
    answer = client(method, target, {"x-amz-sdk-checksum-algorithm": "CRC32", **value}, body)
    assert (answer.status, answer.code) == (400, "BadDigest")
    for word in ("SHA1", "sha1"):
        assert client(method, target, {"x-amz-sdk-checksum-algorithm": word, **value}, body).status == 200


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, None),
        (md5_text(b"other"), "BadDigest"),
        ("", "InvalidDigest"),
        ("x", "InvalidDigest"),
        ("YWJj", "InvalidDigest"),
        ("=" * 24, "InvalidDigest"),
    ],
)
def test_content_md5(client: Client, data: bytes, value: str | None, code: str | None) -> None:
    answer = client("PUT", "/bucket/key", {"content-md5": md5_text(data) if value is None else value}, data)
    assert answer.status == (200 if code is None else 400)
    assert code is None or answer.code == code
    assert client("HEAD", "/bucket/key").status == (200 if code is None else 404)


def test_md5_and_a_checksum_are_both_judged(client: Client) -> None:
    right = {"content-md5": md5_text(SMALL), "x-amz-checksum-crc32c": checksums.text("crc32c", SMALL)}
    assert client("PUT", "/bucket/key", right, SMALL).status == 200
    for name, value in (("content-md5", md5_text(b"")), ("x-amz-checksum-crc32c", checksums.text("crc32c", b""))):
        assert client("PUT", "/bucket/key", {**right, name: value}, SMALL).code == "BadDigest"
