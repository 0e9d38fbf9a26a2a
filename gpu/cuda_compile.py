"""Kernels for a GPU: shipped with etcpipe, or compiled once by NVRTC and kept.

A cubin runs on its own compute capability and on later minor versions of it. So one cubin for each
major version is enough, and PTX, which the driver compiles, serves future GPUs. File names carry a
digest of the sources, so kernels compiled from other sources are never used.
"""

import ctypes
import os
import tempfile
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from etcpipe import runtime
from etcpipe.errors import UnsupportedError
from etcpipe.gpu.cache_folder import cache_folder
from etcpipe.gpu.cuda_source import digest, write_sources

# As NVRTC names them; sm_70 (Volta) needs the NVRTC of CUDA 12.
TARGETS = ("sm_70", "sm_75", "sm_80", "sm_90", "sm_100", "sm_120", "compute_75")
# No fused multiply-add: a product and a sum are rounded separately, as in NumPy.
OPTIONS = ("--std=c++20", "--fmad=false")
SHIPPED = "kernels"


def kernels(capability: str) -> Path:
    """Return a file with the kernels for a GPU.

    Args:
        capability: compute capability, "8.9".

    Raises:
        UnsupportedError: there are none and they cannot be compiled or stored, or the GPU is too
            old.
    """
    target = target_for(capability)
    name = file_name(target)
    shipped = Path(str(files("etcpipe") / "gpu" / SHIPPED / name))
    cached = cache_folder("kernels") / name
    for path in (shipped, cached):
        if path.exists():
            return path
    code = compile_kernels(target)
    try:
        _keep(code, cached)
    except OSError as error:
        raise UnsupportedError(
            f"cannot keep kernels in {cached.parent} ({error.strerror}): make room there, or set "
            "XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return cached


def _keep(code: bytes, path: Path) -> None:
    """Write a file atomically: other processes see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as temporary:
        try:
            temporary.write(code)
            temporary.close()
            os.replace(temporary.name, path)
        except BaseException:
            os.unlink(temporary.name)
            raise


def target_for(capability: str) -> str:
    """Return the target to compile for, so that a GPU can run the code.

    Raises:
        UnsupportedError: the GPU is older than all of them.
    """
    major, minor = (int(part) for part in capability.split("."))
    fitting = [
        target
        for target in TARGETS
        if target.startswith("sm_")
        and int(target[3:]) // 10 == major
        and int(target[3:]) % 10 <= minor
    ]
    if fitting:
        return fitting[-1]
    if (major, minor) < (7, 0):
        raise UnsupportedError(f"the GPU's compute capability is {capability}: 7.0 is needed")
    return "compute_75"


def file_name(target: str) -> str:
    """Return the file name of a target's kernels in the cache."""
    return f"{target}-{digest()}.{'ptx' if target.startswith('compute_') else 'cubin'}"


def compile_kernels(target: str) -> bytes:
    """Return a cubin, or PTX for a "compute_" target. Needs NVRTC but no GPU.

    Raises:
        UnsupportedError: there is no NVRTC, or it does not know the target.
    """
    library = nvrtc(target)
    with tempfile.TemporaryDirectory() as folder:
        main = write_sources(Path(folder))
        options = [f"--gpu-architecture={target}", f"--include-path={folder}", *OPTIONS]
        return _Program(library, main.read_bytes()).compile(options, target)


def nvrtc(target: str) -> ctypes.CDLL:
    """Return the newest NVRTC that is likely to support a target.

    Raises:
        UnsupportedError: there is none.
    """
    newest = 12 if target == "sm_70" else 13
    for version in range(newest, 11, -1):
        name = f"libnvrtc.so.{version}"
        for path in [*_in_packages(name), name]:
            try:
                return ctypes.CDLL(str(path))
            except OSError:
                continue
    package = "nvidia-cuda-nvrtc-cu12" if target == "sm_70" else "nvidia-cuda-nvrtc"
    remedy = runtime.remedy(package)
    raise UnsupportedError(f"no kernels for {target} here, and no NVRTC: {remedy}")


def _in_packages(name: str) -> list[Path]:
    """Return the files of a library in NVIDIA's Python packages."""
    spec = find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec else []
    return [path for folder in folders for path in sorted(Path(folder).glob(f"*/lib/{name}"))]


class _Program:
    """One compilation. Source: NVRTC API reference."""

    def __init__(self, library: ctypes.CDLL, source: bytes):
        self._library = library
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        self._handle = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(self._handle), source, b"kernels.cu", 0, 0, 0)

    def compile(self, options: list[str], target: str) -> bytes:
        texts = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        try:
            status = self._library.nvrtcCompileProgram(self._handle, len(options), texts)
            if status:
                log = self._bytes("ProgramLog").rstrip(b"\0\n").decode(errors="replace")
                reason = self._library.nvrtcGetErrorString(status).decode()
                raise UnsupportedError(f"NVRTC cannot compile for {target}: {reason}: {log}")
            return self._bytes("PTX" if target.startswith("compute_") else "CUBIN")
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(self._handle))

    def _bytes(self, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", self._handle, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", self._handle, buffer)
        return buffer.raw

    def _call(self, function: str, *arguments) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            reason = self._library.nvrtcGetErrorString(status).decode()
            raise UnsupportedError(f"{function} says: {reason}")
