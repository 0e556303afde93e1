"""Quotas of buckets as clients and operators see them: what is refused and with what, what makes room, what is told."""

from __future__ import annotations

import http.client
from typing import Any

import pytest

from tests.conformance.served import Endpoint, refused
from tests.conformance.test_admin import code, done, keys_of

MIB = 1 << 20
_names = iter(f"quota-{number}" for number in range(1, 10_000))


@pytest.fixture
def limited(endpoint: Endpoint, s3: Any) -> str:
    """A bucket of 10 MiB."""
    name = next(_names)
    s3.create_bucket(Bucket=name)
    done(endpoint.admin("PUT", f"/buckets/{name}/quota", {"bytes": 10 * MIB}))
    return name


def test_every_way_to_write_is_refused_when_it_is_full(endpoint: Endpoint, s3: Any, limited: str, bucket: str) -> None:
    s3.put_object(Bucket=limited, Key="most", Body=bytes(10 * MIB - 1000))
    s3.put_object(Bucket=limited, Key="rest", Body=bytes(1000))
    s3.put_object(Bucket=bucket, Key="small", Body=b"x")
    s3.put_object(Bucket=bucket, Key="large", Body=bytes(2 * MIB))
    for body in (b"x", bytes(2 * MIB)):
        with refused("QuotaExceeded", 403):
            s3.put_object(Bucket=limited, Key="more", Body=body)
    for key in ("small", "large"):
        with refused("QuotaExceeded", 403):
            s3.copy_object(Bucket=limited, Key="more", CopySource=f"{bucket}/{key}")
    upload = s3.create_multipart_upload(Bucket=limited, Key="more")["UploadId"]
    named = {"Bucket": limited, "Key": "more", "UploadId": upload, "PartNumber": 1}
    with refused("QuotaExceeded", 403):
        s3.upload_part(**named, Body=b"x")
    with refused("QuotaExceeded", 403):
        s3.upload_part_copy(**named, CopySource=f"{bucket}/large")
    form = s3.generate_presigned_post(limited, "more")
    boundary = "b0undary"
    head = f"--{boundary}\r\nContent-Disposition: form-data; name="
    body = "".join(f'{head}"{name}"\r\n\r\n{value}\r\n' for name, value in form["fields"].items())
    body += f'--{boundary}\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--{boundary}--\r\n'
    answer = endpoint.raw(
        "POST", f"/{limited}", {"Content-Type": f"multipart/form-data; boundary={boundary}"}, body.encode(), sign=False
    )
    assert (answer.status, answer.code) == (403, "QuotaExceeded")
    assert limited.encode() in answer.body
    s3.put_object(Bucket=limited, Key="empty", Body=b"")
    s3.put_object(Bucket=limited, Key="rest", Body=bytes(1000))
    s3.put_object_tagging(Bucket=limited, Key="rest", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    s3.delete_object(Bucket=limited, Key="rest")
    s3.upload_part(**named, Body=bytes(1000))
    with refused("QuotaExceeded", 403):
        s3.put_object(Bucket=limited, Key="more", Body=b"x")
    s3.abort_multipart_upload(Bucket=limited, Key="more", UploadId=upload)
    s3.put_object(Bucket=limited, Key="more", Body=bytes(1000))


def test_a_large_body_is_refused_before_it_is_sent(endpoint: Endpoint, s3: Any, limited: str) -> None:
    """A client that waits for 100 Continue gets the refusal instead."""
    url = s3.generate_presigned_url("put_object", {"Bucket": limited, "Key": "k"}).removeprefix(endpoint.url)
    connection = endpoint._connection()
    connection.connect()
    assert connection.sock is not None
    connection.sock.sendall(
        f"PUT {url} HTTP/1.1\r\nHost: 127.0.0.1:{endpoint.server.port}\r\n"
        f"Content-Length: {11 * MIB}\r\nExpect: 100-continue\r\n\r\n".encode()
    )
    answer = http.client.HTTPResponse(connection.sock)
    answer.begin()
    assert answer.status == 403
    assert b"<Code>QuotaExceeded</Code>" in answer.read()
    connection.close()


def test_versions_count_until_they_are_removed(s3: Any, limited: str) -> None:
    s3.put_bucket_versioning(Bucket=limited, VersioningConfiguration={"Status": "Enabled"})
    first = s3.put_object(Bucket=limited, Key="k", Body=bytes(6 * MIB))["VersionId"]
    with refused("QuotaExceeded", 403):
        s3.put_object(Bucket=limited, Key="k", Body=bytes(6 * MIB))
    s3.delete_object(Bucket=limited, Key="k")
    with refused("QuotaExceeded", 403):
        s3.put_object(Bucket=limited, Key="k", Body=bytes(6 * MIB))
    s3.delete_object(Bucket=limited, Key="k", VersionId=first)
    s3.put_object(Bucket=limited, Key="k", Body=bytes(6 * MIB))


def test_a_quota_is_set_shown_and_taken_away(endpoint: Endpoint, s3: Any, limited: str) -> None:
    path = f"/buckets/{limited}/quota"
    s3.put_object(Bucket=limited, Key="k", Body=bytes(5000))
    upload = s3.create_multipart_upload(Bucket=limited, Key="open")["UploadId"]
    s3.upload_part(Bucket=limited, Key="open", UploadId=upload, PartNumber=1, Body=bytes(70))
    assert done(endpoint.admin("GET", path)) == {"bucket": limited, "quota": 10 * MIB, "used": 5070}
    assert done(endpoint.admin("PUT", path, {"bytes": 4000})) == {"bucket": limited, "quota": 4000, "used": 5070}
    shown = done(endpoint.admin("GET", f"/buckets/{limited}"))
    assert {name: shown[name] for name in ("quota", "objects", "versions", "markers", "uploads", "stored_bytes", "upload_bytes")} == {
        "quota": 4000, "objects": 1, "versions": 1, "markers": 0, "uploads": 1, "stored_bytes": 5000, "upload_bytes": 70,
    }  # fmt: skip
    with refused("QuotaExceeded", 403):
        s3.put_object(Bucket=limited, Key="k", Body=bytes(5001))
    s3.put_object(Bucket=limited, Key="k", Body=bytes(4999))
    assert endpoint.admin("DELETE", path) == (204, None)
    s3.put_object(Bucket=limited, Key="k", Body=bytes(11 * MIB))
    assert done(endpoint.admin("GET", path))["quota"] == 0
    for body in ({"bytes": 0}, {"bytes": -1}, {"bytes": 1 << 62}, {"bytes": "1"}, {"size": 1}, {}):
        assert code(endpoint.admin("PUT", path, body)) == (400, "MalformedInput"), body
    for method, body in (("GET", None), ("PUT", {"bytes": 1}), ("DELETE", None)):
        assert code(endpoint.admin(method, "/buckets/is-not-there/quota", body)) == (404, "NoSuchEntity")


def test_quotas_are_for_the_server_s_operators(endpoint: Endpoint, s3: Any, limited: str) -> None:
    """An account does not lift the limit of its own bucket."""
    account = done(endpoint.admin("POST", "/accounts", {"name": limited}), 201)
    own = f"own-{limited}"
    theirs = endpoint.client(keys=keys_of(account))
    theirs.create_bucket(Bucket=own)
    done(endpoint.admin("PUT", f"/buckets/{own}/quota", {"bytes": 10}))
    for method, path in (
        ("PUT", f"/buckets/{own}/quota"), ("DELETE", f"/buckets/{own}/quota"), ("GET", "/usage"), ("GET", "/usage/accounts"),
    ):  # fmt: skip
        answer = endpoint.admin(method, path, {"bytes": 1} if method == "PUT" else None, keys=keys_of(account))
        assert code(answer) == (403, "AccessDenied")
    with refused("QuotaExceeded", 403):
        theirs.put_object(Bucket=own, Key="k", Body=bytes(11))
    theirs.put_object(Bucket=own, Key="k", Body=bytes(7))
    rows = {row["account"]: row for row in done(endpoint.admin("GET", "/usage/accounts"))["items"]}
    found = rows[account["account_id"]]
    assert (found["account_name"], found["buckets"], found["objects"], found["stored_bytes"]) == (limited, 1, 1, 7)
    rows = {row["name"]: row for row in done(endpoint.admin("GET", "/usage"))["items"]}
    assert (rows[own]["owner"], rows[own]["quota"], rows[own]["stored_bytes"]) == (account["account_id"], 10, 7)
    assert rows[limited]["owner_name"] != limited


def test_a_quota_goes_with_its_bucket(endpoint: Endpoint, s3: Any, limited: str) -> None:
    s3.delete_bucket(Bucket=limited)
    s3.create_bucket(Bucket=limited)
    assert done(endpoint.admin("GET", f"/buckets/{limited}/quota"))["quota"] == 0
    s3.put_object(Bucket=limited, Key="k", Body=bytes(11 * MIB))
