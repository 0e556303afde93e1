"""What a kernel is written in: operations on a word of each lane, whatever instructions they become.

Invariants
* Code is independent of where it lies: branches are relative, constants come through a register.
* A register is used by one value at a time: ``new`` hands it out, ``drop`` takes it back, and running out is an error, not a spill.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from iced_x86 import Code, Encoder, Instruction, MemoryOperand, Register

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Register as Name

Operand: TypeAlias = "Name | MemoryOperand"
BLOCK_BYTES = 64
STATE, MESSAGES, BLOCKS, CONSTANTS = Register.RDI, Register.RSI, Register.RDX, Register.RCX  # System V's order of arguments
OFFSET, MESSAGE = Register.R8, Register.RAX


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


class Vector(ABC):
    """The operations that MD5 takes, on registers; where an operand comes last it may lie in memory. Destination first."""

    repeats = 1  # how often each constant lies in memory

    def __init__(self, lanes: int, registers: Sequence[Name]) -> None:
        self.assembler = Assembler()
        self.put = self.assembler.put
        self.lanes = lanes
        self.bytes = 4 * lanes
        self._free = list(reversed(registers))

    def new(self) -> Name:
        """A register that is free. Raises IndexError when there is none."""
        return self._free.pop()

    def drop(self, *registers: Operand) -> None:
        """They are free again; what lies in memory needs no more."""
        self._free.extend(register for register in registers if not isinstance(register, MemoryOperand))

    def begin(self) -> None:
        """Before anything else."""
        self.put(Instruction.create(Code.ENDBR64))

    def end(self) -> None:
        """Back to the caller."""
        self.put(Instruction.create(Code.RETNQ))

    def point(self, lane: int) -> None:
        """MESSAGE is the lane's address."""
        self.put(Instruction.create_reg_mem(Code.MOV_R64_RM64, MESSAGE, at(MESSAGES, 8 * lane)))

    @abstractmethod
    def load_chain(self, to: Name, number: int) -> None:
        """to = a word of the chain."""

    @abstractmethod
    def add_chain(self, to: Name, number: int) -> None:
        """to += a word of the chain."""

    @abstractmethod
    def store_chain(self, number: int, source: Name) -> None:
        """The word of the chain is what a register has."""

    @abstractmethod
    def block(self) -> list[Operand]:
        """The sixteen words of a block, each of all lanes, OFFSET bytes behind the addresses at MESSAGES."""

    @abstractmethod
    def add(self, to: Name, other: Operand) -> None:
        """to += other."""

    @abstractmethod
    def add_constant(self, to: Name, number: int) -> None:
        """to += the constant of that number."""

    @abstractmethod
    def add_selected(self, to: Name, spare: Name, chooser: Name, ones: Name, zeros: Name) -> None:
        """to += the bits of ``ones`` where the chooser has ones, of ``zeros`` elsewhere. ``spare`` is overwritten."""

    @abstractmethod
    def parity(self, to: Name, one: Name, two: Name, three: Name) -> None:
        """to = one ^ two ^ three."""

    @abstractmethod
    def parity_of_less(self, to: Name, one: Name, two: Name, three: Name) -> None:
        """to = one ^ (two | ~three)."""

    @abstractmethod
    def rotate_left(self, to: Name, source: Name, bits: int) -> None:
        """to = source, rotated."""


class OneVector(Vector):
    """A register holds a word of every lane."""

    @abstractmethod
    def load(self, to: Name, source: MemoryOperand) -> None:
        """to = the words at ``source``, aligned or not."""

    @abstractmethod
    def store(self, to: MemoryOperand, source: Name) -> None:
        """The words to memory."""

    def load_chain(self, to: Name, number: int) -> None:
        """to = a word of the chain."""
        self.load(to, at(STATE, number * self.bytes))

    def add_chain(self, to: Name, number: int) -> None:
        """to += a word of the chain."""
        self.add(to, at(STATE, number * self.bytes))

    def store_chain(self, number: int, source: Name) -> None:
        """The word of the chain is what a register has."""
        self.store(at(STATE, number * self.bytes), source)
