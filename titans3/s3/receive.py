"""Take an object's bytes: small ones into memory, large ones into the store's sink, with every digest on the way. Hot.

Invariants
* Nothing is committed here, and nothing may be committed before ``receive`` returned: only then the body is whole and every digest holds.
* When anything fails the sink is abandoned, after its last write has ended: a buffer never goes back while a thread reads it.
* Memory per body is bounded: one piece is written while the next one is received.
"""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import msgspec

from titans3.cluster.store import BodySink, Digest
from titans3.errors import ClientError, Reason
from titans3.http.hashing import BodyHashing, update_held
from titans3.lanes.batches import Md5Batches
from titans3.lanes.digests import Md5
from titans3.model.version import Checksum, Extent
from titans3.s3 import checksum
from titans3.s3.errors import S3Error

T = TypeVar("T")
OpenSink = Callable[[int | None], Awaitable[BodySink]]


class ObjectBytes(Protocol):
    """Where an object's bytes come from: what :class:`titans3.http.payload.Payload` promises, and the file of a form."""

    @property
    def length(self) -> int | None: ...
    @property
    def trailers(self) -> dict[str, str]: ...
    @property
    def sha256(self) -> str | None: ...
    def defer(self) -> Digest | None: ...
    def prove(self) -> None: ...
    async def read_all(self, limit: int) -> bytes: ...
    async def next(self) -> memoryview | None: ...
    def release(self, piece: memoryview) -> None: ...


class Received(msgspec.Struct, gc=False):
    """A body that is whole and proven: in ``data``, or in ``extents`` with ``sink`` to abandon if the commit fails."""

    size: int
    md5: bytes
    data: bytes
    extents: tuple[Extent, ...] = ()
    checksum: Checksum | None = None
    sink: BodySink | None = None


class Proof(msgspec.Struct, gc=False):
    """What the client said about its body; ``algorithm`` is a checksum to compute even if it said nothing."""

    md5: bytes | None = None
    claim: checksum.Claim | None = None
    algorithm: str = ""


def proof_of(fields: dict[bytes, bytes], *, algorithm: str = "") -> Proof:
    """Content-MD5 and x-amz-checksum-*. Raises InvalidDigest, InvalidRequest."""
    md5 = None
    text = fields.get(b"content-md5")
    if text is not None:
        md5 = _decode_md5(text)
    claim = checksum.claimed(fields)
    return Proof(md5, claim, claim.algorithm if claim is not None else algorithm)


def _decode_md5(text: bytes) -> bytes:
    try:
        value = b64decode(text.strip(), validate=True)
    except ValueError as error:
        raise _invalid_digest(text) from error
    if len(value) != 16:
        raise _invalid_digest(text)
    return value


def _invalid_digest(text: bytes) -> S3Error:
    error = S3Error("InvalidDigest")
    error.fields["Content-MD5"] = text.decode("latin-1")[:100]
    return error


async def receive(
    payload: ObjectBytes, proof: Proof, *, small: int, limit: int, open_sink: OpenSink, hashing: BodyHashing
) -> Received:
    """The whole body. ``small`` bytes or fewer stay in memory; more than ``limit`` is EntityTooLarge."""
    length = payload.length
    if length is not None and length > limit:
        raise too_large(length, limit)
    if length is not None and length <= small:
        return judge_small(await payload.read_all(small), payload, proof)
    if length is None:
        start = await _first_bytes(payload, small)
        if len(start) <= small:
            return judge_small(start, payload, proof)
    else:
        start = b""
    return await _stream(payload, proof, start, length, limit, open_sink, hashing)


def judge_small(data: bytes, payload: ObjectBytes, proof: Proof) -> Received:
    """Digests of a body in memory. Raises BadDigest, MalformedTrailerError."""
    digest = hashlib.md5(usedforsecurity=False)
    update_held(digest, data)
    md5 = digest.digest()
    value = b""
    algorithm = proof.algorithm
    if algorithm:
        proven = payload.sha256 if algorithm == "sha256" else None
        value = bytes.fromhex(proven) if proven else checksum.digest_of(algorithm, data)
    return Received(len(data), md5, data, (), judge(proof, md5, value, payload.trailers))


def judge(proof: Proof, md5: bytes, value: bytes, trailers: dict[str, str]) -> Checksum | None:
    """Compare what was computed with what was promised. Raises BadDigest."""
    if proof.md5 is not None and proof.md5 != md5:
        raise S3Error("BadDigest", "The Content-MD5 you specified did not match what we received.", CalculatedDigest=md5.hex())
    if not proof.algorithm:
        return None
    if proof.claim is not None:
        checksum.complete_claim(proof.claim, trailers)
        if proof.claim.value != value:
            raise checksum.bad_digest(proof.algorithm)
    return Checksum(proof.algorithm, value)


