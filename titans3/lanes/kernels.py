"""The machine code of MD5 (RFC 1321) and SHA-256 (FIPS 180-4) for several messages at once.

A kernel is a C function ``void (state, messages, blocks, constants, times)``: ``state`` holds the words of the chain, each of them for all
lanes; ``messages`` an address a lane; ``blocks`` (at least one) of 64 bytes are taken from each of them. A lane that nobody needs
reads what another reads. ``times`` is for ``sha_ni``, whose state lies otherwise; here it is ignored.

Invariants
* Pure: text in the shape of instructions. Nothing here runs it.
* Only registers that a C function may change are changed, and no memory but ``state``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from iced_x86 import Code, Instruction, MemoryOperand, Register

from titans3.lanes.avx512 import PARITY, Avx512
from titans3.lanes.vector import BLOCK_BYTES, BLOCKS, CONSTANTS, OFFSET, Operand, Vector, at

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Register as Name

V = TypeVar("V", bound=Vector)


def _kernel(vector: V, chain: int, rounds: Callable[[V, list[Name], list[Operand]], list[Name]]) -> bytes:
    """The loop over blocks around ``rounds``: (vector, the ``chain`` words, the sixteen words of the block) to the chain's new words."""
    put = vector.put
    vector.begin()
    before = [vector.new() for _ in range(chain)]
    for number, register in enumerate(before):
        vector.load_chain(register, number)
    put(Instruction.create_reg_reg(Code.XOR_R32_RM32, Register.R8D, Register.R8D))
    top = len(vector.assembler.code)
    after = rounds(vector, before, vector.block())
    assert after == before, "the chain's words are back where they were"
    for number, register in enumerate(after):
        vector.add_chain(register, number)
        vector.store_chain(number, register)
    put(Instruction.create_reg_i32(Code.ADD_RM64_IMM8, OFFSET, BLOCK_BYTES))
    put(Instruction.create_reg(Code.DEC_RM64, BLOCKS))
    put(Instruction.create_branch(Code.JNE_REL32_64, top))
    vector.end()
    return bytes(vector.assembler.code)


MD5_START = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
MD5_CONSTANTS = tuple(int(abs(math.sin(step + 1)) * 2**32) for step in range(64))
_MD5_TURNS = ((7, 12, 17, 22), (5, 9, 14, 20), (4, 11, 16, 23), (6, 10, 15, 21))
_MD5_WORDS = ((1, 0), (5, 1), (3, 5), (7, 0))  # of round r, step s takes word (factor * s + start) % 16


def md5(vector: Vector) -> bytes:
    """MD5 for as many messages as there are lanes."""
    return _kernel(vector, 4, _md5_rounds)


def _md5_rounds(vector: Vector, chain: list[Name], words: list[Operand]) -> list[Name]:
    a, b, c, d = chain
    value = vector.new()
    for step in range(64):
        number = step // 16
        factor, start = _MD5_WORDS[number]
        vector.add_constant(a, step)
        vector.add(a, words[(factor * step + start) % 16])
        if number == 0:
            vector.add_selected(a, value, b, c, d)
        elif number == 1:
            vector.add_selected(a, value, d, b, c)
        elif number == 2:
            vector.parity(value, b, c, d)
            vector.add(a, value)
        else:
            vector.parity_of_less(value, c, b, d)
            vector.add(a, value)
        vector.rotate_left(a, a, _MD5_TURNS[number][step % 4])
        vector.add(a, b)
        a, b, c, d = d, a, b, c
    vector.drop(value, *words)
    return [a, b, c, d]


def _primes(count: int) -> list[int]:
    found: list[int] = []
    number = 2
    while len(found) < count:
        if all(number % prime for prime in found):
            found.append(number)
        number += 1
    return found


def _fraction(number: int, root: int) -> int:
    """The first 32 bits behind the point of the square (2) or cube (3) root, exactly."""
    low, high = 0, 1 << 40
    scaled = number << (32 * root)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**root <= scaled else (low, middle - 1)
    return low & 0xFFFFFFFF


SHA256_START = tuple(_fraction(prime, 2) for prime in _primes(8))
_BIG_ENDIAN = (0x00010203, 0x04050607, 0x08090A0B, 0x0C0D0E0F)
SHA256_CONSTANTS = (*(_fraction(prime, 3) for prime in _primes(64)), *_BIG_ENDIAN)
_ORDER_AT = 64 * 4


def sha256() -> bytes:
    """SHA-256 for 16 messages, with AVX-512."""
    return _kernel(Avx512(16), 8, _sha256_rounds)


def _sha256_rounds(vector: Avx512, chain: list[Name], block: list[Operand]) -> list[Name]:
    words = [word for word in block if not isinstance(word, MemoryOperand)]
    order = vector.new()
    vector.load_repeated(order, at(CONSTANTS, _ORDER_AT))
    for word in words:
        vector.shuffle_bytes(word, order)
    vector.drop(order)
    one, two, three = (vector.new() for _ in range(3))

    def sigma(value: Name, turns: tuple[int, int], last: int, *, shifted: bool = False) -> Name:
        """Three turns of a value, added without carry; the last one may be a shift."""
        vector.rotate_right(one, value, turns[0])
        vector.rotate_right(two, value, turns[1])
        (vector.shift_right if shifted else vector.rotate_right)(three, value, last)
        vector.logic(one, two, three, PARITY)
        return one

    a, b, c, d, e, f, g, h = chain
    for step in range(64):
        word = words[step % 16]
        if step >= 16:
            vector.add(word, words[(step - 7) % 16])
            vector.add(word, sigma(words[(step - 15) % 16], (7, 18), 3, shifted=True))
            vector.add(word, sigma(words[(step - 2) % 16], (17, 19), 10, shifted=True))
        vector.add_constant(h, step)
        vector.add(h, word)
        vector.select(one, e, f, g)
        vector.add(h, one)
        vector.add(h, sigma(e, (6, 11), 25))
        vector.add(d, h)
        vector.add(h, sigma(a, (2, 13), 22))
        vector.majority(one, a, b, c)
        vector.add(h, one)
        a, b, c, d, e, f, g, h = h, a, b, c, d, e, f, g
    vector.drop(one, two, three, *words)
    return [a, b, c, d, e, f, g, h]
