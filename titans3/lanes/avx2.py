"""Lanes without AVX-512: eight in the YMM registers of AVX2, or two times eight, or one in the general ones. Words lie on the stack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from iced_x86 import Code, Instruction, MemoryOperand, Register

from titans3.lanes.vector import BLOCK_BYTES, CONSTANTS, MESSAGE, OFFSET, STATE, OneVector, Operand, Vector, at

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Code as CodeName
    from iced_x86._iced_x86_py import Register as Name

_WORDS = 16  # of a block
_PART_BYTES = 16
_LOWER: dict[int, Name] = {getattr(Register, f"YMM{number}"): getattr(Register, f"XMM{number}") for number in range(16)}


class Avx2(OneVector):
    """Eight lanes. There are sixteen registers, no rotation and no way to use one word of memory for all lanes."""

    repeats = 8

    def __init__(self, first: int = 0, lanes: int = 8) -> None:
        """``first`` of ``lanes``: these eight are some of more (``Avx2Twice``)."""
        super().__init__(8, [getattr(Register, f"YMM{number}") for number in range(16)])
        self._first, self._apart = first, 4 * lanes

    def begin(self) -> None:
        """Room for a block's words."""
        super().begin()
        self.put(Instruction.create_reg_i32(Code.SUB_RM64_IMM32, Register.RSP, _WORDS * self._apart))

    def end(self) -> None:
        """Back to the caller."""
        self.put(Instruction.create_reg_i32(Code.ADD_RM64_IMM32, Register.RSP, _WORDS * self._apart))
        self.put(Instruction.create(Code.VEX_VZEROUPPER))
        super().end()

    def load(self, to: Name, source: MemoryOperand) -> None:
        """The words at ``source``, aligned or not."""
        self.put(Instruction.create_reg_mem(Code.VEX_VMOVDQU_YMM_YMMM256, to, source))

    def store(self, to: MemoryOperand, source: Name) -> None:
        """The words to memory."""
        self.put(Instruction.create_mem_reg(Code.VEX_VMOVDQU_YMMM256_YMM, to, source))

    def _three(self, code: CodeName, to: Name, one: Name, other: Operand) -> None:
        if isinstance(other, MemoryOperand):
            self.put(Instruction.create_reg_reg_mem(code, to, one, other))
        else:
            self.put(Instruction.create_reg_reg_reg(code, to, one, other))

    def add(self, to: Name, other: Operand) -> None:
        """to += other."""
        self._three(Code.VEX_VPADDD_YMM_YMM_YMMM256, to, to, other)

    def add_constant(self, to: Name, number: int) -> None:
        """It lies in memory once for each lane."""
        self.add(to, at(CONSTANTS, self.bytes * number))

    def load_chain(self, to: Name, number: int) -> None:
        """to = a word of the chain."""
        self.load(to, self._in_chain(number))

    def add_chain(self, to: Name, number: int) -> None:
        """to += a word of the chain."""
        self.add(to, self._in_chain(number))

    def store_chain(self, number: int, source: Name) -> None:
        """The word of the chain is what a register has."""
        self.store(self._in_chain(number), source)

    def _in_chain(self, number: int) -> MemoryOperand:
        return at(STATE, number * self._apart + 4 * self._first)

    def _xor(self, to: Name, one: Name, other: Name) -> None:
        self._three(Code.VEX_VPXOR_YMM_YMM_YMMM256, to, one, other)

    def add_selected(self, to: Name, spare: Name, chooser: Name, ones: Name, zeros: Name) -> None:
        """to + (~chooser & zeros) + (chooser & ones): in MD5 it is often ``ones`` alone that has to be waited for."""
        self._three(Code.VEX_VPANDN_YMM_YMM_YMMM256, spare, chooser, zeros)
        self.add(to, spare)
        self._three(Code.VEX_VPAND_YMM_YMM_YMMM256, spare, chooser, ones)
        self.add(to, spare)

    def parity(self, to: Name, one: Name, two: Name, three: Name) -> None:
        """one ^ two ^ three."""
        self._xor(to, two, three)
        self._xor(to, to, one)

    def parity_of_less(self, to: Name, one: Name, two: Name, three: Name) -> None:
        """one ^ (two | ~three)."""
        self._three(Code.VEX_VPCMPEQD_YMM_YMM_YMMM256, to, to, to)  # all ones
        self._xor(to, to, three)
        self._three(Code.VEX_VPOR_YMM_YMM_YMMM256, to, to, two)
        self._xor(to, to, one)

    def rotate_left(self, to: Name, source: Name, bits: int) -> None:
        """Two shifts."""
        upper = self.new()
        self.put(Instruction.create_reg_reg_u32(Code.VEX_VPSLLD_YMM_YMM_IMM8, upper, source, bits))
        self.put(Instruction.create_reg_reg_u32(Code.VEX_VPSRLD_YMM_YMM_IMM8, to, source, 32 - bits))
        self._three(Code.VEX_VPOR_YMM_YMM_YMMM256, to, to, upper)
        self.drop(upper)

    def block(self) -> list[Operand]:
        """On the stack."""
        words: list[Operand] = []
        for part in range(0, BLOCK_BYTES, _PART_BYTES):
            for register in self._transposed([self._row(lane, part) for lane in range(4)]):
                words.append(at(Register.RSP, self._apart * len(words) + 4 * self._first))
                self.store(at(Register.RSP, self._apart * (len(words) - 1) + 4 * self._first), register)
                self.drop(register)
        return words

    def _row(self, lane: int, part: int) -> Name:
        """Four words of the lane in the lower half, of the one four further in the upper."""
        row = self.new()
        lane += self._first
        self.point(lane)
        self.put(Instruction.create_reg_mem(Code.VEX_VMOVDQU_XMM_XMMM128, _LOWER[row], at(MESSAGE, part, OFFSET)))
        self.point(lane + 4)
        code = Code.VEX_VINSERTI128_YMM_YMM_XMMM128_IMM8
        self.put(Instruction.create_reg_reg_mem_u32(code, row, row, at(MESSAGE, part, OFFSET), 1))
        return row

    def _transposed(self, rows: list[Name]) -> list[Name]:
        """4 x 4 words in each half."""
        low, high, low2, high2 = (self.new() for _ in range(4))
        self._three(Code.VEX_VPUNPCKLDQ_YMM_YMM_YMMM256, low, rows[0], rows[1])
        self._three(Code.VEX_VPUNPCKHDQ_YMM_YMM_YMMM256, high, rows[0], rows[1])
        self._three(Code.VEX_VPUNPCKLDQ_YMM_YMM_YMMM256, low2, rows[2], rows[3])
        self._three(Code.VEX_VPUNPCKHDQ_YMM_YMM_YMMM256, high2, rows[2], rows[3])
        self._three(Code.VEX_VPUNPCKLQDQ_YMM_YMM_YMMM256, rows[0], low, low2)
        self._three(Code.VEX_VPUNPCKHQDQ_YMM_YMM_YMMM256, rows[1], low, low2)
        self._three(Code.VEX_VPUNPCKLQDQ_YMM_YMM_YMMM256, rows[2], high, high2)
        self._three(Code.VEX_VPUNPCKHQDQ_YMM_YMM_YMMM256, rows[3], high, high2)
        self.drop(low, high, low2, high2)
        return rows


