"""Classic BPF, as libpcap compiles filters, translated to eBPF an instruction at a time.

The translation is our own, since the kernel's is for socket filters alone, which can
neither be called nor count. A VLAN tag that the kernel keeps beside the frame is put where
it was on the wire: each translation for TC has a second half for such frames, whose loads
see the tag in band. So `vlan 7` and `tcp port 80` mean what they mean for a capture.
"""

from collections.abc import Callable

import numpy as np

from etcpipe.errors import UnsupportedError
from etcpipe.kernel.ebpf import (
    ADD,
    ALU,
    ALU32,
    AND,
    DIV,
    FP,
    JEQ,
    JGT,
    JMP,
    JMP32,
    JNE,
    LSH,
    MOD,
    NEG,
    OR,
    R0,
    R1,
    R2,
    R7,
    R8,
    RSH,
    SUB,
    Assembler,
    K,
    X,
)
from etcpipe.kernel.filter_frame import (
    ACCEPT,
    CONTEXT,
    FRAME_MAX,
    HEAD,
    HEAD_LEN,
    MEMORY,
    REJECT,
    SKB_VLAN_PRESENT,
    TAG_LEN,
    TAGGED,
    Hook,
    copy_head,
    finish,
)

CLASSIC = np.dtype([("code", "<u2"), ("if_true", "u1"), ("if_false", "u1"), ("k", "<u4")])

# Fields of classic BPF's codes (linux/bpf_common.h); operators are those of eBPF.
C_LD, C_LDX, C_ST, C_STX, C_ALU, C_JMP, C_RET, C_MISC = range(8)
C_IMM, C_ABS, C_IND, C_MEM, C_LEN, C_MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
C_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}
C_SOURCE_X, C_RET_A, C_TXA = 0x08, 0x10, 0x80

A, INDEX = R7, R8  # survive calls

ANCILLARY = 0xFFFFF000  # offsets from there on ask the kernel, not the frame


def translate(classic: np.ndarray, hook: Hook, filters_fd: int, counters_fd: int) -> np.ndarray:
    """Return (n,) ebpf.INSTRUCTION: a filter that sends on what it wants, and counts the rest.

    Args:
        classic: (n,) CLASSIC.
        hook: Tc() or Xdp().
        filters_fd, counters_fd: maps of bpf/filter.h for this hook, and packet_counters.

    Raises:
        UnsupportedError: an instruction that libpcap makes for live devices only.
    """
    code = Assembler()
    code.move(CONTEXT, R1)
    if True in hook.variants:
        code.load(4, R0, CONTEXT, SKB_VLAN_PRESENT)
        code.jump(TAGGED, JMP32 | JNE | K, R0)
    for tagged in hook.variants:
        if tagged:
            code.label(TAGGED)
            copy_head(code)
        _Translation(code, hook, tagged).translate(classic)
    finish(code, hook, filters_fd, counters_fd)
    return code.assemble()


def _reachable(classic: np.ndarray) -> list[bool]:
    """Return for each instruction whether some path leads to it; all jumps go forward."""
    reached = [False] * len(classic)
    reached[0] = True
    for at, (number, if_true, if_false, k) in enumerate(classic.tolist()):
        kind = number & 7
        if not reached[at] or kind == C_RET:
            continue
        jumps = (k, k) if kind == C_JMP and not number & 0xF0 else (if_true, if_false)
        for distance in jumps if kind == C_JMP else (0,):
            reached[at + 1 + distance] = True
    return reached


