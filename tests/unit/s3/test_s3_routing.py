"""Every operation of botocore's model, serialised by botocore itself, reaches its own row; what is not built says so by name."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import botocore.session
import pytest
from botocore.model import Shape
from botocore.serialize import create_serializer

from tests.unit.s3.wire import Client
from titans3.s3.errors import S3Error
from titans3.s3.handlers import HANDLERS
from titans3.s3.operations import OPERATIONS
from titans3.s3.query import parse_query
from titans3.s3.router import route

MODEL = botocore.session.get_session().get_service_model("s3")
SERIALIZER = create_serializer("rest-xml", include_validation=False)
# Names of the model for a wire call that has another name too: the request alone cannot tell them apart.
SAME_CALL = {
    "PutBucketLifecycle": "PutBucketLifecycleConfiguration",
    "GetBucketLifecycle": "GetBucketLifecycleConfiguration",
    "PutBucketNotification": "PutBucketNotificationConfiguration",
    "GetBucketNotification": "GetBucketNotificationConfiguration",
    "ListDirectoryBuckets": "ListBuckets",
}
KNOWN = {"Bucket": "bucket", "Key": "some/key", "CopySource": "bucket/source", "UploadId": "0" * 32, "PartNumber": 1}
BUILT = set(HANDLERS)
NOT_IN_THE_MODEL = {"PostObject"}


def example(shape: Shape, name: str = "") -> Any:
    """The least value that has every required member."""
    if name in KNOWN:
        return KNOWN[name]
    if shape.type_name == "structure":
        return {key: example(shape.members[key], key) for key in shape.required_members}  # type: ignore[attr-defined]
    if shape.type_name == "list":
        return [example(shape.member)]  # type: ignore[attr-defined]
    if shape.type_name == "string":
        return (getattr(shape, "enum", None) or ["text"])[0]
    return {"integer": 1, "long": 1, "boolean": True, "blob": b"", "timestamp": datetime(2026, 1, 1, tzinfo=UTC)}[
        shape.type_name
    ]


def serialised(name: str) -> tuple[str, str, str, dict[str, str]]:
    """(method, path, query, headers) as an SDK sends the operation."""
    operation = MODEL.operation_model(name)
    values = example(operation.input_shape) if operation.input_shape is not None else {}
    made = SERIALIZER.serialize_to_request(values, operation)
    query = made["query_string"]
    path, _, more = made["url_path"].partition("?")
    text = "&".join(part for part in (more, urlencode(query) if isinstance(query, dict) else str(query)) if part)
    headers = {key.lower(): str(value) for key, value in made["headers"].items() if key.lower().startswith("x-amz")}
    return made["method"], path, text, headers


def test_the_table_is_the_model() -> None:
    assert set(OPERATIONS) == set(MODEL.operation_names)
    assert len(OPERATIONS) == 116
    for name, row in OPERATIONS.items():
        assert row.method == MODEL.operation_model(name).http["method"], name
        assert row.status == MODEL.operation_model(name).http.get("responseCode", 200), name


@pytest.mark.parametrize("name", sorted(MODEL.operation_names))
def test_every_operation_reaches_its_row(name: str) -> None:
    method, path, query, headers = serialised(name)
    kind = "service" if path in ("/", "/WriteGetObjectResponse") else "object" if path.count("/") > 1 else "bucket"
    fields = {key.encode(): value.encode() for key, value in headers.items()}
    found = route(method, kind, parse_query(query.encode()), fields)
    assert found.name == SAME_CALL.get(name, name)
    assert found.kind == kind


@pytest.mark.parametrize("name", sorted(set(MODEL.operation_names) - BUILT - set(SAME_CALL)))
def test_what_is_not_built_is_501_by_name(name: str) -> None:
    client = Client()
    client.bucket()
    method, path, query, headers = serialised(name)
    answer = client(method, f"{path}?{query}" if query else path, headers)
    assert answer.status == 501, (name, answer.body)
    assert answer.code == "NotImplemented"
    assert name in answer.xml.findtext("Message")


@pytest.mark.parametrize("name", sorted(BUILT - NOT_IN_THE_MODEL))
def test_what_is_built_is_never_501(name: str) -> None:
    client = Client()
    client.bucket()
    method, path, query, headers = serialised(name)
    assert client(method, f"{path}?{query}" if query else path, headers).status != 501


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("POST", "/", 405, "MethodNotAllowed"),
        ("PUT", "/", 405, "MethodNotAllowed"),
        ("DELETE", "/", 405, "MethodNotAllowed"),
        ("PATCH", "/bucket/key", 405, "MethodNotAllowed"),
        ("POST", "/bucket/key", 405, "MethodNotAllowed"),
        ("PUT", "/bucket?uploads", 405, "MethodNotAllowed"),
        ("DELETE", "/bucket?location", 405, "MethodNotAllowed"),
        ("DELETE", "/bucket?versioning", 405, "MethodNotAllowed"),
        ("PUT", "/bucket?delete", 405, "MethodNotAllowed"),
        ("DELETE", "/bucket?list-type=2", 405, "MethodNotAllowed"),
        ("GET", "/bucket?location&versioning", 400, "InvalidArgument"),
        ("GET", "/bucket/key?uploadId=x&acl", 400, "InvalidArgument"),
        ("PUT", "/bucket/key?partNumber=1", 400, "InvalidArgument"),
        ("PUT", "/bucket/key?uploadId=" + "0" * 32, 400, "InvalidArgument"),
        ("GET", "/bucket?list-type=3", 400, "InvalidArgument"),
        ("POST", "/bucket", 412, "PreconditionFailed"),
        ("POST", "/bucket/", 412, "PreconditionFailed"),
        ("OPTIONS", "/bucket/key", 400, "BadRequest"),
        ("GET", "/bucket/key?cors", 404, "NoSuchKey"),
        ("GET", "/bucket?torrent", 200, None),
    ],
)
def test_methods_and_sub_resources_that_do_not_fit(method: str, target: str, status: int, code: str | None) -> None:
    client = Client()
    client.bucket()
    answer = client(method, target)
    assert answer.status == status, answer.body
    assert code is None or answer.code == code


@pytest.mark.parametrize(
    "target", ["/bucket?location", "/bucket?location=", "/bucket/?location", "/bucket?x-id=GetBucketLocation&location"]
)
def test_spellings_of_a_sub_resource(target: str) -> None:
    client = Client()
    client.bucket()
    assert client("GET", target).xml.tag == "LocationConstraint"


@pytest.mark.parametrize("query", ["x-id=GetObject", "foo=bar", "X-Unknown", "=", "&&", "list-type"])
def test_unknown_query_names_of_an_object_are_ignored(query: str) -> None:
    client = Client()
    client.bucket()
    client("PUT", "/bucket/key", body=b"here")
    assert client("GET", f"/bucket/key?{query}").body == b"here"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (b"delete", {"delete": ""}), (b"delete=", {"delete": ""}), (b"=x", {"": "x"}), (b"prefix=a=b", {"prefix": "a=b"}),
        (b"prefix=%61+b", {"prefix": "a b"}), (b"a=1&a=2&b", {"a": "1", "b": ""}), (b"&&", {}), (b"", {}),
        ("k=\u00e4".encode(), {"k": "\u00e4"}),
    ],
)
def test_names_and_values_of_a_query(query: bytes, found: dict[str, str]) -> None:
    assert parse_query(query) == found


@pytest.mark.parametrize("query", [b"k=\xff", b"k=%ff", b"\xff&a"])
def test_a_query_that_is_no_utf_8(query: bytes) -> None:
    with pytest.raises(S3Error):
        parse_query(query)
