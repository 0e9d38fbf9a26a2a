"""Frames where kernels can read them."""

import numpy as np

from etcpipe.gpu.cuda import BLOCK, Device, DeviceArray


class Frames:
    """Frames in memory that the device reads in place, else a copy of the part that holds them."""

    def __init__(self, device: Device):
        self._device = device
        self._room = DeviceArray(device, 1 << 21, np.uint8)

    def place(self, memory: np.ndarray, offset: np.ndarray, captured: np.ndarray) -> int:
        """Return where the first byte of memory would be on the device.

        Only bytes of frames may be read there, and of the blocks of 16 that these are in.
        Frames that are not inside the memory are left out.
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
