"""The kernels on the CPU: gpu/*.cu compiled with tests/cuda/shim.h, as a device.

ETCPIPE_SHIM chooses the build: "g++" (default), "clang++", or "sanitized", for which the
sanitizers' libraries must be preloaded (tests/test_cuda_sanitized.py does).
"""

import ctypes
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from etcpipe.gpu import cuda_source

HERE = Path(__file__).parent / "cuda"
BUILD = Path(__file__).parent.parent / "build" / "shim"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
BUILDS = {
    "g++": ["g++", "-O1"],
    "clang++": ["clang++", "-O1"],
    "sanitized": ["g++", "-O1", "-fno-omit-frame-pointer", *SANITIZE],
}
FLAGS = ["-std=c++20", "-g1", "-fPIC", "-shared", "-ffp-contract=off"]


class ShimError(Exception):
    """A kernel's threads did not meet at their barriers."""


def compile_shim(folder: Path, build: str, defines: tuple[str, ...] = ()) -> Path:
    """Compile the sources that are in a folder there, and return the library."""
    library = folder / "shim.so"
    includes = [f"-I{folder}", f"-I{HERE}"]
    source = str(HERE / "host.cpp")
    command = [*BUILDS[build], *FLAGS, *defines, *includes, "-o", str(library), source]
    subprocess.run(command, check=True)
    return library


@functools.cache
def library(defines: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Return the compiled kernels, compiled now if they or the shim changed."""
    build = os.environ.get("ETCPIPE_SHIM", "g++")

    def make(folder: Path) -> None:
        cuda_source.write_sources(folder)
        compile_shim(folder, build, defines)

    return load(made_once("".join((shim_digest(), build, *defines)), make) / "shim.so")


def shim_digest() -> str:
    """Return what changes whenever the shim does, or how it is compiled."""
    return digest_of(*sorted(HERE.iterdir()), Path(__file__))


def digest_of(*paths: Path) -> str:
    """Return what changes whenever one of some files does."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that is made from the kernels: now, if these or the name changed.

    Processes that want the same wait for the one that makes it.
    """
    folder = BUILD / f"{cuda_source.digest()}-{name}"
    if not folder.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                temporary = folder.with_name(f"{folder.name}.new")
                shutil.rmtree(temporary, ignore_errors=True)  # of a process that failed
                temporary.mkdir()
                make(temporary)
                temporary.rename(folder)
    return folder


def load(path: Path) -> ctypes.CDLL:
    """Return a compiled library."""
    loaded = ctypes.CDLL(str(path))
    loaded.shim_sizeof.restype = ctypes.c_size_t
    loaded.shim_launch.restype = ctypes.c_char_p
    loaded.shim_launch.argtypes = [ctypes.c_void_p, *[ctypes.c_uint] * 3, *[ctypes.c_void_p] * 2]
    return loaded


class ReadNow:
    """A Reading of etcpipe.gpu.cuda that was done when it was asked for."""

    def __init__(self, device, address: int, size: int):
        self._there = np.empty(size, np.uint8)
        device.read(address, self._there)

    def bytes(self) -> np.ndarray:
        return self._there


class ShimDevice:
    """A Device of etcpipe.gpu.cuda in the host's memory; the seed orders its threads."""

    processors = 2
    stream = None

    def __init__(self, seed: int = 1, lib: ctypes.CDLL | None = None):
        self._allocated: list[int] = []
        self._lib = lib or library()
        self._libc = ctypes.CDLL(None)
        self._libc.calloc.restype = ctypes.c_void_p
        self._libc.calloc.argtypes = [ctypes.c_size_t] * 2
        self._libc.free.argtypes = [ctypes.c_void_p]
        self._seed = seed

    def __del__(self):
        for address in self._allocated:
            self._libc.free(address)

    def allocate(self, size: int) -> int:
        # not NumPy's memory: that has room behind its end, which the sanitizer would not see
        address = self._libc.calloc(1, size)
        if not address:
            raise MemoryError
        self._allocated.append(address)
        return address

    def write(self, address: int, array: np.ndarray) -> None:
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def read(self, address: int, array: np.ndarray) -> None:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def read_later(self, address: int, size: int) -> "ReadNow":
        return ReadNow(self, address, size)

    def branch(self) -> "ShimDevice":
        return self

    def mark(self) -> None:
        return None

    def follow(self, mark: None) -> None:
        pass

    def launch_all(self, launches) -> None:
        for launch in launches:
            self.launch(*launch)

    def map(self, memory: np.ndarray) -> None:
        return None

    def launch(self, kernel: str, blocks: int, threads: int, first: int, second: int) -> None:
        function = ctypes.cast(getattr(self._lib, kernel), ctypes.c_void_p)
        wrong = self._lib.shim_launch(function, blocks, threads, self._seed, first, second)
        if wrong:
            raise ShimError(f"{kernel}: {wrong.decode()}")
        self._seed += 2  # stays even or odd
