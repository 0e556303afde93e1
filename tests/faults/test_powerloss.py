"""Simulated power loss and kills at random points of a volume's life: nothing acknowledged is lost, nothing is half there.

Every run is a seed. ``TITANS3_LONG=1`` runs 3,000 of them, ``TITANS3_POWERLOSS_RUNS=N`` as many as wanted; a failing seed is in
the message and ``TITANS3_POWERLOSS_SEED=N`` replays it. Metadata commits are modelled as atomic (see powerloss_store.py).

The second half removes one sync call after the other from the code (by its call site's name) and asserts that the same runs then
see a loss: no sync in the engine is there for nothing, and none is missing from this proof.
"""

from __future__ import annotations

import ast
import asyncio
import os
import random
from pathlib import Path

import pytest

import titans3.engine
from tests.faults.powerloss_disk import SimulatedDisk
from tests.faults.powerloss_store import CLUSTER, VOLUME, PowerStore, Rows
from tests.scale import scaled
from titans3.engine.identity import format_volume
from titans3.errors import DiskError, FormatError

RUNS = int(os.environ.get("TITANS3_POWERLOSS_RUNS", "0")) or scaled(100, 3000)
SEED = int(os.environ.get("TITANS3_POWERLOSS_SEED", "-1"))
MUTANT_RUNS = 400
# Seeds that saw a loss of one of the sites once; tried first, so that the proof is quick.
SAW_IT = (0, 13, 12, 16, 38, 48, 92, 63, 136, 96, 196, 122)

SITES = {
    "identity.file", "identity.name", "identity.folder", "segment.header", "segment.name", "segment.unlink", "log.flush",
    "extent.sync", "compaction.records", "compaction.extents", "recovery.segment",
}


class Life:
    """One volume from format to the end, with crashes."""

    def __init__(self, seed: int, dropped: str = "") -> None:
        self.chance = random.Random(seed)
        self.disk = SimulatedDisk()
        self.disk.dropped = {dropped} if dropped else set()
        self.disk.has_syncs = bool(seed % 3)  # else the flush thread writes and syncs
        self.stored = [Rows()]
        self.allowed: dict[str, set[int]] = {}
        self.forgotten: set[bytes] = set()
        self.version = 0
        self.cuts = 0

    async def run(self) -> None:
        """Raises AssertionError, DiskError or FormatError when something is not as promised."""
        chance = self.chance
        format_volume(self.disk, "/v", cluster=CLUSTER, uuid=VOLUME, index=0, created_ms=1)
        self.disk.restart(chance)
        for _ in range(chance.randint(2, 5)):
            self.disk.cut_at = chance.randint(1, chance.choice((20, 120, 400)))
            await self._session()
            self.disk.restart(None if chance.random() < 0.35 else chance)
        await self._session()

    async def _session(self) -> None:
        store = PowerStore(self.disk, self.stored)
        store.forgotten = self.forgotten
        try:
            recovery = await store.start()
            assert recovery.cause == "", recovery.cause
            assert not recovery.bodies, recovery.bodies
            await store.check(self.allowed)
            for key in self.allowed:  # what was served once must stay
                self.allowed[key] = {store.meta.now.objects.get(key, (0,))[0]}
            for _ in range(40 if self.disk.cut_at > 0 else 3):
                await self._step(store)
            await store.check(self.allowed)
        except (DiskError, OSError):
            if not self.disk.off:
                raise
            self.cuts += 1
        finally:
            await asyncio.wait_for(store.stop(), 20)

    async def _step(self, store: PowerStore) -> None:
        chance = self.chance
        kind = chance.random()
        if kind < 0.6:
            keys = chance.sample([f"key{n}" for n in range(12)], chance.randint(1, 6))
            done = await asyncio.gather(*[self._write(store, key) for key in keys], return_exceptions=True)
            for result in done:
                if isinstance(result, BaseException):
                    raise result
        elif kind < 0.7:
            await store.checkpoint()
        elif kind < 0.85:
            await store.collect()
        elif kind < 0.95:
            await store.volume.compact()
            if chance.random() < 0.7:
                await store.checkpoint()
                await asyncio.sleep(0.001)
        else:
            await store.check({**self.allowed})

    async def _write(self, store: PowerStore, key: str) -> None:
        chance = self.chance
        if chance.random() < 0.2:
            self.allowed.setdefault(key, {0}).add(0)
            await store.delete(key)
            self.allowed[key] = {0}
            return
        self.version += 1
        version = self.version
        size = chance.choice((0, 1, 300, 3000, 3001, 70_000, 150_000)) + chance.randint(0, 50)
        size = min(size, 3000) if size < 3060 and chance.random() < 0.8 else size
        self.allowed.setdefault(key, {0}).add(version)
        await store.put(key, version, size, known=chance.random() < 0.7)
        self.allowed[key] = {version}


def live(seed: int, dropped: str = "") -> Life:
    """Run one life to its end."""
    life = Life(seed, dropped)
    try:
        asyncio.run(life.run())
    except Exception as error:
        error.add_note(f"TITANS3_POWERLOSS_SEED={seed}")
        raise
    return life


@pytest.mark.timeout(3600)
def test_power_loss_and_kills_lose_nothing_acknowledged() -> None:
    seeds = range(RUNS) if SEED < 0 else [SEED]
    cuts = 0
    sites: set[str] = set()
    for seed in seeds:
        life = live(seed)
        cuts += life.cuts
        sites |= life.disk.sites
    if SEED < 0:
        assert cuts > RUNS, "the runs must be cut, or they show nothing"
        assert sites == SITES, "every sync site must be reached, and no other"


def test_every_sync_in_the_engine_is_named_here() -> None:
    found: set[str] = set()
    for path in Path(titans3.engine.__file__).parent.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("sync", "sync_dir"):
                found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
        if path.name != "files.py":
            assert "os.fsync" not in text
            assert "os.fdatasync" not in text
    assert found == SITES


@pytest.mark.timeout(600)
@pytest.mark.parametrize("site", sorted(SITES))
def test_removing_one_sync_is_seen(site: str) -> None:
    for seed in [*SAW_IT, *range(MUTANT_RUNS)]:
        try:
            live(seed, dropped=site)
        except (AssertionError, DiskError, FormatError, OSError, KeyError):
            return
    pytest.fail(f"{MUTANT_RUNS} runs without the sync {site!r} saw no loss")
