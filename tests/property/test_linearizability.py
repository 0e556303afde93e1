"""The checker of histories: what a real register does is accepted, and what none can do is refused."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.linearizability import ABSENT, DONE, LOST, REFUSED, Operation, explain, is_linearizable


def answer(operation: Operation, state: bytes | None) -> tuple[Operation, bytes | None]:
    """What a correct register answers, and its state after it."""
    for result in (DONE, REFUSED, ABSENT):
        value = state if operation.kind == "get" else operation.value
        told = Operation(operation.kind, operation.begin, operation.end, result, value, operation.expected)
        possible, after = explain(told, state)
        if possible:
            return told, after
    raise AssertionError(operation)


def played(seed: int, count: int, clients: int) -> list[Operation]:
    """A history of concurrent clients on a correct register: each operation takes effect at a moment between its begin and its end."""
    chance = random.Random(seed)
    intents: list[tuple[float, Operation]] = []
    for client in range(clients):
        now = chance.random()
        for number in range(count):
            begin = now + chance.random() * 0.5
            end = begin + chance.random()
            kind = chance.choice(["get", "get", "put", "create", "replace", "delete", "remove"])
            value = b"%d.%d" % (client, number) if kind in ("put", "create", "replace") else None
            expected = b"%d.%d" % (chance.randrange(clients), chance.randrange(count)) if kind in ("replace", "remove") else None
            intents.append((chance.uniform(begin, end), Operation(kind, begin, end, LOST, value, expected)))
            now = end
    history, state = [], None
    for _, intent in sorted(intents, key=lambda item: item[0]):
        told, state = answer(intent, state)
        if chance.random() < 0.05:  # done, and nobody was told
            told = Operation(intent.kind, intent.begin, intent.end, LOST, intent.value, intent.expected)
        history.append(told)
    return history


@given(st.integers(0, 10**9), st.integers(1, 12), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_what_a_register_does_is_accepted(seed: int, count: int, clients: int) -> None:
    assert is_linearizable(played(seed, count, clients))


def brute(history: list[Operation]) -> bool:
    """By trying every order of every subset that leaves out only what is lost."""
    certain = [operation for operation in history if operation.result != LOST]
    lost = [operation for operation in history if operation.result == LOST]
    for size in range(len(lost) + 1):
        for chosen in itertools.combinations(lost, size):
            for order in itertools.permutations([*certain, *chosen]):
                if any(later.result != LOST and later.end < earlier.begin for earlier, later in itertools.combinations(order, 2)):
                    continue
                state: bytes | None = None
                for operation in order:
                    possible, state = explain(operation, state)
                    if not possible:
                        break
                else:
                    return True
    return False


VALUES = st.sampled_from([b"a", b"b"])


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    kind = draw(st.sampled_from(["get", "put", "create", "replace", "delete", "remove"]))
    begin = draw(st.integers(0, 6))
    result = draw(st.sampled_from({"get": [DONE, ABSENT], "put": [DONE, LOST], "delete": [DONE, LOST]}.get(kind, [DONE, REFUSED, LOST])))
    return Operation(kind, begin, begin + draw(st.integers(1, 4)), result, draw(VALUES), draw(VALUES))


@given(st.lists(operations(), max_size=5))
@settings(max_examples=400, deadline=None)
def test_the_verdict_is_that_of_trying_everything(history: list[Operation]) -> None:
    assert is_linearizable(history) is brute(history)


@pytest.mark.parametrize(
    "history",
    [
        [Operation("put", 0, 1, DONE, b"a"), Operation("get", 2, 3, ABSENT)],
        [Operation("put", 0, 1, DONE, b"a"), Operation("put", 2, 3, DONE, b"b"), Operation("get", 4, 5, DONE, b"a")],
        [Operation("create", 0, 5, DONE, b"a"), Operation("create", 1, 4, DONE, b"b")],
        [Operation("put", 0, 9, DONE, b"a"), Operation("get", 1, 2, DONE, b"a"), Operation("get", 3, 4, ABSENT)],
        [Operation("put", 0, 1, LOST, b"a"), Operation("get", 2, 3, DONE, b"a"), Operation("get", 4, 5, ABSENT)],
        [Operation("get", 0, 1, DONE, b"a"), Operation("put", 2, 3, DONE, b"a")],
        [Operation("put", 0, 1, DONE, b"a"), Operation("replace", 2, 3, REFUSED, b"b", b"a")],
        [Operation("put", 0, 1, DONE, b"a"), Operation("remove", 2, 3, ABSENT, None, b"a")],
        [Operation("put", 2, 3, DONE, b"a"), Operation("delete", 4, 5, DONE), Operation("create", 6, 7, REFUSED, b"x")],
    ],
)
def test_what_no_register_does_is_refused(history: list[Operation]) -> None:
    assert not is_linearizable(history)


@given(st.integers(0, 10**9))
@settings(max_examples=60, deadline=None)
def test_a_read_of_what_was_never_written_is_always_seen(seed: int) -> None:
    history = played(seed, 8, 4)
    reads = [at for at, operation in enumerate(history) if operation.kind == "get" and operation.result != LOST]
    if reads:
        at = reads[seed % len(reads)]
        old = history[at]
        history[at] = Operation("get", old.begin, old.end, DONE, b"never written")
        assert not is_linearizable(history)
