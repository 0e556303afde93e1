"""A buffer that is used again never changes under somebody who still looks at it."""

from __future__ import annotations

import random

from titans3.engine.pieces import PieceBuffers
from titans3.limits import MIB, PIECE_BUFFERS_KEPT, PIECE_BYTES


def test_a_buffer_is_used_again_once_its_last_view_is_gone() -> None:
    buffers = PieceBuffers()
    first = buffers.take(MIB)
    place = first.obj
    part = first[1000:2000]
    del first
    second = buffers.take(MIB)
    assert second.obj is not place, "a slice is still held"
    del part
    places = {id(buffers.take(MIB).obj) for _ in range(4)}
    assert places == {id(place)}
    assert len(second) == MIB
    assert len(buffers) == 2


def test_a_transport_that_holds_a_piece_keeps_its_bytes() -> None:
    """Whatever is taken, kept and let go of in any order: what is held is what was written into it."""
    rng = random.Random(7)
    buffers = PieceBuffers()
    held: list[tuple[memoryview, bytes]] = []
    for number in range(3000):
        if held and rng.random() < 0.5:
            view, mark = held.pop(rng.randrange(len(held)))
            assert bytes(view[:8]) == bytes(view[-8:]) == mark
            del view
            continue
        size = rng.choice((64 * 1024, 128 * 1024, 700_000, PIECE_BYTES))
        view, mark = buffers.take(size), number.to_bytes(8, "big")
        assert len(view) == size
        view[:8] = view[-8:] = mark
        cut = rng.choice((0, 0, size // 2 // 8 * 8))
        view[cut : cut + 8] = mark
        held.append((view[cut:], mark))  # as a transport that has sent the beginning
    for view, mark in held:
        assert bytes(view[:8]) == bytes(view[-8:]) == mark


def test_what_is_kept_is_bounded_and_small_pieces_keep_nothing() -> None:
    buffers = PieceBuffers()
    assert len(buffers.take(64 * 1024).obj) == 64 * 1024
    assert len(buffers) == 0
    held = [buffers.take(MIB) for _ in range(PIECE_BUFFERS_KEPT + 20)]
    assert len(buffers) == PIECE_BUFFERS_KEPT
    assert len({id(view.obj) for view in held}) == len(held)
    assert len(buffers.take(200_000).obj) == 200_000, "its own memory, not a whole piece's"
    del held
    assert len(buffers.take(200_000).obj) == PIECE_BYTES
