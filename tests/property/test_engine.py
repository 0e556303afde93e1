"""A volume and its metadata model against a dictionary: every failing example replays from its printed steps.

Rules: put small and large, overwrite (the old id is freed), delete, read a range, checkpoint, collect garbage, compact, kill, power
loss. After every crash the store must equal the dictionary, since every step waits for its acknowledgement.
"""

from __future__ import annotations

import asyncio
import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.faults.powerloss_disk import SimulatedDisk
from tests.faults.powerloss_store import CLUSTER, VOLUME, PowerStore, Rows, content
from tests.scale import scaled
from titans3.engine.identity import format_volume

KEYS = st.sampled_from([f"key{number}" for number in range(6)])
SIZES = st.sampled_from([0, 1, 7, 8, 300, 3000, 3001, 65_535, 65_536, 65_537, 140_000, 200_000])


class EngineAgainstDictionary(RuleBasedStateMachine):
    """The model is ``objects``: key -> (version, size)."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.disk = SimulatedDisk()
        self.stored = [Rows()]
        self.objects: dict[str, tuple[int, int]] = {}
        self.version = 0
        self.forgotten: set[bytes] = set()
        format_volume(self.disk, "/v", cluster=CLUSTER, uuid=VOLUME, index=0, created_ms=1)
        self._start()

    def _start(self) -> None:
        async def make() -> PowerStore:
            store = PowerStore(self.disk, self.stored)
            store.forgotten = self.forgotten
            recovery = await store.start()
            assert recovery.cause == ""
            assert not recovery.bodies
            return store

        self.store = self.loop.run_until_complete(make())

    @rule(key=KEYS, size=SIZES, known=st.booleans())
    def put(self, key: str, size: int, known: bool) -> None:
        self.version += 1
        self.loop.run_until_complete(self.store.put(key, self.version, size, known=known))
        self.objects[key] = (self.version, size)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.loop.run_until_complete(self.store.delete(key))
        self.objects.pop(key, None)

    @rule(key=KEYS, data=st.data())
    def read_range(self, key: str, data: st.DataObject) -> None:
        if key not in self.objects:
            assert key not in self.store.meta.now.objects
            return
        version, size = self.objects[key]
        start = data.draw(st.integers(0, size))
        length = data.draw(st.integers(0, size - start))
        found = self.loop.run_until_complete(self.store.read_range(key, start, length))
        assert found == content(key, version, size)[start : start + length]

    @rule()
    def checkpoint(self) -> None:
        self.loop.run_until_complete(self.store.checkpoint())
        self.loop.run_until_complete(asyncio.sleep(0.001))

    @rule()
    def collect(self) -> None:
        self.loop.run_until_complete(self.store.collect())

    @rule()
    def compact(self) -> None:
        self.loop.run_until_complete(self.store.volume.compact())

    @rule(power=st.booleans(), seed=st.integers(0, 1 << 30))
    def crash(self, power: bool, seed: int) -> None:
        self.disk.off = True
        self.loop.run_until_complete(self.store.stop())
        self.disk.restart(random.Random(seed) if power else None)
        self._start()

    @invariant()
    def everything_is_there(self) -> None:
        allowed = {f"key{number}": {self.objects.get(f"key{number}", (0, 0))[0]} for number in range(6)}
        self.loop.run_until_complete(self.store.check(allowed))

    def teardown(self) -> None:
        self.loop.run_until_complete(self.store.stop())
        self.loop.close()


EngineAgainstDictionary.TestCase.settings = settings(
    max_examples=scaled(40, 2000), stateful_step_count=scaled(25, 60), deadline=None, suppress_health_check=list(HealthCheck)
)
TestEngineAgainstDictionary = EngineAgainstDictionary.TestCase
