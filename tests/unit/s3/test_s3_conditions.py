"""Preconditions: reads against RFC 9110 13.2.2 in all combinations, writes, copies and deletes; who loses a race is told so at commit."""

from __future__ import annotations

import hashlib
from itertools import product

import pytest

from tests.unit.s3.wire import ROOT, START_MS, Client, WireBody
from titans3.http.signing import sign_headers
from titans3.model.version import ROW_FORMAT, Version

BODY = b"body"
ETAG = hashlib.md5(BODY).hexdigest()
AT = "Fri, 15 Jan 2027 08:00:00 GMT"  # of the client's fixed clock
BEFORE = "Fri, 15 Jan 2027 07:59:59 GMT"
AFTER = "Fri, 15 Jan 2027 08:00:01 GMT"


@pytest.fixture
def client() -> Client:
    made = Client()
    made.bucket()
    made("PUT", "/bucket/key", {"cache-control": "max-age=5"}, BODY)
    return made


def conditions(
    match: bool | None, none_match: bool | None, modified: bool | None, unmodified: bool | None
) -> dict[str, str]:
    """Headers of which each holds (True), does not hold (False) or is absent."""
    found = {
        "if-match": None if match is None else f'"{ETAG}"' if match else '"0123"',
        "if-none-match": None if none_match is None else '"0123"' if none_match else f'"{ETAG}"',
        "if-modified-since": None if modified is None else BEFORE if modified else AT,
        "if-unmodified-since": None if unmodified is None else AT if unmodified else BEFORE,
    }
    return {name: value for name, value in found.items() if value is not None}


def expected(match: bool | None, none_match: bool | None, modified: bool | None, unmodified: bool | None) -> int:
    """RFC 9110 13.2.2, steps 1 to 4."""
    if match is False or (match is None and unmodified is False):
        return 412
    if none_match is False or (none_match is None and modified is False):
        return 304
    return 200


ALL = list(product((None, True, False), repeat=4))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_reads_in_every_combination(client: Client, method: str) -> None:
    for holds in ALL:
        answer = client(method, "/bucket/key", conditions(*holds))
        assert answer.status == expected(*holds), holds
        if answer.status == 304:
            assert answer.body == b""
            assert answer.headers == {"etag": f'"{ETAG}"', "last-modified": AT, "cache-control": "max-age=5"}
        elif answer.status == 412 and method == "GET":
            assert answer.code == "PreconditionFailed"
            assert answer.xml.findtext("Condition") in ("If-Match", "If-Unmodified-Since")
        elif method == "GET":
            assert answer.body == BODY


