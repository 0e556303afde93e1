"""Multipart uploads: create, parts, lists, completion with every checksum, abort, repeats, and what each refuses."""

from __future__ import annotations

import hashlib
from xml.sax.saxutils import escape

import pytest

from tests.unit.s3 import checksums
from tests.unit.s3.wire import ROOT, Answer, Client, WireBody
from titans3.http.signing import sign_headers
from titans3.limits import GIB, PART_BYTES_MIN

MIN = PART_BYTES_MIN
FIRST, LAST = b"f" * MIN, b"last"


@pytest.fixture
def client() -> Client:
    made = Client()
    made.bucket()
    return made


def begin(client: Client, key: str = "key", headers: dict[str, str] | None = None) -> str:
    answer = client("POST", f"/bucket/{key}?uploads", headers)
    assert (answer.status, answer.xml.tag) == (200, "InitiateMultipartUploadResult"), answer.body
    return str(answer.xml.findtext("UploadId"))


def send_part(
    client: Client, upload: str, number: object, data: bytes, headers: dict[str, str] | None = None, key: str = "key"
) -> Answer:
    return client("PUT", f"/bucket/{key}?partNumber={number}&uploadId={upload}", headers, data)


def part_xml(number: object, etag: str | None, more: str = "") -> str:
    tag = "" if etag is None else f"<ETag>{escape(etag)}</ETag>"
    return f"<Part><PartNumber>{number}</PartNumber>{tag}{more}</Part>"


def complete(
    client: Client, upload: str, parts: list[str], headers: dict[str, str] | None = None, key: str = "key"
) -> Answer:
    body = f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{"".join(parts)}</CompleteMultipartUpload>'
    return client("POST", f"/bucket/{key}?uploadId={upload}", headers, body.encode())


