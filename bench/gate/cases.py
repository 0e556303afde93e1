"""What the gate measures: the steps of the hot path by themselves, and whole requests from the bytes of a head to those of the answer.

A case is played in turns; a turn is so many operations, always the same ones, after a preparation that is not measured. Everything they
work on is made here from fixed names and numbers, so that a turn does the same in every process.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Collection, Generator
from pathlib import Path

from xxhash import xxh3_64_intdigest

from bench.gate import turns
from bench.gate.served import AGENT, BUCKET, IDENTITY, Served, request
from bench.micro import listing, policy
from tests.unit.cluster.workers import version
from titans3.http.authentication import PayloadMode
from titans3.http.awschunked import AwsChunkedDecoder, ChunkSeed
from titans3.http.head import HeadParser
from titans3.http.payload import decoded_in_place
from titans3.http.signing import encode_chunks, presign, sign_headers
from titans3.http.sigv4 import SigV4
from titans3.iam.decision import Identity, Verdict, decide
from titans3.iam.document import Kind, read_policy
from titans3.iam.explain import Imagined
from titans3.iam.policy import Policy
from titans3.limits import MIB
from titans3.meta.environment import Environment
from titans3.meta.keys import PREFIX_BYTES, object_key, object_prefix, successor
from titans3.meta.view import View
from titans3.model.command import EnsureShard, PutObject
from titans3.model.version import INLINE, Extent
from titans3.ring.placement import bucket_groups, ring_hash

KEYS = 64  # of a turn
PAGE = listing.PAGE
SCANNED = 80
LISTED = 2000  # keys under the prefix that is listed
STORED = 10_000  # rows of the view that is read and scanned
STATEMENTS = 100
BODY = hashlib.shake_128(b"body").digest(4096)


class Case:
    """``play`` does ``operations``; ``prepare`` comes before each turn. ``reference``: what its processor time is compared with; ``None``
    if that tells nothing, because threads wait for each other.
    """

    def __init__(
        self, name: str, operations: int, play: Callable[[], None], *, prepare: Callable[[], None] | None = None,
        reference: Callable[[], None] | None = turns.requests,
    ) -> None:  # fmt: skip
        self.name, self.operations, self.play, self.prepare, self.reference = name, operations, play, prepare, reference


Cases = Generator[Case, None, None]


# heads and signatures ----------------------------------------------------------------------------------------------------------------


def _head(number: int, agent: str) -> bytes:
    target = f"/{BUCKET}/9xdEMCkV/{number:04d}.kqhvMRPYBFJ2vHrn.rnd".encode()
    extra = {"host": "127.0.0.1:9000", "user-agent": agent}
    headers = sign_headers(IDENTITY, "GET", target, b"", extra, date="20260131T120000Z").headers
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (target, "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode())


def _presigned(number: int) -> bytes:
    path = f"/{BUCKET}/9xdEMCkV/{number:04d}.kqhvMRPYBFJ2vHrn.rnd".encode()
    query = presign(IDENTITY, "GET", path, b"", {"host": "127.0.0.1:9000"}, date="20260131T120000Z", expires=3600)
    return b"GET %b?%b HTTP/1.1\r\nhost: 127.0.0.1:9000\r\nuser-agent: %b\r\n\r\n" % (path, query, AGENT.encode())


def heads(_: Path) -> Cases:
    """Parsed and the signature checked, as connection and gateway do it."""
    verifier, moment = SigV4({IDENTITY.access_key: IDENTITY.secret}.get), 1769860800.0
    parsers = [HeadParser()]

    def check(data: bytes) -> None:
        head = parsers[0].parse(data)
        path, _, query = head.target.partition(b"?")
        claim = verifier.claim(query, head.fields, moment, shape=head.shape)
        assert claim is not None
        assert verifier.check(claim, IDENTITY.secret, head.method, path, query, head.fields).access_key == IDENTITY.access_key

    def case(name: str, sent: list[bytes], prepare: Callable[[], None]) -> Case:
        def play() -> None:
            for data in sent:
                check(data)

        return Case(name, len(sent), play, prepare=prepare)

    alike = [_head(number, AGENT) for number in range(KEYS)]

    def unseen() -> None:
        parsers[0] = HeadParser()

    def seen() -> None:
        unseen()
        check(alike[0])
        check(alike[0])

    different = [_head(number, AGENT + "x" * number) for number in range(KEYS)]  # of a length each, so that no two have a shape
    yield case("head_full", different, unseen)
    yield case("head_shape", alike, seen)
    yield case("head_presigned", [_presigned(number) for number in range(KEYS)], unseen)


# bodies ------------------------------------------------------------------------------------------------------------------------------


def chunks(_: Path) -> Cases:
    """A mebibyte in aws-chunked coding, as it comes in pieces of the size of a body's buffers."""
    data, date, key = hashlib.shake_128(b"chunks").digest(MIB), "20260131T120000Z", IDENTITY.key("20260131T120000Z")
    for name, mode, reference in (
        ("chunks_signed", PayloadMode.SIGNED_CHUNKS, turns.hashed),
        ("chunks_unsigned", PayloadMode.UNSIGNED_TRAILER, turns.copied),
    ):
        trailers = {"x-amz-checksum-crc32": "AAAAAA=="} if mode is PayloadMode.UNSIGNED_TRAILER else None
        coded = encode_chunks(data, mode, identity=IDENTITY, date=date, seed_signature="0" * 64, trailers=trailers)
        wire = memoryview(bytearray(len(coded)))

        def play(mode: PayloadMode = mode, coded: bytes = coded, wire: memoryview = wire) -> None:
            wire[:] = coded
            seed = ChunkSeed(key, date, IDENTITY.scope(date), "0" * 64) if mode is PayloadMode.SIGNED_CHUNKS else None
            names = frozenset(("x-amz-checksum-crc32",)) if seed is None else frozenset()
            decoder = AwsChunkedDecoder(MIB, seed, with_trailer=seed is None, trailer_names=names)
            found = decoded_in_place(decoder, wire)
            decoder.finish()
            assert found is not None
            assert len(found) == MIB

        yield Case(name, 1, play, reference=reference)


