"""A Delete document as most clients write it is read at once: the same as by the XML parser."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from titans3.limits import DELETE_OBJECTS_MAX
from titans3.s3.errors import S3Error
from titans3.s3.xmlin import DeleteItem, parse_delete, plain_delete

SPACE = b' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_keys = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7F), max_size=8) | st.sampled_from(
    ("a&amp;b", "]]>", "\u00e9", "&#65;", "\n")
)
_quiet = st.sampled_from(("", "<Quiet>true</Quiet>", "<Quiet>false</Quiet>", "<Quiet>1</Quiet>", "<Quiet/>"))


def told(data: bytes) -> object:
    try:
        return parse_delete(data)
    except S3Error as error:
        return error.code


@given(
    keys=st.lists(_keys, max_size=4),
    before=_quiet,
    after=_quiet,
    space=st.sampled_from((b"", SPACE, b' xmlns="else"')),
    between=st.sampled_from(("", " ", "<VersionId>null</VersionId>")),
)
@example(keys=["a", "b"], before="", after="", space=SPACE, between="")
@example(keys=["a"], before="<Quiet>true</Quiet>", after="<Quiet>false</Quiet>", space=b"", between="")
@example(keys=["a"], before="", after="", space=b"<Object><Key>", between="")
@example(keys=["a</Key></Object><Object><Key>"], before="", after="", space=b"", between="")
def test_what_is_read_at_once_is_what_the_parser_reads(
    keys: list[str], before: str, after: str, space: bytes, between: str
) -> None:
    objects = "".join(f"<Object><Key>{key}</Key>{between}</Object>" for key in keys)
    document = b"<Delete" + space + b">" + f"{before}{objects}{after}</Delete>".encode()
    assert told(document) == told(b"<?xml version='1.0'?>" + document)  # which only the parser takes


@pytest.mark.parametrize("ending", [b"</Key></Object></Delete>", b"&amp;</Key></Object></Delete>", b""])
def test_a_long_document_takes_no_memory_and_no_time(ending: bytes) -> None:
    document = b"<Delete><Object><Key>" + b"k" * 2_000_000 + ending
    tracemalloc.start()
    try:
        told(document)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 5 * len(document)


def test_as_many_keys_as_are_allowed_and_one_more() -> None:
    def document(count: int) -> bytes:
        return b"<Delete>" + b"".join(b"<Object><Key>k%d</Key></Object>" % at for at in range(count)) + b"</Delete>"

    assert plain_delete(document(DELETE_OBJECTS_MAX)) == parse_delete(document(DELETE_OBJECTS_MAX))
    items, quiet = parse_delete(document(DELETE_OBJECTS_MAX))
    assert items == [DeleteItem(b"k%d" % at) for at in range(DELETE_OBJECTS_MAX)]
    assert not quiet
    with pytest.raises(S3Error, match="MalformedXML"):
        parse_delete(document(DELETE_OBJECTS_MAX + 1))