class BodyDigests:
    """What is computed of one body on its way into a sink: its MD5, in lanes if there are any, a checksum if ``algorithm`` names one."""

    def __init__(self, batches: Md5Batches | None, algorithm: str, proof: Digest | None = None) -> None:
        """``proof``: takes every byte, too."""
        self._batches = batches
        self._lane: Md5 | None = None
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._checksum = checksum.new_digest(algorithm) if algorithm else None
        with_write: list[Digest] = [] if proof is None else [proof]
        if self._batches is None:
            with_write.append(self._md5)
        if self._checksum is not None:
            with_write.append(self._checksum)
        self._with_write = with_write

    def begin(self) -> None:
        """Pieces are about to come; ``end`` is called, whatever happens."""
        if self._batches is not None:
            self._lane = self._batches.begin()

    def end(self) -> None:
        """No more pieces come."""
        if self._batches is not None and self._lane is not None:
            self._batches.end(self._lane)

    async def write(self, sink: BodySink, piece: memoryview) -> None:
        """Hash and write a piece; it is free afterwards, however this ends."""
        if self._batches is None or self._lane is None:
            await sink.write(piece, self._with_write)
            return
        hashing = self._batches.update(self._lane, piece)
        try:
            await sink.write(piece, self._with_write)
        finally:
            if not hashing.done():
                await asyncio.wait([hashing])
        hashing.result()

    def md5(self) -> bytes:
        """Of everything that was written."""
        if self._batches is None or self._lane is None:
            return self._md5.digest()
        return self._batches.digest(self._lane)

    def checksum(self) -> bytes:
        """Of everything that was written; empty without an algorithm."""
        return b"" if self._checksum is None else self._checksum.digest()


async def _first_bytes(payload: ObjectBytes, small: int) -> bytes:
    """Up to the end, or until there is more than ``small``."""
    start = bytearray()
    while len(start) <= small and (piece := await payload.next()) is not None:
        start += piece
        payload.release(piece)
    return bytes(start)


async def _stream(
    payload: ObjectBytes, proof: Proof, start: bytes, length: int | None, limit: int, open_sink: OpenSink, hashing: BodyHashing
) -> Received:
    digests = BodyDigests(hashing.batches_for(length), proof.algorithm, None if start else payload.defer())
    sink = await open_sink(length)
    try:
        size = await pump(payload.next, payload.release, sink, digests, start, limit)
        payload.prove()
        total, value = digests.md5(), digests.checksum()
        proven = judge(proof, total, value, payload.trailers)
        extents = await sink.finish(total)
    except BaseException:
        sink.abandon()
        raise
    return Received(size, total, b"", extents, proven, sink)


async def pump(
    take: Callable[[], Awaitable[memoryview | None]],
    release: Callable[[memoryview], None],
    sink: BodySink,
    digests: BodyDigests,
    start: bytes,
    limit: int,
) -> int:
    """Move pieces from ``take`` to the sink, one write under way while the next piece comes. Returns bytes moved."""

    async def write(piece: memoryview) -> None:
        try:
            await digests.write(sink, piece)
        finally:
            release(piece)

    size = len(start)
    writing: asyncio.Future[None] | None = None
    digests.begin()
    try:
        if start:
            await digests.write(sink, memoryview(start))
        while (piece := await take()) is not None:
            if writing is not None:
                done, writing = writing, None
                try:
                    await done
                except BaseException:
                    release(piece)
                    raise
            size += len(piece)
            if size > limit:
                release(piece)
                raise too_large(size, limit)
            writing = asyncio.ensure_future(write(piece))
        if writing is not None:
            done, writing = writing, None
            await done
    finally:
        if writing is not None:
            await asyncio.wait([writing])
            if not writing.cancelled():
                writing.exception()  # retrieved: the first failure is the one that is raised
        digests.end()
    return size


# Refusals that prove that no commit happened. After anything else the bytes may be in use: they are left to the sweep.
_NOT_COMMITTED = frozenset((
    Reason.BUCKET_ABSENT, Reason.BUCKET_BUSY, Reason.KEY_ABSENT, Reason.PRECONDITION, Reason.CONFLICT, Reason.UPLOAD_ABSENT, Reason.FENCED,
    Reason.LOCKED, Reason.QUOTA, Reason.PART_NUMBER,
))


async def commit(sink: BodySink | None, step: Awaitable[T]) -> T:
    """Await a commit; abandon the sink's bytes if it was refused for certain."""
    try:
        return await step
    except ClientError as error:
        if sink is not None and error.reason in _NOT_COMMITTED:
            sink.abandon()
        raise


def too_large(size: int, limit: int) -> S3Error:
    """EntityTooLarge."""
    return S3Error("EntityTooLarge", ProposedSize=str(size), MaxSizeAllowed=str(limit))
