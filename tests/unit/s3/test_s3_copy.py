"""CopyObject and UploadPartCopy: names of sources, directives, checksums, ranges, rights."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

import pytest

from tests.unit.s3 import checksums
from tests.unit.s3.wire import OTHER, Answer, Client
from titans3.limits import PART_BYTES_MIN

LARGE = bytes(range(256)) * 8000


@pytest.fixture
def client() -> Client:
    made = Client()
    made.bucket()
    made.bucket("other")
    made(
        "PUT",
        "/bucket/key",
        {"content-type": "text/plain", "cache-control": "no-store", "x-amz-meta-color": "red"},
        b"body",
    )
    return made


def copy(
    client: Client, source: str, headers: dict[str, str] | None = None, target: str = "/other/copy", **options: object
) -> Answer:
    return client("PUT", target, {"x-amz-copy-source": source, **(headers or {})}, **options)  # type: ignore[arg-type]


def test_a_copy_keeps_bytes_headers_and_metadata(client: Client) -> None:
    answer = copy(client, "/bucket/key")
    assert (answer.status, answer.xml.tag) == (200, "CopyObjectResult")
    assert answer.xml.findtext("ETag") == f'"{hashlib.md5(b"body").hexdigest()}"'
    assert answer.xml.findtext("LastModified") == "2027-01-15T08:00:00.123Z"
    source, target = client("GET", "/bucket/key"), client("GET", "/other/copy")
    assert (target.body, target.headers) == (b"body", source.headers)
    client("DELETE", "/bucket/key")
    assert client("GET", "/other/copy").body == b"body"


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, len(LARGE)])
def test_sizes(client: Client, size: int) -> None:
    client("PUT", "/bucket/sized", body=LARGE[:size])
    answer = copy(client, "bucket/sized")
    assert answer.xml.findtext("ETag") == f'"{hashlib.md5(LARGE[:size]).hexdigest()}"'
    assert client("GET", "/other/copy").body == LARGE[:size]


def test_replace(client: Client) -> None:
    changed = {"x-amz-metadata-directive": "REPLACE", "content-type": "text/html", "x-amz-meta-shape": "round"}
    assert copy(client, "bucket/key", changed).status == 200
    got = client("HEAD", "/other/copy").headers
    assert (got["content-type"], got["x-amz-meta-shape"]) == ("text/html", "round")
    assert "x-amz-meta-color" not in got
    assert "cache-control" not in got
    assert copy(client, "bucket/key", {"x-amz-metadata-directive": "REPLACE"}).status == 200
    assert client("HEAD", "/other/copy").headers["content-type"] == "binary/octet-stream"


def test_with_copy_the_headers_of_the_request_do_not_count(client: Client) -> None:
    assert copy(client, "bucket/key", {"content-type": "text/html", "x-amz-meta-shape": "round"}).status == 200
    got = client("HEAD", "/other/copy").headers
    assert (got["content-type"], got["x-amz-meta-color"], "x-amz-meta-shape" in got) == ("text/plain", "red", False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("x-amz-metadata-directive", "replace"), ("x-amz-metadata-directive", "X"), ("x-amz-tagging-directive", "X")],
)
def test_unknown_directives(client: Client, name: str, value: str) -> None:
    answer = copy(client, "bucket/key", {name: value})
    assert (answer.status, answer.code) == (400, "InvalidArgument")


def test_onto_itself(client: Client) -> None:
    answer = copy(client, "bucket/key", target="/bucket/key")
    assert (answer.status, answer.code) == (400, "InvalidRequest")
    for change in (
        {"x-amz-metadata-directive": "REPLACE", "x-amz-meta-new": "1"},
        {"x-amz-storage-class": "STANDARD"},
        {"x-amz-checksum-algorithm": "CRC32C"},
    ):
        assert copy(client, "bucket/key", change, target="/bucket/key").status == 200, change
    assert client("GET", "/bucket/key").body == b"body"
    assert client("GET", "/bucket/key").headers["x-amz-meta-new"] == "1"


ODD = [
    " ",
    "_",
    "__",
    "%",
    "%41",
    "+",
    "a+b",
    "?versionId=x",
    "?versionId",
    "a?b",
    "//",
    "/a",
    "a//b",
    "\u00e9",
    "\U0001f600",
    "a%2Fb",
    "&=",
    "\x01",
    "..",
    "x" * 1024,
]


@pytest.mark.parametrize("key", ODD)
@pytest.mark.parametrize("slash", ["", "/"])
def test_source_names_are_decoded_once(client: Client, key: str, slash: str) -> None:
    client("PUT", f"/bucket/{quote(key, safe='')}", body=key.encode())
    for safe in ("", "/"):
        if key.startswith("/") and safe == "/" and not slash:
            continue
        assert copy(client, f"{slash}bucket/{quote(key, safe=safe)}").status == 200
        assert client("GET", "/other/copy").body == key.encode()
        client("DELETE", "/other/copy")


def test_raw_utf8_and_an_escaped_slash(client: Client) -> None:
    client("PUT", "/bucket/%C3%A9", body=b"e")
    assert copy(client, "bucket/\u00e9".encode().decode("latin-1")).status == 200
    assert copy(client, "bucket%2Fkey").status == 200
    assert copy(client, "%2Fbucket%2Fkey").status == 200


@pytest.mark.parametrize(
    "source", ["", "/", "bucket", "/bucket", "bucket/", "/bucket/", "arn:aws:s3:us-east-1:1:accesspoint/x/object/y"]
)
def test_sources_that_name_no_object(client: Client, source: str) -> None:
    answer = copy(client, source)
    assert (answer.status, answer.code) == (400, "InvalidArgument")


def test_missing_sources(client: Client) -> None:
    for source, status, code in (
        ("bucket/absent", 404, "NoSuchKey"),
        ("absent/key", 404, "NoSuchBucket"),
        (f"bucket/key?versionId={'0' * 32}", 404, "NoSuchVersion"),
        ("bucket/key?versionId=nonsense", 400, "InvalidArgument"),
        ("bucket/key?versionId=", 400, "InvalidArgument"),
        (f"bucket/{'x' * 1025}", 400, "KeyTooLongError"),
        ("bucket/%FF", 400, "InvalidURI"),
    ):
        answer = copy(client, source)
        assert (answer.status, answer.code) == (status, code), source
    assert client("HEAD", "/other/copy").status == 404


def test_rights_on_both_sides(client: Client) -> None:
    client("PUT", "/theirs", identity=OTHER)
    answer = copy(client, "bucket/key", target="/theirs/copy", identity=OTHER)
    assert (answer.status, answer.code) == (403, "AccessDenied")
    answer = copy(client, "theirs/absent", target="/bucket/copy", identity=OTHER)
    assert (answer.status, answer.code) == (403, "AccessDenied")
    answer = copy(client, "bucket/key", {"x-amz-source-expected-bucket-owner": "999999999999"})
    assert (answer.status, answer.code) == (403, "AccessDenied")


def test_versions(client: Client) -> None:
    client.store.switch("bucket", 1)
    first = client("PUT", "/bucket/key", body=b"first").headers["x-amz-version-id"]
    second = client("PUT", "/bucket/key", body=b"second").headers["x-amz-version-id"]
    answer = copy(client, f"bucket/key?versionId={first}")
    assert answer.headers["x-amz-copy-source-version-id"] == first
    assert client("GET", "/other/copy").body == b"first"
    answer = copy(client, "bucket/key")
    assert answer.headers["x-amz-copy-source-version-id"] == second
    assert "x-amz-version-id" not in answer.headers
    assert copy(client, f"bucket/key?versionId={first}", target="/bucket/key").status == 200, "an old version restored"
    assert client("GET", "/bucket/key").body == b"first"
    marker = client("DELETE", "/bucket/key").headers["x-amz-version-id"]
    assert copy(client, "bucket/key").code == "NoSuchKey"
    answer = copy(client, f"bucket/key?versionId={marker}")
    assert (answer.status, answer.code) == (400, "InvalidRequest")


@pytest.mark.parametrize("size", [10, 200_000])
@pytest.mark.parametrize("algorithm", checksums.ALGORITHMS)
def test_checksums(client: Client, algorithm: str, size: int) -> None:
    data, name = LARGE[:size], algorithm.upper()
    client("PUT", "/bucket/sum", {"x-amz-checksum-crc32": checksums.text("crc32", data)}, data)
    answer = copy(client, "bucket/sum")
    assert answer.xml.findtext("ChecksumCRC32") == checksums.text("crc32", data), "the source's algorithm is kept"
    assert answer.xml.findtext("ChecksumType") == "FULL_OBJECT"
    answer = copy(client, "bucket/sum", {"x-amz-checksum-algorithm": name})
    assert answer.xml.findtext(f"Checksum{name}") == checksums.text(algorithm, data)
    got = client("HEAD", "/other/copy", {"x-amz-checksum-mode": "ENABLED"}).headers
    assert got[f"x-amz-checksum-{algorithm}"] == checksums.text(algorithm, data)
    answer = copy(client, "bucket/sum", {"x-amz-checksum-algorithm": "CRC99"})
    assert (answer.status, answer.code) == (400, "InvalidRequest")


def test_a_copy_needs_no_content_length(client: Client) -> None:
    assert copy(client, "bucket/key", says_length=False).status == 200


def test_headers_that_are_not_built(client: Client) -> None:
    for name in (
        "x-amz-copy-source-server-side-encryption-customer-algorithm",
        "x-amz-object-lock-mode",
    ):
        answer = copy(client, "bucket/key", {name: "public-read"})
        assert (answer.status, answer.code) == (501, "NotImplemented"), name
    assert client("HEAD", "/other/copy").status == 404


def begin(client: Client, headers: dict[str, str] | None = None) -> str:
    return str(client("POST", "/other/parts?uploads", headers).xml.findtext("UploadId"))


def part_copy(
    client: Client, upload: str, source: str, headers: dict[str, str] | None = None, number: object = 1
) -> Answer:
    return copy(client, source, headers, target=f"/other/parts?uploadId={upload}&partNumber={number}")


def test_parts_from_ranges(client: Client) -> None:
    data = LARGE * 6
    client("PUT", "/bucket/large", body=data)
    upload, half = begin(client), PART_BYTES_MIN + 11
    lines = []
    for number, text in ((1, f"bytes=0-{half - 1}"), (2, f"bytes={half}-{len(data) - 1}")):
        answer = part_copy(client, upload, "/bucket/large", {"x-amz-copy-source-range": text}, number)
        assert (answer.status, answer.xml.tag) == (200, "CopyPartResult")
        piece = data[:half] if number == 1 else data[half:]
        assert answer.xml.findtext("ETag") == f'"{hashlib.md5(piece).hexdigest()}"'
        assert answer.xml.findtext("LastModified")
        lines.append(f"<Part><PartNumber>{number}</PartNumber><ETag>{answer.xml.findtext('ETag')}</ETag></Part>")
    xml = f"<CompleteMultipartUpload>{''.join(lines)}</CompleteMultipartUpload>"
    assert client("POST", f"/other/parts?uploadId={upload}", body=xml.encode()).status == 200
    assert client("GET", "/other/parts").body == data


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("bytes=0-3", 200, None),
        ("bytes=3-3", 200, None),
        ("bytes=0-4", 416, "InvalidRange"),
        ("bytes=4-5", 416, "InvalidRange"),
        ("bytes=0-99999999999999999999999", 416, "InvalidRange"),
        ("bytes=2-1", 400, "InvalidArgument"),
        ("bytes=0-", 400, "InvalidArgument"),
        ("bytes=-2", 400, "InvalidArgument"),
        ("bytes=a-b", 400, "InvalidArgument"),
        ("0-3", 400, "InvalidArgument"),
        ("bytes=0-1,2-3", 400, "InvalidArgument"),
        ("", 400, "InvalidArgument"),
    ],
)
def test_ranges_of_sources(client: Client, text: str, status: int, code: str | None) -> None:
    answer = part_copy(client, begin(client), "bucket/key", {"x-amz-copy-source-range": text})
    assert answer.status == status
    assert code is None or answer.code == code


def test_a_part_without_range_is_the_whole_and_may_be_empty(client: Client) -> None:
    client("PUT", "/bucket/empty", body=b"")
    for source, body in (("bucket/key", b"body"), ("bucket/empty", b"")):
        answer = part_copy(client, begin(client), source)
        assert answer.xml.findtext("ETag") == f'"{hashlib.md5(body).hexdigest()}"'


def test_what_a_part_copy_refuses(client: Client) -> None:
    upload = begin(client)
    for target, source, status, code in (
        ("0" * 32, "bucket/key", 404, "NoSuchUpload"),
        ("x", "bucket/key", 404, "NoSuchUpload"),
        (upload, "bucket/absent", 404, "NoSuchKey"),
        (upload, "absent/key", 404, "NoSuchBucket"),
        (upload, "bucket", 400, "InvalidArgument"),
    ):
        answer = part_copy(client, target, source)
        assert (answer.status, answer.code) == (status, code)
    for number in (0, 10_001, "x", -1):
        answer = part_copy(client, upload, "bucket/key", number=number)
        assert (answer.status, answer.code) == (400, "InvalidArgument")
    answer = part_copy(client, upload, "bucket/key", {"x-amz-copy-source-if-match": "x"})
    assert (answer.status, answer.code) == (412, "PreconditionFailed")
    assert client("GET", f"/other/parts?uploadId={upload}").all("Part") == []


def test_checksum_of_a_copied_part(client: Client) -> None:
    upload = begin(client, {"x-amz-checksum-algorithm": "SHA256"})
    answer = part_copy(client, upload, "bucket/key", {"x-amz-copy-source-range": "bytes=1-2"})
    assert answer.xml.findtext("ChecksumSHA256") == checksums.text("sha256", b"od")
