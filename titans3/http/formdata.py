"""multipart/form-data as S3's forms send it: some fields, then one file, which is handed on piece by piece.

Source: RFC 7578, RFC 2046 5.1 and https://docs.aws.amazon.com/AmazonS3/latest/API/RESTObjectPOST.html

Invariants
* :class:`FormDecoder` is pure. Pieces may be cut anywhere, also in a boundary; the same form gives the same events but for their cuts.
* A stranger grows nothing: header lines, fields, their number, and what stands around the parts are bounded (``limits.py``).
* A file's bytes are slices of the pieces that came in; only what may be the beginning of a boundary at a piece's end is copied.
* The end of the file is told only after the whole form was read: no part of a form that is cut off is taken for all of it.
* Field names are lower case. A field that is given twice is refused, so that nobody reads another one than who checked it.
"""

from __future__ import annotations

import re
from collections import deque
from enum import Enum
from typing import Protocol
from urllib.parse import unquote

import msgspec

from titans3.errors import ClientError, Reason
from titans3.limits import (
    FORM_AROUND_BYTES_MAX,
    FORM_BOUNDARY_BYTES_MAX,
    FORM_FIELDS_BYTES_MAX,
    FORM_FIELDS_MAX,
    FORM_PART_HEAD_BYTES_MAX,
)

FILE = "file"
_CONTENT_TYPE = re.compile(rb'multipart/form-data\s*;(?:.*;)?\s*boundary=(?:"([^"\r\n]+)"|([^\s;"]+))', re.IGNORECASE | re.DOTALL).match
_PARAMETER = re.compile(r';\s*([A-Za-z*]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;]*))').finditer
_ESCAPED = re.compile(r'\\(["\\])').sub
_LINE_BYTES_MAX = 256  # what may stand behind a boundary on its line
_MANY_MAX = FORM_FIELDS_MAX  # parts behind the file
_DATA, _LINE, _HEAD, _DONE = range(4)


class Mark(Enum):
    """Events without a value."""

    PART_END = 1
    FORM_END = 2


class Part(msgspec.Struct, frozen=True):
    """The beginning of a part. ``filename`` is ``None`` for a part that gives none."""

    name: str
    filename: str | None


# ``memoryview`` is a slice of the piece that was fed, ``bytes`` were held back from the one before.
Event = Part | Mark | memoryview | bytes


class PieceSource(Protocol):
    """What :class:`titans3.http.payload.Payload` has."""

    async def next(self) -> memoryview | None: ...
    def release(self, piece: memoryview) -> None: ...


def malformed(message: str) -> ClientError:
    """The body is no form."""
    return ClientError(Reason.FORM_MALFORMED, message)


def boundary_of(content_type: bytes) -> bytes | None:
    """The boundary of a multipart/form-data Content-Type, ``None`` for another type. Raises FORM_MALFORMED without a usable one."""
    if content_type[:19].lower() != b"multipart/form-data":
        return None
    found = _CONTENT_TYPE(content_type)
    boundary = (found[1] or found[2]) if found else b""
    if not 1 <= len(boundary) <= FORM_BOUNDARY_BYTES_MAX:
        raise malformed("The boundary of the form is missing or malformed.")
    return boundary


