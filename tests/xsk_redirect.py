"""A minimal XDP program for the tests of the ring, without a compiler or a loader.

It takes the first 32 bytes of each frame for packet_meta: it moves the start of the frame
behind them and then claims them as metadata, so nothing needs to be copied. Then it
redirects into the socket of queue 0, and drops what finds none.
"""

import ctypes
import os
import platform
import struct

BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}[platform.machine()]
MAP_CREATE, MAP_UPDATE_ELEM, PROG_LOAD, LINK_CREATE = 0, 2, 5, 28
MAP_TYPE_XSKMAP, PROG_TYPE_XDP, ATTACH_XDP = 17, 6, 37
XDP_DROP = 1
ADJUST_HEAD, REDIRECT_MAP, ADJUST_META = 44, 51, 54
META_LEN = 32


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 128))
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(BPF_SYSCALL, command, buffer, len(buffer))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf command {command}")
    return result


def _instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, src << 4 | dst, offset, imm)


def _program(xsks: int) -> bytes:
    move_imm, move, call, exit_ = 0xB7, 0xBF, 0x85, 0x95
    return b"".join(
        [
            _instruction(move, dst=6, src=1),
            _instruction(move_imm, dst=2, imm=META_LEN),
            _instruction(call, imm=ADJUST_HEAD),
            _instruction(move, dst=1, src=6),
            _instruction(move_imm, dst=2, imm=-META_LEN),
            _instruction(call, imm=ADJUST_META),
            _instruction(0x18, dst=1, src=1, imm=xsks),  # load the address of the map
            _instruction(0),
            _instruction(move_imm, dst=2, imm=0),
            _instruction(move_imm, dst=3, imm=XDP_DROP),
            _instruction(call, imm=REDIRECT_MAP),
            _instruction(exit_),
        ]
    )


class Redirect:
    """The program, attached to a device in native mode as long as the block lasts."""

    def __init__(self, ifindex: int):
        self._xsks = _bpf(MAP_CREATE, struct.pack("<IIII", MAP_TYPE_XSKMAP, 4, 4, 1))
        code = ctypes.create_string_buffer(_program(self._xsks))
        license_ = ctypes.create_string_buffer(b"Apache-2.0")
        n = (len(code) - 1) // 8
        attributes = struct.pack(
            "<IIQQ", PROG_TYPE_XDP, n, ctypes.addressof(code), ctypes.addressof(license_)
        )
        self._program = _bpf(PROG_LOAD, attributes)
        self._link = _bpf(LINK_CREATE, struct.pack("<IIII", self._program, ifindex, ATTACH_XDP, 0))

    def __enter__(self) -> "Redirect":
        return self

    def __exit__(self, *exception: object) -> None:
        for fd in (self._link, self._program, self._xsks):
            os.close(fd)

    def bind(self, socket_fd: int) -> None:
        """Redirect into this socket from now on."""
        key, value = ctypes.c_uint32(0), ctypes.c_uint32(socket_fd)
        _bpf(
            MAP_UPDATE_ELEM,
            struct.pack("<IIQQQ", self._xsks, 0, ctypes.addressof(key), ctypes.addressof(value), 0),
        )
