"""Objects kept in memory: by their row, within a bound, the longest unread first to go."""

from __future__ import annotations

from titans3.engine.hot import Hot
from titans3.model.version import ROW_FORMAT, Version


def version(number: int) -> Version:
    return Version(ROW_FORMAT, 0, number, 0, 3, b"e" * 16, 0, 0)


def test_a_row_finds_its_version_and_body_and_another_row_does_not() -> None:
    hot = Hot(1 << 20)
    hot.keep(b"row 1", version(1), b"abc")
    found = hot.find(b"row 1")
    assert found is not None
    assert (found.version, found.body) == (version(1), b"abc")
    assert hot.find(b"row 2") is None
    assert (hot.statistics().hits, hot.statistics().misses) == (1, 1)


def test_a_body_that_comes_later_takes_the_place_of_the_head_alone() -> None:
    hot = Hot(1 << 20)
    hot.keep(b"row", version(1), None)
    before = hot.statistics().bytes
    hot.keep(b"row", version(1), b"x" * 1000)
    assert hot.statistics().entries == 1
    assert hot.statistics().bytes == before + 1000


def test_the_bound_holds_and_what_was_not_read_for_the_longest_goes() -> None:
    hot = Hot(100_000)
    for number in range(40):
        for _ in range(2):
            hot.keep(b"%d" % number, version(number), b"x" * 10_000)
        hot.find(b"0")
        assert hot.statistics().bytes <= 100_000
    assert hot.find(b"0") is not None
    assert hot.find(b"1") is None
    assert hot.find(b"39") is not None


def test_what_is_read_once_puts_nothing_out_when_it_is_full_and_what_is_read_again_gets_in() -> None:
    hot = Hot(1 << 20)
    room = 80
    for number in range(room):
        hot.keep(b"old %d" % number, version(number), b"x" * 10_000)
    entries = hot.statistics().entries
    for number in range(1000):
        assert hot.keep(b"once %d" % number, version(number), b"y" * 10_000).body == b"y" * 10_000
    survivors = sum(hot.find(b"old %d" % number) is not None for number in range(room))
    assert survivors > entries - 20  # a mark is a byte: one in some hundreds of strangers is taken for one that was read
    hot.keep(b"twice", version(1), b"z")
    hot.keep(b"twice", version(1), b"z")
    assert hot.find(b"twice") is not None
    assert hot.statistics().bytes <= 1 << 20


def test_nothing_is_kept_without_room() -> None:
    hot = Hot(0)
    assert hot.keep(b"row", version(1), b"abc").body == b"abc"
    assert hot.statistics().entries == 0
