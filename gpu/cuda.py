"""Device memory and kernel calls, the same for a GPU and for the tests' host shim.

Every kernel takes the addresses of two records of gpu/tables.h. The layout of the records is read
from that header, and the kinds of record that a kernel takes from its source, so a wrong call
raises an error on the host instead of crashing on the device.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from math import prod
from typing import Any, Protocol

import numpy as np

from etcpipe.gpu.cuda_source import KERNELS, RECORDS

Launch = tuple[str, int, int, int, int]  # kernel, blocks, threads, addresses of two records

BLOCK = 16  # bytes that the kernels read at once; memory is aligned to and counted in these


class Reading(Protocol):
    """A copy from the device that is under way."""

    def bytes(self) -> np.ndarray:
        """Wait for the copy and return it, (size,) uint8, which the caller owns."""
        ...


class Device(Protocol):
    """A device and its memory. Calls take effect in the order in which they are made.

    Attributes:
        processors: number of multiprocessors; each can run a block of threads.
        stream: the CuPy stream of all calls; None if each call has finished when it returns.
    """

    processors: int
    stream: Any

    def allocate(self, size: int) -> int:
        """Return the address of zeroed bytes, aligned to BLOCK, kept as long as the device."""
        ...

    def write(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the device; the caller may reuse the array at once."""
        ...

    def read(self, address: int, array: np.ndarray) -> None:
        """Fill a contiguous array from the device, after all earlier calls."""
        ...

    def read_later(self, address: int, size: int) -> Reading:
        """Begin to copy bytes to the host, after all earlier calls; the caller waits for them."""
        ...

    def branch(self) -> "Device":
        """Return the same device and memory with an order of calls of its own."""
        ...

    def mark(self) -> Any:
        """Return a mark behind all calls so far, for follow() of a branch."""
        ...

    def follow(self, mark: Any) -> None:
        """Let later calls wait for those before another branch's mark."""
        ...

    def launch(self, kernel: str, blocks: int, threads: int, first: int, second: int) -> None:
        """Start a kernel."""
        ...

    def launch_all(self, launches: Sequence[Launch]) -> None:
        """Start kernels one after the other; cheaper if the same sequence is started again."""
        ...

    def map(self, memory: np.ndarray) -> int | None:
        """Return the address by which kernels can read host memory in place; None: copy it."""
        ...


def padded(size: int) -> int:
    """Return a size rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


class DeviceArray:
    """An array on a device.

    Attributes:
        address: of its first element.
    """

    def __init__(self, device: Device, shape: int | tuple[int, ...], dtype: Any):
        self.shape = shape if isinstance(shape, tuple) else (shape,)
        self.dtype = np.dtype(dtype)
        self._device = device
        self.address = device.allocate(padded(max(1, prod(self.shape)) * self.dtype.itemsize))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Lets CuPy use the array in place.

        Source: CUDA Array Interface, version 3 (Numba's documentation).
        """
        place = {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False)}
        return {**place, "version": 3}

    def write(self, values: np.ndarray) -> None:
        """Set the first elements.

        Raises:
            ValueError: there are too many, or they have another dtype.
        """
        values = np.ascontiguousarray(values)
        if values.dtype != self.dtype or values.size > prod(self.shape):
            raise ValueError(f"{values.size} {values.dtype} do not fit {self.shape} {self.dtype}")
        if values.size:
            self._device.write(self.address, values)

    def read(self, n: int) -> np.ndarray:
        """Return the first n elements along the first axis."""
        values = np.empty((n, *self.shape[1:]), self.dtype)
        if values.size:
            self._device.read(self.address, values)
        return values


