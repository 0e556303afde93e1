"""What of a changed configuration takes effect while a server runs.

Invariants
* Only keys marked ``live`` change on a reload, so that a worker that is restarted later does not bring half of a new configuration.
* A change that waits for a restart is said, never silently dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from titans3.config.keys import keys
from titans3.config.schema import Config

_logger = logging.getLogger("titans3.config")


class LiveConfig:
    """The configuration of a running server; ``again`` reads it anew and raises ConfigError when it is bad."""

    def __init__(self, config: Config, again: Callable[[], Config]) -> None:
        self.config = config
        self._again = again

    def reload(self) -> Config:
        """The configuration with the live keys as they are said now. Raises ConfigError; nothing has changed then."""
        self.config, waiting = with_live(self.config, self._again())
        if waiting:
            _logger.warning("changed, but only a restart takes it up: %s", ", ".join(waiting))
        return self.config


def with_live(running: Config, said: Config) -> tuple[Config, list[str]]:
    """``running`` with the live keys of ``said``, and the paths of other keys that differ."""
    live: dict[str, dict[str, object]] = {}
    waiting = []
    for key in keys():
        value = getattr(getattr(said, key.section), key.name)
        if value != getattr(getattr(running, key.section), key.name):
            if key.live:
                live.setdefault(key.section, {})[key.name] = value
            else:
                waiting.append(key.path)
    sections = {name: msgspec.structs.replace(getattr(running, name), **values) for name, values in live.items()}
    return msgspec.structs.replace(running, **sections), waiting
