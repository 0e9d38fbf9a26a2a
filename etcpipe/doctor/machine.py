"""Checks of the machine: kernel, rights, libraries, engines."""

import os
import platform
import re
import resource
import socket
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from etcpipe import runtime
from etcpipe.doctor import FAIL, OK, WARN, Check, Finding
from etcpipe.errors import UnsupportedError

OLDEST_KERNEL = (5, 15)
FIRST_TCX_KERNEL = (6, 6)
AF_XDP = 44
CAP_IPC_LOCK, CAP_SYS_ADMIN = 14, 21
# Frames of the capture ring, which the kernel counts against RLIMIT_MEMLOCK.
RING_BYTES = 16384 * 4096
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def kernel() -> Finding:
    """The running kernel is new enough."""
    release = platform.release()
    if kernel_version() < OLDEST_KERNEL:
        return Finding("kernel", FAIL, release, "Linux 5.15 or newer is needed")
    if kernel_version() < FIRST_TCX_KERNEL:
        return Finding("kernel", OK, f"{release}: TC programs go in by clsact filters")
    return Finding("kernel", OK, f"{release}: TC programs go in by tcx links")


def rights() -> Finding:
    """This process may load programs and change devices."""
    from etcpipe.kernel import checks

    missing = checks.missing_capabilities(_effective())
    if not missing:
        return Finding("rights", OK, "root" if os.geteuid() == 0 else "capabilities are there")
    text = f"missing: {', '.join(missing)}"
    return Finding("rights", FAIL, text, "run as root for live traffic", permission=True)


def bpf_file_system() -> Finding:
    """Programs and maps can be pinned."""
    from etcpipe.kernel import checks

    if checks.is_bpffs():
        return Finding("bpf file system", OK, f"mounted at {checks.BPFFS}")
    return Finding("bpf file system", WARN, "not mounted", "attach mounts it")


def jit() -> Finding:
    """Programs are compiled to machine code."""
    try:
        enabled = Path("/proc/sys/net/core/bpf_jit_enable").read_text().strip()
    except FileNotFoundError:
        return Finding("jit", OK, "not shown in this network namespace")
    except OSError:
        return Finding("jit", WARN, "cannot be read", "run as root to see it")
    if enabled == "0":
        remedy = "sysctl net.core.bpf_jit_enable=1"
        return Finding("jit", WARN, "off: programs are interpreted, several times slower", remedy)
    return Finding("jit", OK, "programs are compiled")


def programs() -> Finding:
    """The kernel takes the programs; they are unloaded again at once."""
    from etcpipe.kernel import programs as kernel_programs
    from etcpipe.kernel.build import Build
    from etcpipe.kernel.settings import TapSettings

    loaded = kernel_programs.load(Build(TapSettings(), device_ifindex=1, mirror_ifindex=1))
    loaded.close()
    return Finding("programs", OK, f"load with {loaded.loader}")


def loaders() -> Finding:
    """There is something to load programs with."""
    found = [*_libbpf(), *(["bcc"] if _has_bcc() else [])]
    if not found:
        remedy = "apt install libbpf1 (or python3-bpfcc)"
        return Finding("loaders", FAIL, "neither libbpf nor bcc", remedy)
    return Finding("loaders", OK, ", ".join(found))


def af_xdp() -> Finding:
    """The kernel has AF_XDP sockets."""
    try:
        socket.socket(AF_XDP, socket.SOCK_RAW, 0).close()
    except PermissionError:
        return Finding("af_xdp", FAIL, "not permitted", "needs CAP_NET_RAW", permission=True)
    except OSError as error:
        remedy = "a kernel with CONFIG_XDP_SOCKETS is needed"
        return Finding("af_xdp", FAIL, error.strerror or "refused", remedy)
    return Finding("af_xdp", OK, "sockets can be made")


