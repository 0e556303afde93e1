"""Runs the instructions of kernels one by one, whatever this processor has: what they do to registers and memory, from the manual.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from iced_x86 import Decoder, Instruction, Mnemonic, OpKind, Register, RegisterExt

Words: TypeAlias = list[int]
WORD = 0xFFFFFFFF
WIDE = (1 << 64) - 1
ALL = 16  # words of a register
PART = 4  # words of 128 bits, to which many instructions keep
STACK = 0x7000_0000
_NAMES = {getattr(Mnemonic, name): name for name in dir(Mnemonic) if name.isupper()}
_KEEPS = frozenset(("PUSH", "POP", "RET", "ENDBR64", "VZEROUPPER", "JNE"))


class Memory:
    """Areas at addresses; whoever reads or writes elsewhere has made a mistake."""

    def __init__(self) -> None:
        self._areas: dict[int, bytearray] = {STACK - 4096: bytearray(4096)}

    def put(self, address: int, data: bytes) -> bytearray:
        """An area that begins there."""
        self._areas[address] = bytearray(data)
        return self._areas[address]

    def at(self, address: int, size: int) -> memoryview:
        """Those bytes. Raises AssertionError where there are none."""
        for begin, area in self._areas.items():
            if begin <= address and address + size <= begin + len(area):
                return memoryview(area)[address - begin : address - begin + size]
        raise AssertionError(f"{size} bytes at {address:#x} are nobody's")


def words_of(data: bytes | memoryview) -> Words:
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def bytes_of(words: Sequence[int]) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


def _rotated(word: int, bits: int) -> int:
    bits %= 32
    return (word << bits | word >> (32 - bits)) & WORD


def _ternary(table: int) -> Callable[[int, int, int], int]:
    def logic(one: int, two: int, three: int) -> int:
        found = 0
        for row in range(8):
            if table >> row & 1:
                found |= (one if row & 4 else ~one) & (two if row & 2 else ~two) & (three if row & 1 else ~three)
        return found & WORD

    return logic


def _unpacked(one: Words, two: Words, order: Sequence[tuple[int, int]]) -> Words:
    """Within each 128 bits: (0 of the first or 1 of the second, which word)."""
    return [(one, two)[which][part + word] for part in range(0, len(one), PART) for which, word in order]


_UNPACK = {
    "VPUNPCKLDQ": ((0, 0), (1, 0), (0, 1), (1, 1)),
    "VPUNPCKHDQ": ((0, 2), (1, 2), (0, 3), (1, 3)),
    "VPUNPCKLQDQ": ((0, 0), (0, 1), (1, 0), (1, 1)),
    "VPUNPCKHQDQ": ((0, 2), (0, 3), (1, 2), (1, 3)),
}
_PAIRWISE: dict[str, Callable[[int, int], int]] = {
    "VPADDD": lambda one, two: (one + two) & WORD,
    "VPXOR": lambda one, two: one ^ two,
    "VPAND": lambda one, two: one & two,
    "VPANDN": lambda one, two: ~one & two & WORD,
    "VPOR": lambda one, two: one | two,
    "VPCMPEQD": lambda one, two: WORD if one == two else 0,
}
_SHIFTS: dict[str, Callable[[int, int], int]] = {
    "VPSLLD": lambda word, bits: word << bits & WORD,
    "VPSRLD": lambda word, bits: word >> bits,
    "VPROLD": _rotated,
}
_NUMBERS: dict[str, Callable[[int, int], int]] = {
    "MOV": lambda _, two: two,
    "ADD": lambda one, two: one + two,
    "SUB": lambda one, two: one - two,
    "XOR": lambda one, two: one ^ two,
    "AND": lambda one, two: one & two,
    "OR": lambda one, two: one | two,
}


class Processor:
    """``call`` a function with arguments as System V passes them; the registers that are the caller's have to be as they were."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.numbers: dict[int, int] = {}
        self.vectors: list[Words] = [[0xDEADBEEF] * ALL for _ in range(32)]
        self._zero = False

    def call(self, code: bytes, *arguments: int) -> None:
        """Until it returns."""
        decoded = {instruction.ip: instruction for instruction in Decoder(64, code)}
        kept = (Register.RBX, Register.RBP, Register.R12, Register.R13, Register.R14, Register.R15)
        self.numbers = dict.fromkeys(kept, 0x1234_5678_9ABC_DEF0)
        self.numbers[Register.RSP] = before = STACK - 8
        passed = (Register.RDI, Register.RSI, Register.RDX, Register.RCX, Register.R8, Register.R9)
        self.numbers.update(zip(passed, arguments, strict=False))
        at = 0
        while True:
            instruction = decoded[at]
            name = _NAMES[instruction.mnemonic]
            at = instruction.next_ip
            if name == "RET":
                break
            if name == "JNE":
                at = at if self._zero else instruction.near_branch_target
            else:
                self._step(name, instruction)
        assert self.numbers[Register.RSP] == before
        assert all(self.numbers[register] == 0x1234_5678_9ABC_DEF0 for register in kept)

    # operands ---------------------------------------------------------------------------------------------------------

    def _address(self, instruction: Instruction) -> int:
        return sum(
            self.numbers[register] for register in (instruction.memory_base, instruction.memory_index) if register != Register.NONE
        ) + (instruction.memory_displacement if instruction.memory_displacement < 1 << 63 else instruction.memory_displacement - (1 << 64))

    def _words(self, instruction: Instruction, operand: int, count: int) -> Words:
        if instruction.op_kind(operand) == OpKind.MEMORY:
            if instruction.is_broadcast:
                return words_of(self.memory.at(self._address(instruction), 4)) * count
            return words_of(self.memory.at(self._address(instruction), 4 * count))
        return self.vectors[RegisterExt.number(instruction.op_register(operand))][:count]

    def _number(self, instruction: Instruction, operand: int, size: int) -> int:
        kind = instruction.op_kind(operand)
        if kind == OpKind.MEMORY:
            return int.from_bytes(self.memory.at(self._address(instruction), size), "little")
        if kind == OpKind.REGISTER:
            return self.numbers.get(RegisterExt.full_register(instruction.op_register(operand)), 0) & ((1 << 8 * size) - 1)
        return instruction.immediate(operand)

    def _keep(self, instruction: Instruction, value: int, size: int) -> None:
        value &= (1 << 8 * size) - 1
        self._zero = value == 0
        if instruction.op0_kind == OpKind.MEMORY:
            self.memory.at(self._address(instruction), size)[:] = value.to_bytes(size, "little")
        else:
            self.numbers[RegisterExt.full_register(instruction.op0_register)] = value  # the upper half of a 64-bit register becomes zero

    # instructions -----------------------------------------------------------------------------------------------------

    def _step(self, name: str, instruction: Instruction) -> None:
        if name in _KEEPS:
            self._stack(name, instruction)
        elif name in _NUMBERS or name in ("DEC", "NOT", "ROL"):
            self._on_numbers(name, instruction)
        else:
            self._on_vectors(name, instruction)

    def _stack(self, name: str, instruction: Instruction) -> None:
        if name == "PUSH":
            self.numbers[Register.RSP] -= 8
            self.memory.at(self.numbers[Register.RSP], 8)[:] = self.numbers[instruction.op0_register].to_bytes(8, "little")
        elif name == "POP":
            self.numbers[instruction.op0_register] = int.from_bytes(self.memory.at(self.numbers[Register.RSP], 8), "little")
            self.numbers[Register.RSP] += 8

    def _on_numbers(self, name: str, instruction: Instruction) -> None:
        register = instruction.op0_register if instruction.op0_kind == OpKind.REGISTER else instruction.op1_register
        size = RegisterExt.size(register)
        value = self._number(instruction, 0, size)
        if name == "DEC":
            found = value - 1
        elif name == "NOT":
            found = ~value
        elif name == "ROL":
            found = _rotated(value, instruction.immediate(1))
        else:
            found = _NUMBERS[name](value, self._number(instruction, 1, size))
        self._keep(instruction, found, size)

    def _on_vectors(self, name: str, instruction: Instruction) -> None:
        if instruction.op0_kind == OpKind.MEMORY:
            assert name in ("VMOVDQU", "VMOVDQU32"), name
            count = RegisterExt.size(instruction.op1_register) // 4
            self.memory.at(self._address(instruction), 4 * count)[:] = bytes_of(self._words(instruction, 1, count))
            return
        target = RegisterExt.number(instruction.op0_register)
        count = RegisterExt.size(instruction.op0_register) // 4
        found = self._vector(name, instruction, count)
        assert len(found) == count
        self.vectors[target] = found + [0] * (ALL - count)

    def _vector(self, name: str, instruction: Instruction, count: int) -> Words:
        if name in ("VMOVDQU", "VMOVDQU32", "VMOVDQA32"):
            return self._words(instruction, 1, count)
        if name == "VBROADCASTI32X4":
            return self._words(instruction, 1, PART) * (count // PART)
        one = self._words(instruction, 1, count)
        if name in _SHIFTS:
            return [_SHIFTS[name](word, instruction.immediate(2)) for word in one]
        if name == "VINSERTI128":
            where = PART * instruction.immediate(3)
            return one[:where] + self._words(instruction, 2, PART) + one[where + PART :]
        two = self._words(instruction, 2, count)
        if name in _PAIRWISE:
            return [_PAIRWISE[name](*pair) for pair in zip(one, two, strict=True)]
        if name in _UNPACK:
            return _unpacked(one, two, _UNPACK[name])
        if name == "VPTERNLOGD":
            logic = _ternary(instruction.immediate(3))
            return [logic(*three) for three in zip(self._words(instruction, 0, count), one, two, strict=True)]
        if name == "VPSHUFB":
            data, order = bytes_of(one), bytes_of(two)
            return words_of(bytes(0 if by & 0x80 else data[at & ~15 | by & 15] for at, by in enumerate(order)))
        if name == "VSHUFI32X4":
            parts, bits = count // PART, count.bit_length() - 3 if count > 8 else 1
            chosen = [instruction.immediate(3) >> bits * part & ((1 << bits) - 1) for part in range(parts)]
            sources = [one] * (parts // 2) + [two] * (parts // 2)
            return [word for source, part in zip(sources, chosen, strict=True) for word in source[PART * part : PART * (part + 1)]]
        raise AssertionError(f"{name} is not known here")
