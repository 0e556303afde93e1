"""The curve of objects in one bucket: what each operation gives, what an object costs in metadata and on the disk, memory, and the time
until the server is ready after it was killed.

Invariants
* The bucket has as many objects after a visit as before. DELETE takes objects that lie all over log and index, PUT puts them back.
* Whatever was in the page cache: all files of the server are read once before the first phase, so that it holds what fits.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from bench.peers.outcome import Outcome
from bench.peers.recipe import Recipe
from bench.peers.rounds import Setting
from bench.peers.served import Served
from bench.peers.store import Store
from bench.replay import BUCKET, LOST, play
from bench.scale.bucket import BODY_BYTES, FILL_LANES, Bucket, key, path
from bench.scale.session import Session
from bench.scale.visit import Visits

PAGE = 1_000
SAME = 10_000  # different objects that "get" asks for, in a bucket of any size
TURN = 5_000  # objects that are deleted and put back, in turns
ANY_PER_SECOND, ANY_MAX = 12_000, 150_000  # objects that "get-any" asks for, each once
_STARTS = 500
_LOADED_SECONDS = 4.0  # of writes before it is killed, twice as long as between two checkpoints
_CHECKED = 2_000
_READ_BYTES = 4 << 20


class Objects(Visits):
    """``keep``: a folder for the buckets, where they stay; ``rate``: of the filling, at most; 0: as fast as it goes."""

    curve, unit = "objects", "objects"
    operations: ClassVar[tuple[str, ...]] = ("get", "get-any", "list", "delete", "put", "restart")

    def __init__(
        self, setting: Setting, store: Store, recipe: Recipe, *, lanes: int, seconds: float, keep: Path | None = None, rate: float = 0.0
    ) -> None:
        super().__init__(setting, store, recipe, lanes=lanes, seconds=seconds)
        self.keep, self.rate = keep, rate

    def details(self) -> dict[str, Any]:
        """Of the bodies and the phases."""
        return {"body": BODY_BYTES, "same": SAME, "turn": TURN}

    def folder(self, at: int) -> Path:
        """The kept one."""
        return super().folder(at) if self.keep is None else self.keep / str(at)

    def leave(self, folder: Path) -> None:
        """A folder that is kept stays."""
        if self.keep is None:
            shutil.rmtree(folder)

    def visit(self, server: Served, at: int, missing: Sequence[str]) -> Iterator[tuple[str, Outcome]]:
        """Reads, then writes, then the end by force."""
        bucket = Bucket(server.data.parent, at)
        with Session(server, self.setting.client_cpus) as session:
            if not bucket.is_whole:
                print(f"filling a bucket of {at:,} objects", flush=True)
                session.run(bucket.fill(server, rate=self.rate, say=lambda text: print(text, flush=True)))
            session.wait_checkpoint()
            _read_all(server.data)
            for operation, requests in (("get", self._gets), ("get-any", self._gets_of_any), ("list", self._lists)):
                if operation in missing:
                    asked = requests(session, bucket)
                    yield operation, session.phase(operation, asked, lanes=self.lanes, seconds=self.seconds)
            if "delete" in missing or "put" in missing:
                outcomes = self._turns(session, bucket)
                yield from (each for each in outcomes if each[0] in missing)
            if "restart" in missing:
                yield "restart", self._restart(session, bucket)

    def _gets(self, session: Session, bucket: Bucket) -> list[list[bytes]]:
        sign = session.sign()
        return [[sign.head("GET", path(bucket.spread(at)))] for at in range(min(SAME, bucket.objects))]

    def _gets_of_any(self, session: Session, bucket: Bucket) -> list[list[bytes]]:
        sign, most = session.sign(), min(ANY_MAX, math.ceil(ANY_PER_SECOND * self.seconds))
        return [[sign.head("GET", path(bucket.spread(at)))] for at in range(min(most, bucket.objects))]

    def _lists(self, session: Session, bucket: Bucket) -> list[list[bytes]]:
        """Pages that begin at any name, but not so near the last that there is no whole page."""
        sign, last = session.sign(), f"{int(256 * max(0.0, 1 - 2 * PAGE / bucket.objects)):02x}"
        names = [name for name in (key(bucket.spread(at)) for at in range(min(_STARTS * 8, bucket.objects))) if name < last] or [""]
        queries = (f"list-type=2&max-keys={PAGE}&start-after={quote(name, safe='')}" for name in names[:_STARTS])
        return [[sign.head("GET", f"/{BUCKET}", query)] for query in queries]

    def _turns(self, session: Session, bucket: Bucket) -> list[tuple[str, Outcome]]:
        """Delete some, put them back, until both have had their time."""
        turn, begin = min(TURN, bucket.objects), 0
        with session.phases("delete", "put") as (deletes, puts):
            while min(deletes.seconds, puts.seconds) < self.seconds and {*deletes.statuses, *puts.statuses} <= {200, 204}:
                numbers = [bucket.spread(at % bucket.objects) for at in range(begin, begin + turn)]
                begin += turn
                bucket.doubt(min(begin, bucket.objects))
                sign = session.sign()
                for tally, requests in (
                    (deletes, [[sign.head("DELETE", path(number))] for number in numbers]),
                    (puts, [bucket.put(sign, number) for number in numbers]),
                ):
                    session.run(tally.play(session.server, requests, lanes=self.lanes, seconds=math.inf, once=True))
        if {*puts.statuses} == {200}:
            bucket.sure()
        return [*zip(("delete", "put"), session.outcomes, strict=True)]

    def _restart(self, session: Session, bucket: Bucket) -> Outcome:
        """Killed in the middle of writes, started again: how long until every key can be reached. The requests are a look at some of them.

        The writes are of objects that are there, so none is missing afterwards, whatever was on its way when it was killed.
        """
        server, sign = session.server, session.sign()
        numbers = [bucket.spread(at) for at in range(min(bucket.objects, int(8_000 * _LOADED_SECONDS)))]

        async def load() -> dict[int, int]:
            begun = asyncio.create_task(
                play(server, [bucket.put(sign, number) for number in numbers], lanes=FILL_LANES, seconds=math.inf)
            )
            await asyncio.sleep(min(_LOADED_SECONDS, self.seconds))
            assert not begun.done()
            server.kill()
            return (await begun).statuses

        statuses = session.run(load())
        acknowledged = statuses.get(200, 0)
        if not statuses.keys() <= {200, LOST} or not acknowledged:
            raise RuntimeError(f"before it was killed the server answered {statuses}")
        ready = server.start()
        sign = session.sign()
        checks = [[sign.head("GET", path(number))] for number in numbers[: min(_CHECKED, acknowledged)]]
        outcome = session.phase("restart", checks, lanes=self.lanes, seconds=math.inf, once=True)
        outcome.ready_seconds = ready
        for name in ("seconds", "records", "replayed"):
            metric = "duration_seconds" if name == "seconds" else name
            found = server.samples(rf"titans3_recovery_{metric}\b").values()
            outcome.figures[f"recovery_{name}"] = max(found) if name == "seconds" else sum(found)
        return outcome


def _read_all(folder: Path) -> None:
    buffer = bytearray(_READ_BYTES)
    for file in sorted(folder.rglob("*")):
        if re.search(r"\.(seg|mdb)$", file.name):
            with contextlib.suppress(FileNotFoundError), open(file, "rb", buffering=0) as opened:
                while opened.readinto(buffer):
                    pass
