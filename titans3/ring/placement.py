"""Which shard, group and volume a key belongs to. Pure; the rule is in docs/ARCHITECTURE.md and never changes for a format.

Hot: once per request.
"""

from __future__ import annotations

from functools import lru_cache

from xxhash import xxh3_64_intdigest

from titans3.limits import GROUPS

SHARD_STRIDE = 61  # odd: neighbouring shards alternate over any number of volumes that 61 does not divide


@lru_cache(maxsize=4096)
def first_group(bucket: int) -> int:
    """Group of shard 0 of a bucket id."""
    return xxh3_64_intdigest(bucket.to_bytes(8, "big")) % GROUPS


def shard_of(key: bytes, shards: int) -> int:
    """Shard 0 … shards - 1 of a key."""
    return xxh3_64_intdigest(key) % shards


def ring_hash(bucket: int, key: bytes, shards: int) -> int:
    """Group 0 … 1023 of a key of a bucket with ``shards`` shards."""
    return (first_group(bucket) + SHARD_STRIDE * (xxh3_64_intdigest(key) % shards)) % GROUPS


def bucket_groups(bucket: int, shards: int) -> list[int]:
    """Groups of all shards of a bucket, in shard order."""
    first = first_group(bucket)
    return [(first + SHARD_STRIDE * shard) % GROUPS for shard in range(shards)]
