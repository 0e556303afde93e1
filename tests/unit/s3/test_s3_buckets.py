"""Buckets: create, head, delete, list, location, versioning; names, owners, rights, health and what is reserved."""

from __future__ import annotations

import pytest

from tests.unit.s3.wire import OTHER, START_MS, Client

REGION_XML = (
    '<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><LocationConstraint>%s</LocationConstraint>'
    "</CreateBucketConfiguration>"
)


def test_create_answers_where_it_is() -> None:
    client = Client()
    answer = client("PUT", "/my-bucket.1")
    assert answer.status == 200
    assert answer.headers["location"] == "/my-bucket.1"
    assert answer.body == b""
    assert client("HEAD", "/my-bucket.1").headers["x-amz-bucket-region"] == "us-east-1"
    assert client("HEAD", "/my-bucket.1/").status == 200


@pytest.mark.parametrize(
    "name",
    [
        "ab",
        "a" * 64,
        "Bucket",
        "my_bucket",
        "-bucket",
        "bucket-",
        ".bucket",
        "bucket.",
        "my..bucket",
        "my.-bucket",
        "my-.bucket",
        "192.168.5.4",
        "health",
        "_titans3x",
        "b%20b",
        "b%C3%A9b",
        "b%0Ab",
        "bucket%2Fx",
    ],
)
def test_bad_bucket_names_reach_the_check(name: str) -> None:
    answer = Client()("PUT", f"/{name}")
    assert (answer.status, answer.code) == (400, "InvalidBucketName")


@pytest.mark.parametrize("name", ["abc", "a" * 63, "1bucket", "a.b.c", "a--b", "192.168.5.four", "healthy", "titans3"])
def test_good_bucket_names(name: str) -> None:
    assert Client()("PUT", f"/{name}").status == 200


def test_create_again_is_fine_in_us_east_1_and_refused_elsewhere() -> None:
    client = Client()
    client.bucket("here")
    client("PUT", "/here/kept", body=b"kept")
    assert client("PUT", "/here").status == 200
    assert client("GET", "/here/kept").body == b"kept"
    body = (REGION_XML % "eu-central-1").encode()
    assert client("PUT", "/there", body=body).status == 200
    again = client("PUT", "/there", body=body)
    assert (again.status, again.code) == (409, "BucketAlreadyOwnedByYou")
    moved = client("PUT", "/here", body=body)
    assert (moved.status, moved.code) == (409, "BucketAlreadyOwnedByYou")


def test_a_strangers_bucket_is_taken() -> None:
    client = Client()
    client.bucket("taken")
    answer = client("PUT", "/taken", identity=OTHER)
    assert (answer.status, answer.code) == (409, "BucketAlreadyExists")


@pytest.mark.parametrize(
    ("body", "region"),
    [
        ("", ""),
        ("<CreateBucketConfiguration/>", ""),
        ('<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"></CreateBucketConfiguration>', ""),
        ("<CreateBucketConfiguration><Tags/></CreateBucketConfiguration>", ""),
        (REGION_XML % "us-east-1", ""),
        (REGION_XML % "eu-west-1", "eu-west-1"),
        (REGION_XML % "EU", "EU"),
    ],
)
def test_location(body: str, region: str) -> None:
    client = Client()
    assert client("PUT", "/bucket", body=body.encode()).status == 200
    answer = client("GET", "/bucket?location")
    assert answer.xml.tag == "LocationConstraint"
    assert (answer.xml.text or "") == region
    assert client("HEAD", "/bucket").headers["x-amz-bucket-region"] == (region or "us-east-1")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"<Create", 400, "MalformedXML"),
        (b"<Other/>", 400, "MalformedXML"),
        (b"<CreateBucketConfiguration><What/></CreateBucketConfiguration>", 400, "MalformedXML"),
        (b'<!DOCTYPE a [<!ENTITY x "y">]><CreateBucketConfiguration/>', 400, "MalformedXML"),
        (b'<CreateBucketConfiguration xmlns="urn:x"/>', 400, "MalformedXML"),
        ((REGION_XML % "no region!").encode(), 400, "InvalidLocationConstraint"),
        (
            b"<CreateBucketConfiguration><Tags><Tag><Key>aws:a</Key><Value>b</Value></Tag></Tags></CreateBucketConfiguration>",
            400,
            "InvalidTag",
        ),
        (
            b"<CreateBucketConfiguration><Bucket><Type>Directory</Type></Bucket></CreateBucketConfiguration>",
            501,
            "NotImplemented",
        ),
    ],
)
def test_configurations_that_are_refused(body: bytes, status: int, code: str) -> None:
    client = Client()
    answer = client("PUT", "/bucket", body=body)
    assert (answer.status, answer.code) == (status, code)
    assert client("HEAD", "/bucket").status == 404


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-amz-bucket-object-lock-enabled", "true"),
    ],
)
def test_headers_of_create_that_are_not_built(header: str, value: str) -> None:
    client = Client()
    answer = client("PUT", "/bucket", {header: value})
    assert (answer.status, answer.code) == (501, "NotImplemented")
    assert header in answer.xml.findtext("Message")
    assert client("HEAD", "/bucket").status == 404