class _Translation:
    """One pass over the classic program, for frames with their tag in band or beside."""

    def __init__(self, code: Assembler, hook: Hook, tagged: bool):
        self._code = code
        self._hook = hook
        self._tagged = tagged

    def translate(self, classic: np.ndarray) -> None:
        self._code.constant(A, 0)
        self._code.constant(INDEX, 0)
        self._clear_memory(classic)
        steps: dict[int, Callable[..., None]] = {
            C_LD: self._load,
            C_LDX: self._load_index,
            C_ST: self._store,
            C_STX: self._store,
            C_ALU: self._compute,
            C_JMP: self._jump,
            C_RET: self._return,
            C_MISC: self._move,
        }
        reached = _reachable(classic)
        for at, (number, if_true, if_false, k) in enumerate(classic.tolist()):
            if not reached[at]:
                continue  # the verifier refuses what no path leads to
            self._code.label((self._tagged, at))
            steps[number & 7](number, k, at + 1 + if_true, at + 1 + if_false)

    def _clear_memory(self, classic: np.ndarray) -> None:
        kinds = classic["code"] & 7
        modes = classic["code"] & 0xE0
        uses = np.isin(kinds, (C_ST, C_STX)) | (np.isin(kinds, (C_LD, C_LDX)) & (modes == C_MEM))
        for word in np.unique(classic["k"][uses]).tolist():
            self._code.store(4, FP, MEMORY + 4 * word, A)

    def _load(self, number: int, k: int, *_: int) -> None:
        code, mode, size = self._code, number & 0xE0, C_SIZES.get(number & 0x18, 0)
        if mode == C_IMM:
            code.constant(A, k)
        elif mode == C_MEM:
            code.load(4, A, FP, MEMORY + 4 * k)
        elif mode == C_LEN:
            self._hook.length(code, A, self._tagged)
        elif mode == C_ABS and k >= ANCILLARY:
            raise UnsupportedError(f"the filter needs what only a live capture has ({number:#x})")
        else:
            self._fetch(k, size, indexed=mode == C_IND)
            code.move(A, R0)

    def _load_index(self, number: int, k: int, *_: int) -> None:
        code, mode = self._code, number & 0xE0
        if mode == C_IMM:
            code.constant(INDEX, k)
        elif mode == C_MEM:
            code.load(4, INDEX, FP, MEMORY + 4 * k)
        elif mode == C_LEN:
            self._hook.length(code, INDEX, self._tagged)
        else:  # the length of an IP header
            self._fetch(k, 1, indexed=False)
            code.emit(ALU32 | AND | K, R0, value=0xF)
            code.emit(ALU32 | LSH | K, R0, value=2)
            code.move(INDEX, R0)

    def _fetch(self, k: int, size: int, indexed: bool) -> None:
        """Set R0 to bytes of the frame at k, or at X + k, in the machine's order."""
        code = self._code
        if indexed:
            code.constant(R2, k)
            code.emit(ALU | ADD | X, R2, INDEX)
            code.jump(REJECT, JMP | JGT | K, R2, value=FRAME_MAX)
            self._fetch_anywhere(size)
        elif k > FRAME_MAX:
            code.constant(R0, 0)  # always true, but what follows is reached on paper
            code.jump(REJECT, JMP | JEQ | K, R0)
        elif self._tagged and k <= HEAD_LEN - TAG_LEN:
            self._fetch_head(k, size)
        else:
            code.constant(R2, k - TAG_LEN if self._tagged else k)
            self._fetch_frame(size)

    def _fetch_frame(self, size: int) -> None:
        self._hook.fetch(self._code, size)
        if size > 1:
            self._code.network_order(R0, size)

    def _fetch_head(self, k: int, size: int) -> None:
        """Read the copied head bytewise: the stack takes aligned loads only."""
        code = self._code
        code.load(1, R0, FP, HEAD + k)
        for at in range(k + 1, k + size):
            code.emit(ALU32 | LSH | K, R0, value=8)
            code.load(1, R1, FP, HEAD + at)
            code.emit(ALU32 | OR | X, R0, R1)

    def _fetch_anywhere(self, size: int) -> None:
        """Load at R2, which is known at run time only (nor may it index the stack)."""
        if not self._tagged:
            self._fetch_frame(size)
            return
        code, done, behind = self._code, object(), object()
        code.jump(behind, JMP | JGT | K, R2, value=HEAD_LEN - TAG_LEN)
        for k in range(HEAD_LEN - TAG_LEN + 1):
            other = object()
            code.jump(other, JMP | JNE | K, R2, value=k)
            self._fetch_head(k, size)
            code.jump(done)
            code.label(other)
        code.jump(REJECT)  # never: all offsets up to there were tried
        code.label(behind)
        code.emit(ALU | SUB | K, R2, value=TAG_LEN)
        self._fetch_frame(size)
        code.label(done)

    def _store(self, number: int, k: int, *_: int) -> None:
        self._code.store(4, FP, MEMORY + 4 * k, A if number & 7 == C_ST else INDEX)

    def _compute(self, number: int, k: int, *_: int) -> None:
        code, operator = self._code, number & 0xF0
        if operator == NEG:
            code.emit(ALU32 | NEG | K, A)
        elif not number & C_SOURCE_X:
            if operator in (LSH, RSH) and k > 31:
                code.constant(A, 0)
            else:
                code.emit(ALU32 | operator | K, A, value=k)
        else:
            if operator in (DIV, MOD):
                code.jump(REJECT, JMP32 | JEQ | K, INDEX)
            if operator in (LSH, RSH):
                self._shift(operator)
            else:
                code.emit(ALU32 | operator | X, A, INDEX)

    def _shift(self, operator: int) -> None:
        """Shift by X; 32 and more leave nothing, where eBPF would take X modulo 32."""
        code, done, fits = self._code, object(), object()
        code.emit(ALU32 | operator | X, A, INDEX)
        code.jump(fits, JMP32 | JGT | K, INDEX, value=31)
        code.jump(done)
        code.label(fits)
        code.constant(A, 0)
        code.label(done)

    def _jump(self, number: int, k: int, if_true: int, if_false: int) -> None:
        code, operator = self._code, number & 0xF0
        if operator == 0:  # always; if_true is the next instruction then
            code.jump((self._tagged, if_true + k))
        elif number & C_SOURCE_X:
            code.jump((self._tagged, if_true), JMP32 | operator | X, A, INDEX)
            code.jump((self._tagged, if_false))
        else:
            code.jump((self._tagged, if_true), JMP32 | operator | K, A, value=k)
            code.jump((self._tagged, if_false))

    def _return(self, number: int, k: int, *_: int) -> None:
        code = self._code
        if number & 0x18 == C_RET_A:
            code.jump(REJECT, JMP32 | JEQ | K, A)
            code.jump(ACCEPT)
        else:
            code.jump(ACCEPT if k else REJECT)

    def _move(self, number: int, *_: int) -> None:
        if number & 0xF8 == C_TXA:
            self._code.move(A, INDEX)
        else:
            self._code.move(INDEX, A)
