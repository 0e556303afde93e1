"""The headers ``traceparent`` and ``tracestate``: where in whose trace a request belongs. Pure.

Invariants
* What is not exactly as the standard says counts as not there: a bad header never refuses a request and never makes an id of ours.
* Both are bounded; of a ``tracestate`` that is too long nothing is kept.

Source: https://www.w3.org/TR/trace-context/ (2021-11-23)
"""

from __future__ import annotations

import re

import msgspec

from titans3.limits import TRACE_STATE_CHARACTERS_MAX

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_SAMPLED = 1


class Parent(msgspec.Struct, frozen=True):
    """The span that asks. ``state`` is the text of ``tracestate``, which means something to those who wrote it."""

    trace_id: int
    span_id: int
    sampled: bool
    state: str = ""


def parse_parent(traceparent: bytes, tracestate: bytes = b"") -> Parent | None:
    """``None`` for what is none: wrong lengths, upper case, ids of zero, version ff, several in one."""
    found = _PARENT.fullmatch(traceparent.strip(b" \t"))
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    trace_id, span_id = int(trace, 16), int(span, 16)
    if not trace_id or not span_id:
        return None
    state = "" if len(tracestate) > TRACE_STATE_CHARACTERS_MAX else tracestate.decode("latin-1")
    return Parent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), state)


def show_parent(trace_id: int, span_id: int) -> str:
    """A sampled span as the header says it."""
    return f"00-{trace_id:032x}-{span_id:016x}-01"