def test_copy_sources_in_every_combination(client: Client) -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html: what does not hold is 412."""
    for holds in ALL:
        headers = {f"x-amz-copy-source-{name}": value for name, value in conditions(*holds).items()}
        answer = client("PUT", "/bucket/copy", {**headers, "x-amz-copy-source": "/bucket/key"})
        wanted = 200 if expected(*holds) == 200 else 412
        assert answer.status == wanted, holds
        assert client("HEAD", "/bucket/copy").status == (200 if wanted == 200 else 404)
        client("DELETE", "/bucket/copy")


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("if-match", ETAG, 200),
        ("if-match", ETAG.upper(), 200),
        ("if-match", "*", 200),
        ("if-match", f'"x", "{ETAG}"', 200),
        ("if-match", f'W/"{ETAG}"', 412),
        ("if-match", '"x", "y"', 412),
        ("if-match", "", 412),
        ("if-none-match", ETAG, 304),
        ("if-none-match", "*", 304),
        ("if-none-match", f'W/"{ETAG}"', 304),
        ("if-none-match", f'"x" , "{ETAG}"', 304),
        ("if-none-match", '"x"', 200),
        ("if-modified-since", AFTER, 304),
        ("if-modified-since", "not a date", 200),
        ("if-modified-since", "Friday, 15-Jan-27 08:00:00 GMT", 304),
        ("if-modified-since", "Fri Jan 15 08:00:00 2027", 304),
        ("if-unmodified-since", AFTER, 200),
        ("if-unmodified-since", "garbage", 200),
        ("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT", 412),
        ("if-unmodified-since", "Fri, 32 Jan 9999999999 08:00:00 GMT", 200),
    ],
)
def test_forms_of_values(client: Client, header: str, value: str, status: int) -> None:
    assert client("GET", "/bucket/key", {header: value}).status == status
    assert client("HEAD", "/bucket/key", {header: value}).status == status


def test_preconditions_come_before_ranges(client: Client) -> None:
    assert client("GET", "/bucket/key", {"if-match": '"x"', "range": "bytes=99-"}).status == 412
    assert client("GET", "/bucket/key", {"if-none-match": "*", "range": "bytes=0-1"}).status == 304
    assert client("GET", "/bucket/key", {"if-match": ETAG, "range": "bytes=0-1"}).status == 206


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (f'"{ETAG}"', 206),
        (ETAG, 206),
        ('"other"', 200),
        (f'W/"{ETAG}"', 200),
        (AT, 206),
        (BEFORE, 200),
        (AFTER, 200),
        ("x", 200),
    ],
)
def test_if_range(client: Client, value: str, status: int) -> None:
    answer = client("GET", "/bucket/key", {"range": "bytes=1-2", "if-range": value})
    assert (answer.status, answer.body) == (status, BODY if status == 200 else b"od")


TAGS = {"right": f'"{ETAG}"', "bare": ETAG, "wrong": '"0123456789abcdef0123456789abcdef"', "any": "*"}


def write_status(exists: bool, match: str | None, none_match: str | None) -> int:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html"""
    if match is not None and not exists:
        return 404
    if match == "wrong" or (exists and none_match not in (None, "wrong")):
        return 412
    return 200


@pytest.mark.parametrize("kind", ["put", "large", "copy", "complete"])
@pytest.mark.parametrize("exists", [True, False])
def test_writes(client: Client, kind: str, exists: bool) -> None:
    client("PUT", "/bucket/source", body=b"n" * 10)
    for match, none_match in product((None, *TAGS), repeat=2):
        client("DELETE", "/bucket/key")
        if exists:
            client("PUT", "/bucket/key", body=BODY)
        headers = {}
        if match is not None:
            headers["if-match"] = TAGS[match]
        if none_match is not None:
            headers["if-none-match"] = TAGS[none_match]
        if kind == "copy":
            answer = client("PUT", "/bucket/key", {**headers, "x-amz-copy-source": "bucket/source"})
        elif kind == "complete":
            upload = client("POST", "/bucket/key?uploads").xml.findtext("UploadId")
            etag = client("PUT", f"/bucket/key?uploadId={upload}&partNumber=1", body=b"p").headers["etag"]
            xml = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
            answer = client("POST", f"/bucket/key?uploadId={upload}", headers, xml.encode())
            if answer.status != 200:
                assert client("DELETE", f"/bucket/key?uploadId={upload}").status == 204, "the upload is still there"
        else:
            answer = client("PUT", "/bucket/key", headers, b"n" * (100_000 if kind == "large" else 10))
        wanted = write_status(exists, match, none_match)
        assert answer.status == wanted, (match, none_match, answer.body)
        if wanted == 200:
            assert client("GET", "/bucket/key").body != BODY
        else:
            assert answer.code == {404: "NoSuchKey", 412: "PreconditionFailed"}[wanted]
            assert client("GET", "/bucket/key").status == (200 if exists else 404)
            if exists:
                assert client("GET", "/bucket/key").body == BODY
    assert client.store.data == {}, "no bytes of a refused write are kept"


def test_a_refused_put_reads_no_body(client: Client) -> None:
    assert client("PUT", "/bucket/key", {"if-none-match": "*"}, b"x").status == 412
    assert client.last_body is not None
    assert client.last_body.reads == 0


def test_a_marker_counts_as_missing(client: Client) -> None:
    client.store.switch("bucket", 1)
    client("DELETE", "/bucket/key")
    assert client("PUT", "/bucket/key", {"if-match": "*"}, b"x").status == 404
    assert client("PUT", "/bucket/key", {"if-none-match": "*"}, b"x").status == 200


