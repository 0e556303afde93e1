"""Rounds of granting under any order of messages: two grantors at once, calls that are late, lost or done without an answer, a quota that
changes while they work. What a bucket holds never passes its quota, and when the noise ends all of it can be used.
"""

import asyncio
import random

import pytest

from tests.property.sorted_rows import FreedBodies, SortedRows
from tests.scale import scaled
from titans3.cluster.quota import Grantor
from titans3.errors import ClientError, Reason
from titans3.meta.machine import Machine
from titans3.model.command import DeleteEntry, DeleteObjects, EnsureShard, PutObject
from titans3.model.control import BucketRecord
from titans3.model.version import ROW_FORMAT, Version
from titans3.ring.placement import bucket_groups

BUCKET, SHARDS = 5, 16
GIDS = bucket_groups(BUCKET, SHARDS)


class Server:
    """What a grantor wants of a link server."""

    def __init__(self):
        self.handlers, self.on_close = {}, []


class Network:
    """The shards of one bucket behind calls that take their time, get lost, or are done and not answered."""

    def __init__(self, rng):
        self.rng, self.noise = rng, 0.1
        self.machine = Machine(SortedRows(), FreedBodies())
        self.index = 0
        self.revision = 1
        self.record = BucketRecord(1, BUCKET, "b", "me", "", 0, SHARDS, revision=1)
        self.allowed = 0  # what the bucket may hold: its quota, or what it held when the quota was set
        self.highest = 0

    async def pause(self):
        for _ in range(self.rng.randrange(self.rng.choice([2, 6, 40]))):
            await asyncio.sleep(0)

    def apply(self, gid, command):
        self.index += 1
        outcome = self.machine.apply(gid, self.index, command)
        held = self.held
        assert held <= max(self.allowed, self.at_least), f"{held} bytes of {self.allowed}"
        assert self.granted <= self.allowed, "it would come to that"
        self.at_least = min(self.at_least, held)
        self.highest = max(self.highest, held)
        return outcome

    at_least = 0  # a bucket that held more when its quota was set only shrinks until it is below

    @property
    def held(self):
        return sum(shard.stored_bytes + shard.upload_bytes for shard in self.shards)

    @property
    def granted(self):
        return sum(shard.grant for shard in self.shards)

    @property
    def shards(self):
        found = [self.machine.shards.find(gid, BUCKET) for gid in GIDS]
        return [shard for shard in found if shard is not None]

    async def by_id(self, bucket):
        record, revision = self.record, self.revision
        await self.pause()  # old news by the time it arrives
        return record, revision

    async def propose(self, gid, command):
        """As the owner does: a shard that is behind is brought up by what the control plane says now."""
        await self.pause()
        if self.rng.random() < self.noise:
            raise ClientError(Reason.SLOW_DOWN, "lost")
        while True:
            outcome = self.apply(gid, command)
            if outcome.reason != Reason.SHARD_ABSENT:
                break
            record, revision = await self.by_id(BUCKET)
            self.apply(gid, EnsureShard(BUCKET, revision, record.versioning, record.quota))
        await self.pause()
        if self.rng.random() < self.noise:
            raise ClientError(Reason.UNKNOWN_OUTCOME, "done and not answered")
        return outcome

    async def ask_server(self, gid, kind, meta):
        """Both grantors think that shard 0 is theirs."""

    async def set_quota(self, quota):
        """As ``Buckets.set_quota``: the record first, then every shard, and then the answer."""
        self.revision += 1
        self.record = BucketRecord(1, BUCKET, "b", "me", "", 0, SHARDS, revision=self.revision, quota=quota)
        self.allowed = max(self.allowed, quota)  # either, until it is answered
        noise, self.noise = self.noise, 0.0
        record, revision = self.record, self.revision
        for gid in GIDS:
            await self.propose(gid, EnsureShard(BUCKET, revision, record.versioning, record.quota))
        self.noise = noise
        self.allowed, self.at_least = quota, self.held


@pytest.mark.parametrize("seed", range(scaled(40, 3000)))
def test_no_order_of_messages_passes_a_quota(seed, monkeypatch):
    rng = random.Random(seed)
    monkeypatch.setattr("titans3.cluster.quota.ROUNDS_PER_SECOND", 1e6)
    monkeypatch.setattr("titans3.cluster.quota.secrets", rng_bits(rng))

    async def work():
        network = Network(rng)
        network.allowed = 1 << 40
        grantors = [Grantor(network, network.by_id, Server()) for _ in range(2)]
        await network.set_quota(10_000)

        async def put(number, size):
            """A write as the owner does it: refused for want of a grant, it asks for one and tries again."""
            key = b"%d" % number
            gid = GIDS[number % SHARDS]
            for _ in range(4):
                record = network.record
                version = Version(ROW_FORMAT, 0, 0, 0, size, bytes(16), 0, 0)
                outcome = await network.propose(gid, PutObject(BUCKET, key, version, revision=rng.choice([0, record.revision])))
                if outcome.reason != Reason.QUOTA:
                    return outcome.reason == ""
                await rng.choice(grantors).grow(BUCKET, gid, int(outcome.message))
            return False

        async def writer():
            for _ in range(25):
                number = rng.randrange(200)
                try:
                    if rng.random() < 0.25:
                        command = DeleteObjects(BUCKET, (DeleteEntry(b"%d" % number),), 0, bytes(8))
                        await network.propose(GIDS[number % SHARDS], command)
                    else:
                        await put(number, rng.randrange(1200))
                except ClientError:
                    await network.pause()

        async def operator():
            for _ in range(6):
                for _ in range(rng.randrange(400)):
                    await asyncio.sleep(0)
                await network.set_quota(rng.choice([1_000, 4_000, 10_000, 12_345]))

        await asyncio.gather(*(writer() for _ in range(8)), operator())
        network.noise = 0.0
        await network.set_quota(15_000)
        left = 15_000 - network.held
        assert left >= 0
        if left:
            assert await put(1000, left), "what is left of the quota fits into one shard"
        assert network.held == 15_000
        with pytest.raises(ClientError) as caught:
            await put(1001, 1)
        assert caught.value.reason is Reason.QUOTA

    asyncio.run(work())


def rng_bits(rng):
    """The random half of ballots, by the seed; few bits, so that two often draw the same."""

    class Bits:
        @staticmethod
        def randbits(bits):
            return rng.getrandbits(bits)

    return Bits
