"""Packet bytes in memory that kernels can read."""

import numpy as np

from etcpipe.gpu.cuda import BLOCK, Device, DeviceArray


class Frames:
    """The frames of a batch: read in place if the device can, else copied to it."""

    def __init__(self, device: Device):
        self._device = device
        self._room = DeviceArray(device, 1 << 21, np.uint8)

    def place(self, memory: np.ndarray, offset: np.ndarray, captured: np.ndarray) -> int:
        """Return the device address that corresponds to the first byte of memory.

        Only the 16-byte blocks that hold frames may be read there. Frames that are not inside
        the memory are left out.
        """
        mapped = self._device.map(memory)
        if mapped is not None:
            return mapped
        size = np.uint64(len(memory))
        inside = (offset <= size) & (captured <= size - np.minimum(offset, size)) & (captured > 0)
        if not inside.any():
            return self._room.address
        begin = int(offset[inside].min()) // BLOCK * BLOCK
        end = int((offset[inside] + captured[inside]).max())
        if end - begin > self._room.shape[0]:
            self._room = DeviceArray(self._device, 2 * (end - begin), np.uint8)
        self._room.write(memory[begin:end])
        return self._room.address - begin