# rows --------------------------------------------------------------------------------------------------------------------------------


def views(folder: Path) -> Cases:
    """Rows of a view: most of them in LMDB, the newest in its overlays."""
    environment = Environment(str(folder), cluster=b"c" * 16, volume=b"v" * 16, map_bytes=1 << 30)
    view = View(environment)
    try:
        listing.fill(environment, view, range(STORED))
        yield from _views(view)
    finally:
        view.close()
        environment.close()


def _views(view: View) -> Cases:
    bucket, gids = listing.BUCKET, bucket_groups(listing.BUCKET, listing.SHARDS)
    names = [listing.name(number) for number in random.Random(1).sample(range(STORED), KEYS)]
    keys = [object_key(ring_hash(bucket, key, listing.SHARDS), bucket, key) for key in names]

    def get() -> None:
        for key in keys:
            assert view.get(key) is not None

    def scan() -> None:
        for gid in gids:
            start = object_prefix(gid, bucket)
            assert len(view.scan(start, successor(start), SCANNED, PREFIX_BYTES)) == SCANNED

    def page() -> None:
        items, truncated = listing.page(view, prefix=b"data/", delimiter=b"", after=b"data/000050/")
        assert len(items) == PAGE
        assert truncated

    yield Case("view_get", KEYS, get)
    yield Case("view_scan", len(gids), scan)
    yield Case("list_page", 1, page)
    for number in range(0, STORED, 10):
        listing.put(view, number)
    yield Case("view_scan_overlay", len(gids), scan)


# decisions ---------------------------------------------------------------------------------------------------------------------------


def decisions(_: Path) -> Cases:
    """What a user's policy allows."""
    text = policy.policy(STATEMENTS, conditions=True, bucket="photos")
    identity = Identity(policy.WHO, (Policy(read_policy(text, Kind.IDENTITY)),))
    asked = [Imagined("s3:GetObject", f"arn:aws:s3:::photos/2026/summer/{number:04d}.jpg", policy.KEYS) for number in range(KEYS)]

    def play() -> None:
        for ask in asked:
            assert decide(identity, ask, policy.WHO.account) is Verdict.ALLOWED

    yield Case("policy", KEYS, play)


# requests ----------------------------------------------------------------------------------------------------------------------------