def quoted(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def multipart_etag(parts: list[bytes]) -> str:
    joined = b"".join(hashlib.md5(part).digest() for part in parts)
    return f'"{hashlib.md5(joined).hexdigest()}-{len(parts)}"'


def test_the_whole_way(client: Client) -> None:
    client("PUT", "/bucket/key", body=b"old")
    answer = client("POST", "/bucket/key?uploads", {"content-type": "video/mp4", "x-amz-meta-a": "1"})
    assert (answer.xml.findtext("Bucket"), answer.xml.findtext("Key")) == ("bucket", "key")
    upload = str(answer.xml.findtext("UploadId"))
    # In any order; a part again replaces.
    assert send_part(client, upload, 7, LAST).headers["etag"] == quoted(LAST)
    send_part(client, upload, 2, b"wrong")
    assert send_part(client, upload, 2, FIRST).headers["etag"] == quoted(FIRST)
    assert client("GET", "/bucket/key").body == b"old"
    assert client("GET", "/bucket/key?partNumber=2").status == 416
    answer = complete(client, upload, [part_xml(2, quoted(FIRST)), part_xml(7, hashlib.md5(LAST).hexdigest())])
    assert (answer.status, answer.xml.tag) == (200, "CompleteMultipartUploadResult")
    assert answer.headers["content-type"] == "application/xml"
    assert answer.xml.findtext("ETag") == multipart_etag([FIRST, LAST])
    assert answer.xml.findtext("Location") == "http://127.0.0.1:9000/bucket/key"
    assert (answer.xml.findtext("Bucket"), answer.xml.findtext("Key")) == ("bucket", "key")
    got = client("GET", "/bucket/key")
    assert got.body == FIRST + LAST
    assert got.headers["etag"] == multipart_etag([FIRST, LAST])
    assert (got.headers["content-type"], got.headers["x-amz-meta-a"]) == ("video/mp4", "1")


def test_completion_can_be_repeated_and_says_the_same(client: Client) -> None:
    upload = begin(client, headers={"x-amz-checksum-algorithm": "CRC32", "x-amz-checksum-type": "FULL_OBJECT"})
    etag = send_part(client, upload, 1, LAST).headers["etag"]
    first, second = (complete(client, upload, [part_xml(1, etag)]) for _ in range(2))
    assert (first.status, first.body) == (200, second.body)
    assert first.xml.findtext("ChecksumCRC32") == checksums.text("crc32", LAST)
    client("DELETE", "/bucket/key")
    assert complete(client, upload, [part_xml(1, etag)]).status == 200
    assert client("HEAD", "/bucket/key").status == 404, "a repeat writes nothing"
    for answer in (
        send_part(client, upload, 2, LAST),
        client("DELETE", f"/bucket/key?uploadId={upload}"),
        client("GET", f"/bucket/key?uploadId={upload}"),
    ):
        assert (answer.status, answer.code) == (404, "NoSuchUpload")


def test_an_object_of_one_small_or_empty_part(client: Client) -> None:
    for data in (b"", b"x"):
        upload = begin(client)
        etag = send_part(client, upload, 1, data).headers["etag"]
        answer = complete(client, upload, [part_xml(1, etag)])
        assert answer.xml.findtext("ETag") == multipart_etag([data])
        assert client("GET", "/bucket/key").body == data


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([], "MalformedXML"),
        (["<Part><PartNumber>1</PartNumber></Part>"], "MalformedXML"),
        (["<Part><ETag>x</ETag></Part>"], "MalformedXML"),
        ([part_xml("x", quoted(FIRST))], "MalformedXML"),
        ([part_xml(1, quoted(FIRST), "<What/>")], "MalformedXML"),
        (["<Thing/>"], "MalformedXML"),
        ([part_xml(3, quoted(FIRST))], "InvalidPart"),
        ([part_xml(1, quoted(b"other"))], "InvalidPart"),
        ([part_xml(1, "")], "InvalidPart"),
        (
            [part_xml(1, quoted(FIRST), f"<ChecksumCRC32>{checksums.text('crc32', b'other')}</ChecksumCRC32>")],
            "InvalidPart",
        ),
        ([part_xml(2, quoted(LAST)), part_xml(1, quoted(FIRST))], "InvalidPartOrder"),
        ([part_xml(1, quoted(FIRST)), part_xml(1, quoted(FIRST))], "InvalidPartOrder"),
        ([part_xml(2, quoted(LAST)), part_xml(4, quoted(LAST))], "EntityTooSmall"),
        ([part_xml(number, "x") for number in range(1, 10_002)], "MalformedXML"),
    ],
)
def test_lists_that_are_refused(client: Client, parts: list[str], code: str) -> None:
    upload = begin(client)
    for number, data in ((1, FIRST), (2, LAST), (4, LAST)):
        send_part(client, upload, number, data)
    answer = complete(client, upload, parts)
    assert (answer.status, answer.code) == (400, code)
    if code == "EntityTooSmall":
        shown = {name: answer.xml.findtext(name) for name in ("ProposedSize", "MinSizeAllowed", "PartNumber", "ETag")}
        assert shown == {
            "ProposedSize": "4",
            "MinSizeAllowed": str(MIN),
            "PartNumber": "2",
            "ETag": hashlib.md5(LAST).hexdigest(),
        }
    assert client("HEAD", "/bucket/key").status == 404
    assert complete(client, upload, [part_xml(1, quoted(FIRST)), part_xml(4, quoted(LAST))]).status == 200, (
        "nothing was spoilt"
    )


@pytest.mark.parametrize("upload", ["0" * 32, "x", "", "0" * 31, "zz" * 16, "%F0%9F%98%80"])
def test_unknown_uploads(client: Client, upload: str) -> None:
    answers = [
        send_part(client, upload, 1, b"x"),
        complete(client, upload, [part_xml(1, "x")]),
        client("DELETE", f"/bucket/key?uploadId={upload}"),
        client("GET", f"/bucket/key?uploadId={upload}"),
    ]
    assert [(answer.status, answer.code) for answer in answers] == [(404, "NoSuchUpload")] * 4


def test_an_upload_belongs_to_its_key(client: Client) -> None:
    upload = begin(client)
    assert send_part(client, upload, 1, b"x", key="other").code == "NoSuchUpload"
    assert client("DELETE", f"/bucket/other?uploadId={upload}").code == "NoSuchUpload"


def test_abort(client: Client) -> None:
    upload = begin(client)
    send_part(client, upload, 1, b"x" * 100_000)
    answer = client("DELETE", f"/bucket/key?uploadId={upload}")
    assert (answer.status, answer.body) == (204, b"")
    assert client("DELETE", f"/bucket/key?uploadId={upload}").code == "NoSuchUpload"
    assert client("HEAD", "/bucket/key").status == 404


@pytest.mark.parametrize("number", ["0", "10001", "-1", "x", "", "1.5"])
def test_part_numbers(client: Client, number: str) -> None:
    answer = send_part(client, begin(client), number, b"x")
    assert (answer.status, answer.code) == (400, "InvalidArgument")


