"""Digests by lanes: the MD5 of up to sixteen bodies that arrive in pieces, and the SHA-256 of many messages that are here whole.

Invariants
* Every result is what hashlib says: ``load`` computes samples of every kernel before it hands one out.
* ``update_all`` and ``sha256_each`` may be called from any thread, but a body is in one call at a time. They let go of the GIL while
  they compute.
* What is read must stay as it is until the call returns; nothing of it is kept but the last bytes that fill no block.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

from titans3.lanes import native

if TYPE_CHECKING:
    from titans3.lanes.vector import Vector

LANES = 16  # at most
BLOCK = 64
_SIXTEEN_FROM = 9  # messages: for fewer the processor's own instructions for SHA-256 are faster
SHA256_BYTES_MIN = 16384  # of a message, below which preparing costs more than is gained
_MD5_BYTES = struct.Struct("<4I")
_SHA256_BYTES = struct.Struct(">8I")
_LENGTH = struct.Struct("<Q")
_LENGTH_BIG = struct.Struct(">Q")


class Md5:
    """A body's MD5 under way; :class:`Lanes` moves it on. ``moved_at``: when it began or moved on last, for who batches."""

    __slots__ = ("chain", "is_ended", "is_slow", "length", "moved_at", "tail")

    def __init__(self, chain: tuple[int, ...]) -> None:
        self.chain = chain
        self.tail = b""
        self.length = 0
        self.is_ended = self.is_slow = False
        self.moved_at = 0.0


class Kernel:
    """Machine code and what it reads."""

    __slots__ = ("constants", "function")

    def __init__(self, code: bytes, constants: Sequence[int]) -> None:
        self.function = native.function(code)
        self.constants = _words(constants)


