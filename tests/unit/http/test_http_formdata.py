"""Forms: any cut of any form gives the same fields and file; what is malformed or too large is refused by its reason."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titans3.errors import ClientError, Reason
from titans3.http.formdata import FormReader, boundary_of
from titans3.limits import FORM_AROUND_BYTES_MAX, FORM_FIELDS_BYTES_MAX, FORM_FIELDS_MAX, FORM_PART_HEAD_BYTES_MAX

BOUNDARY = b"--xYz"


class Pieces:
    """A body in given pieces; counts what is out."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self.out = 0
        self.most = 0

    async def next(self) -> memoryview | None:
        if not self._pieces:
            return None
        self.out += 1
        self.most = max(self.most, self.out)
        return memoryview(bytearray(self._pieces.pop(0)))

    def release(self, piece: memoryview) -> None:
        self.out -= 1
        assert self.out >= 0


def part(name: str, value: bytes, filename: str | None = None, more: str = "") -> bytes:
    given = "" if filename is None else f'; filename="{filename}"'
    return f'Content-Disposition: form-data; name="{name}"{given}\r\n{more}\r\n'.encode() + value


def form(*parts: bytes, boundary: bytes = BOUNDARY, before: bytes = b"", after: bytes = b"\r\n") -> bytes:
    return before + b"".join(b"--" + boundary + b"\r\n" + item + b"\r\n" for item in parts) + b"--" + boundary + b"--" + after


def read(pieces: list[bytes], boundary: bytes = BOUNDARY) -> tuple[dict[str, bytes], str, bytes | None]:
    """(fields, filename, file)."""

    async def run() -> tuple[dict[str, bytes], str, bytes | None]:
        source = Pieces(pieces)
        reader = FormReader(source, boundary)
        try:
            if not await reader.read_fields():
                return reader.fields, reader.filename, None
            return reader.fields, reader.filename, await reader.read_all(1 << 30)
        finally:
            reader.close()
            assert source.out == 0, "every piece was released"
            assert source.most <= 1

    return asyncio.run(run())


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


NASTY = st.lists(
    st.sampled_from([b"\r\n--", b"\r\n--" + BOUNDARY[:-1], b"--" + BOUNDARY, b"\r", b"\n", b"-", b"\r\n", b"\0", b"data", b"\r\r\n--"]),
    max_size=12,
).map(b"".join)


@given(
    st.lists(st.tuples(st.text("abcdefgh", min_size=1, max_size=8), NASTY), max_size=5, unique_by=lambda item: item[0]),
    NASTY | st.binary(max_size=300),
    st.lists(st.integers(0, 5000), max_size=12),
    st.sampled_from([b"", b"preamble\r\n", b"\r\n"]),
    st.sampled_from([b"", b"\r\n", b"\r\nepilogue"]),
    st.booleans(),
)
@settings(max_examples=500, deadline=None)
def test_any_split_of_any_form_gives_the_same(
    fields: list[tuple[str, bytes]], data: bytes, places: list[int], before: bytes, after: bytes, more: bool
) -> None:
    values = [item for item in fields if b"\r\n--" + BOUNDARY not in b"\r\n" + item[1] + b"\r\n"]
    if b"\r\n--" + BOUNDARY in data + b"\r\n":
        data = b""
    parts = [part(name, value) for name, value in values] + [part("file", data, "a b.txt", "Content-Type: text/plain\r\n")]
    if more:
        parts.append(part("submit", b"Upload"))
    whole = form(*parts, before=before, after=after)
    expected = (dict(values), "a b.txt", data)
    assert read([whole]) == expected
    assert read(cut(whole, places)) == expected
    assert read([whole[at : at + 1] for at in range(len(whole))]) == expected


def test_large_file_in_large_pieces_is_not_copied() -> None:
    data = (b"\r\n--" + BOUNDARY[:3]) * 200_000
    whole = form(part("key", b"k"), part("file", data, "f"))
    fields, filename, found = read([whole[at : at + 65_536] for at in range(0, len(whole), 65_536)])
    assert (fields, filename, found == data) == ({"key": b"k"}, "f", True)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data;charset=utf-8; boundary="a b"', b"a b"),
        (b"multipart/form-data;boundary=----WebKitFormBoundary7MA4YWxk; x=y", b"----WebKitFormBoundary7MA4YWxk"),
        (b"text/plain; boundary=abc", None),
        (b"", None),
    ],
)
def test_boundary(content_type: bytes, expected: bytes | None) -> None:
    assert boundary_of(content_type) == expected


@pytest.mark.parametrize(
    "content_type", [b"multipart/form-data", b"multipart/form-data; boundary=", b"multipart/form-data; boundary=" + b"a" * 201]
)
def test_unusable_boundary(content_type: bytes) -> None:
    with pytest.raises(ClientError) as caught:
        boundary_of(content_type)
    assert caught.value.reason is Reason.FORM_MALFORMED


