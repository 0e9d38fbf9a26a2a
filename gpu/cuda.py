"""Device memory and kernel calls, the same for a GPU and for the tests' host shim.

A kernel gets the addresses of two records of gpu/tables.h. Their layout is read from that
header, and which records a kernel takes from its own source, so a call that does not fit is an
error here and not a crash there.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from math import prod
from typing import Any, Protocol

import numpy as np

from etcpipe.gpu.cuda_source import KERNELS, RECORDS

Launch = tuple[str, int, int, int, int]  # kernel, blocks, threads, addresses of two records

BLOCK = 16  # bytes that the kernels read at once: alignment and unit of all memory


class Reading(Protocol):
    """A copy from the device that was asked for."""

    def bytes(self) -> np.ndarray:
        """Return (size,) uint8 once it is there; the array is the caller's."""
        ...


class Device(Protocol):
    """A device and its memory; all calls are done in order.

    Attributes:
        processors: multiprocessors, each of which can have a block of threads.
        stream: the CuPy stream that all calls are in; None: each is done when it returns.
    """

    processors: int
    stream: Any

    def allocate(self, size: int) -> int:
        """Return the address of zeroed bytes, aligned to BLOCK, that live as the device does."""
        ...

    def write(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the device; it may be reused afterwards."""
        ...

    def read(self, address: int, array: np.ndarray) -> None:
        """Fill a contiguous array from the device, after all calls before."""
        ...

    def read_later(self, address: int, size: int) -> Reading:
        """Ask for bytes, after all calls before; whoever asks takes them."""
        ...

    def branch(self) -> "Device":
        """Return the same device and memory, whose calls are in an order of their own."""
        ...

    def mark(self) -> Any:
        """Return what stands for all calls so far."""
        ...

    def follow(self, mark: Any) -> None:
        """Let calls from now on come after those that a branch's mark stands for."""
        ...

    def launch(self, kernel: str, blocks: int, threads: int, first: int, second: int) -> None:
        """Start a kernel."""
        ...

    def launch_all(self, launches: Sequence[Launch]) -> None:
        """Start kernels one behind the other; cheaper where the same ones come again."""
        ...

    def map(self, memory: np.ndarray) -> int | None:
        """Return where kernels can read memory of the host as it is, None: copy it."""
        ...


def padded(size: int) -> int:
    """Return a size as whole blocks."""
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
        """What lets CuPy look at the array where it is.

        Source: CUDA Array Interface, version 3 (Numba's documentation).
        """
        place = {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False)}
        return {**place, "version": 3}

    def write(self, values: np.ndarray) -> None:
        """Set the first elements.

        Raises:
            ValueError: they are more than there is room for, or of another type.
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
    """One record of gpu/tables.h on a device, and the host's copy of it."""

    def __init__(self, device: Device, kind: str, **fields: int | DeviceArray):
        self.kind = kind
        self._host = np.zeros(1, RECORDS[kind])
        self._device = device
        self.address = device.allocate(padded(self._host.nbytes))
        self.write(**fields)

    def write(self, **fields: int | DeviceArray) -> None:
        """Set fields; those that are not named stay as they were written last.

        Raises:
            ValueError: the record has no such field.
        """
        for name, value in fields.items():
            self._host[name] = value.address if isinstance(value, DeviceArray) else value
        self._device.write(self.address, self._host)

    def read(self) -> np.void:
        """Return the record as the device has it."""
        there = np.empty(1, RECORDS[self.kind])
        self._device.read(self.address, there)
        return there[0]

    def read_later(self) -> Callable[[], np.void]:
        """Ask for the record as the device has it then, and return what waits for it."""
        reading = self._device.read_later(self.address, self._host.nbytes)
        return lambda: reading.bytes().view(RECORDS[self.kind])[0]


class Columns:
    """Columns of one table, one behind the other, so that one copy moves them all."""

    def __init__(
        self, device: Device, room: int, columns: Mapping[str, tuple[Any, tuple[int, ...]]]
    ):
        self._device = device
        self._columns = {name: (np.dtype(kind), shape) for name, (kind, shape) in columns.items()}
        self._address = device.allocate(self._layout(room)[1])

    def _layout(self, n: int) -> tuple[dict[str, int], int]:
        """Return where each column of n rows begins, and the bytes of all."""
        offsets, end = {}, 0
        for name, (dtype, shape) in self._columns.items():
            offsets[name] = end
            end += padded(n * prod(shape) * dtype.itemsize)
        return offsets, max(end, BLOCK)

    def addresses(self, n: int) -> dict[str, int]:
        """Return where the columns of n rows are on the device, by name."""
        return {name: self._address + offset for name, offset in self._layout(n)[0].items()}

    def write(self, n: int, values: dict[str, np.ndarray]) -> None:
        """Set all columns, of n rows each."""
        offsets, size = self._layout(n)
        packed = np.empty(size, np.uint8)
        for name, column in self._split(packed, n, offsets).items():
            column[...] = values[name]
        self._device.write(self._address, packed)

    def read(self, n: int) -> dict[str, np.ndarray]:
        """Return all columns, of n rows each."""
        offsets, size = self._layout(n)
        packed = np.empty(size, np.uint8)
        if n:
            self._device.read(self._address, packed)
        return self._split(packed, n, offsets)

    def read_later(
        self, device: Device, n: int, before: str | None = None
    ) -> Callable[[], dict[str, np.ndarray]]:
        """Ask for the columns before one, or else all, of n rows each, and return what waits.

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