class Avx2Twice(Vector):
    """Sixteen lanes: two times eight, whose operations take turns. One waits for its results while the other computes.

    What stands for a register or a word here is a number for two of them.
    """

    repeats = 8

    def __init__(self) -> None:
        self._one, self._other = Avx2(0, 16), Avx2(8, 16)
        super().__init__(16, ())
        self.assembler, self.put = self._one.assembler, self._one.put
        self._other.assembler, self._other.put, self._other._free = self._one.assembler, self._one.put, self._one._free
        self._both: list[tuple[Operand, Operand]] = []

    def _number(self, one: Operand, other: Operand) -> Name:
        self._both.append((one, other))
        return cast("Name", len(self._both) - 1)

    def _pair(self, number: Operand) -> tuple[Name, Name]:
        """What it stands for; words in memory go where registers may."""
        return cast("tuple[Name, Name]", self._both[cast("int", number)])

    def new(self) -> Name:
        """Two registers."""
        return self._number(self._one.new(), self._other.new())

    def drop(self, *registers: Operand) -> None:
        """They are free again."""
        for number in registers:
            self._one.drop(*self._pair(number))

    def begin(self) -> None:
        """Room for the words of both."""
        self._one.begin()

    def end(self) -> None:
        """Back to the caller."""
        self._one.end()

    def block(self) -> list[Operand]:
        """On the stack."""
        return [self._number(*both) for both in zip(self._one.block(), self._other.block(), strict=True)]

    def load_chain(self, to: Name, number: int) -> None:
        """to = a word of the chain."""
        one, other = self._pair(to)
        self._one.load_chain(one, number)
        self._other.load_chain(other, number)

    def add_chain(self, to: Name, number: int) -> None:
        """to += a word of the chain."""
        one, other = self._pair(to)
        self._one.add_chain(one, number)
        self._other.add_chain(other, number)

    def store_chain(self, number: int, source: Name) -> None:
        """The word of the chain is what a register has."""
        one, other = self._pair(source)
        self._one.store_chain(number, one)
        self._other.store_chain(number, other)

    def add(self, to: Name, other: Operand) -> None:
        """to += other."""
        for half, *some in self._turns(to, other):
            half.add(*some)

    def add_constant(self, to: Name, number: int) -> None:
        """It is the same for both."""
        for half, some in self._turns(to):
            half.add_constant(some, number)

    def add_selected(self, to: Name, spare: Name, chooser: Name, ones: Name, zeros: Name) -> None:
        """to + (~chooser & zeros) + (chooser & ones)."""
        for half, *some in self._turns(to, spare, chooser, ones, zeros):
            half.add_selected(*some)

    def parity(self, to: Name, one: Name, two: Name, three: Name) -> None:
        """one ^ two ^ three."""
        for half, *some in self._turns(to, one, two, three):
            half.parity(*some)

    def parity_of_less(self, to: Name, one: Name, two: Name, three: Name) -> None:
        """one ^ (two | ~three)."""
        for half, *some in self._turns(to, one, two, three):
            half.parity_of_less(*some)

    def rotate_left(self, to: Name, source: Name, bits: int) -> None:
        """Two shifts."""
        for half, into, out in self._turns(to, source):
            half.rotate_left(into, out, bits)

    def _turns(self, *numbers: Operand) -> Iterator[Any]:
        ones, others = zip(*map(self._pair, numbers), strict=True)
        yield self._one, *ones
        yield self._other, *others


