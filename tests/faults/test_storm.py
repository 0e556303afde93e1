"""The short form of the storm: every kind of kill, every acknowledged operation there afterwards. The long one is a command."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.storm import MODES, run


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    asyncio.run(run(tmp_path, rounds=len(MODES), acks=400, clients=16, seed=20_260_101))