@pytest.mark.parametrize(
    ("line", "filename"),
    [
        ('name="file"; filename="a\\"b.txt"', 'a"b.txt'),
        ('filename="x;y=z.txt"; name="file"', "x;y=z.txt"),
        ("name=file; filename=plain.txt", "plain.txt"),
        ('name="FILE"; filename="C:\\dir\\x.txt"', "C:\\dir\\x.txt"),
        ("name=\"file\"; filename*=utf-8''%e2%82%ac.txt", "€.txt"),
        ('name="file"; filename="ü.txt"', "ü.txt"),
        ('name="file"', ""),
    ],
)
def test_names_of_files(line: str, filename: str) -> None:
    assert read([form(f"Content-Disposition: form-data; {line}\r\n\r\nx".encode())]) == ({}, filename, b"x")


FILE = part("file", b"x", "f")
MALFORMED = {
    "nothing": b"",
    "no boundary": b"just text",
    "no end": form(FILE)[:-5],
    "cut in the file": form(FILE)[:-12],
    "text behind a boundary": b"--" + BOUNDARY + b"abc\r\n" + FILE,
    "line feeds alone": form(FILE).replace(b"\r\n", b"\n"),
    "no headers": form(b"\r\nvalue", FILE),
    "no disposition": form(b"Content-Type: text/plain\r\n\r\nvalue", FILE),
    "no name": form(b"Content-Disposition: form-data\r\n\r\nvalue", FILE),
    "not form-data": form(b'Content-Disposition: attachment; name="a"\r\n\r\nvalue', FILE),
    "no utf-8": form(b'Content-Disposition: form-data; name="\xff"\r\n\r\nvalue', FILE),
    "twice": form(part("a", b"1"), part("A", b"2"), FILE),
    "long headers": form(part("a", b"", more="x: " + "y" * FORM_PART_HEAD_BYTES_MAX + "\r\n"), FILE),
    "long preamble": form(FILE, before=b"x" * (FORM_AROUND_BYTES_MAX + 1) + b"\r\n"),
    "much behind the file": form(FILE, part("a", b"x" * (FORM_AROUND_BYTES_MAX + 1))),
    "many behind the file": form(FILE, *[part(f"a{place}", b"") for place in range(FORM_FIELDS_MAX + 1)]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str) -> None:
    data = MALFORMED[name]
    for size in (len(data) or 1, 7):
        if size == 7 and len(data) > 100_000:
            size = 4099
        with pytest.raises(ClientError) as caught:
            read([data[at : at + size] for at in range(0, len(data), size)])
        assert caught.value.reason is Reason.FORM_MALFORMED


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([part("a", b"x" * FORM_FIELDS_BYTES_MAX), FILE], Reason.FORM_FIELDS),
        ([part("a" * 4000, b"x" * 4000), part("b" * 4000, b"x" * 4000), part("c" * 4000, b"x" * 4000), FILE], Reason.FORM_FIELDS),
        ([*[part(f"a{place}", b"") for place in range(FORM_FIELDS_MAX + 1)], FILE], Reason.FORM_FIELDS),
        ([FILE, FILE], Reason.FORM_FILES),
    ],
)
def test_limits(parts: list[bytes], reason: Reason) -> None:
    for size in (1 << 20, 11):
        data = form(*parts)
        with pytest.raises(ClientError) as caught:
            read([data[at : at + size] for at in range(0, len(data), size)])
        assert caught.value.reason is reason


def test_just_within_the_limits() -> None:
    value = b"x" * (FORM_FIELDS_BYTES_MAX - 1)
    assert read([form(part("a", value), FILE)])[0] == {"a": value}
    names = [f"a{place}" for place in range(FORM_FIELDS_MAX)]
    assert list(read([form(*[part(name, b"") for name in names], FILE)])[0]) == names


def test_a_form_without_a_file() -> None:
    assert read([form(part("a", b"1"))]) == ({"a": b"1"}, "", None)


def test_fields_are_known_before_the_file_is_there() -> None:
    """Who may not store is told so before the file comes."""

    async def run() -> None:
        whole = form(part("key", b"k"), part("file", b"never sent", "f"))
        source = Pieces([whole[: whole.index(b"never")]])
        reader = FormReader(source, BOUNDARY)
        assert await reader.read_fields()
        assert reader.fields == {"key": b"k"}
        with pytest.raises(ClientError):
            await reader.next()

    asyncio.run(run())


@given(st.binary(max_size=400), st.lists(st.integers(0, 500), max_size=5))
@settings(max_examples=300, deadline=None)
def test_anything_is_a_form_or_the_named_error(data: bytes, places: list[int]) -> None:
    for whole in (data, b"--" + BOUNDARY + b"\r\n" + data, form(FILE)[:60] + data):
        try:
            read(cut(whole, places))
        except ClientError as error:
            reason = error.reason
        else:
            continue
        assert reason in (Reason.FORM_MALFORMED, Reason.FORM_FIELDS, Reason.FORM_FILES)