def test_private_acl_is_what_a_bucket_has() -> None:
    assert (
        Client()("PUT", "/bucket", {"x-amz-acl": "private", "x-amz-bucket-object-lock-enabled": "false"}).status == 200
    )


def test_delete() -> None:
    client = Client()
    client.bucket()
    client("PUT", "/bucket/key", body=b"x")
    answer = client("DELETE", "/bucket")
    assert (answer.status, answer.code) == (409, "BucketNotEmpty")
    client("DELETE", "/bucket/key")
    answer = client("DELETE", "/bucket")
    assert (answer.status, answer.body) == (204, b"")
    for method, target in (
        ("DELETE", "/bucket"),
        ("GET", "/bucket"),
        ("PUT", "/bucket/key"),
        ("GET", "/bucket/key"),
        ("GET", "/bucket?location"),
    ):
        answer = client(method, target)
        assert (answer.status, answer.code) == (404, "NoSuchBucket"), (method, target)
        assert answer.xml.findtext("BucketName") == "bucket"
    assert client("HEAD", "/bucket").status == 404
    assert client("HEAD", "/bucket").body == b""


def test_versioning_of_a_bucket_that_never_had_it() -> None:
    client = Client()
    client.bucket()
    answer = client("GET", "/bucket?versioning")
    assert answer.status == 200
    assert answer.xml.tag == "VersioningConfiguration"
    assert len(answer.xml) == 0
    client.store.switch("bucket", 1)
    assert client("GET", "/bucket?versioning").all("Status") == ["Enabled"]
    client.store.switch("bucket", 2)
    assert client("GET", "/bucket?versioning").all("Status") == ["Suspended"]


def test_list_buckets() -> None:
    client = Client()
    assert client("GET", "/").xml.find("Buckets") is not None
    for name in ("zeta", "alpha", "mid.dle"):
        client.bucket(name)
    client("PUT", "/others", identity=OTHER)
    answer = client("GET", "/")
    assert answer.status == 200
    assert answer.xml.tag == "ListAllMyBucketsResult"
    assert answer.all("Buckets/Bucket/Name") == ["alpha", "mid.dle", "zeta"]  # other accounts' are not told
    assert answer.all("Buckets/Bucket/CreationDate") == ["2027-01-15T08:00:00.123Z"] * 3
    assert START_MS == 1_800_000_000_123
    assert answer.xml.findtext("Owner/ID")
    assert answer.xml.findtext("Owner/DisplayName")
    assert answer.xml.find("ContinuationToken") is None
    assert client("GET", "/", identity=OTHER).all("Buckets/Bucket/Name") == ["others"]


