"""The feature level in force: the newest commands that may be proposed, because every worker knows them.

Invariants
* The level is the record ``/feature_level`` of the control plane (a number in decimal text). It never falls.
* The owner of volume 0 alone writes it: what its code knows at the first start, where no other code can be; a higher one only while every
  sibling is connected and has said that its code knows it. Changes reach every worker that listens before they are done
  (see ``control/system``).
* What a worker may propose follows its cache. A worker whose code knows less than the level in force does not start; one that meets such
  a level while it runs stops.
"""

from __future__ import annotations

import asyncio
import logging

from titans3.cluster.control.interface import Conflict
from titans3.cluster.control.system import SystemControl
from titans3.cluster.dispatch import Dispatcher
from titans3.cluster.greeting import Greeting
from titans3.cluster.messages import LEVEL_FIRST
from titans3.errors import ClientError, FormatError, InvariantError
from titans3.model.control import FEATURE_LEVEL_KEY, Event

RETRY_SECONDS = 1.0
_logger = logging.getLogger("titans3.feature")


class FeatureLevel:
    """Keeps ``dispatcher.feature_level`` true; ``run`` raises the level, on the worker that owns volume 0."""

    def __init__(self, control: SystemControl, greeting: Greeting, dispatcher: Dispatcher) -> None:
        self._control, self._greeting, self._dispatcher = control, greeting, dispatcher
        self._heard = asyncio.Event()
        greeting.on_heard = self._heard.set

    async def check(self) -> None:
        """Refuse to start below the level in force, as the control plane has it now. Raises FormatError, ClientError."""
        record = await self._control.get(FEATURE_LEVEL_KEY)
        self._take(None if record is None else record.value)

    async def start(self) -> None:
        """Follow the cache, which is filled; make the record if there is none. Raises FormatError, ClientError."""
        record = self._control.cache.records.get(FEATURE_LEVEL_KEY)
        self._take(None if record is None else record.value)
        self._control.cache.on_change.append(self._changed)
        if record is None and self._control.local is not None:
            await self._write(self._greeting.level)

    async def run(self) -> None:
        """Raise the level whenever every sibling knows a higher one. Until cancelled."""
        while True:
            self._heard.clear()
            known = self._greeting.known_by_all()
            if self._control.local is not None and known > self._dispatcher.feature_level:
                try:
                    await self._write(known)
                except ClientError as error:
                    _logger.warning("feature level %d is not in force yet: %s", known, error)
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
            await self._heard.wait()

    async def _write(self, level: int) -> None:
        record = await self._control.get(FEATURE_LEVEL_KEY)
        if record is not None and _number(record.value) >= level:
            return
        try:
            await self._control.cas([(FEATURE_LEVEL_KEY, b"%d" % level)], {FEATURE_LEVEL_KEY: 0 if record is None else record.rev})
        except Conflict as conflict:
            raise InvariantError("somebody else writes the feature level") from conflict
        _logger.info("feature level %d is in force", level)

    def _changed(self, event: Event) -> None:
        if event.key != FEATURE_LEVEL_KEY:
            return
        try:
            self._take(event.value)
        except FormatError as error:
            stop = InvariantError(str(error))
            asyncio.get_running_loop().call_exception_handler({"message": "the feature level rose too far", "exception": stop})

    def _take(self, value: bytes | None) -> None:
        level = LEVEL_FIRST if value is None else _number(value)
        if level > self._greeting.level:
            raise FormatError(
                f"this data is at feature level {level} and this build knows {self._greeting.level}: a newer TitanS3 has to be started here"
            )
        self._dispatcher.feature_level = max(level, self._dispatcher.feature_level)


def _number(value: bytes) -> int:
    try:
        return int(value)
    except ValueError:
        raise FormatError(f"the feature level {value!r} is not a number") from None
