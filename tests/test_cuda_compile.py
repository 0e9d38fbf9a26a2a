"""Kernels for every GPU without one, their cache, and calls that do not fit a kernel."""

import shutil
import subprocess
from configparser import ConfigParser
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from cuda_shim import ShimDevice, digest_of, library, made_once

from etcpipe.errors import UnsupportedError
from etcpipe.gpu import cuda_compile, cuda_source
from etcpipe.gpu.cuda import Columns, DeviceArray, Record, launch
from etcpipe.gpu.cuda_compile import TARGETS, compile_kernels, kernels, nvrtc, target_for
from etcpipe.gpu.cuda_device import find as find_device
from etcpipe.gpu.cuda_source import KERNELS, RECORDS
from etcpipe.gpu.flow_sort import SortRegroup
from etcpipe.gpu.regroup import Regroup


def installed(target: str) -> bool:
    try:
        nvrtc(target)
    except UnsupportedError:
        return False
    return True


def compiled(target: str) -> bytes:
    """Return the kernels for a target, compiled now if they or how they are compiled changed."""
    how = digest_of(Path(cuda_compile.__file__))

    def make(folder: Path) -> None:
        (folder / "code").write_bytes(compile_kernels(target))

    return (made_once(f"{target}-{how}", make) / "code").read_bytes()


# the oldest, and PTX: both versions of NVRTC, and both kinds of code
ALWAYS = {"sm_70", "compute_75"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "target",
    [pytest.param(t, marks=[] if t in ALWAYS else pytest.mark.exhaustive) for t in TARGETS],
)
def test_nvrtc_compiles_every_kernel_without_a_gpu(target):
    if not installed(target):
        pytest.skip("no NVRTC for this target here: pip install etcpipe[gpu-test]")
    code = compiled(target)
    assert code.startswith(b"\x7fELF") or (target == "compute_75" and b".target sm_75" in code)
    for name in KERNELS:
        assert name.encode() in code


