"""Records and commands for people: named fields, never a secret."""

from __future__ import annotations

import json

import msgspec
import pytest

from titans3.jobs.shown import named, shown_command, shown_record
from titans3.model.command import Cas, DeleteEntry, DeleteObjects, PutObject
from titans3.model.identity import CREDENTIAL_FORMAT, Credential, User
from titans3.model.version import Version

SECRET = b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
encode = msgspec.msgpack.encode


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("/credentials/AK", encode(Credential(CREDENTIAL_FORMAT, "AK", SECRET, "000000000000"))),
        ("/credentials/AK", encode([1, "AK", SECRET.decode(), "000000000000"])),  # format 1 had it in the clear
        ("/credentials/AK", b"\xc1" + SECRET),
        ("/credentials/AK", encode([])),
        ("/users/000000000000/a", encode(User(1, "000000000000", "a", "id", "/", 0, password=SECRET.decode()))),
        ("/kind-of-tomorrow/x", encode([1, SECRET.decode()])),
        ("no-slash", SECRET),
    ],
)
def test_a_secret_is_never_shown(key: str, value: bytes) -> None:
    for told in (shown_record(key, value), shown_command(Cas(((key, value),), {}))):
        text = json.dumps(told)
        assert SECRET.decode() not in text
        assert SECRET.hex() not in text


def test_fields_have_names_and_keys_are_text() -> None:
    version = Version(1, 0, 3, 4, 5, bytes(16), 0, 9, metadata={"a": "b"}, acl=b"x" * 100)
    told = shown_command(PutObject(7, "ü/\udcff".encode("utf-8", "surrogateescape"), version))
    assert (told["name"], told["bucket"], told["key"]) == ("PutObject", 7, "ü/\\xff")
    assert told["version"]["metadata"] == {"a": "b"}
    assert told["version"]["acl"].keys() == {"bytes", "sha256"}
    told = shown_command(DeleteObjects(7, (DeleteEntry(b"k", "null"),), 1, bytes(8)))
    assert told["entries"] == [{"key": "k", "version_id": "null", "condition": None}]
    assert shown_record("/feature_level", b"3") == "3"
    assert named({b"\1": (1, b"\2")}) == {"01": [1, "02"]}
    json.dumps(told)