@pytest.mark.parametrize("name", ["if-modified-since", "if-unmodified-since"])
def test_dates_on_a_write_are_not_built(client: Client, name: str) -> None:
    answer = client("PUT", "/bucket/key", {name: AT}, b"x")
    assert (answer.status, answer.code) == (501, "NotImplemented")
    assert client("GET", "/bucket/key").body == BODY


def test_an_empty_condition_is_no_condition_that_holds(client: Client) -> None:
    for name in ("if-match", "if-none-match"):
        answer = client("PUT", "/bucket/key", {name: ""}, b"x")
        assert (answer.status, answer.code) == (400, "InvalidArgument")


class Racing(WireBody):
    """A body during which somebody else writes the key."""

    def __init__(self, data: bytes, client: Client) -> None:
        super().__init__(data)
        self._client = client

    async def _race(self) -> None:
        store = self._client.store
        record = await store.bucket("bucket")
        version = Version(ROW_FORMAT, 0, 0, START_MS, 5, hashlib.md5(b"other").digest(), 0, 0)
        await store.put(record, b"key", version, b"other", None)

    async def read_all(self, limit: int) -> bytes:
        await self._race()
        return await super().read_all(limit)

    async def next(self) -> memoryview | None:
        if self.reads == 0:
            await self._race()
        return await super().next()


@pytest.mark.parametrize("size", [10, 300_000])
@pytest.mark.parametrize("condition", [{"if-none-match": "*"}, {"if-match": f'"{ETAG}"'}])
def test_the_loser_of_a_race_is_told_at_commit(client: Client, size: int, condition: dict[str, str]) -> None:
    if "if-none-match" in condition:
        client("DELETE", "/bucket/key")
    data = b"n" * size
    headers = {"host": "h", "content-length": str(size), **condition}
    signed = sign_headers(ROOT, "PUT", b"/bucket/key", b"", headers, date=client.date, payload_hash="UNSIGNED-PAYLOAD")
    answer = client.send("PUT", b"/bucket/key", signed.headers, Racing(data, client))
    assert (answer.status, answer.code) == (412, "PreconditionFailed")
    assert client("GET", "/bucket/key").body == b"other"
    assert client.store.data == {}
    assert all(sink.abandoned for sink in client.store.sinks)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-match": f'"{ETAG}"'}, 204),
        ({"if-match": ETAG}, 204),
        ({"if-match": "*"}, 204),
        ({"if-match": '"wrong"'}, 412),
        ({"x-amz-if-match-size": "4"}, 204),
        ({"x-amz-if-match-size": "5"}, 412),
        ({"x-amz-if-match-last-modified-time": AT}, 204),
        ({"x-amz-if-match-last-modified-time": BEFORE}, 412),
        ({"x-amz-if-match-last-modified-time": "2027-01-15T08:00:00.123Z"}, 204),
        ({"x-amz-if-match-last-modified-time": "2027-01-15T08:00:01Z"}, 412),
        ({"if-match": ETAG, "x-amz-if-match-size": "4", "x-amz-if-match-last-modified-time": AT}, 204),
        ({"if-match": ETAG, "x-amz-if-match-size": "3"}, 412),
        ({"x-amz-if-match-size": "x"}, 400),
        ({"x-amz-if-match-size": "-1"}, 400),
        ({"x-amz-if-match-last-modified-time": "yesterday"}, 400),
        ({"if-match": ""}, 400),
    ],
)
def test_deletes(client: Client, headers: dict[str, str], status: int) -> None:
    answer = client("DELETE", "/bucket/key", headers)
    assert answer.status == status, answer.body
    assert client("HEAD", "/bucket/key").status == (404 if status == 204 else 200)
    if status == 412:
        assert answer.code == "PreconditionFailed"


def test_a_condition_on_a_missing_key(client: Client) -> None:
    answer = client("DELETE", "/bucket/absent", {"if-match": "*"})
    assert (answer.status, answer.code) == (404, "NoSuchKey")
