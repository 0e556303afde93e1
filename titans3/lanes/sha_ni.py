"""SHA-256 (FIPS 180-4) with the processor's own instructions, for two messages at once: each instruction waits for the one before, and
the other message's fit in between.

A kernel as in ``kernels.py``, with a fifth argument: how many pairs of messages there are, one after the other. ``state`` holds for each
message its eight words in the order ORDER.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2 (SHA256RNDS2, SHA256MSG1, SHA256MSG2).

Invariants
* Pure: nothing here runs what it writes.
* Only registers that a C function may change are changed, and no memory but ``state``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iced_x86 import Code, Instruction, MemoryOperand, Register

from titans3.lanes.vector import BLOCK_BYTES, BLOCKS, CONSTANTS, MESSAGES, STATE, Assembler, at

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Code as CodeName
    from iced_x86._iced_x86_py import Register as Name

PAIR = 2
ORDER = (5, 4, 1, 0, 7, 6, 3, 2)  # f e b a, h g d c: as SHA256RNDS2 wants them, lowest word first
_PAIRS, _FIRST, _SECOND, _OFFSET, _LEFT = Register.R8, Register.RAX, Register.R9, Register.R10, Register.R11
_MESSAGE_BYTES = 4 * len(ORDER)
_SHUFFLE_AT = 64 * 4  # behind the constants of the rounds
_XMM = [getattr(Register, f"XMM{number}") for number in range(16)]
_SUM, _SHUFFLE = _XMM[0], _XMM[15]  # SHA256RNDS2 takes the sum of words and constants from XMM0


class _Message:
    """The registers of one: two with its state, four with words of the block, a spare one; ``place``: of its state."""

    def __init__(self, registers: list[Name], pointer: Name, place: int) -> None:
        self.low, self.high = registers[0], registers[1]
        self.words, self.spare = registers[2:6], registers[6]
        self.pointer, self.place = pointer, place

    def halves(self) -> list[tuple[Name, MemoryOperand]]:
        """Its state, in registers and in memory."""
        return [(register, at(STATE, self.place + 16 * half)) for half, register in enumerate((self.low, self.high))]


class _Writer:
    """Short names for instructions."""

    def __init__(self) -> None:
        self.assembler = Assembler()
        self.put = self.assembler.put

    def two(self, code: CodeName, to: Name, other: Name) -> None:
        self.put(Instruction.create_reg_reg(code, to, other))

    def number(self, code: CodeName, to: Name, other: Name, number: int) -> None:
        self.put(Instruction.create_reg_reg_u32(code, to, other, number))

    def load(self, to: Name, source: MemoryOperand) -> None:
        self.put(Instruction.create_reg_mem(Code.MOVDQU_XMM_XMMM128, to, source))

    def store(self, to: MemoryOperand, source: Name) -> None:
        self.put(Instruction.create_mem_reg(Code.MOVDQU_XMMM128_XMM, to, source))


def sha256() -> bytes:
    """The kernel. Its constants are those of ``kernels.sha256``."""
    writer = _Writer()
    put, code = writer.put, writer.assembler.code
    both = [_Message(_XMM[1:8], _FIRST, 0), _Message(_XMM[8:15], _SECOND, _MESSAGE_BYTES)]
    put(Instruction.create(Code.ENDBR64))
    writer.load(_SHUFFLE, at(CONSTANTS, _SHUFFLE_AT))
    next_pair = len(code)
    for number, message in enumerate(both):
        put(Instruction.create_reg_mem(Code.MOV_R64_RM64, message.pointer, at(MESSAGES, 8 * number)))
        for register, place in message.halves():
            writer.load(register, place)
    put(Instruction.create_reg_reg(Code.XOR_R32_RM32, Register.R10D, Register.R10D))
    writer.two(Code.MOV_R64_RM64, _LEFT, BLOCKS)
    next_block = len(code)
    for message in both:
        for number, word in enumerate(message.words):
            writer.load(word, at(message.pointer, 16 * number, _OFFSET))
            writer.two(Code.PSHUFB_XMM_XMMM128, word, _SHUFFLE)
    for group in range(16):
        for message in both:
            _four_rounds(writer, message, group)
    for message in both:
        for register, place in message.halves():
            writer.load(message.spare, place)
            writer.two(Code.PADDD_XMM_XMMM128, register, message.spare)
            writer.store(place, register)
    put(Instruction.create_reg_i32(Code.ADD_RM64_IMM8, _OFFSET, BLOCK_BYTES))
    put(Instruction.create_reg(Code.DEC_RM64, _LEFT))
    put(Instruction.create_branch(Code.JNE_REL32_64, next_block))
    put(Instruction.create_reg_i32(Code.ADD_RM64_IMM8, STATE, PAIR * _MESSAGE_BYTES))
    put(Instruction.create_reg_i32(Code.ADD_RM64_IMM8, MESSAGES, PAIR * 8))
    put(Instruction.create_reg(Code.DEC_RM64, _PAIRS))
    put(Instruction.create_branch(Code.JNE_REL32_64, next_pair))
    put(Instruction.create(Code.RETNQ))
    return bytes(code)


def _four_rounds(writer: _Writer, message: _Message, group: int) -> None:
    """Rounds 4 * group and following, and what they can do for the words of later ones."""
    words = message.words
    now, before, after = words[group % 4], words[(group - 1) % 4], words[(group + 1) % 4]
    writer.load(_SUM, at(CONSTANTS, 16 * group))
    writer.two(Code.PADDD_XMM_XMMM128, _SUM, now)
    writer.two(Code.SHA256RNDS2_XMM_XMMM128, message.high, message.low)
    if 3 <= group < 15:
        writer.two(Code.MOVDQA_XMM_XMMM128, message.spare, now)
        writer.number(Code.PALIGNR_XMM_XMMM128_IMM8, message.spare, before, 4)
        writer.two(Code.PADDD_XMM_XMMM128, after, message.spare)
        writer.two(Code.SHA256MSG2_XMM_XMMM128, after, now)
    writer.number(Code.PSHUFD_XMM_XMMM128_IMM8, _SUM, _SUM, 0b1110)  # the upper two words down
    writer.two(Code.SHA256RNDS2_XMM_XMMM128, message.low, message.high)
    if 1 <= group < 13:
        writer.two(Code.SHA256MSG1_XMM_XMMM128, before, now)
