"""Keys: any UTF-8 of at most 1,024 bytes, exactly as they stand in the raw path; nothing is normalised."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.unit.s3.wire import Client
from titans3.limits import KEY_BYTES_MAX

ODD = [
    "/",
    "//",
    "//a",
    "a//b",
    "a/",
    "/a",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    "...",
    "a b",
    " ",
    "+",
    "a+b",
    "%",
    "%41",
    "%2F",
    "a%2Fb",
    "?",
    "a?b=c",
    "#",
    "&",
    "=",
    ";",
    ":",
    "@",
    "\\",
    "|",
    "~",
    "-._~",
    "!'()*",
    '"',
    "<x>&amp;",
    "\x01\x02\x1f",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\x7f",
    "\x80",
    "\xa0",
    "\u00e9",
    "e\u0301",
    "\u65e5\u672c",
    "\U0001f600",
    "\ufffd",
    "\ufffe",
    "\uffff",
    "health/live",
    "_titans3/x",
    "versioning",
    "\U0010ffff",
    "A",
    "a",
    "a/b",
    "a/b/c",
    "a/b/",
    "list-type=2",
    "{}",
    "[]",
    "`",
    "^",
    "$",
    ",",
]


@pytest.fixture
def client() -> Client:
    made = Client()
    made.bucket()
    return made


@pytest.mark.parametrize("safe", ["/-_.~", "-_.~", "/-_.~!'()*+,;:@=&$"])
def test_odd_keys_are_all_different_and_come_back(client: Client, safe: str) -> None:
    for key in ODD:
        answer = client("PUT", f"/bucket/{quote(key, safe=safe)}", body=key.encode())
        assert answer.status == 200, (key, answer.body)
    assert len(client.store.by_name["bucket"].objects) == len(ODD)
    assert set(client.store.by_name["bucket"].objects) == {key.encode() for key in ODD}
    for key in ODD:
        assert client("GET", f"/bucket/{quote(key, safe=safe)}").body == key.encode()
        assert client("HEAD", f"/bucket/{quote(key, safe=safe)}").length == len(key.encode())
    for key in ODD:
        assert client("DELETE", f"/bucket/{quote(key, safe=safe)}").status == 204
    assert client.store.by_name["bucket"].objects == {}


@pytest.mark.parametrize(
    "target", [b"/bucket//", b"/bucket/./..", b"/bucket/a+b", b"/bucket/a%2bb", b"/bucket/~!$&'()*+,;=:@"]
)
def test_raw_paths_without_escapes(client: Client, target: bytes) -> None:
    assert client("PUT", target, body=b"x").status == 200
    assert client("GET", target).body == b"x"


@pytest.mark.parametrize("letter", ["a", "\u00e9", "\u65e5", "\U0001f600", "/"])
def test_length(client: Client, letter: str) -> None:
    size = len(letter.encode())
    longest = letter * (KEY_BYTES_MAX // size)
    longest += "x" * (KEY_BYTES_MAX - len(longest.encode()))
    assert client("PUT", f"/bucket/{quote(longest)}", body=b"x").status == 200
    assert client("GET", f"/bucket/{quote(longest)}").body == b"x"
    for method in ("PUT", "GET", "DELETE", "POST"):
        answer = client(method, f"/bucket/{quote(longest)}x{'?uploads' if method == 'POST' else ''}")
        assert (answer.status, answer.code) == (400, "KeyTooLongError")
    assert client("HEAD", f"/bucket/{quote(longest)}x").status == 400


@pytest.mark.parametrize(
    "raw",
    [b"%", b"%4", b"%zz", b"a%g0", b"%FF", b"%C3", b"%ED%A0%80", b"%C0%80", b"\xff", b"\xc3\x28", b"%F4%90%80%80"],
)
def test_what_is_no_utf8_or_no_escape_is_refused(client: Client, raw: bytes) -> None:
    for method in ("PUT", "GET", "DELETE"):
        answer = client(method, b"/bucket/" + raw)
        assert (answer.status, answer.code) == (400, "InvalidURI"), raw
    assert client.store.by_name["bucket"].objects == {}


def test_raw_utf8_on_the_wire(client: Client) -> None:
    assert client("PUT", "/bucket/\u00e9".encode(), body=b"x").status == 200
    assert client("GET", "/bucket/%C3%A9").body == b"x"


def test_a_bucket_may_be_escaped(client: Client) -> None:
    client("PUT", "/bucket/key", body=b"x")
    assert client("GET", "/%62ucket/key").body == b"x"
    assert client("GET", "/bucket%2Fkey").code == "NoSuchBucket"


@pytest.mark.parametrize("name", ["prefix", "delimiter", "marker", "start-after", "key-marker"])
def test_query_values_that_are_no_utf8(client: Client, name: str) -> None:
    assert client("GET", f"/bucket?{name}=%FF").code == "InvalidURI"