class FormDecoder:
    """One form's state. Bytes in, events out."""

    __slots__ = ("_delimiter", "_inside", "_phase", "_tail", "_text")

    def __init__(self, boundary: bytes) -> None:
        assert 1 <= len(boundary) <= FORM_BOUNDARY_BYTES_MAX
        self._delimiter = b"\r\n--" + boundary
        self._phase = _DATA
        self._tail = b"\r\n"  # the first boundary needs no line before it
        self._text = b""
        self._inside = False  # a part, not what stands in front of the first

    def feed(self, piece: memoryview) -> list[Event]:
        """The events of a piece. What follows the last boundary is thrown away. Raises ClientError(FORM_MALFORMED)."""
        events: list[Event] = []
        at, end = 0, len(piece)
        while at < end and self._phase != _DONE:
            if self._phase == _DATA:
                at = self._take_data(piece, at, events)
            elif self._phase == _LINE:
                at = self._take_line(piece, at, events)
            else:
                at = self._take_head(piece, at, events)
        return events

    def finish(self) -> None:
        """The body has ended. Raises ClientError(FORM_MALFORMED) if the form has not."""
        if self._phase != _DONE:
            raise malformed("The form ended before its last boundary.")

    # data

    def _take_data(self, piece: memoryview, at: int, events: list[Event]) -> int:
        """Data up to the next boundary or the end of the piece. Returns the new position."""
        delimiter = self._delimiter
        held = self._tail
        if held:
            joint = held + bytes(piece[at : at + len(delimiter) - 1])
            found = joint.find(delimiter)
            if found >= 0:
                self._emit(joint[:found], events)
                self._tail = b""
                return self._end_data(at + found + len(delimiter) - len(held), events)
            if len(joint) < len(held) + len(delimiter) - 1:  # the piece is shorter than a boundary
                keep = _prefix_at_end(joint, delimiter)
                self._emit(joint[: len(joint) - keep], events)
                self._tail = joint[len(joint) - keep :]
                return len(piece)
            self._emit(held, events)
            self._tail = b""
        view = piece[at:]
        data = bytes(view)
        found = data.find(delimiter)
        if found >= 0:
            self._emit(view[:found], events)
            return self._end_data(at + found + len(delimiter), events)
        keep = _prefix_at_end(data, delimiter)
        self._emit(view[: len(data) - keep], events)
        self._tail = data[len(data) - keep :]
        return len(piece)

    def _emit(self, data: memoryview | bytes, events: list[Event]) -> None:
        if len(data):
            events.append(data)

    def _end_data(self, at: int, events: list[Event]) -> int:
        if self._inside:
            events.append(Mark.PART_END)
        self._inside = False
        self._phase = _LINE
        return at

    # boundary lines and header lines

    def _take_line(self, piece: memoryview, at: int, events: list[Event]) -> int:
        """The rest of a boundary's line: ``--`` ends the form, else it is empty but for blanks."""
        before = len(self._text)
        text = self._text + bytes(piece[at : at + _LINE_BYTES_MAX])
        if text[:2] == b"--":
            self._phase = _DONE
            events.append(Mark.FORM_END)
            return len(piece)
        cut = text.find(b"\n")
        line = text if cut < 0 else text[: cut + 1]
        if line.strip(b" \t\r\n") not in ((b"", b"-") if cut < 0 else (b"",)) or len(line) > _LINE_BYTES_MAX:
            raise malformed("A boundary of the form has more on its line.")
        if cut < 0:
            self._text = text
            return at + len(text) - before
        if line[-2:] != b"\r\n":
            raise malformed("A line of the form does not end in CR LF.")
        self._text = b""
        self._phase = _HEAD
        return at + cut + 1 - before

    def _take_head(self, piece: memoryview, at: int, events: list[Event]) -> int:
        """The header lines of a part, up to the empty one."""
        before = len(self._text)
        text = self._text + bytes(piece[at : at + FORM_PART_HEAD_BYTES_MAX + 4 - before])
        cut = text.find(b"\r\n\r\n", max(0, before - 3))
        if text[:2] == b"\r\n" or (cut < 0 and len(text) > FORM_PART_HEAD_BYTES_MAX):
            raise malformed("The header lines of a part are too long or missing.")
        if cut < 0:
            self._text = text
            return at + len(text) - before
        self._text = b""
        events.append(_part_of(text[:cut]))
        self._inside = True
        self._phase = _DATA
        return at + cut + 4 - before


def _prefix_at_end(data: bytes, delimiter: bytes) -> int:
    """How many bytes at the end of ``data`` may be the beginning of the delimiter, which has its only CR in front."""
    start = max(0, len(data) - len(delimiter) + 1)
    at = data.find(b"\r", start)
    while at >= 0:
        if delimiter.startswith(data[at:]):
            return len(data) - at
        at = data.find(b"\r", at + 1)
    return 0


def _part_of(head: bytes) -> Part:
    """The Content-Disposition among a part's header lines. Raises FORM_MALFORMED."""
    for line in head.split(b"\r\n"):
        name, mark, raw = line.partition(b":")
        if mark and name.strip().lower() == b"content-disposition":
            try:
                text = raw.decode("utf-8").strip()
            except UnicodeDecodeError as error:
                raise malformed("The header lines of a part are no UTF-8.") from error
            if text[:9].lower() != "form-data":
                break
            found = {item[1].lower(): _ESCAPED(r"\1", item[2]) if item[2] is not None else item[3] for item in _PARAMETER(text)}
            if found.get("name"):
                return Part(found["name"], found.get("filename", _extended(found.get("filename*"))))
    raise malformed("A part of the form has no Content-Disposition with a name.")


def _extended(text: str | None) -> str | None:
    """``UTF-8''%e2%82%ac``, which RFC 7578 forbids and some libraries send."""
    return None if text is None else unquote(text.rpartition("'")[2], errors="replace")


