"""A device's driver and offloads by the ethtool ioctl, as linux/ethtool.h defines it."""

import fcntl
import socket
import struct

import numpy as np

SIOCETHTOOL = 0x8946
GET_DRIVER = 0x03
GET_STRINGS = 0x1B
GET_SET_SIZES = 0x37
GET_FEATURES = 0x3A
SET_FEATURES = 4  # ETH_SS_FEATURES
NAME_LEN = 32


def driver(device: str) -> str:
    """Return the name of the device's driver.

    Raises:
        OSError: the device is gone, or its driver has no ethtool operations.
    """
    reply = _request(device, struct.pack("=I192x", GET_DRIVER))
    return reply[4:36].split(b"\0")[0].decode()


def features(device: str) -> dict[str, bool]:
    """Return the kernel's names of the device's features, and whether each is on.

    Raises:
        OSError: as driver().
    """
    count = struct.unpack_from(
        "=I", _request(device, struct.pack("=IIQI", GET_SET_SIZES, 0, 1 << SET_FEATURES, 0)), 16
    )[0]
    strings = struct.pack("=III", GET_STRINGS, SET_FEATURES, count) + bytes(count * NAME_LEN)
    raw = _request(device, strings)[12:]
    names = [raw[i : i + NAME_LEN].split(b"\0")[0].decode() for i in range(0, len(raw), NAME_LEN)]
    n_words = -(-count // 32)
    # A word of each: available, requested, active, never changed.
    reply = _request(device, struct.pack("=II", GET_FEATURES, n_words) + bytes(n_words * 16))
    words = np.frombuffer(reply, "<u4", offset=8).reshape(n_words, 4)
    active = np.unpackbits(words[:, 2].copy().view(np.uint8), bitorder="little")
    return {name: bool(is_on) for name, is_on in zip(names, active, strict=False) if name}


def _request(device: str, data: bytes) -> bytes:
    reply = np.frombuffer(data, np.uint8).copy()
    request = struct.pack("=16sQ16x", device.encode(), reply.ctypes.data)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCETHTOOL, request)
    return reply.tobytes()
