"""Versions of objects: enabling and suspending, null versions, delete markers, and everything that takes a versionId.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/userguide/versioning-workflows.html,
https://docs.aws.amazon.com/AmazonS3/latest/userguide/AddingObjectstoVersionSuspendedBuckets.html,
https://docs.aws.amazon.com/AmazonS3/latest/userguide/DeleteMarker.html
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.served import Endpoint, refused

pytestmark = pytest.mark.operation("PutObject", "GetObject", "HeadObject", "DeleteObject", "ListObjectVersions")
NO_SUCH_VERSION = "0" * 32


def put(s3: Any, bucket: str, key: str, body: bytes) -> str | None:
    found = s3.put_object(Bucket=bucket, Key=key, Body=body).get("VersionId")
    assert found is None or isinstance(found, str)
    return found


def body_of(s3: Any, bucket: str, key: str, **arguments: str) -> bytes:
    data = s3.get_object(Bucket=bucket, Key=key, **arguments)["Body"].read()
    assert isinstance(data, bytes)
    return data


def switch(s3: Any, bucket: str, status: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})


def versions_of(s3: Any, bucket: str, **arguments: Any) -> list[tuple[str, str, bool, bool]]:
    """(key, version id, whether it is the newest, whether it is a marker), sorted."""
    answer = s3.list_object_versions(Bucket=bucket, **arguments)
    kinds = (("Versions", False), ("DeleteMarkers", True))
    return sorted([(item["Key"], item["VersionId"], item["IsLatest"], marker) for kind, marker in kinds for item in answer.get(kind, [])])


@pytest.mark.operation("GetBucketVersioning", "PutBucketVersioning")
def test_the_state_of_versioning(s3: Any, bucket: str) -> None:
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    for status in ("Enabled", "Suspended", "Enabled", "Enabled"):
        switch(s3, bucket, status)
        assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == status


@pytest.mark.operation("PutBucketVersioning")
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"<VersioningConfiguration><Status>On</Status></VersioningConfiguration>", 400, "MalformedXML"),
        (b"<VersioningConfiguration><Status>enabled</Status></VersioningConfiguration>", 400, "MalformedXML"),
        (b"<VersioningConfiguration/>", 400, "IllegalVersioningConfigurationException"),
        (b"<Versioning><Status>Enabled</Status></Versioning>", 400, "MalformedXML"),
        (b"", 400, "MalformedXML"),
        (b"<VersioningConfiguration><MfaDelete>Enabled</MfaDelete></VersioningConfiguration>", 501, "NotImplemented"),
    ],
)  # fmt: skip
def test_states_that_are_refused(endpoint: Endpoint, s3: Any, bucket: str, body: bytes, status: int, code: str) -> None:
    answer = endpoint.raw("PUT", f"/{bucket}?versioning", {}, body)
    assert (answer.status, answer.code) == (status, code)
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)


def test_a_bucket_that_never_knew_versions_tells_of_none(s3: Any, bucket: str) -> None:
    assert put(s3, bucket, "k", b"1") is None
    assert "VersionId" not in s3.get_object(Bucket=bucket, Key="k")
    assert "VersionId" not in s3.head_object(Bucket=bucket, Key="k")
    assert "VersionId" not in s3.delete_object(Bucket=bucket, Key="k")
    put(s3, bucket, "k", b"2")
    assert versions_of(s3, bucket) == [("k", "null", True, False)]
    assert body_of(s3, bucket, "k", VersionId="null") == b"2"


def test_every_version_stays(s3: Any, versioned: str) -> None:
    ids = [put(s3, versioned, "k", b"%d" % number) for number in range(5)]
    assert len({*ids, None}) == 6
    for number, version_id in enumerate(ids):
        answer = s3.get_object(Bucket=versioned, Key="k", VersionId=version_id)
        assert (answer["VersionId"], answer["Body"].read()) == (version_id, b"%d" % number)
        assert s3.head_object(Bucket=versioned, Key="k", VersionId=version_id)["VersionId"] == version_id
    answer = s3.get_object(Bucket=versioned, Key="k")
    assert (answer["VersionId"], answer["Body"].read()) == (ids[-1], b"4")
    listed = s3.list_object_versions(Bucket=versioned)["Versions"]
    assert [item["VersionId"] for item in listed] == ids[::-1]
    assert [item["IsLatest"] for item in listed] == [True, False, False, False, False]


def test_what_was_there_before_is_null(s3: Any, bucket: str) -> None:
    put(s3, bucket, "k", b"before")
    switch(s3, bucket, "Enabled")
    answer = s3.get_object(Bucket=bucket, Key="k")
    assert answer["VersionId"] == "null"
    newer = put(s3, bucket, "k", b"after")
    assert body_of(s3, bucket, "k", VersionId="null") == b"before"
    assert versions_of(s3, bucket) == sorted([("k", newer, True, False), ("k", "null", False, False)])


def test_suspended_overwrites_only_null(s3: Any, versioned: str) -> None:
    kept = put(s3, versioned, "k", b"kept")
    switch(s3, versioned, "Suspended")
    for body in (b"first", b"second"):
        assert put(s3, versioned, "k", body) in (None, "null")
        assert body_of(s3, versioned, "k") == body
    assert versions_of(s3, versioned) == sorted([("k", "null", True, False), ("k", kept, False, False)])
    answer = s3.delete_object(Bucket=versioned, Key="k")
    assert (answer["DeleteMarker"], answer["VersionId"]) == (True, "null")
    assert versions_of(s3, versioned) == sorted([("k", "null", True, True), ("k", kept, False, False)])
    with refused("NoSuchKey", 404):
        body_of(s3, versioned, "k")
    assert body_of(s3, versioned, "k", VersionId=kept) == b"kept"


def test_null_is_not_always_the_newest(s3: Any, bucket: str) -> None:
    put(s3, bucket, "k", b"null")
    switch(s3, bucket, "Enabled")
    one = put(s3, bucket, "k", b"one")
    assert body_of(s3, bucket, "k") == b"one"
    s3.delete_object(Bucket=bucket, Key="k", VersionId=one)
    assert body_of(s3, bucket, "k") == b"null"
    s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    assert versions_of(s3, bucket) == []
    with refused("NoSuchKey", 404):
        body_of(s3, bucket, "k")


def test_a_delete_hides_and_its_deletion_shows_again(s3: Any, versioned: str) -> None:
    first = put(s3, versioned, "k", b"body")
    answer = s3.delete_object(Bucket=versioned, Key="k")
    marker = answer["VersionId"]
    assert (answer["DeleteMarker"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (True, 204)
    with refused("NoSuchKey", 404) as caught:
        body_of(s3, versioned, "k")
    headers = caught.value.response["ResponseMetadata"]["HTTPHeaders"]
    assert (headers["x-amz-delete-marker"], headers["x-amz-version-id"]) == ("true", marker)
    answer = s3.delete_object(Bucket=versioned, Key="k", VersionId=marker)
    assert (answer["DeleteMarker"], answer["VersionId"]) == (True, marker)
    assert body_of(s3, versioned, "k") == b"body"
    answer = s3.delete_object(Bucket=versioned, Key="k", VersionId=first)
    assert (answer.get("DeleteMarker", False), answer["VersionId"]) == (False, first)
    assert versions_of(s3, versioned) == []


def test_markers_stack(s3: Any, versioned: str) -> None:
    """Also on a key that never was: DELETE always writes a marker."""
    markers = [s3.delete_object(Bucket=versioned, Key="k")["VersionId"] for _ in range(3)]
    listed = s3.list_object_versions(Bucket=versioned)["DeleteMarkers"]
    assert [(item["VersionId"], item["IsLatest"]) for item in listed] == [(markers[2], True), (markers[1], False), (markers[0], False)]
    put(s3, versioned, "k", b"body")
    s3.delete_object(Bucket=versioned, Key="k", VersionId=markers[1])
    assert body_of(s3, versioned, "k") == b"body"


def test_a_marker_by_its_id_is_405(s3: Any, versioned: str, endpoint: Endpoint) -> None:
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    with refused("MethodNotAllowed", 405) as caught:
        s3.get_object(Bucket=versioned, Key="k", VersionId=marker)
    headers = caught.value.response["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-amz-delete-marker"] == "true"
    assert "last-modified" in headers
    assert headers["allow"] == "DELETE"
    with refused("405", 405):
        s3.head_object(Bucket=versioned, Key="k", VersionId=marker)
    with refused("404", 404):
        s3.head_object(Bucket=versioned, Key="k")
    for step in (s3.get_object_tagging, s3.delete_object_tagging):
        with refused("MethodNotAllowed", 405):
            step(Bucket=versioned, Key="k", VersionId=marker)
    assert endpoint.raw("HEAD", f"/{versioned}/k?versionId={marker}").body == b""


def test_versions_that_are_not_there(s3: Any, versioned: str) -> None:
    put(s3, versioned, "k", b"")
    for step in (s3.get_object, s3.get_object_tagging):
        with refused("NoSuchVersion", 404):
            step(Bucket=versioned, Key="k", VersionId=NO_SUCH_VERSION)
        with refused("InvalidArgument", 400):
            step(Bucket=versioned, Key="k", VersionId="no such id")
    with refused("404", 404):
        s3.head_object(Bucket=versioned, Key="k", VersionId=NO_SUCH_VERSION)
    answer = s3.delete_object(Bucket=versioned, Key="k", VersionId=NO_SUCH_VERSION)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    with refused("NoSuchVersion", 404):
        s3.copy_object(Bucket=versioned, Key="c", CopySource={"Bucket": versioned, "Key": "k", "VersionId": NO_SUCH_VERSION})
    with refused("InvalidArgument", 400):
        s3.delete_object(Bucket=versioned, Key="k", VersionId="x")


@pytest.mark.operation("DeleteObjects")
def test_many_versions_at_once(s3: Any, versioned: str) -> None:
    one, two = put(s3, versioned, "a", b"1"), put(s3, versioned, "a", b"2")
    put(s3, versioned, "b", b"3")
    marker = s3.delete_object(Bucket=versioned, Key="c")["VersionId"]
    answer = s3.delete_objects(
        Bucket=versioned,
        Delete={"Objects": [
            {"Key": "a", "VersionId": one}, {"Key": "b"}, {"Key": "c", "VersionId": marker}, {"Key": "d", "VersionId": NO_SUCH_VERSION},
        ]},
    )  # fmt: skip
    found = {item["Key"]: item for item in answer["Deleted"]}
    assert found["a"] == {"Key": "a", "VersionId": one}
    assert found["b"]["DeleteMarker"] is True
    assert found["b"]["DeleteMarkerVersionId"] != "null"
    assert "VersionId" not in found["b"]
    assert found["c"] == {"Key": "c", "VersionId": marker, "DeleteMarker": True, "DeleteMarkerVersionId": marker}
    assert found["d"]["VersionId"] == NO_SUCH_VERSION
    assert "Errors" not in answer
    assert [item["VersionId"] for item in s3.list_object_versions(Bucket=versioned, Prefix="a")["Versions"]] == [two]
    assert body_of(s3, versioned, "a") == b"2"


@pytest.mark.operation("CopyObject")
def test_copying_an_old_version_brings_it_back(s3: Any, versioned: str) -> None:
    old = put(s3, versioned, "k", b"old")
    put(s3, versioned, "k", b"new")
    answer = s3.copy_object(Bucket=versioned, Key="k", CopySource={"Bucket": versioned, "Key": "k", "VersionId": old})
    assert answer["CopySourceVersionId"] == old
    assert answer["VersionId"] not in (old, None)
    assert body_of(s3, versioned, "k") == b"old"
    marker = s3.delete_object(Bucket=versioned, Key="gone")["VersionId"]
    with refused("InvalidRequest", 400):
        s3.copy_object(Bucket=versioned, Key="c", CopySource={"Bucket": versioned, "Key": "gone", "VersionId": marker})
    with refused("NoSuchKey", 404):
        s3.copy_object(Bucket=versioned, Key="c", CopySource={"Bucket": versioned, "Key": "gone"})


@pytest.mark.operation("CompleteMultipartUpload")
def test_uploads_make_versions(s3: Any, versioned: str) -> None:
    before = put(s3, versioned, "k", b"before")
    upload = s3.create_multipart_upload(Bucket=versioned, Key="k")["UploadId"]
    part = s3.upload_part(Bucket=versioned, Key="k", UploadId=upload, PartNumber=1, Body=b"part")
    done = s3.complete_multipart_upload(
        Bucket=versioned, Key="k", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    )
    assert done["VersionId"] not in (before, None)
    assert [item["VersionId"] for item in s3.list_object_versions(Bucket=versioned)["Versions"]] == [done["VersionId"], before]


@pytest.mark.operation("DeleteBucket")
def test_versions_and_markers_keep_their_bucket(s3: Any, versioned: str) -> None:
    one = put(s3, versioned, "k", b"")
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    for version_id in (one, marker):
        with refused("BucketNotEmpty", 409):
            s3.delete_bucket(Bucket=versioned)
        s3.delete_object(Bucket=versioned, Key="k", VersionId=version_id)
    s3.delete_bucket(Bucket=versioned)


@pytest.mark.operation("GetObjectAttributes")
def test_attributes_of_a_version(s3: Any, versioned: str) -> None:
    one = put(s3, versioned, "k", b"1")
    put(s3, versioned, "k", b"22")
    answer = s3.get_object_attributes(Bucket=versioned, Key="k", VersionId=one, ObjectAttributes=["ObjectSize"])
    assert (answer["ObjectSize"], answer["VersionId"]) == (1, one)
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    with refused("MethodNotAllowed", 405):
        s3.get_object_attributes(Bucket=versioned, Key="k", VersionId=marker, ObjectAttributes=["ObjectSize"])
    with refused("NoSuchKey", 404) as caught:
        s3.get_object_attributes(Bucket=versioned, Key="k", ObjectAttributes=["ObjectSize"])
    assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-delete-marker"] == "true"
