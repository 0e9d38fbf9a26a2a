"""Where the tests of CUDA code run: on the host's shim always, and on a GPU where there is one.

`pytest -m gpu tests/test_cuda_*.py` runs the same cases on the GPU alone.
"""

import pytest
from cuda_shim import ShimDevice

from etcpipe.gpu.cuda_cupy import CupyDevice  # before a test puts device() in its place

ON = [pytest.param("shim"), pytest.param("gpu", marks=pytest.mark.gpu)]


def device(on: str, seed: int = 1):
    """Return a device of its own: "shim" or "gpu"."""
    return ShimDevice(seed) if on == "shim" else CupyDevice()
