"""The last lines of this process's log, for whoever asks while it runs.

Invariant: bounded: LINES_MAX lines, each cut at CHARACTERS_MAX.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from titans3.observe.asking import Attribution
from titans3.observe.logs import escape

LINES_MAX = 1000
CHARACTERS_MAX = 8192


class Recent(logging.Handler):
    """Keeps lines as fields. ``on_line`` is told each new one."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker
        self.addFilter(Attribution())
        self.lines: deque[dict[str, Any]] = deque(maxlen=LINES_MAX)
        self.on_line: list[Callable[[dict[str, Any]], None]] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = escape(record.getMessage())
        if record.exc_info and record.exc_info[0] is not None:
            text += f" ({record.exc_info[0].__name__}: {escape(str(record.exc_info[1]))})"
        line = {
            "time_ms": int(record.created * 1000), "worker": self._worker, "level": record.levelname.lower(), "logger": record.name,
            "message": text[:CHARACTERS_MAX], "request_id": str(record.__dict__.get("request_id", "")),
        }  # fmt: skip
        if "trace_id" in record.__dict__:
            line["trace_id"] = str(record.__dict__["trace_id"])
        self.lines.append(line)
        for told in self.on_line:
            told(line)