def _keys(word: str, count: int) -> list[str]:
    return [f"/{BUCKET}/{word}/{number:06d}.kqhvMRPYBFJ2vHrn.rnd" for number in range(count)]


def _commits(served: Served) -> Cases:
    """From a proposal to the log, through the flush thread, to the applied row: one after the other."""
    groups, loop, gid, bucket = served.worker.owner.sets[0], served.loop, 5, 1 << 40
    commands = []
    for number in range(KEYS):
        extents = (Extent(groups.volume.next_data_id(), len(BODY), INLINE, 0, xxh3_64_intdigest(BODY)),)
        commands.append(PutObject(bucket, b"commit/%06d" % number, version(BODY, extents=extents, nonce=bytes(8))))

    async def propose(all_of_them: list[PutObject]) -> None:
        for command in all_of_them:
            outcome = await groups.propose(gid, command, BODY, command.version.extents[0].data_id)
            assert not outcome.reason, outcome.reason

    async def ensure() -> None:
        await groups.propose(gid, EnsureShard(bucket, 1, 0))

    loop.run_until_complete(ensure())
    yield Case("commit", KEYS, lambda: loop.run_until_complete(propose(commands)), reference=None)


def requests(folder: Path) -> Cases:
    """Whole requests, 16 in flight."""
    served = Served(folder)
    try:
        yield from _asked(served)
        yield from _commits(served)
    finally:
        served.close()


def _asked(served: Served) -> Cases:
    def case(name: str, sent: list[bytes], prepare: Callable[[], None] | None = None) -> Case:
        return Case(name, len(sent), lambda: served.ask(sent), prepare=prepare)

    served.ask([request("PUT", key, BODY) for key in (*_keys("listed", LISTED), *_keys("kept", KEYS))])
    served.loop.run_until_complete(served.worker.owner.sets[0].checkpointer.checkpoint())
    gets = [request("GET", key) for key in _keys("kept", KEYS)]
    puts = [request("PUT", key, BODY) for key in _keys("put", KEYS)]
    yield case("get", gets)
    hot = served.worker.owner.hot
    hot.bytes_max, bytes_max = 0, hot.bytes_max
    for _ in range(2):
        hot.keep(b"", version(), None)  # finds no room, like all that is there; what is asked for once is not let in
    yield case("get_file", gets)
    hot.bytes_max = bytes_max
    yield case("head", [request("HEAD", key) for key in _keys("kept", KEYS)])
    yield case("put", puts)
    yield case("put_chunks", [request("PUT", key, BODY, chunks=True) for key in _keys("put", KEYS)])
    yield case("delete", [request("DELETE", key) for key in _keys("put", KEYS)], lambda: served.ask(puts))
    document = "<Delete><Quiet>false</Quiet><Object><Key>put/%s</Key></Object></Delete>"
    posts = [request("POST", f"/{BUCKET}/?delete=", (document % key.rpartition("/")[2]).encode()) for key in _keys("put", KEYS)]
    yield case("delete_post", posts, lambda: served.ask(puts))
    query = f"encoding-type=url&fetch-owner=true&list-type=2&max-keys={PAGE}&prefix=listed%2F"
    yield case("list", [request("GET", f"/{BUCKET}/?{query}")] * 2)


# what there is -----------------------------------------------------------------------------------------------------------------------

_MAKERS: tuple[tuple[Callable[[Path], Cases], frozenset[str]], ...] = (
    (heads, frozenset(("head_full", "head_shape", "head_presigned"))),
    (chunks, frozenset(("chunks_signed", "chunks_unsigned"))),
    (decisions, frozenset(("policy",))),
    (views, frozenset(("view_get", "view_scan", "list_page", "view_scan_overlay"))),
    (requests, frozenset(("get", "get_file", "head", "put", "put_chunks", "delete", "delete_post", "list", "commit"))),
)


def cases(names: Collection[str], folder: Path) -> Cases:
    """Those of these names; each is good until the next is asked for. ``folder``: where they may keep files."""
    for make, made in _MAKERS:
        if made.isdisjoint(names):
            continue
        place = folder / make.__name__
        place.mkdir()
        with contextlib.closing(make(place)) as found:
            for case in found:
                assert case.name in made, case.name
                if case.name in names:
                    yield case
