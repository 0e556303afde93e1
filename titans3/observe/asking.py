"""Whose request a log line belongs to, wherever it is written: in a handler, in the dispatch below it, in tasks they start.

Invariants
* A request that logs nothing pays nothing: a connection says once, when it is made, how to find the request that it is serving. The loop
  runs a connection's callbacks, and all tasks that come of them, in a context of the connection's own.
* In the worker that owns a key a sibling's request is known only if it is traced: then the frame says whose it is.
* What outlives its request is told of the connection's next one, or of none; nothing that long is logged with a word about the client.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar

# (request id, trace id) as of now; empty where there is none.
Whose = Callable[[], tuple[str, str]]
ASKING: ContextVar[Whose] = ContextVar("asking")


class Attribution(logging.Filter):
    """Gives every record of a request the fields ``request_id`` and, if it is traced, ``trace_id``. To be added to handlers."""

    def filter(self, record: logging.LogRecord) -> bool:
        whose = ASKING.get(None)
        if whose is not None:
            request_id, trace_id = whose()
            fields = record.__dict__
            if request_id and fields.setdefault("request_id", request_id) == request_id and trace_id:
                fields["trace_id"] = trace_id
        return True
