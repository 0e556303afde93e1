"""ListObjects and ListObjectsV2.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html, https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjects.html,
https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-prefixes.html
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from tests.conformance.served import Endpoint, canonical, refused

pytestmark = pytest.mark.operation("ListObjects", "ListObjectsV2")
BOTH = pytest.mark.parametrize("version", [1, 2])


def fill(s3: Any, bucket: str, *keys: str) -> None:
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())


def ask(s3: Any, bucket: str, version: int, **arguments: Any) -> Any:
    return (s3.list_objects if version == 1 else s3.list_objects_v2)(Bucket=bucket, **arguments)


def keys_of(answer: Any) -> list[str]:
    return [item["Key"] for item in answer.get("Contents", [])]


def prefixes_of(answer: Any) -> list[str]:
    return [item["Prefix"] for item in answer.get("CommonPrefixes", [])]


def model(keys: list[str], prefix: str, delimiter: str) -> list[tuple[str, bool]]:
    """(name, whether it is a common prefix) in the order of their bytes."""
    found = set()
    for key in keys:
        if key.startswith(prefix):
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            found.add((key, False) if at < 0 else (key[: at + len(delimiter)], True))
    return sorted(found, key=lambda item: item[0].encode())


@BOTH
def test_an_empty_bucket(s3: Any, bucket: str, version: int) -> None:
    answer = ask(s3, bucket, version)
    assert (answer["Name"], answer["Prefix"], answer["MaxKeys"], answer["IsTruncated"]) == (bucket, "", 1000, False)
    assert "Contents" not in answer
    assert "CommonPrefixes" not in answer
    assert "Delimiter" not in answer
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"] == "us-east-1"
    if version == 1:
        assert answer["Marker"] == ""
        assert "NextMarker" not in answer
    else:
        assert answer["KeyCount"] == 0
        assert "NextContinuationToken" not in answer


@BOTH
def test_what_is_told_of_an_object(s3: Any, bucket: str, version: int) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"body")["ETag"]
    (item,) = ask(s3, bucket, version)["Contents"]
    assert (item["Key"], item["Size"], item["ETag"], item["StorageClass"]) == ("k", 4, etag, "STANDARD")
    assert abs(item["LastModified"] - datetime.now(UTC)) < timedelta(minutes=2)
    head = s3.head_object(Bucket=bucket, Key="k")
    assert item["LastModified"].replace(microsecond=0) == head["LastModified"]
    assert item["ChecksumType"] == "FULL_OBJECT"
    assert ("Owner" in item) is (version == 1)


def test_the_owner_comes_with_fetch_owner(s3: Any, bucket: str) -> None:
    fill(s3, bucket, "k")
    (item,) = s3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"]
    assert item["Owner"]["ID"] == canonical(s3)
    assert "Owner" not in s3.list_objects_v2(Bucket=bucket, FetchOwner=False)["Contents"][0]
    assert s3.list_objects(Bucket=bucket)["Contents"][0]["Owner"]["ID"] == canonical(s3)


@BOTH
def test_keys_come_in_the_order_of_their_bytes(s3: Any, bucket: str, version: int) -> None:
    keys = ["a", "A", "a/", "a-", "a//b", "a0", "~", " ", "é", "z", "\U0001f600", "\uffee", "a\tb", "%41", "a+b", "_", "__"]
    fill(s3, bucket, *keys)
    assert keys_of(ask(s3, bucket, version)) == sorted(keys, key=str.encode)


KEYS = ["a", "a/", "a/b", "a/b/c", "a/b/d", "a//e", "aa/b", "b", "b/c/d", "b0", "c d/e", "c+d/e", "c%d/e", "é/ü", "é/w", "z/"]


@BOTH
@pytest.mark.parametrize("delimiter", ["/", "a", "b/", "//", " ", "%", "+", "ü", "é/", "none", "", "."])
@pytest.mark.parametrize("prefix", ["", "a", "a/", "é/", "c", "zz"])
def test_prefix_and_delimiter_group_as_the_model_does(s3: Any, shared: str, version: int, prefix: str, delimiter: str) -> None:
    answer = ask(s3, shared, version, Prefix=prefix, Delimiter=delimiter)
    expected = model(KEYS, prefix, delimiter)
    assert keys_of(answer) == [name for name, is_group in expected if not is_group]
    assert prefixes_of(answer) == [name for name, is_group in expected if is_group]
    assert answer["Prefix"] == (prefix if version == 2 else quote(prefix))  # boto3 decodes it in version 2 only
    assert answer.get("Delimiter") == (delimiter or None)
    assert answer["IsTruncated"] is False
    if version == 2:
        assert answer["KeyCount"] == len(expected)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize(("prefix", "delimiter"), [("", ""), ("", "/"), ("a", "/"), ("", "b"), ("é", "/"), ("", "ü")])
def test_pages_of_any_size_make_the_whole(s3: Any, shared: str, prefix: str, delimiter: str, size: int) -> None:
    """Every page but the last is full; a common prefix counts once, and a page that ends with one goes on behind its group."""
    expected = model(KEYS, prefix, delimiter)
    found: list[tuple[str, bool]] = []
    token: dict[str, str] = {}
    while True:
        answer = s3.list_objects_v2(Bucket=shared, Prefix=prefix, Delimiter=delimiter, MaxKeys=size, **token)
        page = sorted(
            [(key, False) for key in keys_of(answer)] + [(name, True) for name in prefixes_of(answer)], key=lambda item: item[0].encode()
        )
        assert answer["KeyCount"] == len(page) <= size
        found += page
        if not answer["IsTruncated"]:
            assert "NextContinuationToken" not in answer
            break
        assert len(page) == size
        assert answer.get("ContinuationToken") == token.get("ContinuationToken")
        token = {"ContinuationToken": answer["NextContinuationToken"]}
    assert found == expected
    found, marker = [], ""
    while True:
        answer = s3.list_objects(Bucket=shared, Prefix=prefix, Delimiter=delimiter, MaxKeys=size, Marker=marker)
        page = sorted(
            [(key, False) for key in keys_of(answer)] + [(name, True) for name in prefixes_of(answer)], key=lambda item: item[0].encode()
        )
        found += page
        assert answer["Marker"] == marker
        if not answer["IsTruncated"]:
            assert "NextMarker" not in answer
            break
        assert len(page) == size
        assert ("NextMarker" in answer) is bool(delimiter), "NextMarker comes with a delimiter only"
        marker = answer["NextMarker"] if delimiter else page[-1][0]
        assert marker == page[-1][0]
    assert found == expected


@pytest.fixture(scope="module")
def shared(s3: Any) -> str:
    """A bucket with KEYS; nobody changes it."""
    name = "listing-shared"
    s3.create_bucket(Bucket=name)
    fill(s3, name, *KEYS)
    return name


def test_markers_that_are_no_keys(s3: Any, shared: str) -> None:
    ordered = sorted(KEYS, key=str.encode)
    for marker in ("a", "a/b/", "A", "zzz", "a\n", "\U0001f600", "b0", "a/b/c"):
        expected = [key for key in ordered if key.encode() > marker.encode()]
        answer = s3.list_objects(Bucket=shared, Marker=marker)
        assert (keys_of(answer), answer["Marker"], answer["IsTruncated"]) == (expected, marker, False)
        answer = s3.list_objects_v2(Bucket=shared, StartAfter=marker)
        assert (keys_of(answer), answer["StartAfter"]) == (expected, marker)


def test_a_marker_inside_a_group(s3: Any, shared: str) -> None:
    """Keys of the group behind the marker make its prefix appear; a marker that is the prefix itself skips the group."""
    assert prefixes_of(s3.list_objects(Bucket=shared, Prefix="a/", Delimiter="/", Marker="a/b/c")) == ["a/b/"]
    assert prefixes_of(s3.list_objects(Bucket=shared, Prefix="a/", Delimiter="/", Marker="a/b/")) == []
    assert prefixes_of(s3.list_objects_v2(Bucket=shared, Prefix="a/", Delimiter="/", StartAfter="a/b/c")) == ["a/b/"]


def test_start_after_is_echoed_and_ignored_beside_a_token(s3: Any, shared: str) -> None:
    first = s3.list_objects_v2(Bucket=shared, MaxKeys=2, StartAfter="a/")
    assert keys_of(first) == ["a//e", "a/b"]
    second = s3.list_objects_v2(Bucket=shared, MaxKeys=2, StartAfter="z", ContinuationToken=first["NextContinuationToken"])
    assert keys_of(second) == ["a/b/c", "a/b/d"]
    assert second["StartAfter"] == "z"


@BOTH
def test_no_keys_asked_for(s3: Any, shared: str, version: int) -> None:
    answer = ask(s3, shared, version, MaxKeys=0)
    assert (answer["MaxKeys"], answer["IsTruncated"], keys_of(answer)) == (0, False, [])


@BOTH
def test_more_than_a_thousand_is_a_thousand(s3: Any, shared: str, version: int) -> None:
    assert ask(s3, shared, version, MaxKeys=5000)["MaxKeys"] == 1000


@pytest.mark.parametrize("query", ["max-keys=x", "max-keys=-1", "max-keys=1.5", "max-keys=2147483648", "encoding-type=base64"])
def test_what_is_no_number(endpoint: Endpoint, bucket: str, query: str) -> None:
    for more in ("", "&list-type=2"):
        answer = endpoint.raw("GET", f"/{bucket}?{query}{more}")
        assert (answer.status, answer.code) == (400, "InvalidArgument")
        assert answer.xml.findtext("ArgumentName") == query.partition("=")[0]


def test_empty_parameters_are_as_if_absent(endpoint: Endpoint, shared: str) -> None:
    answer = endpoint.raw("GET", f"/{shared}?delimiter=&prefix=&max-keys=&marker=&encoding-type=")
    assert len(answer.all("Contents/Key")) == len(KEYS)
    assert answer.xml.find("Delimiter") is None
    assert answer.xml.findtext("Prefix") == ""
    assert answer.xml.findtext("Marker") == ""


def test_an_empty_token_is_taken_and_echoed(endpoint: Endpoint, shared: str) -> None:
    answer = endpoint.raw("GET", f"/{shared}?list-type=2&continuation-token=")
    assert answer.status == 200
    assert answer.xml.findtext("ContinuationToken") == ""
    assert len(answer.all("Contents/Key")) == len(KEYS)


def test_a_token_of_nobody(s3: Any, shared: str) -> None:
    with refused("InvalidArgument", 400):
        s3.list_objects_v2(Bucket=shared, ContinuationToken="no such token")


def test_list_types_there_are_two_of(endpoint: Endpoint, shared: str) -> None:
    assert endpoint.raw("GET", f"/{shared}?list-type=3").code == "InvalidArgument"


@BOTH
def test_encoding_type_url(endpoint: Endpoint, s3: Any, bucket: str, version: int) -> None:
    fill(s3, bucket, "a b/c", "a+b/c", "a%b/c", "é/c", "a\x01b/c", "x(y)*!'/c", "~_-./c")
    kind = "&list-type=2&start-after=%20" if version == 2 else "&marker=%20"
    answer = endpoint.raw("GET", f"/{bucket}?encoding-type=url{kind}")
    assert answer.xml.findtext("EncodingType") == "url"
    expected = ["a%01b/c", "a%20b/c", "a%25b/c", "a%2Bb/c", "x%28y%29%2A%21%27/c", "~_-./c", "%C3%A9/c"]
    assert answer.all("Contents/Key") == expected
    assert answer.xml.findtext("StartAfter" if version == 2 else "Marker") == "%20"
    answer = endpoint.raw("GET", f"/{bucket}?encoding-type=url&delimiter=%2F&prefix=a%20{kind.replace('%20', '')}")
    assert answer.all("CommonPrefixes/Prefix") == ["a%20b/"]
    assert answer.xml.findtext("Prefix") == "a%20"
    assert answer.xml.findtext("Delimiter") == "/"


@BOTH
def test_names_that_xml_must_escape(endpoint: Endpoint, s3: Any, bucket: str, version: int) -> None:
    names = ["<tag>", "a&b", "it's", '"quoted"', "]]>", "a&amp;b"]
    fill(s3, bucket, *names)
    answer = endpoint.raw("GET", f"/{bucket}?{'list-type=2' if version == 2 else ''}")
    assert sorted(answer.all("Contents/Key")) == sorted(names)


def test_control_characters_do_not_break_the_document(s3: Any, bucket: str, endpoint: Endpoint) -> None:
    """boto3 asks for encoding-type=url; who does not gets character references, as S3 sends them."""
    fill(s3, bucket, "a\x01b", "a\nb")
    assert keys_of(s3.list_objects_v2(Bucket=bucket)) == ["a\x01b", "a\nb"]
    assert b"<Key>a&#x1;b</Key>" in endpoint.raw("GET", f"/{bucket}").body


def test_pages_go_on_where_they_were_after_deletes(s3: Any, bucket: str) -> None:
    fill(s3, bucket, *"abcdef")
    first = s3.list_objects_v2(Bucket=bucket, MaxKeys=3)
    for key in "bcd":
        s3.delete_object(Bucket=bucket, Key=key)
    s3.put_object(Bucket=bucket, Key="aa", Body=b"")
    assert keys_of(s3.list_objects_v2(Bucket=bucket, ContinuationToken=first["NextContinuationToken"])) == ["e", "f"]


def test_a_full_last_page_is_not_truncated(s3: Any, bucket: str) -> None:
    fill(s3, bucket, "a", "b", "c/1", "c/2")
    for arguments, count in (({"Delimiter": "/"}, 3), ({}, 4)):
        answer = s3.list_objects_v2(Bucket=bucket, MaxKeys=count, **arguments)
        assert (answer["KeyCount"], answer["IsTruncated"]) == (count, False)


def test_deleted_keys_and_markers_are_not_listed(s3: Any, versioned: str) -> None:
    fill(s3, versioned, "a", "b/1", "b/2", "c")
    for key in ("a", "b/1", "b/2"):
        s3.delete_object(Bucket=versioned, Key=key)
    answer = s3.list_objects_v2(Bucket=versioned, Delimiter="/")
    assert (keys_of(answer), prefixes_of(answer), answer["KeyCount"]) == (["c"], [], 1)


def test_an_overwritten_key_is_listed_once_with_its_newest(s3: Any, versioned: str) -> None:
    for body in (b"1", b"22", b"333"):
        s3.put_object(Bucket=versioned, Key="k", Body=body)
    ((item),) = s3.list_objects_v2(Bucket=versioned)["Contents"]
    assert item["Size"] == 3


def test_reduced_redundancy_is_told(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"", StorageClass="REDUCED_REDUNDANCY")
    assert s3.list_objects_v2(Bucket=bucket)["Contents"][0]["StorageClass"] == "REDUCED_REDUNDANCY"
    assert s3.head_object(Bucket=bucket, Key="k")["StorageClass"] == "REDUCED_REDUNDANCY"


@BOTH
def test_optional_attributes(s3: Any, bucket: str, version: int) -> None:
    """RestoreStatus is told of archived objects only; nothing is archived here."""
    fill(s3, bucket, "k")
    (item,) = ask(s3, bucket, version, OptionalObjectAttributes=["RestoreStatus"])["Contents"]
    assert "RestoreStatus" not in item


def test_who_may_not_list(endpoint: Endpoint, bucket: str) -> None:
    answer = endpoint.raw("GET", f"/{bucket}", sign=False)
    assert (answer.status, answer.code) == (403, "AccessDenied")


def test_slashes_in_front_and_in_a_row_are_names(s3: Any, bucket: str) -> None:
    fill(s3, bucket, "/", "//", "/a", "a//", "a//b", "0/", "0/1")
    assert keys_of(s3.list_objects_v2(Bucket=bucket)) == ["/", "//", "/a", "0/", "0/1", "a//", "a//b"]
    answer = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert (prefixes_of(answer), keys_of(answer)) == (["/", "0/", "a/"], [])
    answer = s3.list_objects_v2(Bucket=bucket, Delimiter="/", Prefix="/")
    assert (prefixes_of(answer), keys_of(answer)) == (["//"], ["/", "/a"])
