"""The GPU as a Device, through CuPy. Shipped kernels need no compiler."""

from etcpipe.gpu import cuda_device
from etcpipe.gpu.cuda_compile import kernels
from etcpipe.gpu.staging import StagedDevice
from etcpipe.gpu.staging_gpu import CupyCuda


class CupyDevice(StagedDevice):
    """See etcpipe.gpu.cuda.Device. All work is done in a stream of its own.

    Raises:
        UnsupportedError: no GPU, no CuPy, or no kernels for this GPU.
    """

    def __init__(self) -> None:
        super().__init__(CupyCuda(kernels(cuda_device.find().capability)))
