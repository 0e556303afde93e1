"""ListObjectVersions in pages.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectVersions.html
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.served import Endpoint, canonical

pytestmark = pytest.mark.operation("ListObjectVersions")
KEYS = ["a", "a/b", "a/c/d", "a b", "b/c", "é/x", "z"]
ROUNDS = 3


@pytest.fixture(scope="module")
def shared(s3: Any) -> str:
    """Three versions of every key, a marker on top of each second key; nobody changes it."""
    name = "versions-shared"
    s3.create_bucket(Bucket=name)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for _ in range(ROUNDS):
        for key in KEYS:
            s3.put_object(Bucket=name, Key=key, Body=b"x")
    for key in KEYS[::2]:
        s3.delete_object(Bucket=name, Key=key)
    return name


def page_of(endpoint: Endpoint, bucket: str, query: str) -> tuple[list[tuple[str, str]], Any]:
    """(key, version id) of versions and markers in the order of the document; the document."""
    found = endpoint.raw("GET", f"/{bucket}?{query or 'prefix='}&versions").xml
    items = [item for item in found if item.tag in ("Version", "DeleteMarker")]
    return [(item.findtext("Key") or "", item.findtext("VersionId") or "") for item in items], found


def test_versions_and_markers_in_one_order(endpoint: Endpoint, s3: Any, shared: str) -> None:
    """By key, newest first; a marker stands where it was written."""
    items, found = page_of(endpoint, shared, "")
    assert [key for key, _ in items] == sorted([key for key, _ in items], key=str.encode)
    for key in KEYS:
        tags = [item.tag for item in found if item.findtext("Key") == key]
        assert tags == ["DeleteMarker"] * (key in KEYS[::2]) + ["Version"] * ROUNDS
        latest = [item.findtext("IsLatest") for item in found if item.findtext("Key") == key]
        assert latest == ["true"] + ["false"] * (len(tags) - 1)
    assert found.findtext("IsTruncated") == "false"
    assert (found.findtext("KeyMarker"), found.findtext("VersionIdMarker"), found.findtext("MaxKeys")) == ("", "", "1000")
    marker = found.find("DeleteMarker")
    assert marker is not None
    assert marker.findtext("Owner/ID") == canonical(s3)
    assert [child.tag for child in marker] == ["Key", "VersionId", "IsLatest", "LastModified", "Owner"]
    version = s3.list_object_versions(Bucket=shared)["Versions"][0]
    assert (version["Size"], version["StorageClass"], version["ETag"]) == (1, "STANDARD", '"9dd4e461268c8034f5c8564e155c67a6"')


@pytest.mark.parametrize("size", [1, 2, 3, 7, 24, 25])
def test_pages_of_any_size_make_the_whole(endpoint: Endpoint, s3: Any, shared: str, size: int) -> None:
    whole, _ = page_of(endpoint, shared, "")
    found: list[tuple[str, str]] = []
    arguments: dict[str, str] = {}
    while True:
        answer = s3.list_object_versions(Bucket=shared, MaxKeys=size, **arguments)
        page = {(item["Key"], item["VersionId"]) for kind in ("Versions", "DeleteMarkers") for item in answer.get(kind, [])}
        found += [item for item in whole if item in page]
        assert len(page) <= size
        if not answer["IsTruncated"]:
            break
        assert len(page) == size
        assert (answer["NextKeyMarker"], answer["NextVersionIdMarker"]) == found[-1]
        arguments = {"KeyMarker": answer["NextKeyMarker"], "VersionIdMarker": answer["NextVersionIdMarker"]}
    assert found == whole


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_groups_count_once_and_end_pages(s3: Any, shared: str, size: int) -> None:
    found: list[str] = []
    versions = 0
    arguments: dict[str, str] = {}
    while True:
        answer = s3.list_object_versions(Bucket=shared, MaxKeys=size, Delimiter="/", **arguments)
        groups = [item["Prefix"] for item in answer.get("CommonPrefixes", [])]
        count = len(answer.get("Versions", [])) + len(answer.get("DeleteMarkers", []))
        assert count + len(groups) <= size
        found += groups
        versions += count
        if not answer["IsTruncated"]:
            break
        arguments = {"KeyMarker": answer["NextKeyMarker"]}
        if "NextVersionIdMarker" in answer:
            arguments["VersionIdMarker"] = answer["NextVersionIdMarker"]
    assert found == ["a/", "b/", "é/"]
    assert versions == sum(ROUNDS + (key in KEYS[::2]) for key in ("a", "a b", "z"))


def test_a_key_marker_alone_skips_the_key(endpoint: Endpoint, shared: str) -> None:
    items, found = page_of(endpoint, shared, "key-marker=a")
    assert items[0][0] == "a b"
    assert found.findtext("KeyMarker") == "a"


def test_a_version_marker_is_exclusive(endpoint: Endpoint, shared: str) -> None:
    whole, _ = page_of(endpoint, shared, "prefix=z")
    items, found = page_of(endpoint, shared, f"prefix=z&key-marker=z&version-id-marker={whole[1][1]}")
    assert items == whole[2:]
    assert found.findtext("VersionIdMarker") == whole[1][1]


def test_a_version_marker_of_a_deleted_version_still_tells_the_place(endpoint: Endpoint, s3: Any, versioned: str) -> None:
    ids = [s3.put_object(Bucket=versioned, Key="k", Body=b"")["VersionId"] for _ in range(4)]
    s3.delete_object(Bucket=versioned, Key="k", VersionId=ids[2])
    items, _ = page_of(endpoint, versioned, f"key-marker=k&version-id-marker={ids[2]}")
    assert items == [("k", ids[1]), ("k", ids[0])]


def test_a_null_version_as_a_marker(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    newer = s3.put_object(Bucket=bucket, Key="k", Body=b"")["VersionId"]
    items, _ = page_of(endpoint, bucket, f"key-marker=k&version-id-marker={newer}")
    assert items == [("k", "null")]
    items, _ = page_of(endpoint, bucket, "key-marker=k&version-id-marker=null")
    assert items == []


def test_markers_that_are_refused(endpoint: Endpoint, shared: str) -> None:
    for query in ("version-id-marker=null", "key-marker=k&version-id-marker=nonsense", "key-marker=k&version-id-marker=", "max-keys=x"):
        answer = endpoint.raw("GET", f"/{shared}?versions&{query}")
        assert (answer.status, answer.code) == (400, "InvalidArgument"), query


def test_encoding_of_names(endpoint: Endpoint, shared: str) -> None:
    items, found = page_of(endpoint, shared, "encoding-type=url&prefix=%C3%A9&delimiter=%2F")
    assert items == []
    assert [item.text for item in found.findall("CommonPrefixes/Prefix")] == ["%C3%A9/"]
    assert (found.findtext("Prefix"), found.findtext("EncodingType")) == ("%C3%A9", "url")
    items, found = page_of(endpoint, shared, "encoding-type=url&prefix=a%20&key-marker=a%20")
    assert {key for key, _ in items} == {"a%20b"}
    assert found.findtext("KeyMarker") == "a%20"


def test_no_keys_asked_for(endpoint: Endpoint, shared: str) -> None:
    items, found = page_of(endpoint, shared, "max-keys=0")
    assert items == []
    assert (found.findtext("MaxKeys"), found.findtext("IsTruncated")) == ("0", "false")
