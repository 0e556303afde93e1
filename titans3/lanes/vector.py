"""Instructions on vectors of 32-bit words, a lane each: 4, 8 or 16 of them in XMM, YMM or ZMM registers of AVX-512.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2 (VPTERNLOGD, VPROLD, VPUNPCK*, VSHUFI32X4).

Invariants
* Code is independent of where it lies: branches are relative, constants come through a register.
* A register is used by one value at a time: ``new`` hands it out, ``drop`` takes it back, and running out is an error, not a spill.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iced_x86 import Code, Encoder, Instruction, MemoryOperand, Register

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Code as CodeName
    from iced_x86._iced_x86_py import Register as Name

SELECT = 0xCA  # ternary logic: the bits of the second operand where the first has ones, of the third elsewhere
PARITY = 0x96
MAJORITY = 0xE8
_NAMES = {4: "XMM", 8: "YMM", 16: "ZMM"}


def at(base: Name, offset: int = 0, index: Name = Register.NONE, *, broadcast: bool = False) -> MemoryOperand:
    """The memory at ``base`` + ``index`` + ``offset``; ``broadcast``: one word of it for every lane."""
    return MemoryOperand(base, index, 1, offset, 8 if offset or broadcast else 0, broadcast)


class Assembler:
    """Instructions one behind the other; ``code`` is what was written so far."""

    def __init__(self) -> None:
        self.code = bytearray()
        self._encoder = Encoder(64)

    def put(self, instruction: Instruction) -> None:
        """Append one."""
        self._encoder.encode(instruction, len(self.code))
        self.code += self._encoder.take_buffer()


class Vector:
    """The instructions of one width. Operands are registers: destination first."""

    def __init__(self, assembler: Assembler, lanes: int) -> None:
        self.assembler = assembler
        self.lanes = lanes
        self._name = _NAMES[lanes]
        self._bits = lanes * 32
        self._free: list[Name] = [getattr(Register, f"{self._name}{number}") for number in range(31, -1, -1)]

    def new(self) -> Name:
        """A register that is free. Raises IndexError when there is none."""
        return self._free.pop()

    def drop(self, *registers: Name) -> None:
        """They are free again."""
        self._free.extend(registers)

    def _code(self, pattern: str) -> CodeName:
        """``*`` stands for the registers, ``#`` for their bits."""
        found: CodeName = getattr(Code, pattern.replace("*", self._name).replace("#", str(self._bits)))
        return found

    def load(self, to: Name, source: MemoryOperand) -> None:
        """The words at ``source``, aligned or not."""
        self.assembler.put(Instruction.create_reg_mem(self._code("EVEX_VMOVDQU32_*_K1Z_*M#"), to, source))

    def store(self, to: MemoryOperand, source: Name) -> None:
        """The words to memory."""
        self.assembler.put(Instruction.create_mem_reg(self._code("EVEX_VMOVDQU32_*M#_K1Z_*"), to, source))

    def copy(self, to: Name, source: Name) -> None:
        """to = source."""
        self.assembler.put(Instruction.create_reg_reg(self._code("EVEX_VMOVDQA32_*_K1Z_*M#"), to, source))

    def add(self, to: Name, other: Name) -> None:
        """to += other."""
        self.assembler.put(Instruction.create_reg_reg_reg(self._code("EVEX_VPADDD_*_K1Z_*_*M#B32"), to, to, other))

    def add_memory(self, to: Name, source: MemoryOperand) -> None:
        """to += the words, or the one word for all, at ``source``."""
        self.assembler.put(Instruction.create_reg_reg_mem(self._code("EVEX_VPADDD_*_K1Z_*_*M#B32"), to, to, source))

    def logic(self, to: Name, second: Name, third: Name, table: int) -> None:
        """to = the bit of ``table`` that (to, second, third) are the number of, bit by bit."""
        code = self._code("EVEX_VPTERNLOGD_*_K1Z_*_*M#B32_IMM8")
        self.assembler.put(Instruction.create_reg_reg_reg_u32(code, to, second, third, table))

    def rotate_left(self, to: Name, source: Name, bits: int) -> None:
        """to = source, rotated."""
        self.assembler.put(Instruction.create_reg_reg_u32(self._code("EVEX_VPROLD_*_K1Z_*M#B32_IMM8"), to, source, bits))

    def rotate_right(self, to: Name, source: Name, bits: int) -> None:
        """to = source, rotated."""
        self.rotate_left(to, source, 32 - bits)

    def shift_right(self, to: Name, source: Name, bits: int) -> None:
        """to = source >> bits."""
        self.assembler.put(Instruction.create_reg_reg_u32(self._code("EVEX_VPSRLD_*_K1Z_*M#B32_IMM8"), to, source, bits))

    def shuffle_bytes(self, to: Name, order: Name) -> None:
        """The bytes of each sixteen in another order."""
        self.assembler.put(Instruction.create_reg_reg_reg(self._code("EVEX_VPSHUFB_*_K1Z_*_*M#"), to, to, order))

    def load_repeated(self, to: Name, source: MemoryOperand) -> None:
        """The sixteen bytes at ``source`` in every part. ZMM only."""
        self.assembler.put(Instruction.create_reg_mem(Code.EVEX_VBROADCASTI32X4_ZMM_K1Z_M128, to, source))

    def _unpack(self, half: str, size: str, to: Name, one: Name, other: Name) -> None:
        code = self._code(f"EVEX_VPUNPCK{half}{size}_*_K1Z_*_*M#B{64 if size == 'QDQ' else 32}")
        self.assembler.put(Instruction.create_reg_reg_reg(code, to, one, other))

    def _parts(self, to: Name, one: Name, other: Name, order: int) -> None:
        """Parts of 128 bits: of ``one`` in the lower half, of ``other`` in the upper."""
        code = self._code("EVEX_VSHUFI32X4_*_K1Z_*_*M#B32_IMM8")
        self.assembler.put(Instruction.create_reg_reg_reg_u32(code, to, one, other, order))

    def transposed(self, rows: list[Name]) -> list[Name]:
        """As many words of each lane (``rows``, used up) as vectors with one word of all lanes each."""
        fours = [self._transposed_parts(rows[at_ : at_ + 4]) for at_ in range(0, self.lanes, 4)]
        if self.lanes == 4:
            return fours[0]
        words = [Register.NONE] * self.lanes
        for column in range(4):
            if self.lanes == 8:
                low, high = fours[0][column], fours[1][column]
                words[column] = self.new()
                self._parts(words[column], low, high, 0b00)
                self._parts(low, low, high, 0b11)
                words[4 + column] = low
                self.drop(high)
            else:
                words[column::4] = self._joined([four[column] for four in fours])
        return words

    def _transposed_parts(self, rows: list[Name]) -> list[Name]:
        """4 x 4 words in each part of 128 bits."""
        low, high, low2, high2 = (self.new() for _ in range(4))
        self._unpack("L", "DQ", low, rows[0], rows[1])
        self._unpack("H", "DQ", high, rows[0], rows[1])
        self._unpack("L", "DQ", low2, rows[2], rows[3])
        self._unpack("H", "DQ", high2, rows[2], rows[3])
        self._unpack("L", "QDQ", rows[0], low, low2)
        self._unpack("H", "QDQ", rows[1], low, low2)
        self._unpack("L", "QDQ", rows[2], high, high2)
        self._unpack("H", "QDQ", rows[3], high, high2)
        self.drop(low, high, low2, high2)
        return rows

    def _joined(self, quarters: list[Name]) -> list[Name]:
        """4 x 4 parts of 128 bits, transposed."""
        one, two, three, four = quarters
        lower, upper = self.new(), self.new()
        self._parts(lower, one, two, 0x44)
        self._parts(one, one, two, 0xEE)
        self._parts(upper, three, four, 0x44)
        self._parts(three, three, four, 0xEE)
        self._parts(two, lower, upper, 0x88)
        self._parts(lower, lower, upper, 0xDD)
        self._parts(four, one, three, 0x88)
        self._parts(one, one, three, 0xDD)
        self.drop(upper, three)
        return [two, lower, four, one]