class Record:
    """A record of gpu/tables.h on a device, and the host's copy of it."""

    def __init__(self, device: Device, kind: str, **fields: int | DeviceArray):
        self.kind = kind
        self._host = np.zeros(1, RECORDS[kind])
        self._device = device
        self.address = device.allocate(padded(self._host.nbytes))
        self.write(**fields)

    def write(self, **fields: int | DeviceArray) -> None:
        """Set fields; the others keep the values written last.

        Raises:
            ValueError: the record has no such field.
        """
        for name, value in fields.items():
            self._host[name] = value.address if isinstance(value, DeviceArray) else value
        self._device.write(self.address, self._host)

    def read(self) -> np.void:
        """Return the record as it is on the device."""
        there = np.empty(1, RECORDS[self.kind])
        self._device.read(self.address, there)
        return there[0]

    def read_later(self) -> Callable[[], np.void]:
        """Begin to copy the record to the host; return a function that waits for it."""
        reading = self._device.read_later(self.address, self._host.nbytes)
        return lambda: reading.bytes().view(RECORDS[self.kind])[0]


class Columns:
    """The columns of a table in one piece of memory, so that a single copy moves them all."""

    def __init__(
        self, device: Device, room: int, columns: Mapping[str, tuple[Any, tuple[int, ...]]]
    ):
        self._device = device
        self._columns = {name: (np.dtype(kind), shape) for name, (kind, shape) in columns.items()}
        self._address = device.allocate(self._layout(room)[1])

    def _layout(self, n: int) -> tuple[dict[str, int], int]:
        """Return where each column begins if there are n rows, and their total size in bytes."""
        offsets, end = {}, 0
        for name, (dtype, shape) in self._columns.items():
            offsets[name] = end
            end += padded(n * prod(shape) * dtype.itemsize)
        return offsets, max(end, BLOCK)

    def addresses(self, n: int) -> dict[str, int]:
        """Return the device address of each column, by name, if there are n rows."""
        return {name: self._address + offset for name, offset in self._layout(n)[0].items()}

    def write(self, n: int, values: dict[str, np.ndarray]) -> None:
        """Write n rows of all columns."""
        offsets, size = self._layout(n)
        packed = np.empty(size, np.uint8)
        for name, column in self._split(packed, n, offsets).items():
            column[...] = values[name]
        self._device.write(self._address, packed)

    def read(self, n: int) -> dict[str, np.ndarray]:
        """Read n rows of all columns."""
        offsets, size = self._layout(n)
        packed = np.empty(size, np.uint8)
        if n:
            self._device.read(self._address, packed)
        return self._split(packed, n, offsets)

    def read_later(
        self, device: Device, n: int, before: str | None = None
    ) -> Callable[[], dict[str, np.ndarray]]:
        """Begin to copy n rows of the columns; return a function that waits for them.

        Args:
            device: the columns' own, or a branch of it.
        """
        offsets, size = self._layout(n)
        if before is not None:
            size = offsets[before]
            offsets = dict(takewhile(lambda place: place[0] != before, offsets.items()))
        reading = device.read_later(self._address, size)
        return lambda: self._split(reading.bytes(), n, offsets)

    def _split(self, packed: np.ndarray, n: int, offsets: dict[str, int]) -> dict[str, np.ndarray]:
        columns = {}
        for name, offset in offsets.items():
            dtype, shape = self._columns[name]
            end = offset + n * prod(shape) * dtype.itemsize
            columns[name] = packed[offset:end].view(dtype).reshape(n, *shape)
        return columns


Call = tuple[str, int, Record, Record]  # kernel, blocks, the records that it takes


def launch(device: Device, name: str, blocks: int, first: Record, second: Record) -> None:
    """Run a kernel.

    Raises:
        TypeError: the kernel takes other records.
    """
    device.launch(*_checked(name, blocks, first, second))


def launch_all(device: Device, calls: Sequence[Call]) -> None:
    """Run kernels one behind the other; errors as of launch()."""
    device.launch_all([_checked(*call) for call in calls])


def _checked(name: str, blocks: int, first: Record, second: Record) -> Launch:
    kernel = KERNELS[name]
    if (first.kind, second.kind) != (kernel.first, kernel.second):
        raise TypeError(f"{name} takes {kernel.first} and {kernel.second}")
    return name, blocks, kernel.threads, first.address, second.address