def test_parts_have_a_largest_size_and_a_length(client: Client) -> None:
    upload = begin(client)
    target = f"/bucket/key?partNumber=1&uploadId={upload}".encode()
    path, _, query = target.partition(b"?")
    signed = sign_headers(ROOT, "PUT", path, query, {"host": "h"}, date=client.date, payload_hash="UNSIGNED-PAYLOAD")
    body = WireBody(b"", length=5 * GIB + 1)
    answer = client.send("PUT", target, {**signed.headers, "content-length": str(5 * GIB + 1)}, body)
    assert (answer.status, answer.code, body.reads) == (400, "EntityTooLarge", 0)
    answer = client("PUT", target, says_length=False)
    assert (answer.status, answer.code) == (411, "MissingContentLength")


def test_size_of_the_whole(client: Client) -> None:
    upload = begin(client)
    etag = send_part(client, upload, 1, LAST).headers["etag"]
    for value, code in (("5", "InvalidRequest"), ("x", "InvalidArgument"), ("-1", "InvalidArgument")):
        answer = complete(client, upload, [part_xml(1, etag)], {"x-amz-mp-object-size": value})
        assert (answer.status, answer.code) == (400, code)
    assert complete(client, upload, [part_xml(1, etag)], {"x-amz-mp-object-size": "4"}).status == 200


# Checksums. https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html

TYPES = {
    "crc32": ("COMPOSITE", "FULL_OBJECT"),
    "crc32c": ("COMPOSITE", "FULL_OBJECT"),
    "crc64nvme": ("FULL_OBJECT",),
    "sha1": ("COMPOSITE",),
    "sha256": ("COMPOSITE",),
}
PARTS = [FIRST, LAST]


@pytest.mark.parametrize("algorithm", TYPES)
def test_types_of_algorithms(client: Client, algorithm: str) -> None:
    answer = client("POST", "/bucket/key?uploads", {"x-amz-checksum-algorithm": algorithm.upper()})
    assert answer.headers["x-amz-checksum-algorithm"] == algorithm.upper()
    assert answer.headers["x-amz-checksum-type"] == TYPES[algorithm][0]
    for kind in ("COMPOSITE", "FULL_OBJECT"):
        answer = client(
            "POST", "/bucket/key?uploads", {"x-amz-checksum-algorithm": algorithm, "x-amz-checksum-type": kind}
        )
        if kind in TYPES[algorithm]:
            assert answer.headers["x-amz-checksum-type"] == kind
        else:
            assert (answer.status, answer.code) == (400, "InvalidRequest")
    for headers in ({"x-amz-checksum-algorithm": "CRC99"}, {"x-amz-checksum-type": "COMPOSITE"}):
        answer = client("POST", "/bucket/key?uploads", headers)
        assert (answer.status, answer.code) == (400, "InvalidRequest")
    answer = client("POST", "/bucket/key?uploads", {"x-amz-checksum-algorithm": "CRC32", "x-amz-checksum-type": "BOTH"})
    assert (answer.status, answer.code) == (400, "InvalidArgument")


def whole_value(algorithm: str, kind: str) -> str:
    return checksums.composite(algorithm, PARTS) if kind == "COMPOSITE" else checksums.text(algorithm, FIRST + LAST)


