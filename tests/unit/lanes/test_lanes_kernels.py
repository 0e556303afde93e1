"""Every kernel, instruction by instruction, on any processor: the digests are hashlib's, and nothing else of memory changes."""

from __future__ import annotations

import ctypes
import hashlib
import random
import struct
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from tests.unit.lanes.emulated import Memory, Processor, bytes_of, words_of
from titans3.lanes import digests, kernels
from titans3.lanes.avx2 import Alone, Avx2, Avx2Twice
from titans3.lanes.avx512 import Avx512
from titans3.lanes.vector import Vector

STATE, ADDRESSES, CONSTANTS, MESSAGES = 0x1000_0000, 0x2000_0000, 0x3000_0000, 0x4000_0000


def chains(code: bytes, constants: list[int], start: tuple[int, ...], bodies: list[bytes]) -> list[list[int]]:
    """What is in ``state`` for each of the bodies, padded to blocks, after the kernel."""
    memory, width = Memory(), len(bodies)
    state = memory.put(STATE, bytes_of([word for word in start for _ in bodies]))
    addresses = [MESSAGES + 0x1_0000 * number + 3 * number for number in range(width)]
    for address, body in zip(addresses, bodies, strict=True):
        memory.put(address, body)
    memory.put(ADDRESSES, struct.pack(f"<{width}Q", *addresses))
    memory.put(CONSTANTS, bytes_of(constants))
    Processor(memory).call(code, STATE, ADDRESSES, len(bodies[0]) // 64, CONSTANTS, 1)
    words = words_of(bytes(state))
    for address, body in zip(addresses, bodies, strict=True):
        assert memory.at(address, len(body)) == body
    return [words[lane::width] for lane in range(width)]


def padded(body: bytes, order: str) -> bytes:
    return body + b"\x80" + bytes(-(len(body) + 9) % 64) + struct.pack(f"{order}Q", 8 * len(body))


@pytest.mark.parametrize("make", [Alone, Avx2, Avx2Twice, *(partial(Avx512, lanes) for lanes in (4, 8, 16))])
def test_md5(make: Callable[[], Vector]) -> None:
    vector = make()
    bodies = [random.Random(lane).randbytes(180) for lane in range(vector.lanes)]
    constants = [constant for constant in kernels.MD5_CONSTANTS for _ in range(vector.repeats)]
    found = chains(kernels.md5(vector), constants, kernels.MD5_START, [padded(body, "<") for body in bodies])
    assert [struct.pack("<4I", *words) for words in found] == [hashlib.md5(body, usedforsecurity=False).digest() for body in bodies]


def test_sha256() -> None:
    bodies = [random.Random(lane).randbytes(120) for lane in range(16)]
    found = chains(kernels.sha256(), list(kernels.SHA256_CONSTANTS), kernels.SHA256_START, [padded(body, ">") for body in bodies])
    assert [struct.pack(">8I", *words) for words in found] == [hashlib.sha256(body).digest() for body in bodies]


class Emulated(digests.Kernel):
    """A kernel that runs on no processor."""

    def __init__(self, code: bytes, constants: Sequence[int]) -> None:
        self.code, self.constants = code, (ctypes.c_uint32 * len(constants))(*constants)
        self.function = self._call

    def _call(
        self, state: ctypes.Array[ctypes.c_uint32], messages: ctypes.Array[ctypes.c_void_p], blocks: int, constants: object, times: int
    ) -> None:
        assert constants is self.constants
        memory = Memory()
        words = memory.put(STATE, bytes(state))
        for address in {address for address in messages if address}:
            memory.put(address, ctypes.string_at(address, blocks * 64))
        memory.put(ADDRESSES, struct.pack(f"<{len(messages)}Q", *messages))
        memory.put(CONSTANTS, bytes(self.constants))
        Processor(memory).call(self.code, STATE, ADDRESSES, blocks, CONSTANTS, times)
        state[:] = words_of(bytes(words))


def test_lanes_of_another_processor() -> None:
    """What this one may lack: AVX-512, in all its widths, with any number of bodies and messages."""
    order = range(len(kernels.SHA256_START))
    sixteen = Emulated(kernels.sha256(), kernels.SHA256_CONSTANTS)
    sha256 = digests.Sha256(sixteen, kernels.SHA256_START, width=16, least=9, order=order, by_word=True)
    md5 = {lanes: Emulated(kernels.md5(Avx512(lanes)), kernels.MD5_CONSTANTS) for lanes in (4, 8, 16)}
    made = digests.Lanes(md5, kernels.MD5_START, [sha256])
    data = random.Random(1).randbytes(16 * 130)
    for count in (9, 16):
        expected = [hashlib.sha256(data[at : at + 130]).digest() for at in range(0, count * 130, 130)]
        assert sha256.digests(memoryview(data)[: count * 130], 130) == expected
    for count in (1, 3, 5, 16):
        bodies = [(made.md5(), memoryview(data)[at : at + 100 + at // 50]) for at in range(0, count * 130, 130)]
        made.update_all(bodies)
        assert [made.digest(body) for body, _ in bodies] == [hashlib.md5(view, usedforsecurity=False).digest() for _, view in bodies]
