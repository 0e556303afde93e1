"""Frames: what was encoded comes out whatever the cuts; nonsense is refused; memory stays bounded."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titans3.errors import PeerError
from titans3.limits import FRAME_BYTES_MAX
from titans3.rpc.frame import FAILURE, HEAD, REPLY, REQUEST, Frames, disclose, enclose, encode_head

FRAMES = st.lists(
    st.tuples(
        st.integers(0, 255), st.sampled_from((REQUEST, REPLY, FAILURE)), st.integers(0, 2**64 - 1), st.binary(max_size=200),
        st.binary(max_size=300),
    ),
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(FRAMES, st.integers(0, 2**32))
def test_frames_round_trip_over_any_cut(frames: list[tuple[int, int, int, bytes, bytes]], seed: int) -> None:
    stream = b"".join(encode_head(kind, flags, number, meta, len(body)) + body for kind, flags, number, meta, body in frames)
    choose = random.Random(seed)
    cutter, found, at = Frames(), [], 0
    while at < len(stream):
        step = choose.randint(1, 64)
        found += cutter.feed(stream[at : at + step])
        at += step
    assert found == frames
    assert cutter.held == 0
    assert Frames().feed(stream) == frames


def test_a_part_of_a_frame_is_held_and_not_handed_out() -> None:
    stream = encode_head(7, REQUEST, 1, b"meta", 4) + b"body"
    for cut in range(len(stream)):
        frames = Frames()
        assert frames.feed(stream[:cut]) == []
        assert frames.held == cut
        assert frames.feed(stream[cut:] + stream) == [(7, REQUEST, 1, b"meta", b"body")] * 2


def test_a_frame_of_the_largest_size_passes_and_one_byte_more_is_refused() -> None:
    room = FRAME_BYTES_MAX - (HEAD.size - 4)
    body = bytes(room)
    assert Frames().feed(encode_head(1, REPLY, 2, b"", room) + body) == [(1, REPLY, 2, b"", body)]
    with pytest.raises(PeerError):
        encode_head(1, REPLY, 2, b"", room + 1)
    with pytest.raises(PeerError):
        encode_head(1, REPLY, 2, b"x", room)


@pytest.mark.parametrize(
    ("total", "meta_length"),
    [(FRAME_BYTES_MAX + 1, 0), (2**32 - 1, 0), (15, 0), (0, 0), (16, 1), (100, 85), (100, 2**32 - 1)],
)
def test_lengths_that_do_not_add_up_are_refused_with_the_head(total: int, meta_length: int) -> None:
    head = HEAD.pack(total, 1, REQUEST, 0, 1, meta_length)
    with pytest.raises(PeerError):
        Frames().feed(head)
    frames = Frames()
    assert frames.feed(head[:-1]) == []
    with pytest.raises(PeerError):
        frames.feed(head[-1:])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_garbage_is_frames_or_refused_and_never_more_than_came(data: bytes) -> None:
    frames = Frames()
    try:
        found = frames.feed(data)
    except PeerError:
        return
    assert sum(HEAD.size + len(meta) + len(body) for _, _, _, meta, body in found) + frames.held == len(data)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_what_tells_whose_a_frame_is_comes_off_again(whose: bytes, meta: bytes) -> None:
    assert disclose(enclose(whose, meta)) == (whose, meta)


@pytest.mark.parametrize("meta", [b"\0\1", b"\xff\xff" + bytes(100), b"\1"])
def test_a_frame_that_is_shorter_than_it_says_is_refused(meta: bytes) -> None:
    with pytest.raises(PeerError):
        disclose(meta)