class Alone(OneVector):
    """One lane in general registers: a body alone, whose eight lanes would take half as long again."""

    def __init__(self) -> None:
        super().__init__(1, [Register.R9D, Register.R10D, Register.R11D, Register.R12D, Register.R13D])

    def begin(self) -> None:
        """Two registers are the caller's."""
        super().begin()
        self.put(Instruction.create_reg(Code.PUSH_R64, Register.R12))
        self.put(Instruction.create_reg(Code.PUSH_R64, Register.R13))

    def end(self) -> None:
        """Back to the caller."""
        self.put(Instruction.create_reg(Code.POP_R64, Register.R13))
        self.put(Instruction.create_reg(Code.POP_R64, Register.R12))
        super().end()

    def load(self, to: Name, source: MemoryOperand) -> None:
        """One word."""
        self.put(Instruction.create_reg_mem(Code.MOV_R32_RM32, to, source))

    def store(self, to: MemoryOperand, source: Name) -> None:
        """One word."""
        self.put(Instruction.create_mem_reg(Code.MOV_RM32_R32, to, source))

    def _copy(self, to: Name, source: Name) -> None:
        self.put(Instruction.create_reg_reg(Code.MOV_R32_RM32, to, source))

    def _two(self, code: CodeName, to: Name, other: Operand) -> None:
        if isinstance(other, MemoryOperand):
            self.put(Instruction.create_reg_mem(code, to, other))
        else:
            self.put(Instruction.create_reg_reg(code, to, other))

    def add(self, to: Name, other: Operand) -> None:
        """to += other."""
        self._two(Code.ADD_R32_RM32, to, other)

    def add_constant(self, to: Name, number: int) -> None:
        """to += the constant."""
        self.add(to, at(CONSTANTS, 4 * number))

    def add_selected(self, to: Name, spare: Name, chooser: Name, ones: Name, zeros: Name) -> None:
        """to + (~chooser & zeros) + (chooser & ones)."""
        self._copy(spare, chooser)
        self.put(Instruction.create_reg(Code.NOT_RM32, spare))
        self._two(Code.AND_R32_RM32, spare, zeros)
        self.add(to, spare)
        self._copy(spare, chooser)
        self._two(Code.AND_R32_RM32, spare, ones)
        self.add(to, spare)

    def parity(self, to: Name, one: Name, two: Name, three: Name) -> None:
        """one ^ two ^ three."""
        self._copy(to, two)
        self._two(Code.XOR_R32_RM32, to, three)
        self._two(Code.XOR_R32_RM32, to, one)

    def parity_of_less(self, to: Name, one: Name, two: Name, three: Name) -> None:
        """one ^ (two | ~three)."""
        self._copy(to, three)
        self.put(Instruction.create_reg(Code.NOT_RM32, to))
        self._two(Code.OR_R32_RM32, to, two)
        self._two(Code.XOR_R32_RM32, to, one)

    def rotate_left(self, to: Name, source: Name, bits: int) -> None:
        """In place."""
        assert to == source
        self.put(Instruction.create_reg_u32(Code.ROL_RM32_IMM8, to, bits))

    def block(self) -> list[Operand]:
        """Where they are."""
        self.point(0)
        return [at(MESSAGE, 4 * word, OFFSET) for word in range(16)]
