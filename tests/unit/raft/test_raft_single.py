"""The one-voter core, step by step: proposed, written, committed, applied."""

from __future__ import annotations

import pytest

from titans3.raft.single import SingleVoter


def fresh() -> SingleVoter:
    return SingleVoter(term=0, last_index=0, last_term=0, applied=0)


def test_one_entry_from_proposal_to_applied() -> None:
    core = fresh()
    assert not core.has_ready()
    assert core.propose(b"one", "context") == (1, 1)
    assert core.has_ready()
    ready = core.ready()
    assert [(e.index, e.term, e.prev_term, e.data, e.context) for e in ready.entries] == [(1, 1, 0, b"one", "context")]
    assert (ready.committed, ready.hard_state, ready.truncate_from) == ([], None, None), "nothing is committed before it is durable"
    assert (ready.msgs_now, ready.msgs_after) == ((), ())
    assert not core.has_ready(), "taken once"
    assert core.applied == 0
    assert core.persisted(ready.token) == ready.entries
    core.applied_to(1)
    assert core.applied == 1


def test_entries_name_their_predecessors_term_and_come_back_in_order() -> None:
    core = fresh()
    tokens = []
    for batch in ((b"a", b"b", b"c"), (b"d",), (b"e", b"f")):
        for data in batch:
            core.propose(data)
        tokens.append(core.ready())
    found = [entry for ready in tokens for entry in core.persisted(ready.token)]
    assert [(e.index, e.term, e.prev_term, e.data) for e in found] == [
        (1, 1, 0, b"a"), (2, 1, 1, b"b"), (3, 1, 1, b"c"), (4, 1, 1, b"d"), (5, 1, 1, b"e"), (6, 1, 1, b"f"),
    ]


def test_a_ready_without_entries_is_harmless() -> None:
    core = fresh()
    empty = core.ready()
    core.propose(b"a")
    full = core.ready()
    assert empty.token != full.token
    assert core.persisted(empty.token) == []
    assert len(core.persisted(full.token)) == 1


def test_the_term_rises_with_the_first_proposal_of_a_life_and_not_before() -> None:
    core = SingleVoter(term=7, last_index=40, last_term=7, applied=40)
    assert (core.term, core.last_index, core.has_ready()) == (7, 40, False)
    assert core.propose(b"x") == (41, 8)
    assert core.propose(b"y") == (42, 8)
    first, second = core.ready().entries
    assert (first.prev_term, second.prev_term) == (7, 8)
    lost = SingleVoter(term=3, last_index=40, last_term=9, applied=40)  # a hard state older than the last entry
    assert lost.propose(b"x") == (41, 10)


def test_the_same_write_is_not_told_twice_and_apply_keeps_order() -> None:
    core = fresh()
    for data in (b"a", b"b"):
        core.propose(data)
    token = core.ready().token
    core.persisted(token)
    with pytest.raises(KeyError):
        core.persisted(token)
    with pytest.raises(AssertionError):
        core.applied_to(2)
    core.applied_to(1)
    with pytest.raises(AssertionError):
        core.applied_to(1)
    core.applied_to(2)
    with pytest.raises(AssertionError):
        SingleVoter(term=1, last_index=5, last_term=1, applied=4)
