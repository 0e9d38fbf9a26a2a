"""The paper's feature extraction on CPU cores (paper_fe.c), compiled when first used."""

import ctypes
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ["-O3", "-march=native", "-shared", "-fPIC"]


def compile_library(work: Path) -> ctypes.CDLL:
    """Return the compiled code.

    Raises:
        SystemExit: there is no C compiler, or it fails.
    """
    work.mkdir(parents=True, exist_ok=True)
    library = work / "paper_fe.so"
    try:
        subprocess.run(["cc", *FLAGS, "-o", library, SOURCE], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"bench: cc {SOURCE.name}: {error}") from error
    loaded = ctypes.CDLL(str(library))
    loaded.fe_new.restype = loaded.fe_features.restype = ctypes.c_void_p
    loaded.fe_new.argtypes = [ctypes.c_uint32] * 3
    loaded.fe_features.argtypes = loaded.fe_reset.argtypes = [ctypes.c_void_p]
    loaded.fe_free.argtypes = [ctypes.c_void_p]
    loaded.fe_run.argtypes = [*[ctypes.c_void_p] * 4, ctypes.c_uint32]
    return loaded


class PaperExtraction:
    """Extracts on some cores, each with the packets of its own flows; a context manager.

    Args:
        memory: (bytes,) uint8, all frames.
        offset, captured: (packets,) uint64 and uint32, in order of arrival.
        flow: (packets,) which flow each belongs to: a network card's RSS, so not timed.
        raw_len: bytes of a packet that are kept, 0 to keep its size.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        memory: np.ndarray,
        offset: np.ndarray,
        captured: np.ndarray,
        flow: np.ndarray,
        first_n: int,
        raw_len: int,
        cores: int = 1,
    ):
        self._library = library
        self._memory = memory
        self._parts = [
            (offset[at], captured[at]) for at in (flow % cores == i for i in range(cores))
        ]
        self._cores = [library.fe_new(len(np.unique(flow)), first_n, raw_len) for _ in range(cores)]
        if not all(self._cores):
            raise SystemExit("bench: no memory for the paper's features")
        self._others = ThreadPoolExecutor(cores)

    def __enter__(self) -> "PaperExtraction":
        return self

    def __exit__(self, *error: object) -> None:
        self._others.shutdown()
        for core in self._cores:
            self._library.fe_free(core)

    def reset(self) -> None:
        """Forget all flows."""
        for core in self._cores:
            self._library.fe_reset(core)

    def run(self) -> int:
        """Take all packets; return how many flows are complete."""
        if len(self._cores) == 1:
            return self._part(0)
        return sum(self._others.map(self._part, range(len(self._cores))))

    def features(self, flows: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return (flows, *shape) float64 of the first core's flows."""
        address = self._library.fe_features(self._cores[0])
        count = flows * int(np.prod(shape))
        array = np.ctypeslib.as_array((ctypes.c_double * count).from_address(address))
        return array.reshape(flows, *shape).copy()

    def _part(self, core: int) -> int:
        offset, captured = self._parts[core]
        return self._library.fe_run(
            self._cores[core],
            self._memory.ctypes.data,
            offset.ctypes.data,
            captured.ctypes.data,
            len(offset),
        )