@pytest.mark.slow
@pytest.mark.exhaustive  # a third compiler of the same source, which nobody needs to have
def test_nvcc_compiles_the_same_source():
    if not shutil.which("nvcc"):
        pytest.skip("no nvcc on PATH: nvidia/cu13/bin has it after pip install nvidia-cuda-nvcc")

    def make(folder: Path) -> None:
        source = str(cuda_source.write_sources(folder))
        finished = subprocess.run([*command, source], capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr

    command = ["nvcc", "-std=c++20", "--fmad=false", "-cubin", "-arch=sm_80", "-o", "/dev/null"]
    made_once(f"nvcc-{digest_of(Path(__file__))}", make)


@pytest.mark.parametrize(
    "capability, target",
    [
        ("7.0", "sm_70"),
        ("7.2", "sm_70"),
        ("7.5", "sm_75"),
        ("8.0", "sm_80"),
        ("8.9", "sm_80"),
        ("9.0", "sm_90"),
        ("10.3", "sm_100"),
        ("11.0", "compute_75"),
        ("12.1", "sm_120"),
        ("13.0", "compute_75"),
    ],
)
def test_a_gpu_gets_code_that_it_runs(capability, target):
    assert target_for(capability) == target


def test_a_gpu_that_is_too_old_is_refused():
    with pytest.raises(UnsupportedError, match=r"6\.1.*7\.0 is needed"):
        target_for("6.1")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and the targets that were compiled."""
    done: list[str] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cuda_compile, "SHIPPED", "no such folder")
    monkeypatch.setattr(cuda_compile, "compile_kernels", lambda target: done.append(target) or b"k")
    return done


def test_kernels_are_compiled_once(cache):
    first, second = kernels("9.0"), kernels("9.0")
    assert (first, first.read_bytes(), cache) == (second, b"k", ["sm_90"])
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_another_source_is_compiled_again(cache, monkeypatch):
    kernels("9.0")
    monkeypatch.setattr(cuda_compile, "digest", lambda: "changed")
    assert kernels("9.0").name == "sm_90-changed.cubin"
    assert cache == ["sm_90", "sm_90"]


def test_a_cache_that_cannot_be_written_is_named(cache, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UnsupportedError, match=r"cannot keep kernels in .*file.*XDG_CACHE_HOME"):
        kernels("9.0")


def test_without_a_compiler_the_message_says_what_to_install(cache, monkeypatch):
    monkeypatch.setattr(cuda_compile, "compile_kernels", compile_kernels)
    monkeypatch.setattr(cuda_compile, "_in_packages", lambda name: [])
    monkeypatch.setattr(cuda_compile.ctypes, "CDLL", _no_library)
    with pytest.raises(UnsupportedError, match=r"pip install nvidia-cuda-nvrtc$"):
        kernels("9.0")
    with pytest.raises(UnsupportedError, match=r"pip install nvidia-cuda-nvrtc-cu12$"):
        kernels("7.0")


def _no_library(path):
    raise OSError(path)


def test_without_a_gpu_one_line_says_so(monkeypatch):
    def find():
        return find_device("libno-such-driver.so")

    monkeypatch.setattr("etcpipe.gpu.cuda_device.find", find)
    with pytest.raises(UnsupportedError, match=r"^no GPU: [^\n]*$"):
        Regroup(10, device="gpu")
    with pytest.raises(UnsupportedError, match=r"^no GPU: [^\n]*$"):
        SortRegroup(10)


def test_records_are_as_long_as_the_kernels_have_them():
    sizes = {kind: library().shim_sizeof(kind.encode()) for kind in _argument_kinds()}
    assert sizes == {kind: RECORDS[kind].itemsize for kind in _argument_kinds()}


def _argument_kinds() -> set[str]:
    kernel_kinds = {kind for kernel in KERNELS.values() for kind in (kernel.first, kernel.second)}
    return kernel_kinds | {"row", "regroup_state", "sorted_flow", "flow_sort_state", "feature_plan"}


def test_every_kernel_of_the_source_can_be_called():
    assert all(hasattr(library(), name) for name in KERNELS)
    text = "".join(text for name, text in cuda_source.sources().items() if name.endswith(".cu"))
    assert text.count("\nKERNEL(") == len(KERNELS)
    assert (KERNELS["regroup_plan"].threads, KERNELS["regroup_scatter"].threads) == (1024, 256)


def test_what_the_device_shares_with_the_native_extension_is_in_the_wheel():
    root = Path(__file__).parents[1]
    setup = ConfigParser()
    setup.read(root / "setup.cfg")
    patterns = setup["options.package_data"]["etcpipe"].split(", ")
    native = root / "etcpipe" / "native"
    shared = {f"native/{name}" for name in cuda_source.sources() if (native / name).exists()}
    assert "native/mask.c" in shared
    left_out = [name for name in shared if not any(fnmatch(name, p) for p in patterns)]
    assert left_out == []


def test_a_kernel_with_the_wrong_records_is_not_called():
    device = ShimDevice()
    table, batch = Record(device, "regroup_table"), Record(device, "regroup_batch")
    with pytest.raises(TypeError, match="regroup_plan takes regroup_table and regroup_batch"):
        launch(device, "regroup_plan", 1, batch, table)


def test_values_that_do_not_fit_are_not_copied():
    array = DeviceArray(ShimDevice(), 4, np.uint32)
    for values in (np.zeros(5, np.uint32), np.zeros(4, np.int64)):
        with pytest.raises(ValueError, match="do not fit"):
            array.write(values)
    with pytest.raises(ValueError, match="no_such"):
        Record(ShimDevice(), "regroup_batch", no_such=1)


def test_columns_come_back_as_they_were_written():
    columns = Columns(ShimDevice(), 9, {"a": (np.uint8, ()), "b": (np.uint64, (2,))})
    values = {"a": np.arange(5, dtype=np.uint8), "b": np.arange(10, dtype=np.uint64).reshape(5, 2)}
    columns.write(5, values)
    assert {name: column.tolist() for name, column in columns.read(5).items()} == {
        name: column.tolist() for name, column in values.items()
    }
    addresses = columns.addresses(5)
    assert addresses["b"] - addresses["a"] == 16