@pytest.mark.parametrize(
    ("algorithm", "kind"), [(algorithm, kind) for algorithm, kinds in TYPES.items() for kind in kinds]
)
@pytest.mark.parametrize("sent", [True, False])
def test_checksums_of_parts_and_whole(client: Client, algorithm: str, kind: str, sent: bool) -> None:
    header, element = f"x-amz-checksum-{algorithm}", f"Checksum{algorithm.upper()}"
    upload = begin(client, headers={"x-amz-checksum-algorithm": algorithm.upper(), "x-amz-checksum-type": kind})
    lines = []
    for number, data in enumerate(PARTS, 1):
        value = checksums.text(algorithm, data)
        answer = send_part(client, upload, number, data, {header: value} if sent else None)
        assert answer.headers.get(header) == (value if sent else None)
        lines.append(part_xml(number, quoted(data), f"<{element}>{value}</{element}>"))
    listed = client("GET", f"/bucket/key?uploadId={upload}")
    assert listed.all(f"Part/{element}") == [checksums.text(algorithm, data) for data in PARTS]
    assert (listed.xml.findtext("ChecksumAlgorithm"), listed.xml.findtext("ChecksumType")) == (algorithm.upper(), kind)
    bare = [part_xml(number, quoted(data)) for number, data in enumerate(PARTS, 1)]
    if kind == "COMPOSITE":
        answer = complete(client, upload, bare)
        assert (answer.status, answer.code) == (400, "InvalidRequest"), "a composite upload needs every part's checksum"
    wrong = "FULL_OBJECT" if kind == "COMPOSITE" else "COMPOSITE"
    answer = complete(client, upload, lines, {"x-amz-checksum-type": wrong})
    assert (answer.status, answer.code) == (400, "BadDigest")
    answer = complete(client, upload, lines, {header: checksums.text(algorithm, b"other")})
    assert (answer.status, answer.code) == (400, "BadDigest")
    other = "crc32" if algorithm != "crc32" else "sha1"
    answer = complete(client, upload, lines, {f"x-amz-checksum-{other}": checksums.text(other, FIRST + LAST)})
    assert (answer.status, answer.code) == (400, "InvalidRequest")
    whole = whole_value(algorithm, kind)
    answer = complete(
        client, upload, lines if kind == "COMPOSITE" else bare, {header: whole, "x-amz-checksum-type": kind}
    )
    assert answer.status == 200, answer.body
    assert (answer.xml.findtext(element), answer.xml.findtext("ChecksumType")) == (whole, kind)
    got = client("HEAD", "/bucket/key", {"x-amz-checksum-mode": "ENABLED"}).headers
    assert (got[header], got["x-amz-checksum-type"]) == (whole, kind)
    part = client("GET", "/bucket/key?partNumber=2", {"x-amz-checksum-mode": "ENABLED"})
    assert (part.body, part.headers[header]) == (LAST, checksums.text(algorithm, LAST))


def test_a_part_with_another_checksum_is_refused(client: Client) -> None:
    upload = begin(client, headers={"x-amz-checksum-algorithm": "SHA256"})
    answer = send_part(client, upload, 1, LAST, {"x-amz-checksum-crc32": checksums.text("crc32", LAST)})
    assert (answer.status, answer.code) == (400, "InvalidRequest")
    answer = send_part(client, upload, 1, LAST, {"x-amz-checksum-sha256": checksums.text("sha256", b"other")})
    assert (answer.status, answer.code) == (400, "BadDigest")
    answer = send_part(client, upload, 1, LAST, {"content-md5": "AAAAAAAAAAAAAAAAAAAAAA=="})
    assert (answer.status, answer.code) == (400, "BadDigest")
    assert client("GET", f"/bucket/key?uploadId={upload}").all("Part") == []


# Lists


def test_list_parts(client: Client) -> None:
    upload = begin(client)
    numbers = [1, 2, 9, 100, 10_000]
    for number in reversed(numbers):
        send_part(client, upload, number, bytes(number % 7))
    answer = client("GET", f"/bucket/key?uploadId={upload}")
    assert (answer.status, answer.xml.tag) == (200, "ListPartsResult")
    assert answer.all("Part/PartNumber") == [str(number) for number in numbers]
    assert answer.all("Part/Size") == [str(number % 7) for number in numbers]
    assert answer.all("Part/ETag") == [quoted(bytes(number % 7)) for number in numbers]
    assert answer.all("Part/LastModified") == ["2027-01-15T08:00:00.123Z"] * 5
    shown = {
        name: answer.xml.findtext(name)
        for name in ("Bucket", "Key", "UploadId", "PartNumberMarker", "MaxParts", "IsTruncated", "StorageClass")
    }
    assert shown == {
        "Bucket": "bucket",
        "Key": "key",
        "UploadId": upload,
        "PartNumberMarker": "0",
        "MaxParts": "1000",
        "IsTruncated": "false",
        "StorageClass": "STANDARD",
    }
    for who in ("Owner", "Initiator"):
        assert answer.xml.findtext(f"{who}/ID")
        assert answer.xml.findtext(f"{who}/DisplayName")
    found, marker = [], "0"
    while True:
        page = client("GET", f"/bucket/key?uploadId={upload}&max-parts=2&part-number-marker={marker}")
        assert (page.xml.findtext("MaxParts"), page.xml.findtext("PartNumberMarker")) == ("2", marker)
        found += page.all("Part/PartNumber")
        if page.xml.findtext("IsTruncated") == "false":
            break
        marker = str(page.xml.findtext("NextPartNumberMarker"))
        assert marker == found[-1]
    assert found == [str(number) for number in numbers]
    empty = client("GET", f"/bucket/key?uploadId={upload}&max-parts=0")
    assert (empty.all("Part"), empty.xml.findtext("IsTruncated")) == ([], "false")
    for query in ("max-parts=x", "max-parts=-1", "part-number-marker=x", "part-number-marker=-1"):
        answer = client("GET", f"/bucket/key?uploadId={upload}&{query}")
        assert (answer.status, answer.code) == (400, "InvalidArgument"), query
    assert client("GET", f"/bucket/key?uploadId={upload}&max-parts=5000").xml.findtext("MaxParts") == "1000"


