"""Multipart uploads: parts, completion, abortion, and both listings.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html, https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html,
https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html, https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListParts.html
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conformance.served import Endpoint, canonical, fields_of, refused

pytestmark = pytest.mark.operation("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")
FIVE = 5 * 1024 * 1024
NO_UPLOAD = "0" * 32


class Upload:
    """One upload and what was sent to it."""

    def __init__(self, s3: Any, bucket: str, key: str = "k", **arguments: Any) -> None:
        self.s3, self.place = s3, {"Bucket": bucket, "Key": key}
        self.id = s3.create_multipart_upload(**self.place, **arguments)["UploadId"]
        self.etags: dict[int, str] = {}

    def part(self, number: int, body: bytes) -> str:
        etag = self.s3.upload_part(**self.place, UploadId=self.id, PartNumber=number, Body=body)["ETag"]
        self.etags[number] = etag
        return str(etag)

    def complete(self, *numbers: int, **arguments: Any) -> Any:
        parts = [{"PartNumber": number, "ETag": self.etags[number]} for number in numbers or sorted(self.etags)]
        return self.s3.complete_multipart_upload(**self.place, UploadId=self.id, MultipartUpload={"Parts": parts}, **arguments)

    def body(self) -> bytes:
        return bytes(self.s3.get_object(**self.place)["Body"].read())


def md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def test_parts_make_an_object(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket, ContentType="text/x", Metadata={"a": "1"}, StorageClass="REDUCED_REDUNDANCY", CacheControl="no-cache")
    first, second = bytes(FIVE), b"the end"
    assert upload.part(2, second) == f'"{md5(second).hex()}"'
    upload.part(1, first)
    done = upload.complete()
    etag = f'"{md5(md5(first) + md5(second)).hex()}-2"'
    assert (done["ETag"], done["Bucket"], done["Key"]) == (etag, bucket, "k")
    assert done["Location"].endswith(f"/{bucket}/k")
    assert upload.body() == first + second
    found = s3.head_object(Bucket=bucket, Key="k")
    assert (found["ETag"], found["ContentLength"]) == (etag, FIVE + 7)
    assert (found["ContentType"], found["Metadata"], found["StorageClass"], found["CacheControl"]) == (
        "text/x", {"a": "1"}, "REDUCED_REDUNDANCY", "no-cache",
    )  # fmt: skip
    assert s3.list_objects_v2(Bucket=bucket)["Contents"][0]["ETag"] == etag


@pytest.mark.operation("GetObject", "HeadObject")
def test_reading_by_part(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    bodies = {1: bytes(FIVE), 2: b"x" * FIVE, 3: b"end"}
    for number, body in bodies.items():
        upload.part(number, body)
    upload.complete()
    at = 0
    for number, body in bodies.items():
        answer = s3.get_object(Bucket=bucket, Key="k", PartNumber=number)
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert answer["Body"].read() == body
        assert (answer["PartsCount"], answer["ContentRange"]) == (3, f"bytes {at}-{at + len(body) - 1}/{2 * FIVE + 3}")
        head = s3.head_object(Bucket=bucket, Key="k", PartNumber=number)
        assert (head["PartsCount"], head["ContentLength"], head["ETag"]) == (3, len(body), answer["ETag"])
        at += len(body)
    with refused("InvalidPartNumber", 416):
        s3.get_object(Bucket=bucket, Key="k", PartNumber=4)


def test_a_part_sent_again_replaces_the_first(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    old = upload.part(1, b"old")
    new = upload.part(1, b"new")
    upload.etags[1] = old
    with refused("InvalidPart", 400):
        upload.complete()
    upload.etags[1] = new
    upload.complete()
    assert upload.body() == b"new"


def test_parts_that_are_not_listed_are_dropped(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    for number, body in ((1, b"dropped"), (5, bytes(FIVE)), (9, b"end")):
        upload.part(number, body)
    upload.complete(5, 9)
    assert upload.body() == bytes(FIVE) + b"end"


def test_lists_that_are_refused(s3: Any, endpoint: Endpoint, bucket: str) -> None:
    upload = Upload(s3, bucket)
    upload.part(1, b"small")
    upload.part(2, b"end")
    with refused("EntityTooSmall", 400) as caught:
        upload.complete()
    assert fields_of(caught)["MinSizeAllowed"] == str(FIVE)
    with refused("InvalidPartOrder", 400):
        upload.complete(2, 1)
    with refused("InvalidPartOrder", 400):
        upload.complete(1, 1)
    upload.etags[3] = upload.etags[1]
    with refused("InvalidPart", 400):
        upload.complete(1, 3)
    for body in (
        b"",
        b"<Complete",
        b"<CompleteMultipartUpload/>",
        b"<CompleteMultipartUpload><Part/></CompleteMultipartUpload>",
        b"<Other/>",
    ):
        answer = endpoint.raw("POST", f"/{bucket}/k?uploadId={upload.id}", {}, body)
        assert (answer.status, answer.code) == (400, "MalformedXML"), body
    assert [item["PartNumber"] for item in s3.list_parts(Bucket=bucket, Key="k", UploadId=upload.id)["Parts"]] == [1, 2]
    upload.complete(2)
    assert upload.body() == b"end"


def test_etags_with_and_without_quotes(s3: Any, bucket: str) -> None:
    for form in ('"{}"', "{}"):
        upload = Upload(s3, bucket)
        upload.etags[1] = form.format(upload.part(1, b"x").strip('"'))
        upload.complete()


def test_completing_again_answers_the_same(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    upload.part(1, b"x")
    first, second = upload.complete(), upload.complete()
    assert {name: first[name] for name in ("ETag", "Location")} == {name: second[name] for name in ("ETag", "Location")}
    with refused("NoSuchUpload", 404):
        upload.part(2, b"y")
    with refused("NoSuchUpload", 404):
        s3.list_parts(Bucket=bucket, Key="k", UploadId=upload.id)


def test_nothing_is_there_before(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    upload.part(1, b"x")
    with refused("NoSuchKey", 404):
        upload.body()
    s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    assert upload.body() == b"old"
    assert "Contents" in s3.list_objects_v2(Bucket=bucket)
    upload.complete()
    assert upload.body() == b"x"


@pytest.mark.operation("AbortMultipartUpload")
def test_abortion(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    upload.part(1, b"x")
    answer = s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload.id)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    for step in (s3.abort_multipart_upload, s3.list_parts):
        with refused("NoSuchUpload", 404):
            step(Bucket=bucket, Key="k", UploadId=upload.id)
    with refused("NoSuchUpload", 404):
        upload.complete()
    with refused("NoSuchUpload", 404):
        upload.part(1, b"x")
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_uploads_of_another_key_and_of_nobody(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    for key, upload_id in (("other", upload.id), ("k", NO_UPLOAD), ("k", "nonsense")):
        with refused("NoSuchUpload", 404):
            s3.upload_part(Bucket=bucket, Key=key, UploadId=upload_id, PartNumber=1, Body=b"x")


def test_part_numbers_that_are_refused(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    for text in ("0", "10001", "x", "-1", "", "1.0"):
        answer = endpoint.raw("PUT", f"/{bucket}/k?partNumber={text}&uploadId={upload.id}", {}, b"x")
        assert (answer.status, answer.code) == (400, "InvalidArgument"), text
    assert endpoint.raw("PUT", f"/{bucket}/k?partNumber=10000&uploadId={upload.id}", {}, b"x").status == 200


def test_the_size_of_the_object_can_be_demanded(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    upload.part(1, b"four")
    with refused("InvalidRequest", 400):
        upload.complete(MpuObjectSize=5)
    upload.complete(MpuObjectSize=4)


def test_two_uploads_of_one_key(s3: Any, bucket: str) -> None:
    one, two = Upload(s3, bucket), Upload(s3, bucket)
    assert one.id != two.id
    one.part(1, b"one")
    two.part(1, b"two")
    two.complete()
    one.complete()
    assert one.body() == b"one"


# listings


@pytest.mark.operation("ListParts")
def test_listing_parts(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    numbers = [1, 2, 5, 10, 9999]
    for number in numbers:
        upload.part(number, b"x" * number)
    whole = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload.id)
    assert [(item["PartNumber"], item["Size"], item["ETag"]) for item in whole["Parts"]] == [
        (number, number, upload.etags[number]) for number in numbers
    ]
    assert all(abs(item["LastModified"] - datetime.now(UTC)) < timedelta(minutes=2) for item in whole["Parts"])
    assert (whole["IsTruncated"], whole["MaxParts"], whole["PartNumberMarker"]) == (False, 1000, 0)
    assert (whole["Bucket"], whole["Key"], whole["UploadId"], whole["StorageClass"]) == (bucket, "k", upload.id, "STANDARD")
    assert (whole["Initiator"]["ID"], whole["Owner"]["ID"]) == (canonical(s3), canonical(s3))
    found: list[int] = []
    marker = 0
    while True:
        page = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload.id, MaxParts=2, PartNumberMarker=marker)
        found += [item["PartNumber"] for item in page["Parts"]]
        if not page["IsTruncated"]:
            break
        marker = page["NextPartNumberMarker"]
        assert marker == found[-1]
    assert found == numbers
    assert "Parts" not in s3.list_parts(Bucket=bucket, Key="k", UploadId=upload.id, PartNumberMarker=10000)


@pytest.mark.operation("ListParts")
def test_listing_no_parts(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    answer = endpoint.raw("GET", f"/{bucket}/k?uploadId={upload.id}")
    assert answer.xml.findtext("IsTruncated") == "false"
    assert answer.all("Part") == []
    for query in ("max-parts=x", "max-parts=-1", "max-parts=2147483648", "part-number-marker=x", "part-number-marker=-1"):
        refusal = endpoint.raw("GET", f"/{bucket}/k?uploadId={upload.id}&{query}")
        assert (refusal.status, refusal.code) == (400, "InvalidArgument"), query


@pytest.mark.operation("ListParts")
def test_how_many_parts_a_page_holds(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    for number in (1, 2):
        upload.part(number, b"x")
    none = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload.id, MaxParts=0)
    assert (none["MaxParts"], none["IsTruncated"], "Parts" in none) == (0, False, False)
    many = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload.id, MaxParts=5000)
    assert (many["MaxParts"], many["IsTruncated"], len(many["Parts"])) == (1000, False, 2)


@pytest.mark.operation("ListMultipartUploads")
def test_listing_uploads(s3: Any, bucket: str) -> None:
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)
    keys = ["a", "a", "b/1", "b/2", "c d", "é"]
    ids = [(key, Upload(s3, bucket, key).id) for key in keys]
    whole = s3.list_multipart_uploads(Bucket=bucket)
    assert [(item["Key"], item["UploadId"]) for item in whole["Uploads"]] == ids
    first = whole["Uploads"][0]
    assert (first["Initiator"]["ID"], first["Owner"]["ID"], first["StorageClass"]) == (canonical(s3), canonical(s3), "STANDARD")
    assert abs(first["Initiated"] - datetime.now(UTC)) < timedelta(minutes=2)
    assert (whole["IsTruncated"], whole["MaxUploads"], whole["KeyMarker"], whole["UploadIdMarker"]) == (False, 1000, "", "")
    for size in (1, 2, 4, 6):
        found: list[tuple[str, str]] = []
        arguments: dict[str, str] = {}
        while True:
            page = s3.list_multipart_uploads(Bucket=bucket, MaxUploads=size, **arguments)
            found += [(item["Key"], item["UploadId"]) for item in page.get("Uploads", [])]
            assert len(page.get("Uploads", [])) <= size
            if not page["IsTruncated"]:
                break
            assert (page["NextKeyMarker"], page["NextUploadIdMarker"]) == found[-1]
            arguments = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
        assert found == ids


@pytest.mark.operation("ListMultipartUploads")
def test_uploads_by_prefix_delimiter_and_marker(s3: Any, endpoint: Endpoint, bucket: str) -> None:
    ids = {key: Upload(s3, bucket, key).id for key in ("a", "b/1", "b/2", "b c", "c/1", "d")}
    answer = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [item["Key"] for item in answer["Uploads"]] == ["a", "b c", "d"]
    assert [item["Prefix"] for item in answer["CommonPrefixes"]] == ["b/", "c/"]
    assert answer["Delimiter"] == "/"
    answer = s3.list_multipart_uploads(Bucket=bucket, Prefix="b")
    assert [item["Key"] for item in answer["Uploads"]] == ["b c", "b/1", "b/2"]
    answer = s3.list_multipart_uploads(Bucket=bucket, KeyMarker="b/1")
    assert [item["Key"] for item in answer["Uploads"]] == ["b/2", "c/1", "d"]
    answer = s3.list_multipart_uploads(Bucket=bucket, KeyMarker="b/1", UploadIdMarker=ids["b/1"])
    assert [item["Key"] for item in answer["Uploads"]] == ["b/2", "c/1", "d"]
    raw = endpoint.raw("GET", f"/{bucket}?uploads&encoding-type=url&prefix=b%20")
    assert raw.all("Upload/Key") == ["b%20c"]
    assert raw.xml.findtext("Prefix") == "b%20"
    for query in ("max-uploads=x", "max-uploads=-1", "max-uploads=2147483648", "encoding-type=x"):
        refusal = endpoint.raw("GET", f"/{bucket}?uploads&{query}")
        assert (refusal.status, refusal.code) == (400, "InvalidArgument"), query


@pytest.mark.operation("ListMultipartUploads")
def test_how_many_uploads_a_page_holds(s3: Any, bucket: str) -> None:
    Upload(s3, bucket)
    none = s3.list_multipart_uploads(Bucket=bucket, MaxUploads=0)
    assert (none["MaxUploads"], none["IsTruncated"], "Uploads" in none) == (0, False, False)
    many = s3.list_multipart_uploads(Bucket=bucket, MaxUploads=5000)
    assert (many["MaxUploads"], many["IsTruncated"], len(many["Uploads"])) == (1000, False, 1)


@pytest.mark.operation("ListMultipartUploads")
@pytest.mark.parametrize("size", [1, 2, 3])
def test_pages_of_uploads_with_common_prefixes(s3: Any, bucket: str, size: int) -> None:
    """A common prefix counts as one, wherever a page ends, and comes once."""
    for key in ("a", "b/1", "b/2", "b/3", "b c", "c/1", "c/1", "d"):
        Upload(s3, bucket, key)
    found: list[str] = []
    arguments: dict[str, str] = {}
    while True:
        page = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/", MaxUploads=size, **arguments)
        entries = [item["Key"] for item in page.get("Uploads", [])] + [item["Prefix"] for item in page.get("CommonPrefixes", [])]
        assert 0 < len(entries) <= size
        found += entries
        if not page["IsTruncated"]:
            break
        assert page["NextKeyMarker"] == max(entries)
        arguments = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
    assert sorted(found) == ["a", "b c", "b/", "c/", "d"]


@pytest.mark.operation("ListMultipartUploads")
def test_encoded_listing_of_uploads(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    for key in ("a b", "a+c+", "é/1", "é/2"):
        Upload(s3, bucket, key)
    raw = endpoint.raw("GET", f"/{bucket}?uploads&encoding-type=url&delimiter=%2B&max-uploads=1&key-marker=a%20a")
    assert raw.all("Upload/Key") == ["a%20b"]
    assert raw.xml.findtext("EncodingType") == "url"
    assert raw.xml.findtext("Delimiter") == "%2B"
    assert raw.xml.findtext("KeyMarker") == "a%20a"
    assert raw.xml.findtext("NextKeyMarker") == "a%20b"
    raw = endpoint.raw("GET", f"/{bucket}?uploads&encoding-type=url&delimiter=%2B&key-marker=a%20b")
    assert raw.all("CommonPrefixes/Prefix") == ["a%2B"]
    assert raw.all("Upload/Key") == ["%C3%A9/1", "%C3%A9/2"]
    plain = endpoint.raw("GET", f"/{bucket}?uploads&delimiter=/")
    assert plain.all("CommonPrefixes/Prefix") == ["é/"]
    assert plain.xml.findtext("EncodingType") is None


@pytest.mark.operation("ListMultipartUploads")
def test_an_upload_marker_without_a_key_is_ignored(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    answer = s3.list_multipart_uploads(Bucket=bucket, UploadIdMarker=upload.id)
    assert [item["UploadId"] for item in answer["Uploads"]] == [upload.id]
