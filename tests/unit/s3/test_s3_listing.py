"""ListObjects and ListObjectsV2: every parameter, pages against a model of the documentation, encodings, and what XML cannot say."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from tests.unit.s3.memory_store import canonical_of
from tests.unit.s3.wire import OTHER, Answer, Client
from titans3.model.version import NULL, ROW_FORMAT, Version
from titans3.s3.contents import Contents, Form
from titans3.s3.xmlout import escape_key, iso_time, iso_times, key_texts

FOLDERS = ["a", "a/b", "a/b/c", "a/c", "b", "b/", "b/1", "c//d", "c/d", "d"]


def fill(client: Client, keys: list[str]) -> Client:
    client.bucket()
    for key in keys:
        assert client("PUT", f"/bucket/{quote(key, safe='')}", body=key.encode()).status == 200
    return client


@pytest.fixture
def client() -> Client:
    return fill(Client(), FOLDERS)


def listed(client: Client, version: int = 2, **parameters: object) -> Answer:
    query = "&".join(f"{name.replace('_', '-')}={quote(str(value), safe='')}" for name, value in parameters.items())
    answer = client("GET", f"/bucket?{'list-type=2&' if version == 2 else ''}{query}")
    assert answer.status == 200, answer.body
    assert answer.xml.tag == "ListBucketResult"
    return answer


def shown(answer: Answer, *names: str) -> dict[str, str | None]:
    return {name: answer.xml.findtext(name) for name in names}


def test_version_1(client: Client) -> None:
    answer = listed(client, 1)
    assert answer.headers["x-amz-bucket-region"] == "us-east-1"
    assert answer.headers["content-type"] == "application/xml"
    assert answer.all("Contents/Key") == FOLDERS
    assert answer.all("Contents/Size") == [str(len(key)) for key in FOLDERS]
    assert answer.all("Contents/ETag") == [f'"{hashlib.md5(key.encode()).hexdigest()}"' for key in FOLDERS]
    assert set(answer.all("Contents/LastModified")) == {"2027-01-15T08:00:00.123Z"}
    assert set(answer.all("Contents/StorageClass")) == {"STANDARD"}
    assert len(answer.all("Contents/Owner/ID")) == len(answer.all("Contents/Owner/DisplayName")) == len(FOLDERS)
    assert shown(answer, "Name", "Prefix", "Marker", "MaxKeys", "IsTruncated") == {
        "Name": "bucket",
        "Prefix": "",
        "Marker": "",
        "MaxKeys": "1000",
        "IsTruncated": "false",
    }
    for absent in ("NextMarker", "Delimiter", "EncodingType", "KeyCount", "ContinuationToken", "StartAfter"):
        assert answer.xml.find(absent) is None, absent


def test_version_2(client: Client) -> None:
    answer = listed(client)
    assert answer.all("Contents/Key") == FOLDERS
    assert shown(answer, "Name", "Prefix", "KeyCount", "MaxKeys", "IsTruncated") == {
        "Name": "bucket",
        "Prefix": "",
        "KeyCount": str(len(FOLDERS)),
        "MaxKeys": "1000",
        "IsTruncated": "false",
    }
    for absent in (
        "Marker",
        "NextMarker",
        "Delimiter",
        "EncodingType",
        "ContinuationToken",
        "NextContinuationToken",
        "StartAfter",
        "Contents/Owner",
    ):
        assert answer.xml.find(absent) is None, absent
    assert len(listed(client, fetch_owner="true").all("Contents/Owner/ID")) == len(FOLDERS)
    assert listed(client, fetch_owner="false").all("Contents/Owner/ID") == []


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("parameters", "keys", "prefixes"),
    [
        ({"prefix": "a"}, ["a", "a/b", "a/b/c", "a/c"], []),
        ({"prefix": "a/"}, ["a/b", "a/b/c", "a/c"], []),
        ({"prefix": "zzz"}, [], []),
        ({"prefix": ""}, FOLDERS, []),
        ({"delimiter": ""}, FOLDERS, []),
        ({"delimiter": "/"}, ["a", "b", "d"], ["a/", "b/", "c/"]),
        ({"delimiter": "/", "prefix": "a/"}, ["a/b", "a/c"], ["a/b/"]),
        ({"delimiter": "/", "prefix": "a"}, ["a"], ["a/"]),
        ({"delimiter": "/", "prefix": "c/"}, ["c/d"], ["c//"]),
        ({"delimiter": "/", "prefix": "b/"}, ["b/", "b/1"], []),
        ({"delimiter": "//"}, ["a", "a/b", "a/b/c", "a/c", "b", "b/", "b/1", "c/d", "d"], ["c//"]),
        ({"delimiter": "b"}, ["a", "a/c", "c//d", "c/d", "d"], ["a/b", "b"]),
        ({"delimiter": "zz"}, FOLDERS, []),
        ({"delimiter": "\n"}, FOLDERS, []),
    ],
)
def test_prefix_and_delimiter(
    client: Client, version: int, parameters: dict[str, str], keys: list[str], prefixes: list[str]
) -> None:
    answer = listed(client, version, **parameters)
    assert (answer.all("Contents/Key"), answer.all("CommonPrefixes/Prefix")) == (keys, prefixes)
    assert answer.xml.findtext("Prefix") == parameters.get("prefix", "")
    assert answer.xml.findtext("Delimiter") == (parameters.get("delimiter") or None)
    if version == 2:
        assert answer.xml.findtext("KeyCount") == str(len(keys) + len(prefixes))


def test_markers(client: Client) -> None:
    for after, keys in (
        ("a/b", FOLDERS[2:]),
        ("a/a", FOLDERS[1:]),
        ("zzz", []),
        ("", FOLDERS),
        ("\x01", FOLDERS),
        ("d", []),
    ):
        answer = listed(client, 1, marker=after, encoding_type="url")
        assert (answer.all("Contents/Key"), answer.xml.findtext("Marker")) == (keys, quote(after))
        answer = listed(client, start_after=after, encoding_type="url")
        assert (answer.all("Contents/Key"), answer.xml.findtext("StartAfter")) == (keys, quote(after))
    answer = listed(client, 1, marker="a/", delimiter="/")
    assert (answer.all("Contents/Key"), answer.all("CommonPrefixes/Prefix")) == (["b", "d"], ["b/", "c/"])
    answer = listed(client, 1, marker="a/b", delimiter="/")
    assert answer.all("CommonPrefixes/Prefix") == ["a/", "b/", "c/"], (
        "a marker inside a group does not hide what is left of it"
    )


def test_max_keys(client: Client) -> None:
    for version in (1, 2):
        empty = listed(client, version, max_keys=0)
        assert (empty.all("Contents"), empty.xml.findtext("IsTruncated"), empty.xml.findtext("MaxKeys")) == (
            [],
            "false",
            "0",
        )
        assert listed(client, version, max_keys=5000).xml.findtext("MaxKeys") == "1000"
        assert listed(client, version, max_keys="").xml.findtext("MaxKeys") == "1000"
        exact = listed(client, version, max_keys=len(FOLDERS))
        assert (exact.xml.findtext("IsTruncated"), len(exact.all("Contents"))) == ("false", len(FOLDERS))
        for bad in ("x", "-1", "1.5", "99999999999", "\u0661"):
            answer = client("GET", f"/bucket?{'list-type=2&' if version == 2 else ''}max-keys={quote(bad)}")
            assert (answer.status, answer.code) == (400, "InvalidArgument"), bad


def test_a_token_goes_on_whatever_start_after_says(client: Client) -> None:
    first = listed(client, max_keys=3)
    token = first.xml.findtext("NextContinuationToken")
    answer = listed(client, continuation_token=token, start_after="a", max_keys=2)
    assert answer.all("Contents/Key") == FOLDERS[3:5]
    assert shown(answer, "ContinuationToken", "StartAfter") == {"ContinuationToken": token, "StartAfter": "a"}
    answer = listed(client, continuation_token="", start_after="b")
    assert (answer.all("Contents/Key"), answer.xml.findtext("ContinuationToken")) == (FOLDERS[5:], "")
    for bad in ("nonsense", "AAAA", "\u00e9", "====", "b"):
        answer = client("GET", f"/bucket?list-type=2&continuation-token={quote(bad)}")
        assert (answer.status, answer.code) == (400, "InvalidArgument"), bad


def pages(client: Client, version: int, limit: int, **parameters: str) -> tuple[list[str], list[str]]:
    """All keys and common prefixes, page by page as a client walks them; decoded."""
    keys: list[str] = []
    prefixes: list[str] = []
    more: dict[str, str] = {}
    for _ in range(1000):
        answer = listed(client, version, max_keys=limit, encoding_type="url", **parameters, **more)
        found, groups = answer.all("Contents/Key"), answer.all("CommonPrefixes/Prefix")
        assert 1 <= len(found) + len(groups) <= limit or answer.xml.findtext("IsTruncated") == "false"
        keys += [unquote(key) for key in found]
        prefixes += [unquote(group) for group in groups]
        if answer.xml.findtext("IsTruncated") == "false":
            assert answer.xml.find("NextMarker") is None
            assert answer.xml.find("NextContinuationToken") is None
            return keys, prefixes
        if version == 2:
            more = {"continuation_token": str(answer.xml.findtext("NextContinuationToken"))}
        elif parameters.get("delimiter"):
            more = {"marker": unquote(str(answer.xml.findtext("NextMarker")))}
        else:
            assert answer.xml.find("NextMarker") is None
            more = {"marker": keys[-1]}
    raise AssertionError("pages do not end")


def model(keys: list[str], prefix: str, delimiter: str) -> tuple[list[str], list[str]]:
    """What the documentation says, in one page: bytes in order, keys with the delimiter behind the prefix rolled up."""
    plain, groups = [], []
    for key in sorted(keys, key=str.encode):
        if key.startswith(prefix):
            head, mark, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if not mark:
                plain.append(key)
            elif prefix + head + delimiter not in groups:
                groups.append(prefix + head + delimiter)
    return plain, groups


TEXT = st.text(alphabet="ab/ %+\n\x01\u00e9\uffff\U0001f600", max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(TEXT.filter(bool), max_size=12, unique=True),
    prefix=TEXT,
    delimiter=st.sampled_from(["", "/", "a", "//", "%", " ", "\n", "\u00e9"]),
    limit=st.integers(1, 4),
    version=st.sampled_from([1, 2]),
)
def test_pages_are_the_model(keys: list[str], prefix: str, delimiter: str, limit: int, version: int) -> None:
    client = fill(Client(), keys)
    assert pages(client, version, limit, prefix=prefix, delimiter=delimiter) == model(keys, prefix, delimiter)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7])
def test_the_last_group_is_not_truncated(client: Client, version: int, limit: int) -> None:
    assert pages(client, version, limit, delimiter="/") == (["a", "b", "d"], ["a/", "b/", "c/"])


SAFE = ["<a>&\"'", "tab\there", "line\nfeed", "carriage\rreturn", "%41", "+ plus", "\u00e9\U0001f600", "\x7f\x80"]


def test_what_xml_can_say_is_said_without_encoding() -> None:
    client = fill(Client(), SAFE)
    for version in (1, 2):
        answer = listed(client, version)
        root = etree.fromstring(answer.body)  # strictly
        found = [element.text for element in root.iter("{*}Key")]
        assert found == sorted(SAFE, key=str.encode)


def test_what_xml_cannot_say_is_an_entity_and_can_be_encoded() -> None:
    keys = ["\x01\x1f", "\x00", "\ufffe", "a\uffffb", "ok"]
    client = fill(Client(), keys)
    for version in (1, 2):
        body = listed(client, version).body.decode()
        for entity in ("&#x1;&#x1F;", "&#x0;", "&#xFFFE;", "a&#xFFFF;b"):
            assert f"<Key>{entity}</Key>" in body
        answer = listed(client, version, encoding_type="url")
        root = etree.fromstring(answer.body)
        assert [unquote(element.text) for element in root.iter("{*}Key")] == sorted(keys, key=str.encode)
        assert answer.xml.findtext("EncodingType") == "url"


def test_encoding_of_every_name() -> None:
    client = fill(Client(), ["x+/a b", "x+/a b/c*", "x+/~-._"])
    for version, marker in ((1, "marker"), (2, "start-after")):
        answer = client(
            "GET",
            f"/bucket?{'list-type=2&' if version == 2 else ''}encoding-type=url&prefix=x%2B/&delimiter=%20b/&{marker}=%01%20%2B&max-keys=1",
        )
        echoed = "Marker" if version == 1 else "StartAfter"
        assert shown(answer, "Prefix", "Delimiter", echoed) == {
            "Prefix": "x%2B/",
            "Delimiter": "%20b/",
            echoed: "%01%20%2B",
        }
        if version == 1:
            assert answer.xml.findtext("NextMarker") == "x%2B/a%20b"
        everything = listed(client, version, encoding_type="url", delimiter="b/")
        assert everything.all("Contents/Key") == ["x%2B/a%20b", "x%2B/~-._"]
        assert everything.all("CommonPrefixes/Prefix") == ["x%2B/a%20b/"]
        answer = client("GET", f"/bucket?{'list-type=2&' if version == 2 else ''}encoding-type=base64")
        assert (answer.status, answer.code) == (400, "InvalidArgument")


def test_multipart_etags_and_owners() -> None:
    client = Client()
    client("PUT", "/bucket", {"x-amz-acl": "public-read-write"}, identity=OTHER)
    upload = client("POST", "/bucket/parts?uploads", identity=OTHER).xml.findtext("UploadId")
    etag = client("PUT", f"/bucket/parts?uploadId={upload}&partNumber=1", body=b"x", identity=OTHER).headers["etag"]
    xml = (
        f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    )
    client("POST", f"/bucket/parts?uploadId={upload}", body=xml.encode(), identity=OTHER)
    client("PUT", "/bucket/root", body=b"")
    answer = listed(client, fetch_owner="true")
    assert answer.all("Contents/ETag")[0].endswith('-1"')
    assert answer.all("Contents/Owner/DisplayName") == ["name-111111111111", "name-000000000000"]
    assert answer.all("Contents/Owner/ID") == [canonical_of("111111111111"), canonical_of("000000000000")]


def test_a_thousand_and_one() -> None:
    client = Client()
    client.bucket()
    keys = [f"key-{number:05d}" for number in range(1001)]
    client("PUT", "/bucket/one", body=b"x")
    (row,) = client.store.by_name["bucket"].objects.pop(b"one")
    client.store.by_name["bucket"].objects.update({key.encode(): [row] for key in keys})
    answer: Any = listed(client)
    assert (answer.xml.findtext("KeyCount"), answer.xml.findtext("IsTruncated")) == ("1000", "true")
    assert pages(client, 2, 1000) == (keys, [])
    assert pages(client, 1, 1000) == (keys, [])


def test_markers_are_not_listed(client: Client) -> None:
    client.store.switch("bucket", 1)
    client("DELETE", "/bucket/a")
    assert listed(client).all("Contents/Key") == FOLDERS[1:]


def test_a_bucket_that_is_not_there() -> None:
    answer = Client()("GET", "/absent?list-type=2")
    assert (answer.status, answer.code) == (404, "NoSuchBucket")


PIECES = [
    "a", "b", "/", "%", "&", "<", "\n", "\x00", "é", "\uffff", "\ufffe", "(", "~", "+", " ", "'", '"', "漢", "\x7f", "\U0010ffff",
    "%41", "&amp;",
]  # fmt: skip
CYRILLIC = [chr(value) for value in range(0x410, 0x450)]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES) | st.sampled_from(PIECES[:3] + CYRILLIC), max_size=9).map("".join), max_size=12))
def test_keys_are_written_together_as_each_by_itself(texts: list[str]) -> None:
    keys = [text.encode() for text in texts]
    assert key_texts(keys, url=True) == [quote(text, safe="/-_.~") for text in texts]
    assert key_texts(keys, url=False) == [escape_key(key) for key in keys]


def test_times_are_written_together_as_each_by_itself() -> None:
    moments = [0, 1, 999, 59_999, 60_000, 1_709_164_799_999, 1_709_164_800_000, 1_709_164_800_001, 4_102_444_799_123]
    expected = [datetime.fromtimestamp(moment // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment % 1000:03d}Z" for moment in moments]
    assert iso_times(moments) == [iso_time(moment) for moment in moments] == expected


def test_a_page_of_many_blocks_is_whole_and_in_order() -> None:
    keys = [f"k{number:03d}" for number in range(300)]
    client = fill(Client(), keys)
    assert listed(client).all("Contents/Key") == keys
    assert listed(client).all("Contents/Size") == ["4"] * 300


_encode = msgspec.msgpack.Encoder().encode
heads = st.builds(
    Version, st.just(ROW_FORMAT), st.sampled_from([0, NULL]), st.integers(1, 2**62), st.integers(0, 2**42), st.integers(0, 2**45),
    st.binary(min_size=16, max_size=16), st.sampled_from([0, 1, 10_000]), st.integers(1, 2**62),
    st.sampled_from(["", "111122223333", "4" * 12]), st.sampled_from([0, 1]), st.sampled_from([0, 3, 67]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.lists(heads, min_size=1, max_size=12), st.lists(st.tuples(st.integers(0, 11), st.integers(1, 400)), min_size=1, max_size=12),
    st.booleans(), st.integers(0, 40),
)  # fmt: skip
def test_elements_that_are_kept_are_those_that_would_be_made(
    versions: list[Version], pages: list[tuple[int, int]], url: bool, kept_max: int
) -> None:
    contents, names = Contents(kept_max), {"": "nobody", "111122223333": "one", "4" * 12: "four"}
    alike = [msgspec.structs.replace(version, storage_class=1 - version.storage_class) for version in versions]
    rows = [_encode(version) for pair in zip(versions, alike, strict=True) for version in pair]
    for turn, (first, count) in enumerate(pages):
        items = [(b"a&b/%d" % (at % 90), rows[(first + at) % len(rows)]) for at in range(count)]
        if turn % 4 == 3:
            names["4" * 12] = f"four, renamed {turn} times"
            contents.forget()
        form = Form(url != (turn % 5 == 4), () if turn % 3 == 2 else ("", turn % 2 == 1))
        prefix = "all" if turn % 2 else "own"

        def owner(account: str, prefix: str = prefix) -> str:
            return f"<Owner>{prefix} {names[account]}</Owner>"

        told = b"".join(contents.elements(items, form, owner))
        assert told == b"".join(Contents().elements(items, form, owner))
        assert told.count(b"<Key>") == count
        assert told.count(b"<Owner>") == (count if form.owners else 0)


def test_a_listing_shows_what_changed_since_the_last(client: Client) -> None:
    for turn in range(4):
        assert client("PUT", "/bucket/a/c", body=b"x" * (10 + turn)).status == 200
        for _ in range(3):
            answer = listed(client, fetch_owner="true")
            assert answer.all("Contents/Key") == FOLDERS
            assert dict(zip(FOLDERS, answer.all("Contents/Size"), strict=True))["a/c"] == str(10 + turn)
