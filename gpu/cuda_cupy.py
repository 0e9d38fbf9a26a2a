"""The GPU as a Device, through CuPy; its kernels need no compiler where they were shipped."""

from etcpipe.gpu import cuda_device
from etcpipe.gpu.cuda_compile import kernels
from etcpipe.gpu.staging import StagedDevice
from etcpipe.gpu.staging_gpu import CupyCuda


class CupyDevice(StagedDevice):
    """See etcpipe.gpu.cuda.Device. Everything is done in one stream of its own.

    Raises:
        UnsupportedError: no GPU, no CuPy, or no kernels for this GPU.
    """

    def __init__(self) -> None:
        super().__init__(CupyCuda(kernels(cuda_device.find().capability)))
