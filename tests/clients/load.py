"""Load on a server while Prometheus scrapes it: a little of every operation, and in the long form real warp beside it.

Invariants
* What warp does is checked as ``bench/warp.py`` checks it: a failed request or an answer of 5xx is told in ``wrong``.
* warp is the program that ``TITANS3_WARP`` names, else the one on the PATH; where there is none, ``bench/replay.py`` sends as much.
  ``heavy`` says which it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from bench.replay import Bench
from bench.warp import MODES, run
from tests.conformance.served import Endpoint

MIB = 1 << 20
MODE_SECONDS = 20
WARP_MODES = ("mixed", "get", "put large", "list", "mixed", "delete", "versioned", "multipart", "stat", "get range")
REPLAY_CELLS = ["put4k", "get4k", "head", "list", "put10m", "get10m", "delete"]  # the last takes away what the others need


def warp() -> str | None:
    """The path of warp."""
    return os.environ.get("TITANS3_WARP") or shutil.which("warp")


class Load:
    """Threads that send requests until told to stop. ``heavy``: ``warp``, ``replay`` or empty. ``wrong``: what failed so far."""

    def __init__(self, endpoint: Endpoint, folder: Path, *, heavy: bool) -> None:
        self._endpoint, self._folder, self._stop = endpoint, folder, threading.Event()
        self._s3 = endpoint.client()
        self._s3.create_bucket(Bucket="load")
        assert endpoint.admin("PUT", "/buckets/load/quota", {"bytes": 1 << 40})[0] == 200
        self.wrong: list[str] = []
        self.played: list[str] = []
        binary = warp() if heavy else None
        self.heavy = "" if not heavy else "warp" if binary else "replay"
        works = [self._round]
        if binary:
            works.append(self._warp(Path(binary).resolve()))
        elif heavy:
            works.append(self._replay)
        self._threads = [threading.Thread(target=self._run, args=(work,)) for work in works]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Wait for what is under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[[int], None]) -> None:
        for number in itertools.count():
            if self._stop.is_set():
                return
            work(number)

    def _round(self, number: int) -> None:
        with contextlib.suppress(ClientError, BotoCoreError):  # workers are killed meanwhile
            self._every_kind(number)

    def _every_kind(self, number: int) -> None:
        s3, key = self._s3, f"key {number % 500}"
        s3.put_object(Bucket="load", Key=key, Body=b"x" * 4096)
        s3.get_object(Bucket="load", Key=key)["Body"].read()
        s3.head_object(Bucket="load", Key=key)
        if number % 10 == 0:
            s3.list_objects_v2(Bucket="load", MaxKeys=50)
            s3.put_object(Bucket="load", Key="large", Body=os.urandom(2 * MIB))
            s3.get_object(Bucket="load", Key="large")["Body"].read()
            s3.delete_object(Bucket="load", Key=key)
            s3.get_object(Bucket="load", Key="is not there")  # raises

    def _warp(self, binary: Path) -> Callable[[int], None]:
        def play(number: int) -> None:
            mode = WARP_MODES[number % len(WARP_MODES)]
            _, wrong = run(binary, self._endpoint.server, MODES[mode], MODE_SECONDS, self._folder)
            self._note(mode, wrong)

        return play

    def _replay(self, number: int) -> None:
        try:
            asyncio.run(Bench(self._endpoint.server, lanes=8, seconds=MODE_SECONDS, objects=2000).run(REPLAY_CELLS))
        except (OSError, SystemExit) as error:  # SystemExit: an answer that is no success
            self._note("replay", str(error) or type(error).__name__)
        else:
            self._note("replay", "")

    def _note(self, name: str, wrong: str) -> None:
        self.played.append(name)
        if wrong:
            self.wrong.append(f"{name}: {wrong}")
