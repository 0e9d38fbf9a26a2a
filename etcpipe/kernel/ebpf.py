"""An assembler for small eBPF programs: instructions with labels in, machine code out.

Source: the kernel's Documentation/bpf/standardization/instruction-set.rst (RFC 9669).
"""

from collections.abc import Hashable

import numpy as np

from etcpipe.errors import UnsupportedError

INSTRUCTION = np.dtype([("code", "u1"), ("registers", "u1"), ("offset", "<i2"), ("value", "<i4")])
OFFSET_MAX = 0x7FFF  # of a jump, in instructions

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, FP = range(11)

LD, LDX, ST, STX, ALU32, JMP, JMP32, ALU = range(8)
WORD, HALF, BYTE, DOUBLE = 0x00, 0x08, 0x10, 0x18
SIZES = {4: WORD, 2: HALF, 1: BYTE, 8: DOUBLE}
MEM, IMM = 0x60, 0x00
K, X = 0x00, 0x08
ADD, SUB, MUL, DIV, OR, AND = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50
LSH, RSH, NEG, MOD, XOR, MOV, END = 0x60, 0x70, 0x80, 0x90, 0xA0, 0xB0, 0xD0
JA, JEQ, JGT, JGE, JSET, JNE, CALL, EXIT = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x80, 0x90
MAP_FD = 1  # source register of a 64-bit constant that is a map's descriptor


class Assembler:
    """Collects instructions; a label may be named by a jump before it is placed."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, int, int]] = []
        self._labels: dict[Hashable, int] = {}
        self._jumps: list[tuple[int, Hashable]] = []

    def label(self, name: Hashable) -> None:
        """Place a label in front of the next instruction."""
        self._labels[name] = len(self._rows)

    def emit(
        self, code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0
    ) -> None:
        """Append one instruction; value is 32 bits, signed or not."""
        signed = value - (1 << 32) if value >> 31 == 1 else value
        self._rows.append((code, target | source << 4, offset, signed))

    def constant(self, target: int, value: int) -> None:
        """Set a register to 32 bits, the upper half zero."""
        self.emit(ALU32 | MOV | K, target, value=value)

    def move(self, target: int, source: int) -> None:
        """Copy a whole register."""
        self.emit(ALU | MOV | X, target, source)

    def load(self, size: int, target: int, address: int, offset: int = 0) -> None:
        """Load 1, 2, 4 or 8 bytes, in the machine's order, the rest zero."""
        self.emit(LDX | MEM | SIZES[size], target, address, offset)

    def store(self, size: int, address: int, offset: int, source: int) -> None:
        """Store 1, 2, 4 or 8 bytes of a register."""
        self.emit(STX | MEM | SIZES[size], address, source, offset)

    def network_order(self, target: int, size: int) -> None:
        """Swap 2 or 4 bytes between network order and the machine's."""
        self.emit(ALU32 | END | X, target, value=8 * size)

    def map(self, target: int, fd: int) -> None:
        """Set a register to a map."""
        self.emit(LD | IMM | DOUBLE, target, MAP_FD, value=fd)
        self.emit(0)

    def call(self, helper: int) -> None:
        """Call a helper: arguments in R1 to R5, which are lost, the result in R0."""
        self.emit(JMP | CALL, value=helper)

    def jump(
        self,
        label: Hashable,
        code: int = JMP | JA,
        target: int = 0,
        source: int = 0,
        value: int = 0,
    ) -> None:
        """Jump to a label, always or under a condition."""
        self._jumps.append((len(self._rows), label))
        self.emit(code, target, source, value=value)

    def assemble(self) -> np.ndarray:
        """Return (n,) INSTRUCTION.

        Raises:
            UnsupportedError: a jump is too far for its 16 bits.
        """
        program = np.array(self._rows, INSTRUCTION)
        for row, label in self._jumps:
            distance = self._labels[label] - row - 1
            if distance > OFFSET_MAX:
                raise UnsupportedError("the filter is too long: make it shorter")
            program["offset"][row] = distance
        return program