def test_list_uploads(client: Client) -> None:
    keys = ["a/1", "a/2", "a/2", "b", "c/x/1", "c/y"]
    uploads = [(key, begin(client, key)) for key in keys]
    answer = client("GET", "/bucket?uploads")
    assert (answer.status, answer.xml.tag) == (200, "ListMultipartUploadsResult")
    assert list(zip(answer.all("Upload/Key"), answer.all("Upload/UploadId"), strict=True)) == uploads
    assert answer.all("Upload/Initiated") == ["2027-01-15T08:00:00.123Z"] * 6
    assert all(answer.all("Upload/Owner/ID") + answer.all("Upload/Initiator/ID"))
    shown = {
        name: answer.xml.findtext(name)
        for name in ("Bucket", "KeyMarker", "UploadIdMarker", "MaxUploads", "IsTruncated", "Prefix")
    }
    assert shown == {
        "Bucket": "bucket",
        "KeyMarker": "",
        "UploadIdMarker": "",
        "MaxUploads": "1000",
        "IsTruncated": "false",
        "Prefix": "",
    }
    assert answer.xml.find("Delimiter") is None
    for limit in (1, 2, 4, 6):
        found, markers = [], ""
        while True:
            page = client("GET", f"/bucket?uploads&max-uploads={limit}{markers}")
            found += list(zip(page.all("Upload/Key"), page.all("Upload/UploadId"), strict=True))
            assert len(page.all("Upload")) <= limit
            if page.xml.findtext("IsTruncated") == "false":
                break
            markers = f"&key-marker={page.xml.findtext('NextKeyMarker')}&upload-id-marker={page.xml.findtext('NextUploadIdMarker')}"
        assert found == uploads
    answer = client("GET", "/bucket?uploads&delimiter=/")
    assert (answer.all("CommonPrefixes/Prefix"), answer.all("Upload/Key"), answer.xml.findtext("Delimiter")) == (
        ["a/", "c/"],
        ["b"],
        "/",
    )
    answer = client("GET", "/bucket?uploads&delimiter=/&prefix=c/")
    assert (answer.all("CommonPrefixes/Prefix"), answer.all("Upload/Key")) == (["c/x/"], ["c/y"])
    assert client("GET", "/bucket?uploads&key-marker=a/2").all("Upload/Key") == ["b", "c/x/1", "c/y"]
    after = f"&key-marker=a/2&upload-id-marker={uploads[1][1]}"
    assert client("GET", f"/bucket?uploads{after}").all("Upload/Key") == ["a/2", "b", "c/x/1", "c/y"]
    assert len(client("GET", f"/bucket?uploads&upload-id-marker={uploads[4][1]}").all("Upload")) == 6, (
        "alone it is ignored"
    )
    empty = client("GET", "/bucket?uploads&max-uploads=0")
    assert (empty.all("Upload"), empty.xml.findtext("IsTruncated")) == ([], "false")
    for query in ("max-uploads=x", "max-uploads=-1", "key-marker=a&upload-id-marker=x", "encoding-type=base64"):
        answer = client("GET", f"/bucket?uploads&{query}")
        assert (answer.status, answer.code) == (400, "InvalidArgument"), query


def test_names_in_lists_of_uploads(client: Client) -> None:
    begin(client, "%01%20%3C%2B%2F%C3%A9")
    answer = client("GET", "/bucket?uploads&encoding-type=url&prefix=%01%20&delimiter=%2B&key-marker=%00")
    assert answer.xml.findtext("EncodingType") == "url"
    assert answer.all("CommonPrefixes/Prefix") == ["%01%20%3C%2B"]
    assert (answer.xml.findtext("Prefix"), answer.xml.findtext("Delimiter"), answer.xml.findtext("KeyMarker")) == (
        "%01%20",
        "%2B",
        "%00",
    )
    assert client("GET", "/bucket?uploads&encoding-type=url").all("Upload/Key") == ["%01%20%3C%2B/%C3%A9"]


def test_an_open_upload_does_not_keep_a_bucket(client: Client) -> None:
    begin(client)
    assert client("GET", "/bucket").all("Contents") == []
    assert client("DELETE", "/bucket").status == 204
