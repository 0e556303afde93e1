"""Configurations of buckets over two workers: in force everywhere at their answer, gone with their bucket, whoever races."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.unit.cluster.workers import Machine, run
from titans3.errors import ClientError, Reason
from titans3.model.configuration import BucketTags, Cors, CorsRule, Ownership, configuration_key

RULES = Cors(1, (CorsRule(("*",), ("GET",), max_age_seconds=5),))


def test_a_change_is_in_force_on_every_worker(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Machine(tmp_path) as machine:
            bucket, _ = await machine[0].store.create_bucket("bucket", "me", "us-east-1")
            for me in (0, 1):
                for value in (RULES, Cors(1, (CorsRule((f"http://{me}",), ("PUT",)),))):
                    await machine[me].store.configurations.set(bucket, value)
                    for worker in machine.workers:
                        assert worker.store.configurations.find_nowait(bucket, Cors) == value
                        assert await worker.store.configurations.find(bucket, Cors) == value
                await machine[1 - me].store.configurations.remove(bucket, Cors)
                await machine[me].store.configurations.remove(bucket, Cors)
                for worker in machine.workers:
                    assert worker.store.configurations.find_nowait(bucket, Cors) is None
                    assert await worker.store.configurations.find(bucket, Cors) is None

    run(scenario)


def test_kinds_and_buckets_are_apart(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Machine(tmp_path) as machine:
            store = machine[0].store
            one, _ = await store.create_bucket("one", "me", "us-east-1", (BucketTags(1, {"a": "1"}), Ownership(1, "ObjectWriter")))
            two, _ = await store.create_bucket("two", "me", "us-east-1")
            await store.configurations.set(two, RULES)
            assert store.configurations.find_nowait(one, BucketTags) == BucketTags(1, {"a": "1"})
            assert store.configurations.find_nowait(one, Ownership) == Ownership(1, "ObjectWriter")
            assert store.configurations.find_nowait(one, Cors) is None
            assert store.configurations.find_nowait(two, BucketTags) is None
            again, is_new = await store.create_bucket("one", "me", "us-east-1", (BucketTags(1, {"b": "2"}),))
            assert (again.bucket, is_new) == (one.bucket, False)
            assert store.configurations.find_nowait(one, BucketTags) == BucketTags(1, {"a": "1"})

    run(scenario)


def test_nothing_outlives_its_bucket(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Machine(tmp_path) as machine:
            store, other = machine[0].store, machine[1].store
            bucket, _ = await store.create_bucket("bucket", "me", "us-east-1", (BucketTags(1, {"a": "1"}),))
            await other.configurations.set(bucket, RULES)
            await other.delete_bucket("bucket")
            for worker in machine.workers:
                assert not [key for key in worker.control.cache.records if key.startswith(configuration_key(bucket.bucket, ""))]
                with pytest.raises(ClientError) as caught:
                    await worker.store.configurations.set(bucket, RULES)
                assert caught.value.reason is Reason.BUCKET_ABSENT
            fresh, is_new = await store.create_bucket("bucket", "me", "us-east-1")
            assert is_new
            with pytest.raises(ClientError):
                await store.configurations.set(bucket, RULES)  # the bucket of the same name is another one
            assert other.configurations.find_nowait(fresh, Cors) is None
            assert await other.configurations.find(fresh, BucketTags) is None

    run(scenario)


def test_a_deletion_and_a_change_race(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Machine(tmp_path) as machine:
            outcomes = set()
            for number in range(12):
                bucket, _ = await machine[0].store.create_bucket("bucket", "me", "us-east-1")

                async def change(me: int, delay: float) -> str:
                    await asyncio.sleep(delay)
                    try:
                        await machine[me].store.configurations.set(bucket, RULES)  # noqa: B023
                    except ClientError as error:
                        return str(error.reason)
                    return "done"

                deletion = asyncio.ensure_future(machine[number % 2].store.delete_bucket("bucket"))
                outcomes |= set(await asyncio.gather(*(change(me, 0.002 * number * me) for me in (0, 1))))
                await deletion
                left = [key for key in machine[1].control.cache.records if key.startswith("/config/")]
                assert left == []
            assert outcomes <= {"done", str(Reason.BUCKET_ABSENT), str(Reason.BUCKET_BUSY)}
            assert len(outcomes) > 1, "nothing raced"

    run(scenario)
