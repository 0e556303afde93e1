"""Cluster keys as one worker knows them.

Invariants
* Values follow the worker's copy of the control plane: a change is in force on every worker that can be reached when it is answered.
* A value that this version does not take (an older or newer one wrote it) counts as not set, and is said in the log.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from titans3.cluster.control.cache import ControlCache
from titans3.model.control import Event
from titans3.model.setting import PREFIX, SETTINGS, Value

_logger = logging.getLogger("titans3.settings")


class Settings:
    """Of one worker. ``on_change`` is called with the name of what changed."""

    def __init__(self, cache: ControlCache) -> None:
        self._values: dict[str, Value] = {name: setting.default for name, setting in SETTINGS.items()}
        self.is_set: set[str] = set()
        self.on_change: list[Callable[[str], None]] = []
        cache.on_change.append(self._changed)

    def _changed(self, event: Event) -> None:
        if not event.key.startswith(PREFIX):
            return
        name = event.key[len(PREFIX) :]
        setting = SETTINGS.get(name)
        if setting is None:
            _logger.warning("cluster key %s is not known to this version", name)
            return
        self._values[name] = setting.default
        self.is_set.discard(name)
        if event.value is not None:
            try:
                self._values[name] = setting.checked(json.loads(event.value))
                self.is_set.add(name)
            except ValueError as error:
                _logger.error("cluster key %s counts as not set: %s", name, error)
        for callback in self.on_change:
            callback(name)

    def value(self, name: str) -> Value:
        """As it is in force."""
        return self._values[name]

    def number(self, name: str) -> int:
        """Of a number."""
        value = self._values[name]
        assert isinstance(value, int)
        return value

    def flag(self, name: str) -> bool:
        """Of a boolean."""
        value = self._values[name]
        assert isinstance(value, bool)
        return value

    def text(self, name: str) -> str:
        """Of a text."""
        value = self._values[name]
        assert isinstance(value, str)
        return value
