"""Lanes in the registers of AVX-512: 4 of them in XMM, 8 in YMM, 16 in ZMM.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2 (VPTERNLOGD, VPROLD, VPUNPCK*, VSHUFI32X4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iced_x86 import Code, Instruction, MemoryOperand, Register

from titans3.lanes.vector import BLOCK_BYTES, CONSTANTS, MESSAGE, OFFSET, OneVector, Operand, at

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Code as CodeName
    from iced_x86._iced_x86_py import Register as Name

SELECT, PARITY, MAJORITY = 0xCA, 0x96, 0xE8  # tables of three bits: the bit of this number is the result
_PARITY_OF_LESS = 0x2D
_NAMES = {4: "XMM", 8: "YMM", 16: "ZMM"}


class Avx512(OneVector):
    """One width."""

    def __init__(self, lanes: int) -> None:
        self._name = _NAMES[lanes]
        super().__init__(lanes, [getattr(Register, f"{self._name}{number}") for number in range(32)])

    def _code(self, pattern: str) -> CodeName:
        """``*`` stands for the registers, ``#`` for their bits."""
        found: CodeName = getattr(Code, pattern.replace("*", self._name).replace("#", str(8 * self.bytes)))
        return found

    def end(self) -> None:
        """Back to the caller."""
        self.put(Instruction.create(Code.VEX_VZEROUPPER))
        super().end()

    def load(self, to: Name, source: MemoryOperand) -> None:
        """The words at ``source``, aligned or not."""
        self.put(Instruction.create_reg_mem(self._code("EVEX_VMOVDQU32_*_K1Z_*M#"), to, source))

    def store(self, to: MemoryOperand, source: Name) -> None:
        """The words to memory."""
        self.put(Instruction.create_mem_reg(self._code("EVEX_VMOVDQU32_*M#_K1Z_*"), to, source))

    def copy(self, to: Name, source: Name) -> None:
        """to = source."""
        self.put(Instruction.create_reg_reg(self._code("EVEX_VMOVDQA32_*_K1Z_*M#"), to, source))

    def add(self, to: Name, other: Operand) -> None:
        """to += other."""
        code = self._code("EVEX_VPADDD_*_K1Z_*_*M#B32")
        if isinstance(other, MemoryOperand):
            self.put(Instruction.create_reg_reg_mem(code, to, to, other))
        else:
            self.put(Instruction.create_reg_reg_reg(code, to, to, other))

    def add_constant(self, to: Name, number: int) -> None:
        """The same word to every lane."""
        self.add(to, at(CONSTANTS, 4 * number, broadcast=True))

    def logic(self, to: Name, second: Name, third: Name, table: int) -> None:
        """to = the bit of ``table`` that (to, second, third) are the number of, bit by bit."""
        code = self._code("EVEX_VPTERNLOGD_*_K1Z_*_*M#B32_IMM8")
        self.put(Instruction.create_reg_reg_reg_u32(code, to, second, third, table))

    def _logic_of(self, to: Name, first: Name, second: Name, third: Name, table: int) -> None:
        self.copy(to, first)
        self.logic(to, second, third, table)

    def select(self, to: Name, chooser: Name, ones: Name, zeros: Name) -> None:
        """The bits of ``ones`` where the chooser has ones, of ``zeros`` elsewhere."""
        self._logic_of(to, chooser, ones, zeros, SELECT)

    def add_selected(self, to: Name, spare: Name, chooser: Name, ones: Name, zeros: Name) -> None:
        """Of one operation on bits."""
        self.select(spare, chooser, ones, zeros)
        self.add(to, spare)

    def majority(self, to: Name, one: Name, two: Name, three: Name) -> None:
        """The bits that two or three of them have."""
        self._logic_of(to, one, two, three, MAJORITY)

    def parity(self, to: Name, one: Name, two: Name, three: Name) -> None:
        """one ^ two ^ three."""
        self._logic_of(to, one, two, three, PARITY)

    def parity_of_less(self, to: Name, one: Name, two: Name, three: Name) -> None:
        """one ^ (two | ~three)."""
        self._logic_of(to, one, two, three, _PARITY_OF_LESS)

    def rotate_left(self, to: Name, source: Name, bits: int) -> None:
        """to = source, rotated."""
        self.put(Instruction.create_reg_reg_u32(self._code("EVEX_VPROLD_*_K1Z_*M#B32_IMM8"), to, source, bits))

    def rotate_right(self, to: Name, source: Name, bits: int) -> None:
        """to = source, rotated."""
        self.rotate_left(to, source, 32 - bits)

    def shift_right(self, to: Name, source: Name, bits: int) -> None:
        """to = source >> bits."""
        self.put(Instruction.create_reg_reg_u32(self._code("EVEX_VPSRLD_*_K1Z_*M#B32_IMM8"), to, source, bits))

    def shuffle_bytes(self, to: Name, order: Name) -> None:
        """The bytes of each sixteen in another order."""
        self.put(Instruction.create_reg_reg_reg(self._code("EVEX_VPSHUFB_*_K1Z_*_*M#"), to, to, order))

    def load_repeated(self, to: Name, source: MemoryOperand) -> None:
        """The sixteen bytes at ``source`` in every part. ZMM only."""
        self.put(Instruction.create_reg_mem(Code.EVEX_VBROADCASTI32X4_ZMM_K1Z_M128, to, source))

    def block(self) -> list[Operand]:
        """In registers."""
        words: list[Operand] = []
        for part in range(0, BLOCK_BYTES, self.bytes):
            words += self._transposed(self._rows(part))
        return words

    def _rows(self, part: int) -> list[Name]:
        """As many words of each lane as there are lanes, ``part`` bytes into the block."""
        found = []
        for lane in range(self.lanes):
            self.point(lane)
            found.append(self.new())
            self.load(found[-1], at(MESSAGE, part, OFFSET))
        return found

    def _unpack(self, half: str, size: str, to: Name, one: Name, other: Name) -> None:
        code = self._code(f"EVEX_VPUNPCK{half}{size}_*_K1Z_*_*M#B{64 if size == 'QDQ' else 32}")
        self.put(Instruction.create_reg_reg_reg(code, to, one, other))

    def _parts(self, to: Name, one: Name, other: Name, order: int) -> None:
        """Parts of 128 bits: of ``one`` in the lower half, of ``other`` in the upper."""
        self.put(Instruction.create_reg_reg_reg_u32(self._code("EVEX_VSHUFI32X4_*_K1Z_*_*M#B32_IMM8"), to, one, other, order))

    def _transposed(self, rows: list[Name]) -> list[Name]:
        """As many words of each lane (``rows``, used up) as vectors with one word of all lanes each."""
        fours = [self._transposed_parts(rows[first : first + 4]) for first in range(0, self.lanes, 4)]
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
