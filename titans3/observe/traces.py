"""What became of traces and their spans: counters that are there, and 0, also when no traces are made."""

from __future__ import annotations

import msgspec


class SpanStatistics(msgspec.Struct, frozen=True):
    """Since start: sent, dropped before they were (the queue was full), and lost in sending. ``waiting`` is as of now."""

    sent: int = 0
    dropped: int = 0
    failed: int = 0
    waiting: int = 0


class TraceStatistics(msgspec.Struct, frozen=True):
    """Since start: traces begun here, and those that were not because of ``tracing.traces_max``; what became of spans."""

    traces: int = 0
    limited: int = 0
    spans: SpanStatistics = SpanStatistics()
