"""Where a key lives. The vectors are literals: the rule is part of the format and must never change for it."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from titans3.limits import GROUPS, SYSTEM_GROUP
from titans3.ring.ownership import Ownership, assign, gathered
from titans3.ring.placement import bucket_groups, first_group, ring_hash, shard_of

VECTORS = [  # bucket id, key, shards, first group, shard, group
    (1, b"", 16, 1011, 2, 109),
    (1, b"a", 16, 1011, 15, 902),
    (1, b"na\xc3\xafve//key", 16, 1011, 10, 597),
    (2, b"a", 16, 284, 15, 175),
    (18446744073709551615, b"\xff\xff\xff", 16, 19, 10, 629),
    (7, b"photos/2024/01.jpg", 1, 764, 0, 764),
    (7, b"photos/2024/01.jpg", 4, 764, 3, 947),
    (12345, b"k" * 1024, 64, 555, 0, 555),
]


@pytest.mark.parametrize(("bucket", "key", "shards", "first", "shard", "group"), VECTORS)
def test_vectors(bucket: int, key: bytes, shards: int, first: int, shard: int, group: int) -> None:
    assert (first_group(bucket), shard_of(key, shards), ring_hash(bucket, key, shards)) == (first, shard, group)
    assert bucket_groups(bucket, shards)[shard] == group


def test_groups_of_a_bucket_are_a_literal_too() -> None:
    assert bucket_groups(1, 16) == [1011, 48, 109, 170, 231, 292, 353, 414, 475, 536, 597, 658, 719, 780, 841, 902]


@pytest.mark.parametrize("shards", [1, 16, 64, 1024])
def test_shards_of_a_bucket_lie_in_groups_of_their_own(shards: int) -> None:
    for bucket in (1, 2, 77, 2**63):
        groups = bucket_groups(bucket, shards)
        assert len(set(groups)) == shards
        assert all(0 <= group < GROUPS for group in groups)


def chi_square(counts: Counter[int], cells: int) -> float:
    """Of an even spread over the cells 0 … cells - 1."""
    expected = counts.total() / cells
    return sum((counts[cell] - expected) ** 2 / expected for cell in range(cells))


@pytest.mark.parametrize("name", ["{:08d}", "photos/2024/{}.jpg", "{:x}", "user={}/part-0000.parquet"])
def test_keys_of_any_habit_spread_evenly_over_shards(name: str) -> None:
    counts = Counter(shard_of(name.format(number).encode(), 16) for number in range(64_000))
    assert chi_square(counts, 16) < 45  # 15 degrees of freedom: beyond it once in 13,000


def test_buckets_spread_evenly_over_groups_and_volumes() -> None:
    firsts = Counter(first_group(bucket) for bucket in range(1, 200_001))
    assert chi_square(firsts, GROUPS) < 1210  # 1,023 degrees of freedom: beyond it once in 20,000
    for volumes in (2, 3, 4, 8, 16):
        for bucket in range(1, 200):
            load = Counter(group % volumes for group in bucket_groups(bucket, 16))
            assert max(load.values()) <= -(-16 // volumes) + 2, "one bucket's shards use all volumes"


def test_owners_are_spread_and_a_worker_without_a_volume_owns_none() -> None:
    assert assign(8, 1) == [0] * 8
    assert assign(8, 2) == [0, 1, 0, 1, 0, 1, 0, 1]
    assert assign(8, 8) == assign(8, 64) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert assign(3, 8) == [0, 1, 2]
    assert assign(5, 2) == [0, 1, 0, 1, 0]
    assert (assign(4, 0), assign(0, 4)) == ([0, 0, 0, 0], [])
    for volumes in range(1, 20):
        for workers in range(1, 20):
            load = Counter(assign(volumes, workers))
            assert load.keys() == set(range(min(volumes, workers)))
            assert max(load.values()) - min(load.values()) <= 1


def test_volumes_of_workers_that_are_not_active_are_shared_among_the_others() -> None:
    assert gathered([0, 1], 1) == [0, 0]
    assert gathered([0, 1, 2, 3, 0, 1], 3) == [0, 1, 2, 0, 0, 1]
    for volumes in range(1, 20):
        for workers in range(1, 20):
            owners = assign(volumes, workers)
            for active in range(1, workers + 1):
                found = gathered(owners, active)
                assert all(owner < active for owner in found)
                assert all(after == before for before, after in zip(owners, found, strict=True) if before < active)
                assert found[0] == 0, "the system volume stays"
            assert gathered(owners, workers) == owners


def test_a_group_is_found_by_volume_and_owner() -> None:
    table = [gid % 3 for gid in range(GROUPS)]
    ownership = Ownership(table, assign(3, 2), epoch=4)
    assert (ownership.volume_of(SYSTEM_GROUP), ownership.owner_of(SYSTEM_GROUP)) == (0, 0)
    for gid in random.Random(1).sample(range(GROUPS), 50):
        assert ownership.volume_of(gid) == gid % 3
        assert ownership.owner_of(gid) == (0, 1, 0)[gid % 3]
    assert ownership.by_owner([4, SYSTEM_GROUP, 5, 3, 1]) == {1: [4, 1], 0: [SYSTEM_GROUP, 5, 3]}
    ownership.owners[0] = 1  # a volume moves, its groups with it
    assert ownership.owner_of(3) == ownership.owner_of(SYSTEM_GROUP) == 1