class Sha256:
    """A kernel of SHA-256, for ``least`` messages or more, and how the words of its state lie.

    ``order``: which word comes where; the messages' words lie side by side if ``by_word``, else each message's together.
    """

    __slots__ = ("_kernel", "_start", "_take", "_width", "least")

    def __init__(self, kernel: Kernel, start: Sequence[int], *, width: int, least: int, order: Sequence[int], by_word: bool) -> None:
        """``width``: messages side by side."""
        self._kernel, self._width, self.least = kernel, width, least
        self._start = [word for word in start for _ in range(LANES)] if by_word else [start[word] for word in order] * LANES
        step, size = (LANES, 1) if by_word else (1, len(start))
        numbers = [[lane * size + order.index(word) * step for word in range(len(start))] for lane in range(LANES)]
        self._take = [itemgetter(*some) for some in numbers]

    def digests(self, data: memoryview, length: int) -> list[bytes]:
        """Of up to LANES messages of ``length`` bytes that lie one behind the other in ``data``."""
        count = len(data) // length
        whole = length & -BLOCK
        end = b"\x80" + bytes(-(length + 9) % BLOCK) + _LENGTH_BIG.pack(length * 8)
        rests = [bytes(data[at + whole : at + length]) for at in range(0, len(data), length)] if whole < length else [b""] * count
        ends = bytearray(end.join((*rests, b"")))
        size = len(ends) // count
        held: list[object] = []
        first, last = _address(data, held), _address(ends, held)
        lanes = count + -count % self._width
        state = _words(self._start)
        for begin, step, blocks in ((first, length, whole // BLOCK), (last, size, size // BLOCK)):
            if blocks:
                places = [*range(begin, begin + count * step, step), *[begin] * (lanes - count)]
                self._kernel.function(state, (ctypes.c_void_p * lanes)(*places), blocks, self._kernel.constants, lanes // self._width)
        after = state[:]
        return [_SHA256_BYTES.pack(*take(after)) for take in self._take[:count]]


class Lanes:
    """The kernels of this process: of MD5 by how many bodies they take, and of SHA-256, if there are any. ``most``: bodies in a call."""

    def __init__(self, md5: dict[int, Kernel], md5_start: tuple[int, ...], sha256: Sequence[Sha256]) -> None:
        self._md5 = sorted(md5.items())
        self._md5_start = md5_start
        self._sha256 = sorted(sha256, key=lambda kernel: -kernel.least)
        self.most = max(md5)

    def md5(self) -> Md5:
        """The MD5 of nothing yet."""
        return Md5(self._md5_start)

    def update_all(self, batch: Sequence[tuple[Md5, memoryview]]) -> None:
        """Take a piece of each body; at most ``most`` of them, each once."""
        assert len(batch) <= self.most
        heads: list[tuple[Md5, int, int]] = []
        runs: list[tuple[Md5, int, int]] = []
        held: list[object] = []  # what the addresses are of
        for md5, piece in batch:
            md5.length += len(piece)
            view = piece
            if md5.tail:
                missing = BLOCK - len(md5.tail)
                head = md5.tail + bytes(view[:missing])
                if len(head) < BLOCK:
                    md5.tail = head
                    continue
                md5.tail = b""
                heads.append((md5, _address(bytearray(head), held), 1))
                view = view[missing:]
            whole = len(view) & -BLOCK
            if whole:
                runs.append((md5, _address(view, held), whole // BLOCK))
            md5.tail = bytes(view[whole:])
        self._run(heads)
        self._run(runs)

    def digest(self, md5: Md5) -> bytes:
        """The MD5 of everything so far, 16 bytes."""
        end = bytearray(md5.tail + b"\x80" + bytes(-(len(md5.tail) + 9) % BLOCK) + _LENGTH.pack(md5.length * 8 & 0xFFFFFFFFFFFFFFFF))
        last, held = Md5(md5.chain), list[object]()
        self._run([(last, _address(end, held), len(end) // BLOCK)])
        return _MD5_BYTES.pack(*last.chain)

    def _run(self, work: list[tuple[Md5, int, int]]) -> None:
        """Blocks of each, side by side for as long as they last: (body, address, blocks)."""
        while work:
            width, kernel = next((width, kernel) for width, kernel in self._md5 if width >= len(work))
            blocks = min(left for _, _, left in work)
            idle = width - len(work)
            chains = [md5.chain for md5, _, _ in work]
            chains += chains[:1] * idle
            addresses = [address for _, address, _ in work]
            addresses += addresses[:1] * idle
            state = _words(tuple(word for column in zip(*chains, strict=True) for word in column))
            kernel.function(state, (ctypes.c_void_p * width)(*addresses), blocks, kernel.constants, 1)
            after = state[:]
            rest = []
            for lane, (md5, address, left) in enumerate(work):
                md5.chain = tuple(after[lane::width])
                if left > blocks:
                    rest.append((md5, address + blocks * BLOCK, left - blocks))
            work = rest

    def sha256_each(self, data: memoryview, length: int) -> list[bytes]:
        """The SHA-256, 32 bytes, of each ``length`` bytes of ``data``, which is a multiple of it."""
        found: list[bytes] = []
        for at in range(0, len(data), LANES * length):
            some = data[at : at + LANES * length]
            count = len(some) // length
            kernel = next((kernel for kernel in self._sha256 if kernel.least <= count), None) if length >= SHA256_BYTES_MIN else None
            if kernel is None:
                found += [hashlib.sha256(some[begin : begin + length]).digest() for begin in range(0, len(some), length)]
            else:
                found += kernel.digests(some, length)
        return found


def _words(values: Sequence[int]) -> ctypes.Array[ctypes.c_uint32]:
    return (ctypes.c_uint32 * len(values))(*values)


def _address(data: bytearray | memoryview, held: list[object]) -> int:
    """Where it begins; ``held`` keeps it there."""
    if isinstance(data, memoryview) and data.readonly:
        data = bytearray(data)
    here = ctypes.c_char.from_buffer(data)
    held.append(here)
    return ctypes.addressof(here)


def load(instructions: frozenset[str] | None = None) -> Lanes | None:
    """Write the kernels and try them; ``None`` where they cannot be used. Takes some 25 ms. ``instructions``: others than the best.

    Raises OSError where memory cannot be mapped to be run, ArithmeticError when a kernel computes something else than hashlib does.
    """
    chosen = native.instructions() if instructions is None else instructions
    if not chosen & {native.AVX512, native.AVX2}:
        return None
    from titans3.lanes import kernels, sha_ni  # with the assembler: not where nobody loads it
    from titans3.lanes.avx2 import Alone, Avx2, Avx2Twice
    from titans3.lanes.avx512 import Avx512

    start, constants = kernels.SHA256_START, kernels.SHA256_CONSTANTS
    sha256 = []
    if native.SHA in chosen:
        pairs = Kernel(sha_ni.sha256(), constants)
        sha256.append(Sha256(pairs, start, width=sha_ni.PAIR, least=2, order=sha_ni.ORDER, by_word=False))
    if native.AVX512 in chosen:
        vectors: list[Vector] = [Avx512(4), Avx512(8), Avx512(LANES)]
        sixteen = Kernel(kernels.sha256(), constants)
        sha256.append(Sha256(sixteen, start, width=LANES, least=_SIXTEEN_FROM, order=range(len(start)), by_word=True))
    else:
        vectors = [Alone(), Avx2(), Avx2Twice()]
    md5 = {}
    for vector in vectors:
        repeated = [constant for constant in kernels.MD5_CONSTANTS for _ in range(vector.repeats)]
        md5[vector.lanes] = Kernel(kernels.md5(vector), repeated)
    made = Lanes(md5, kernels.MD5_START, sha256)
    _prove(made)
    return made


def _prove(lanes: Lanes) -> None:
    """Compare samples of every kernel with hashlib. Raises ArithmeticError."""
    size = SHA256_BYTES_MIN + 65
    sample = memoryview(bytearray(hashlib.shake_256(b"titans3").digest(LANES * size)))
    messages = [sample[at : at + size] for at in range(0, len(sample), size)]
    for count in (1, 2, 7, lanes.most):
        bodies = [lanes.md5() for _ in range(count)]
        for cut in (slice(0, 100), slice(100, None)):
            lanes.update_all([(md5, message[cut]) for md5, message in zip(bodies, messages[:count], strict=True)])
        for md5, message in zip(bodies, messages[:count], strict=True):
            if lanes.digest(md5) != hashlib.md5(message, usedforsecurity=False).digest():
                raise ArithmeticError(f"MD5 in lanes is wrong for {count} messages")
    digests = [hashlib.sha256(message).digest() for message in messages]
    for count in (2, 7, LANES):
        if lanes.sha256_each(sample[: count * size], size) != digests[:count]:
            raise ArithmeticError(f"SHA-256 in lanes is wrong for {count} messages")
