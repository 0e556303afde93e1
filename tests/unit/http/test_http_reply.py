"""Response heads: framing, the date that is made once a second, and values that cannot break out of their line."""

from __future__ import annotations

import pytest

from titans3.http.reply import ReplyHeads, RequestIds, error_xml

NOW = 1769860800.9


def build(
    status: int = 200, headers: list[tuple[bytes, bytes]] | None = None, length: int | None = 5, now: float = NOW, connection: bytes = b""
) -> bytes:
    return ReplyHeads("node").build(status, headers or [], length=length, request_id="ABCD", now=now, connection=connection)


def test_a_whole_head() -> None:
    assert build(headers=[(b"etag", b'"x"')], connection=b"close") == (
        b"HTTP/1.1 200 OK\r\nDate: Sat, 31 Jan 2026 12:00:00 GMT\r\nServer: TitanS3\r\nx-amz-id-2: node\r\nx-amz-request-id: ABCD\r\n"
        b'etag: "x"\r\nContent-Length: 5\r\nConnection: close\r\n\r\n'
    )


def test_the_date_moves_on() -> None:
    heads = ReplyHeads("node")
    dates = [heads.build(200, [], length=0, request_id="A", now=now).split(b"\r\n")[1] for now in (NOW, NOW + 0.05, NOW + 1, NOW)]
    assert [date[-6:-4] for date in dates] == [b"00", b"00", b"01", b"00"]


@pytest.mark.parametrize(
    ("status", "length", "line"),
    [(200, 0, True), (200, 5_000_000, True), (204, 0, False), (304, 0, False), (412, 9, True), (416, 9, True), (200, None, False)],
)
def test_content_length(status: int, length: int | None, line: bool) -> None:
    assert (b"Content-Length: %d\r\n" % (length or 0) in build(status, length=length)) is line


@pytest.mark.parametrize("value", [b"a\r\nSet-Cookie: x", b"a\nb", b"a\rb", b"a\0b"])
def test_a_value_cannot_break_out(value: bytes) -> None:
    with pytest.raises(ValueError, match="line break"):
        build(headers=[(b"content-disposition", value)])


def test_request_ids_are_unique_and_of_one_form() -> None:
    ids = RequestIds((1 << 64) - 3)
    made = [ids.next() for _ in range(10_000)]
    assert len(set(made)) == len(made)
    assert all(len(name) == 16 and set(name) <= set("0123456789ABCDEF") for name in made)


def test_error_document_is_escaped() -> None:
    assert b"<Message>a &lt;b&gt; &amp;</Message>" in error_xml("Code", "a <b> &", "ID", "host")
