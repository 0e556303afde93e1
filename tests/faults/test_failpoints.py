"""Every named failpoint is reached and killed at, and nothing acknowledged is lost there. Long form: ``storm.py --failpoints``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.failpoints import HITS, Run
from titans3.observe.failpoint import NAMES


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_kill_at_any_failpoint_loses_nothing(tmp_path: Path) -> None:
    asyncio.run(_all(tmp_path))


async def _all(folder: Path) -> None:
    run = Run(folder, seed=20_260_102)
    try:
        await run.begin()
        for name in NAMES:
            print(await run.round(name, run.rng.randint(1, max(1, HITS[name] // 2))))
        print(await run.round("unlink", HITS["unlink"]))  # beyond the spares that a start unlinks: a dead segment while serving
    finally:
        run.end()
    assert run.reached == set(NAMES)
    assert run.coverage() == set(NAMES)
