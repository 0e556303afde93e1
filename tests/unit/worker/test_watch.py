"""The order in which a live view shows what workers told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from titans3.worker.watch import in_order

EVENTS = st.lists(st.tuples(st.integers(0, 2000), st.booleans()), max_size=40).map(
    lambda found: [(at, worker, b"%d" % number) for number, (at, worker) in enumerate(sorted(found))]
)


@given(events=EVENTS, polls=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 50)), max_size=8))
def test_what_two_workers_tell_comes_in_the_order_it_happened(events: list[tuple[int, bool, bytes]], polls: list[tuple[int, int]]) -> None:
    """One is asked when a poll begins, the other a while later."""
    shown: list[tuple[int, bytes]] = []
    waited: list[tuple[int, bytes]] = []
    told = [0, 0]
    end = 0
    for begin, later in [*sorted(polls), (3000, 0), (4000, 0)]:
        begin = max(begin, end)  # a poll begins after the one before it
        end = begin + later
        new = []
        for worker, until in ((0, begin), (1, end)):
            new += [(at, data) for at, where, data in events if where == worker and told[worker] <= at < until]
            told[worker] = until
        now, waited = in_order(waited, new, begin)
        shown += now
    assert waited == []
    assert sorted(data for _, data in shown) == sorted(data for _, _, data in events)
    moments = [at for at, _ in shown]
    assert moments == sorted(moments)


def test_a_clock_that_went_back_holds_nothing_longer_than_one_poll() -> None:
    shown, waited = in_order([], [(5000, b"a")], 5000)
    assert (shown, waited) == ([], [(5000, b"a")])
    assert in_order(waited, [(100, b"b")], 200) == ([(100, b"b"), (5000, b"a")], [])
