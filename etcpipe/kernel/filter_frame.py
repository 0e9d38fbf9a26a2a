"""What filters find around them: the frame, the hook that they run at, and the ways out."""

from abc import ABC, abstractmethod

from etcpipe.kernel import bpf
from etcpipe.kernel.build import FILTER_SLOTS
from etcpipe.kernel.ebpf import (
    ADD,
    ALU,
    ALU32,
    EXIT,
    FP,
    JEQ,
    JGT,
    JMP,
    JNE,
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    SUB,
    Assembler,
    K,
    X,
)
from etcpipe.layout import CONSTANTS

CONTEXT = R6  # survives calls
# Below the frame pointer: bytes loaded, a tagged frame's first 20 bytes, classic BPF's memory.
SCRATCH, HEAD, MEMORY = -8, -32, -96
HEAD_LEN, TAG_AT, TAG_LEN = 20, 12, 4
FRAME_MAX = 0xFFF0  # of an offset: the verifier's limit, less what a load takes

MAP_LOOKUP, TAIL_CALL, SKB_LOAD_BYTES = 1, 12, 26  # helpers
SKB_LEN, SKB_VLAN_PRESENT, SKB_VLAN_TCI, SKB_VLAN_PROTOCOL = 0, 20, 24, 28  # struct __sk_buff
XDP_DATA, XDP_DATA_END = 0, 4  # struct xdp_md

ACCEPT, REJECT, PASS, TAGGED = "accept", "reject", "pass", "tagged"


class Hook(ABC):
    """What TC and XDP programs do differently."""

    program_type = 0
    attach_types: tuple[int, ...] = (0,)
    action = 0  # "go on"
    variants: tuple[bool, ...] = (False,)  # frames with a tag beside them?

    @abstractmethod
    def length(self, code: Assembler, target: int, tagged: bool) -> None:
        """Set a register to the frame's length."""

    @abstractmethod
    def fetch(self, code: Assembler, size: int) -> None:
        """Set R0 to bytes of the frame at R2, at most FRAME_MAX, or go to REJECT."""


class Xdp(Hook):
    """The frame is memory between two pointers; a tag is always in it."""

    program_type, action = bpf.PROGRAM_XDP, 2  # XDP_PASS
    attach_types = (bpf.ATTACH_XDP, 0)  # as libbpf declares its programs, and bcc

    def length(self, code: Assembler, target: int, tagged: bool) -> None:
        code.load(4, R1, CONTEXT, XDP_DATA)
        code.load(4, target, CONTEXT, XDP_DATA_END)
        code.emit(ALU | SUB | X, target, R1)

    def fetch(self, code: Assembler, size: int) -> None:
        code.load(4, R1, CONTEXT, XDP_DATA)
        code.load(4, R3, CONTEXT, XDP_DATA_END)
        code.emit(ALU | ADD | X, R1, R2)
        code.move(R2, R1)
        code.emit(ALU | ADD | K, R2, value=size)
        code.jump(REJECT, JMP | JGT | X, R2, R3)
        code.load(size, R0, R1)


class Tc(Hook):
    """Bytes of the frame may lie anywhere, so a helper copies them."""

    program_type, action = bpf.PROGRAM_TC, -1 & 0xFFFFFFFF  # TC_ACT_UNSPEC
    variants = (False, True)

    def length(self, code: Assembler, target: int, tagged: bool) -> None:
        code.load(4, target, CONTEXT, SKB_LEN)
        if tagged:
            code.emit(ALU32 | ADD | K, target, value=TAG_LEN)

    def fetch(self, code: Assembler, size: int) -> None:
        load_bytes(code, SCRATCH, size)
        code.load(size, R0, FP, SCRATCH)


def load_bytes(code: Assembler, place: int, size: int) -> None:
    """Copy bytes of an skb at R2 to a place on the stack, or go to REJECT."""
    code.move(R1, CONTEXT)
    code.move(R3, FP)
    code.emit(ALU | ADD | K, R3, value=place)
    code.constant(R4, size)
    code.call(SKB_LOAD_BYTES)
    code.jump(REJECT, JMP | JNE | K, R0)


def copy_head(code: Assembler) -> None:
    """Put the first bytes of the frame on the stack, the tag where it was on the wire."""
    code.constant(R2, 0)
    load_bytes(code, HEAD, TAG_AT)
    code.constant(R2, TAG_AT)
    load_bytes(code, HEAD + TAG_AT + TAG_LEN, HEAD_LEN - TAG_AT - TAG_LEN)
    code.load(4, R0, CONTEXT, SKB_VLAN_PROTOCOL)  # in network order
    code.store(2, FP, HEAD + TAG_AT, R0)
    code.load(4, R0, CONTEXT, SKB_VLAN_TCI)
    code.network_order(R0, 2)
    code.store(2, FP, HEAD + TAG_AT + 2, R0)


def _go_on(code: Assembler, filters_fd: int, slot: str) -> None:
    """End by the program in a slot; comes back if there is none."""
    code.move(R1, CONTEXT)
    code.map(R2, filters_fd)
    code.constant(R3, FILTER_SLOTS.index(slot))
    code.call(TAIL_CALL)


def finish(code: Assembler, hook: Hook, filters_fd: int, counters_fd: int) -> None:
    """End the program: ACCEPT goes on to the tracker, REJECT counts the packet, PASS neither."""
    code.label(ACCEPT)
    _go_on(code, filters_fd, "FILTER_MATCHED")
    code.jump(PASS)
    code.label(REJECT)
    code.constant(R0, CONSTANTS["PACKETS_FILTERED"])
    code.store(4, FP, SCRATCH, R0)
    code.map(R1, counters_fd)
    code.move(R2, FP)
    code.emit(ALU | ADD | K, R2, value=SCRATCH)
    code.call(MAP_LOOKUP)
    code.jump(PASS, JMP | JEQ | K, R0)
    code.load(8, R1, R0)
    code.emit(ALU | ADD | K, R1, value=1)
    code.store(8, R0, 0, R1)
    code.label(PASS)
    _go_on(code, filters_fd, "FILTER_MISSED")
    code.constant(R0, hook.action)
    code.emit(JMP | EXIT)