class FormReader:
    """A form as it comes in. After ``read_fields`` it is the file's bytes: what a body is received from."""

    __slots__ = (
        "_around",
        "_decoder",
        "_ended",
        "_ends",
        "_ignored",
        "_name",
        "_own",
        "_ready",
        "_size",
        "_source",
        "_value",
        "fields",
        "filename",
        "has_file",
    )

    length: int | None = None  # nobody knows where the last boundary begins

    def __init__(self, source: PieceSource, boundary: bytes) -> None:
        self.fields: dict[str, bytes] = {}  # values as they came, by lower-case name; complete after ``read_fields``
        self.filename = ""
        self.has_file = False
        self._source = source
        self._decoder = FormDecoder(boundary)
        self._ready: deque[memoryview] = deque()
        self._own: list[bytes] = []
        self._name: str | None = None  # of the field that is being read
        self._value = bytearray()
        self._size = 0
        self._around = 0
        self._ignored = 0
        self._ends = False  # the last boundary was seen
        self._ended = False

    @property
    def trailers(self) -> dict[str, str]:
        """A form has none."""
        return {}

    @property
    def sha256(self) -> str | None:
        """Nobody has computed it."""
        return None

    async def read_fields(self) -> bool:
        """Read up to the file's first byte; whether there is a file. Raises ClientError: FORM_MALFORMED, FORM_FIELDS, the body's own."""
        while not self.has_file and not self._ends:
            if not await self._more():
                break
        return self.has_file

    def defer(self) -> None:
        """Nothing signs the bytes of a file: there is nothing to prove."""

    def prove(self) -> None:
        """Nothing."""

    async def next(self) -> memoryview | None:
        """Next piece of the file, ``None`` once the whole form was read. Raises ClientError: FORM_MALFORMED, FORM_FILES, the body's own."""
        assert self.has_file
        while not self._ready:
            if self._ended or not await self._more():
                return None
        return self._ready.popleft()

    async def read_all(self, limit: int) -> bytes:
        """The rest of the file. Raises ClientError(TOO_LARGE) past ``limit`` bytes."""
        found = bytearray()
        while (piece := await self.next()) is not None:
            found += piece
            self.release(piece)
            if len(found) > limit:
                raise ClientError(Reason.TOO_LARGE, limit=limit)
        return bytes(found)

    def release(self, piece: memoryview) -> None:
        """Hand a piece of the file back."""
        if not self._release_own(piece):
            self._source.release(piece)

    def _release_own(self, piece: memoryview) -> bool:
        for place, own in enumerate(self._own):
            if piece.obj is own:
                del self._own[place]
                return True
        return False

    def _forget(self) -> None:
        """Drop what is ready: of the source's pieces that is at most the one that is being read, whose reader releases it."""
        while self._ready:
            self._release_own(self._ready.popleft())

    def close(self) -> None:
        """Give back what was read and not taken."""
        while self._ready:
            self.release(self._ready.popleft())

    async def _more(self) -> bool:
        """One piece; ``False`` at the end of the form."""
        piece = await self._source.next()
        if piece is None:
            self._decoder.finish()
            self._ended = True
            return False
        kept = False
        try:
            if self._ends:
                self._skip(len(piece))
            for event in self._decoder.feed(piece):
                kept |= self._on(event)
        except BaseException:
            self._forget()
            self._source.release(piece)
            raise
        if not kept:
            self._source.release(piece)
        return True

    def _on(self, event: Event) -> bool:
        """Act on an event; whether a slice of the piece was put into ``_ready``."""
        if isinstance(event, Part):
            self._begin(event)
        elif event is Mark.PART_END:
            self._end_part()
        elif event is Mark.FORM_END:
            self._ends = True
        elif self._name == FILE:
            assert isinstance(event, bytes | memoryview)
            if isinstance(event, bytes):
                self._own.append(event)
                self._ready.append(memoryview(event))
                return False
            self._ready.append(event)
            return True
        elif self._name is not None:
            assert isinstance(event, bytes | memoryview)
            self._grow(len(event))
            self._value += event
        else:
            assert isinstance(event, bytes | memoryview)
            self._skip(len(event))
        return False

    def _begin(self, part: Part) -> None:
        name = part.name.lower()
        if self.has_file:
            self._ignored += 1
            if name == FILE:
                raise ClientError(Reason.FORM_FILES)
            if self._ignored > _MANY_MAX:
                raise malformed("Too many fields follow the file.")
            return
        self._name = name
        if name == FILE:
            self.has_file = True
            self.filename = part.filename or ""
            return
        if name in self.fields:
            raise malformed(f"The field {name[:60]} is given twice.")
        if len(self.fields) == FORM_FIELDS_MAX:
            raise ClientError(Reason.FORM_FIELDS)
        self._grow(len(name.encode()))

    def _end_part(self) -> None:
        if self._name is not None and self._name != FILE:
            self.fields[self._name] = bytes(self._value)
            self._value.clear()
        self._name = None

    def _grow(self, count: int) -> None:
        self._size += count
        if self._size > FORM_FIELDS_BYTES_MAX:
            raise ClientError(Reason.FORM_FIELDS)

    def _skip(self, count: int) -> None:
        self._around += count
        if self._around > FORM_AROUND_BYTES_MAX:
            raise malformed("The form has too much in front of its first part or behind its file.")
