"""``traceparent``: what the standard allows is read, whatever else comes counts as nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titans3.http.traceparent import Parent, parse_parent, show_parent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("header", "sampled"),
    [(GOOD, True), (f" {GOOD}\t", True), (f"00-{TRACE}-{SPAN}-00", False), (f"00-{TRACE}-{SPAN}-03", True),
     (f"00-{TRACE}-{SPAN}-fe", False), (f"cc-{TRACE}-{SPAN}-01", True), (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True)],
)  # fmt: skip
def test_what_the_standard_allows_is_read(header: str, sampled: bool) -> None:
    assert parse_parent(header.encode(), b"a=1") == Parent(int(TRACE, 16), int(SPAN, 16), sampled, "a=1")


@pytest.mark.parametrize(
    "header",
    ["", "00", GOOD.upper(), GOOD[:-1], GOOD + "0", GOOD + "-x", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01",
     f"00-{TRACE}-{'0' * 16}-01", f"0-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-0g", f"{GOOD},{GOOD}",
     f"00_{TRACE}_{SPAN}_01", f"cc-{TRACE}-{SPAN}-01.x", GOOD + "\n\n"],
)  # fmt: skip
def test_anything_else_counts_as_nothing(header: str) -> None:
    assert parse_parent(header.encode()) is None


@given(st.binary(max_size=80))
def test_no_bytes_do_harm(header: bytes) -> None:
    found = parse_parent(header)
    assert found is None or (found.trace_id and found.span_id)


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1))
def test_what_is_shown_is_read_again(trace_id: int, span_id: int) -> None:
    assert parse_parent(show_parent(trace_id, span_id).encode()) == Parent(trace_id, span_id, True)


def test_a_state_that_is_too_long_is_left_out() -> None:
    for length, kept in ((512, 512), (513, 0)):
        found = parse_parent(GOOD.encode(), b"x" * length)
        assert found is not None
        assert len(found.state) == kept
