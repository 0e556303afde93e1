"""The window of identified results (I11): what is repeated, what is refused, what survives a restart."""

from __future__ import annotations

import pytest

from tests.property.sorted_rows import FreedBodies, SortedRows
from titans3.errors import Reason
from titans3.limits import DEDUPE_CHUNK, DEDUPE_RESULTS
from titans3.meta.dedupe import Dedupe
from titans3.meta.keys import dedupe_key
from titans3.meta.machine import Machine
from titans3.model.command import Condition, EnsureShard, Outcome, PutObject
from titans3.model.version import Version

GID = 9


def name(number: int) -> bytes:
    return number.to_bytes(16, "big")


def filled(count: int) -> tuple[Dedupe, SortedRows]:
    """Results 1 … count, each of the entry of its number."""
    rows = SortedRows()
    dedupe = Dedupe(rows)
    for number in range(1, count + 1):
        dedupe.remember(GID, name(number), number, Outcome(index=number))
    return dedupe, rows


def test_the_window_holds_exactly_its_last_results() -> None:
    dedupe, _ = filled(DEDUPE_RESULTS + 10)
    for number in range(1, 11):
        assert not dedupe.has(GID, name(number))
    for number in range(11, DEDUPE_RESULTS + 11):
        found = dedupe.find(GID, name(number), 0)
        assert found is not None
        assert found.index == number
    assert dedupe.find(8, name(20), 0) is None, "another group has a window of its own"


@pytest.mark.parametrize("restarted", [False, True])
def test_what_may_have_been_forgotten_is_refused_and_nothing_else(restarted: bool) -> None:
    for count in (1, DEDUPE_RESULTS - 1, DEDUPE_RESULTS, DEDUPE_RESULTS + 1, 3 * DEDUPE_RESULTS + 7):
        dedupe, rows = filled(count)
        if restarted:
            dedupe.put_dirty()
            dedupe = Dedupe(rows)
        oldest = max(1, count - DEDUPE_RESULTS + 1)
        for known in {0, oldest - 1, oldest, oldest + 1, count}:
            found = dedupe.find(GID, name(10**9), known)
            if count > DEDUPE_RESULTS and known < oldest:
                assert found is not None
                assert found.reason == Reason.UNKNOWN_OUTCOME, (count, known)
            else:
                assert found is None, (count, known)


def test_a_restart_from_any_checkpoint_and_replay_ends_in_the_same_rows() -> None:
    whole, expected = filled(1300)
    whole.put_dirty()
    for stop in (1, 31, 32, 33, 511, 512, 513, 1024, 1299):
        dedupe, rows = filled(stop)
        dedupe.put_dirty()
        dedupe = Dedupe(rows)
        for number in range(stop + 1, 1301):
            assert dedupe.find(GID, name(number), number - 1) is None
            dedupe.remember(GID, name(number), number, Outcome(index=number))
        dedupe.put_dirty()
        assert rows.table == expected.table


def test_only_chunks_that_changed_are_put() -> None:
    dedupe, rows = filled(DEDUPE_RESULTS)
    dedupe.put_dirty()
    assert len(rows.table) == DEDUPE_RESULTS // DEDUPE_CHUNK
    before = dict(rows.table)
    dedupe.remember(GID, name(1000), 1000, Outcome(index=1000))
    dedupe.put_dirty()
    assert [key for key in rows.table if rows.table[key] != before[key]] == [dedupe_key(GID, 0)]
    rows.table.clear()
    dedupe.put_dirty()
    assert not rows.table


def put(request: int, condition: Condition | None = None) -> PutObject:
    return PutObject(3, b"k", Version(1, 0, 0, 5, 0, bytes(16), 0, 0), condition, name(request), 1)


def test_a_refusal_changes_nothing_and_is_remembered_too() -> None:
    rows = SortedRows()
    machine = Machine(rows, FreedBodies())
    machine.apply(GID, 1, EnsureShard(3, 1, 0))
    machine.put_dirty()
    assert machine.apply(GID, 2, put(1)).reason == ""
    machine.put_dirty()
    before = dict(rows.table)
    create = put(2, Condition(if_none_match=("*",)))
    refused = machine.apply(GID, 3, create)
    assert refused.reason == Reason.PRECONDITION
    machine.put_dirty()
    changed = [key for key in rows.table if rows.table[key] != before.get(key)]
    assert changed == [dedupe_key(GID, 0)], "the ring alone"
    assert machine.is_repeat(GID, create)
    assert machine.apply(GID, 4, create) == refused, "the repeat hears the first answer, with the first index"
    assert machine.apply(GID, 5, put(1)).index == 2


def test_a_shard_that_is_absent_is_not_remembered() -> None:
    machine = Machine(SortedRows(), FreedBodies())
    command = put(7)
    assert machine.apply(GID, 1, command).reason == Reason.SHARD_ABSENT
    assert not machine.is_repeat(GID, command)
    machine.apply(GID, 2, EnsureShard(3, 1, 0))
    assert machine.apply(GID, 3, command).reason == ""
