"""How apply says no: an exception inside the state machine, an ``Outcome.reason`` outside."""

from __future__ import annotations

from titans3.errors import Reason
from titans3.model.version import Version


class Refused(Exception):
    """The command is refused; nothing was changed."""

    def __init__(self, reason: Reason, message: str = "", version: Version | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.message = message
        self.version = version
