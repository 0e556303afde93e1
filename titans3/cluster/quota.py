"""Quotas of buckets: a bucket's bytes are granted to its shards, and a shard grows to its grant and no further.

Invariants
* The grants of a bucket's shards never sum up to more than its quota, so it never grows beyond it (I14): a round
  takes back what is not used on every shard (``QuotaFence``) before it grants anything, and a grant counts only on a shard that no later
  round has fenced. So nothing here need be remembered: a crash anywhere in a round leaves shards with no room to grow, and the next
  write that needs some begins another round. Whoever serves shard 0 holds the rounds of a bucket; two that both think so do no harm.
* Ballots are drawn so that two rounds never have the same: the high bits count, the low ones are random.
* Rounds of a bucket follow each other; whoever asks meanwhile waits for the next. After one that refused somebody there is a pause, so
  a full bucket costs ROUNDS_PER_SECOND rounds at most, however many write to it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from titans3.cluster import messages as m
from titans3.cluster.dispatch import Dispatcher
from titans3.errors import ClientError, Reason
from titans3.model.command import Command, Outcome, QuotaFence, QuotaGrant
from titans3.model.control import BucketRecord
from titans3.ring.placement import bucket_groups, first_group
from titans3.rpc.link import Answer, LinkServer

ROUNDS_PER_SECOND = 20
_BALLOT_TRIES = 8
_RANDOM_BITS: Final = 32
_encode = msgspec.msgpack.Encoder().encode


class _Asked(msgspec.Struct):
    """Somebody who waits for a round."""

    gid: int
    growth: int
    answer: asyncio.Future[None]


class Grantor:
    """Of one worker: asks for its shards, and holds the rounds of the buckets whose shard 0 it serves."""

    def __init__(
        self, dispatcher: Dispatcher, bucket_by_id: Callable[[int], Awaitable[tuple[BucketRecord, int] | None]], server: LinkServer
    ) -> None:
        self._dispatcher, self._bucket_by_id = dispatcher, bucket_by_id
        self._waiting: dict[int, list[_Asked]] = {}  # by bucket; there is a task for each
        self.rounds = self.refusals = 0
        self._tasks: set[asyncio.Future[None]] = set()
        self._ballots: dict[int, int] = {}  # the last of each bucket with a task
        self._ask = msgspec.msgpack.Decoder(m.QuotaAsk).decode
        server.handlers[m.QUOTA_ASK] = self._on_ask
        server.on_close.append(self.close)

    async def grow(self, bucket: int, gid: int, growth: int) -> None:
        """Returns when the shard may have been granted ``growth`` bytes more. Raises QUOTA, BUCKET_ABSENT, SLOW_DOWN."""
        if await self._dispatcher.ask_server(first_group(bucket), m.QUOTA_ASK, _encode(m.QuotaAsk(bucket, gid, growth))) is None:
            await self._next_round(bucket, gid, growth)

    async def _on_ask(self, meta: bytes, body: bytes) -> Answer:
        ask = self._ask(meta)
        await self._next_round(ask.bucket, ask.gid, ask.growth)
        return b"", b""

    def close(self) -> None:
        """Whoever waits is told to come again."""
        for task in self._tasks:
            task.cancel()

    # rounds --------------------------------------------------------------------------------------------------------

    async def _next_round(self, bucket: int, gid: int, growth: int) -> None:
        asked = _Asked(gid, growth, asyncio.get_running_loop().create_future())
        waiting = self._waiting.get(bucket)
        if waiting is None:
            self._waiting[bucket] = [asked]
            task = asyncio.ensure_future(self._rounds(bucket))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            waiting.append(asked)
        await asked.answer

    async def _rounds(self, bucket: int) -> None:
        """Rounds until nobody waits."""
        some: list[_Asked] = []
        try:
            while some := self._waiting[bucket]:
                self._waiting[bucket] = []
                try:
                    refused = await self._round(bucket, some)
                except Exception as error:  # noqa: BLE001 - whoever waits reports it
                    refused = True
                    _tell(some, error)
                if refused:
                    await asyncio.sleep(1 / ROUNDS_PER_SECOND)
        finally:
            self._ballots.pop(bucket, None)
            _tell([*some, *self._waiting.pop(bucket)], ClientError(Reason.SLOW_DOWN, "closing", moving=1))  # nobody, unless cancelled

    async def _round(self, bucket: int, asked: list[_Asked]) -> bool:
        """Fence, divide, grant, answer; whether somebody was refused. Raises ClientError when a shard cannot be asked."""
        self.rounds += 1
        found = await self._bucket_by_id(bucket)
        if found is None:
            raise ClientError(Reason.BUCKET_ABSENT)
        record, revision = found
        gids = bucket_groups(bucket, record.shards)
        ballot, used = await self._fence(record, gids)
        if not record.quota:  # the fence brought every shard up to that
            _tell(asked, None)
            return False
        left = record.quota - sum(used)
        granted = dict(zip(gids, used, strict=True))
        refused = []
        for one in asked:
            if one.growth <= left:
                granted[one.gid] += one.growth
                left -= one.growth
            else:
                refused.append(one)
        if left < 0:  # it held more when the quota was set: what a shard gives back is not its own
            granted = dict.fromkeys(gids, 0)
        share = max(left, 0) // len(gids)
        for outcome in await self._all([(gid, QuotaGrant(bucket, ballot, revision, granted[gid] + share)) for gid in gids]):
            if outcome.reason not in ("", Reason.CONFLICT):  # a later round or a later quota: whoever asked asks again
                raise ClientError(Reason(outcome.reason), outcome.message)
        self.refusals += len(refused)
        _tell(refused, ClientError(Reason.QUOTA, bucket=record.name))
        _tell(asked, None)
        return bool(refused)

    async def _fence(self, record: BucketRecord, gids: list[int]) -> tuple[int, list[int]]:
        """The ballot of this round, and the bytes that each shard holds."""
        ballot = self._ballots.get(record.bucket, 0)
        for _ in range(_BALLOT_TRIES):
            ballot = (ballot >> _RANDOM_BITS) + 1 << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
            outcomes = await self._all([(gid, QuotaFence(record.bucket, ballot, record.revision)) for gid in gids])
            for outcome in outcomes:
                if outcome.reason:
                    raise ClientError(Reason(outcome.reason), outcome.message)
            highest = max(int.from_bytes(outcome.data[:8], "big") for outcome in outcomes)
            if highest == ballot:
                self._ballots[record.bucket] = ballot
                return ballot, [int.from_bytes(outcome.data[8:], "big") for outcome in outcomes]
            ballot = highest
        raise ClientError(Reason.SLOW_DOWN, "others grant the bytes of this bucket, too")

    async def _all(self, commands: list[tuple[int, Command]]) -> list[Outcome]:
        """Outcomes in order, when all are there. Raises the first error."""
        found = await asyncio.gather(*(self._dispatcher.propose(gid, command) for gid, command in commands), return_exceptions=True)
        outcomes = []
        for outcome in found:
            if isinstance(outcome, BaseException):
                raise outcome
            outcomes.append(outcome)
        return outcomes


def _tell(asked: list[_Asked], error: Exception | None) -> None:
    """Those who have no answer yet."""
    for one in asked:
        if one.answer.done():
            continue
        if error is None:
            one.answer.set_result(None)
        else:
            one.answer.set_exception(error)
