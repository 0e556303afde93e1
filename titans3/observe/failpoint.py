"""Named failpoints: places where a test may kill the process or fail a call.

Invariants
* Off, ``hit`` is one global test (about 40 ns). ``TITANS3_FAILPOINT`` is read once at import and only there.
* Every name is declared in ``NAMES``; ``hit`` of an armed but undeclared name is a programmer error.

``TITANS3_FAILPOINT="flush:3=kill"`` kills the process with SIGKILL at the third hit of ``flush``; ``=error`` raises OSError(EIO) there.
``TITANS3_FAILPOINT_LOG=FILE`` appends each name once when it is first reached, so that a run can prove its coverage.
"""

from __future__ import annotations

import errno
import os
import signal

NAMES = (
    "segment switch",
    "write",
    "flush",
    "apply",
    "freeze",
    "checkpoint put",
    "checkpoint commit",
    "overlay drop",
    "loc swap",
    "unlink",
    "recovery",
    "extent write",
    "extent sync",
    "collect",
)


class _Armed:
    def __init__(self, text: str, log: str) -> None:
        self.name, _, action = text.partition("=")
        self.name, _, count = self.name.partition(":")
        self.left = int(count or "1")
        self.action = action or "kill"
        self.log = log
        self.seen: set[str] = set()
        if text and (self.name not in NAMES or self.action not in ("kill", "error")):
            raise ValueError(f"TITANS3_FAILPOINT {text!r}: name must be one of {NAMES}, action kill or error")

    def reach(self, name: str) -> None:
        assert name in NAMES, name
        if self.log and name not in self.seen:
            self.seen.add(name)
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(name + "\n")
        if name == self.name:
            self.left -= 1
            if self.left == 0:
                if self.action == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(errno.EIO, f"failpoint {name}")


def _read_environment() -> _Armed | None:
    text, log = os.environ.get("TITANS3_FAILPOINT", ""), os.environ.get("TITANS3_FAILPOINT_LOG", "")
    return _Armed(text, log) if text or log else None


_armed = _read_environment()


def hit(name: str) -> None:
    """Reach a failpoint. May never return (kill) or raise OSError(EIO) when armed so."""
    if _armed is not None:
        _armed.reach(name)