def test_list_buckets_pages() -> None:
    client = Client()
    names = [f"bucket-{number:02d}" for number in range(7)]
    for name in reversed(names):
        client.bucket(name)
    client("PUT", "/bucket-eu", body=(REGION_XML % "eu-west-1").encode())
    found: list[str] = []
    token = ""
    while True:
        answer = client("GET", f"/?max-buckets=3&prefix=bucket-0{token}")
        assert answer.xml.findtext("Prefix") == "bucket-0"
        assert set(answer.all("Buckets/Bucket/BucketRegion")) == {"us-east-1"}
        page = answer.all("Buckets/Bucket/Name")
        assert len(page) <= 3
        found += page
        if answer.xml.find("ContinuationToken") is None:
            break
        token = f"&continuation-token={answer.xml.findtext('ContinuationToken')}"
    assert found == names
    assert client("GET", "/?bucket-region=eu-west-1").all("Buckets/Bucket/Name") == ["bucket-eu"]
    for query in (
        "max-buckets=0",
        "max-buckets=x",
        "max-buckets=-1",
        "continuation-token=%FFx",
        "continuation-token=nonsense",
    ):
        assert client("GET", f"/?{query}").status == 400, query


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "DELETE"])
@pytest.mark.parametrize("target", ["/bucket", "/bucket/key", "/"])
def test_anonymous_is_denied_everything(method: str, target: str) -> None:
    client = Client()
    client.bucket()
    client("PUT", "/bucket/key", body=b"x")
    answer = client(method, target, identity=None)
    assert answer.status == (405 if target == "/" and method != "GET" else 403)
    if method != "HEAD" and answer.status == 403:
        assert answer.code == "AccessDenied"
    assert client("GET", "/bucket/key").body == b"x"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/bucket"),
        ("PUT", "/bucket/k"),
        ("GET", "/bucket/key"),
        ("DELETE", "/bucket/key"),
        ("DELETE", "/bucket"),
        ("GET", "/bucket/absent"),
        ("POST", "/bucket/key?uploads"),
        ("GET", "/bucket?policy"),
    ],
)
def test_a_strangers_bucket_is_denied(method: str, target: str) -> None:
    client = Client()
    client.bucket()
    client("PUT", "/bucket/key", body=b"x")
    answer = client(method, target, identity=OTHER)
    assert (answer.status, answer.code) == (403, "AccessDenied")


def test_expected_owner() -> None:
    client = Client()
    client.bucket()
    owner = client.store.by_name["bucket"].record.owner
    assert client("HEAD", "/bucket", {"x-amz-expected-bucket-owner": owner}).status == 200
    answer = client("GET", "/bucket", {"x-amz-expected-bucket-owner": "999999999999"})
    assert (answer.status, answer.code) == (403, "AccessDenied")


def test_health_needs_no_signature_and_nothing_else_is_under_it() -> None:
    client = Client(health=lambda word: (word != "ready", f"{word} says"))
    client.bucket("healthy")
    for word, status in (("live", 200), ("ready", 503), ("cluster", 200)):
        answer = client("GET", f"/health/{word}", identity=None)
        assert (answer.status, answer.body) == (status, f"{word} says\n".encode())
        assert client("HEAD", f"/health/{word}", identity=None).status == status
    assert client("GET", "/health/other", identity=None).status == 404
    assert client("PUT", "/health/live").status == 404
    assert client("GET", "/health").code == "NoSuchBucket"
    assert client("PUT", "/health").code == "InvalidBucketName"
    assert client("PUT", "/healthy/live", body=b"key").status == 200
    assert client("GET", "/healthy/live").body == b"key"


def test_the_administrative_prefix_is_no_bucket() -> None:
    client = Client()
    for method, target in (
        ("GET", "/_titans3"),
        ("PUT", "/_titans3"),
        ("PUT", "/_titans3/key"),
        ("GET", "/_titans3/metrics"),
    ):
        answer = client(method, target)
        assert (answer.status, answer.code) == (404, "NotFound"), (method, target)
    assert client.store.by_name == {}
    assert client("GET", "/_titans3x").code == "NoSuchBucket"


def test_virtual_hosts() -> None:
    client = Client(domains=("s3.example.com",))
    client.bucket("first")
    host = "first.s3.example.com"
    assert client("PUT", "/a/b", body=b"one", host=host).status == 200
    assert client("GET", "/first/a/b", host="s3.example.com").body == b"one"
    assert client("GET", "/a/b", host="FIRST.S3.example.COM:9000").body == b"one"
    assert client("GET", "/", host=host).all("Contents/Key") == ["a/b"]
    assert client("PUT", "/", host="second.s3.example.com:9000").headers["location"] == "/second"
    assert client("HEAD", "/", host="second.s3.example.com").status == 200
    assert client("PUT", "/", host="dotted.name.s3.example.com").status == 200
    # Reserved paths belong to the service address alone: under a bucket's host they are keys.
    assert client("PUT", "/health/live", body=b"key", host=host).status == 200
    assert client("GET", "/health/live", host=host).body == b"key"
    assert client("PUT", "/_titans3/x", body=b"key", host=host).status == 200
    assert client("PUT", "/", host="health.s3.example.com").code == "InvalidBucketName"
    assert client("GET", "/first/a/b", host="s3.example.com.evil").body == b"one"
