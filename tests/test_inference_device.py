"""The driver is asked for a device; whatever it answers, the process goes on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from etcpipe.errors import UnsupportedError
from etcpipe.gpu import cuda_device

SOURCE = Path(__file__).parent / "trt_stub" / "cuda.c"
CC = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

pytestmark = pytest.mark.skipif(CC is None, reason="needs a C compiler")


@pytest.fixture
def driver(tmp_path):
    def build(fails="nothing", status=0, devices=1):
        library = tmp_path / "libcuda.so.1"
        defines = [f'-DFAILS="{fails}"', f"-DSTATUS={status}", f"-DDEVICES={devices}"]
        command = [CC, "-shared", "-fPIC", *defines, "-o", library, SOURCE]
        subprocess.run(command, check=True)
        return str(library)

    return build


def test_a_device_is_named(driver):
    found = cuda_device.find(driver())
    assert found == cuda_device.CudaDevice("NVIDIA Test 40", "8.9", "12.8")
    assert str(found) == "NVIDIA Test 40, compute capability 8.9, driver for CUDA 12.8"


def test_no_driver_is_an_error_of_ours():
    with pytest.raises(UnsupportedError, match="no NVIDIA driver here"):
        cuda_device.find("libcuda-of-nobody.so.1")


def test_a_library_that_is_no_driver_is_an_error_of_ours():
    with pytest.raises(UnsupportedError, match="is not a CUDA driver"):
        cuda_device.find("libc.so.6")


def test_a_driver_without_devices_is_an_error_of_ours(driver):
    with pytest.raises(UnsupportedError, match="knows no device"):
        cuda_device.find(driver(devices=0))


@pytest.mark.parametrize(
    ("function", "status", "reason"),
    [
        ("cuInit", 100, "no CUDA-capable device is detected"),
        ("cuInit", 803, "error 803"),
        ("cuDeviceGetCount", 3, "error 3"),
        ("cuDriverGetVersion", 1, "error 1"),
        ("cuDeviceGet", 101, "error 101"),
        ("cuDeviceGetName", 1, "error 1"),
        ("cuDeviceGetAttribute", 1, "error 1"),
    ],
)
def test_a_driver_that_fails_says_why(driver, function, status, reason):
    with pytest.raises(UnsupportedError, match=f"{function} says: {reason}"):
        cuda_device.find(driver(function, status))


def test_without_a_device_no_library_of_tensorrt_is_loaded():
    """Without a driver some of them end the process at the second call."""
    code = (
        "import sys\n"
        "from etcpipe.errors import UnsupportedError\n"
        "from etcpipe.gpu import inference\n"
        "from etcpipe.model import find\n"
        "for device in inference.DEVICES:\n"
        "    try: inference.open_runner(find(None).read_bytes(), device=device)\n"
        "    except UnsupportedError as error: print(device, error)\n"
        "assert not {'tensorrt', 'tensorrt_rtx', 'tensorrt_rtx_bindings'} & set(sys.modules)\n"
    )
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=hidden
    )
    refused = [line.split()[0] for line in done.stdout.splitlines()]
    assert refused == ["gpu", "tensorrt", "tensorrt_rtx", "cuda"]
    assert done.stderr == ""