def locked_memory() -> Finding:
    """The ring's memory may be locked."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit == resource.RLIM_INFINITY or _effective() >> CAP_IPC_LOCK & 1:
        return Finding("locked memory", OK, "no limit")
    text = f"limit {limit >> 20} MiB"
    if limit >= RING_BYTES:
        return Finding("locked memory", OK, text)
    remedy = "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit"
    return Finding("locked memory", FAIL, text, remedy, permission=True)


def veth() -> Finding:
    """A pair of virtual devices can be made (tried in a namespace that goes at once)."""
    if not _may_try():
        return Finding("veth", WARN, "not tried", "run as root to try it")
    if _succeeds("ip link add etcpipe0 type veth peer name etcpipe1"):
        return Finding("veth", OK, "the mirror pair can be made")
    return Finding("veth", FAIL, "cannot be made", "CONFIG_VETH and iproute2 are needed")


def traffic_control() -> Finding:
    """TC programs can be attached."""
    if kernel_version() >= FIRST_TCX_KERNEL:
        return Finding("traffic control", OK, "tcx, beside other people's programs")
    if not _may_try():
        return Finding("traffic control", WARN, "not tried", "run as root to try it")
    if _succeeds("tc qdisc add dev lo clsact"):
        return Finding("traffic control", OK, "clsact")
    return Finding("traffic control", FAIL, "no clsact", "CONFIG_NET_CLS_ACT is needed")


def captures() -> Finding:
    """The native extension and libpcap are there."""
    try:
        import etcpipe._native  # noqa: F401
    except ImportError as error:
        return Finding("captures", FAIL, str(error), "apt install libpcap0.8, then reinstall")
    return Finding("captures", OK, "libpcap through the native extension")


def engine() -> Finding:
    """Models can be run: trees always, others by ONNX Runtime."""
    from etcpipe.gpu import inference

    found = inference.version_of("onnxruntime", "onnxruntime-gpu")
    if not found:
        text = "no ONNX Runtime: trees run, other models do not"
        return Finding("engine", WARN, text, runtime.remedy())
    return Finding("engine", OK, f"trees in C, other models by ONNX Runtime {found}, CPU")


def model() -> Finding:
    """The model that ships can be read and run."""
    from etcpipe import model as models
    from etcpipe.cascade import bundle

    loaded = models.load(None)
    packets = " or ".join(map(str, bundle.depths(loaded)))
    text = f"{loaded.name}: {len(loaded.classes)} classes, first {packets} packets"
    return Finding("model", OK, text)


def gpu() -> Finding:
    """Whether there is a GPU, and what could run models on it; nothing here needs one."""
    from etcpipe.gpu import cuda_device, inference

    try:
        device = cuda_device.find()
    except UnsupportedError as error:
        return Finding("gpu", OK, f"{error}; everything runs on the CPU")
    if not find_spec("cupy"):
        return Finding("gpu", WARN, f"{device}; not used", runtime.remedy("cupy-cuda13x"))
    found = inference.installed()
    if not found:
        remedy = f"{runtime.remedy('tensorrt-cu13')}, or onnxruntime-gpu instead of onnxruntime"
        return Finding("gpu", WARN, f"{device}; networks run on the CPU", remedy)
    return Finding("gpu", OK, f"{device}; networks run by {', '.join(found)}")


def gpu_frames() -> Finding:
    """How frames of the capture ring get to a GPU."""
    from etcpipe.gpu import staging_gpu

    try:
        why = staging_gpu.copied_because()
    except UnsupportedError:
        return Finding("gpu frames", OK, "stay on the CPU")
    if why:
        return Finding("gpu frames", WARN, f"copied through pinned memory: {why}")
    return Finding("gpu frames", OK, "read in place: CUDA takes the ring's memory")


def parquet() -> Finding:
    """Verdicts can be written as Parquet."""
    if find_spec("pyarrow"):
        return Finding("parquet", OK, f"pyarrow {version('pyarrow')}")
    remedy = f"{runtime.remedy_for('parquet')} for -o *.parquet"
    return Finding("parquet", WARN, "no pyarrow", remedy)


CHECKS: tuple[Check, ...] = (
    kernel,
    rights,
    bpf_file_system,
    jit,
    loaders,
    programs,
    af_xdp,
    locked_memory,
    veth,
    traffic_control,
    captures,
    engine,
    model,
    parquet,
    gpu,
    gpu_frames,
)


def kernel_version() -> tuple[int, int]:
    """Return major and minor version of the running kernel."""
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _effective() -> int:
    status = Path("/proc/thread-self/status").read_text()
    return int(re.search(r"^CapEff:\s*(\w+)", status, re.MULTILINE)[1], 16)  # type: ignore[index]


def _may_try() -> bool:
    """Whether this process may make a network namespace to try something in."""
    return bool(_effective() >> CAP_SYS_ADMIN & 1)


def _has_bcc() -> bool:
    return bool(find_spec("bcc") and find_spec("bcc.libbcc"))  # the bcc of PyPI has no libbcc


def _libbpf() -> list[str]:
    from etcpipe.kernel import libbpf

    try:
        libbpf.library()
    except UnsupportedError:
        return []
    objects = [path.name for path in libbpf.object_paths()]
    return [f"libbpf ({', '.join(objects)})"] if objects else []


def _succeeds(command: str) -> bool:
    """Run a command in a network namespace of its own, which ends with it."""
    try:
        done = subprocess.run(
            ["unshare", "--net", *command.split()],
            capture_output=True,
            timeout=10,
            check=False,
            env={**os.environ, "PATH": SYSTEM_PATH},
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
