"""A long cable: joins two TUN devices of two namespaces, with a delay between them.

Usage: python -m etcpipe.lab.programs.delay NETNS DEVICE FAR_NETNS FAR_DEVICE SEED LOW_MS HIGH_MS

Each far host has its own round-trip time, log-uniform between LOW_MS and HIGH_MS, and
jitter on top; packets of one host and direction never overtake each other. This is what
netem does, where a kernel has netem.
"""

import ctypes
import fcntl
import hashlib
import math
import os
import random
import select
import struct
import sys
import time
from heapq import heappop, heappush

TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000  # linux/sched.h
PACKET_LIMIT = 65536
QUEUED_PACKETS = 4096
READ_AT_ONCE = 64
JITTER = 0.03  # mean, as a share of the delay
# Where a packet's addresses are: (source, destination) by IP version.
ADDRESSES = {
    4: (slice(12, 16), slice(16, 20)),
    6: (slice(8, 24), slice(24, 40)),
}


class Cable:
    """Packets under way; each leaves towards the other end when its time has come."""

    def __init__(self, near: int, far: int, seed: str, low_ms: float, high_ms: float) -> None:
        self._near, self._far = near, far
        self._seed, self._low, self._high = seed, math.log(low_ms), math.log(high_ms)
        self._delays: dict[bytes, float] = {}
        self._last: dict[tuple[int, bytes], float] = {}
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._count = 0

    def carry(self) -> None:
        """Carry packets for ever."""
        poll = select.poll()
        poll.register(self._near, select.POLLIN)
        poll.register(self._far, select.POLLIN)
        while True:
            for end, _ in poll.poll(self._wait_ms()):
                self._accept(end)
            self._release()

    def _accept(self, end: int) -> None:
        for _ in range(READ_AT_ONCE):
            try:
                packet = os.read(end, PACKET_LIMIT)
            except BlockingIOError:
                return
            if len(self._under_way) >= QUEUED_PACKETS:
                continue  # a router's full queue
            addresses = ADDRESSES.get(packet[0] >> 4)
            if addresses is None:
                continue
            is_outward = end == self._near
            host = packet[addresses[is_outward]]
            delay = self._delay_s(host) * (1 + JITTER * random.expovariate(1))
            due = max(time.monotonic() + delay, self._last.get((end, host), 0.0))
            self._last[end, host] = due
            self._count += 1
            other = self._far if is_outward else self._near
            heappush(self._under_way, (due, self._count, other, packet))

    def _release(self) -> None:
        now = time.monotonic()
        while self._under_way and self._under_way[0][0] <= now:
            _, _, end, packet = heappop(self._under_way)
            try:
                os.write(end, packet)
            except (BlockingIOError, OSError):
                pass  # the device's queue is full, or it is down: lost, as on a wire

    def _wait_ms(self) -> float | None:
        if not self._under_way:
            return None
        return max(0.0, (self._under_way[0][0] - time.monotonic()) * 1e3)

    def _delay_s(self, host: bytes) -> float:
        """Return half the round-trip time to a host; equal seeds give equal times."""
        if host not in self._delays:
            digest = hashlib.sha256(self._seed.encode() + host).digest()
            share = int.from_bytes(digest[:4], "big") / 2**32
            round_trip_ms = math.exp(self._low + share * (self._high - self._low))
            self._delays[host] = round_trip_ms / 2e3
        return self._delays[host]


def open_tun(namespace: str, device: str) -> int:
    """Return a descriptor of a TUN device in a namespace, which this thread enters."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as file:
        if libc.setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter namespace {namespace}")
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI)  # struct ifreq
    fcntl.ioctl(descriptor, TUNSETIFF, request)
    return descriptor


if __name__ == "__main__":
    near_namespace, near_device, far_namespace, far_device, seed, low_ms, high_ms = sys.argv[1:]
    near = open_tun(near_namespace, near_device)
    far = open_tun(far_namespace, far_device)
    print("joined", flush=True)
    Cable(near, far, seed, float(low_ms), float(high_ms)).carry()
