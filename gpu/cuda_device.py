"""Finds the CUDA device through the driver, before any other NVIDIA library is loaded.

Without a driver, some of those libraries return objects that wrap a null pointer, and the next call
crashes the process. So everything that uses the GPU asks here first.
"""

import ctypes
from dataclasses import dataclass

from etcpipe.errors import UnsupportedError

DRIVER = "libcuda.so.1"
# enum CUdevice_attribute of cuda.h
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
_NAME_LEN = 256


@dataclass(frozen=True)
class CudaDevice:
    """The first CUDA device; CUDA_VISIBLE_DEVICES chooses which one that is.

    Attributes:
        name: as reported by the driver, "NVIDIA L4".
        capability: compute capability, "8.9".
        driver: the latest CUDA version that the driver supports, "13.0".
    """

    name: str
    capability: str
    driver: str

    def __str__(self) -> str:
        return f"{self.name}, compute capability {self.capability}, driver for CUDA {self.driver}"


def find(library: str = DRIVER) -> CudaDevice:
    """Return the device that this process may use.

    Args:
        library: name or path of the driver's library.

    Raises:
        UnsupportedError: no driver, no device, or a device that does not respond.

    Source: CUDA Driver API, sections Initialization, Version and Device Management.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        raise UnsupportedError("no GPU: there is no NVIDIA driver here (libcuda.so.1)") from error
    try:
        return _first(driver)
    except AttributeError as error:  # the library lacks a symbol
        raise UnsupportedError(f"no GPU: {library} is not a CUDA driver") from error


def is_present() -> bool:
    """Return whether find() finds a device."""
    try:
        find()
    except UnsupportedError:
        return False
    return True


def _first(driver: ctypes.CDLL) -> CudaDevice:
    count, device, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    _check(driver, "cuInit", 0)
    _check(driver, "cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise UnsupportedError("no GPU: the driver knows no device (CUDA_VISIBLE_DEVICES?)")
    _check(driver, "cuDriverGetVersion", ctypes.byref(version))
    _check(driver, "cuDeviceGet", ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(_NAME_LEN)
    _check(driver, "cuDeviceGetName", name, _NAME_LEN, device)
    capability = []
    for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
        value = ctypes.c_int()
        _check(driver, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        capability.append(str(value.value))
    return CudaDevice(
        name.value.decode(errors="replace"),
        ".".join(capability),
        f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


def _check(driver: ctypes.CDLL, function: str, *arguments) -> None:
    status = getattr(driver, function)(*arguments)
    if status:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(text))
        reason = text.value.decode() if text.value else f"error {status}"
        raise UnsupportedError(f"no GPU: {function} says: {reason}")
