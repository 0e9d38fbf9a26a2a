"""What works on this kernel; tools/kernels/matrix runs it in each emulated machine.

Prints how the verifier likes each object: a line a program with the instructions that it
walked, or the refusal. Then the packet tables, live taps and the wire between two ports, as
pytest has them. The status is pytest's.
"""

import argparse
import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # wherever the environment's etcpipe is

from etcpipe.errors import EtcpipeError
from etcpipe.gpu.features import FEATURE_COLUMNS
from etcpipe.kernel import libbpf
from etcpipe.kernel.build import Build
from etcpipe.kernel.settings import TapSettings

TESTS = Path(__file__).parents[2] / "tests"
NO_SUCH_IFINDEX = 0x7FFFFFF0
LOG_STATS = 4  # BPF_LOG_STATS: the log is the verifier's last words alone
LOG_BYTES = 1 << 16
WALKED = re.compile(rb"processed (\d+) insns")

FEW = ("s_bytes_mean", "d_iat_mean", "psh_cnt", "dur")
XDP_WIRE = {"forward": "other", "mode": "xdp"}
ALL = tuple(column.name for column in FEATURE_COLUMNS)

# What changes the code that the verifier sees.
VARIANTS = {
    "tap": {},
    "tap --policy": {"policy": True},
    "tap --capture ringbuf": {"capture": "ringbuf"},
    "tap --capture ringbuf --first 20": {"capture": "ringbuf", "first_n": 20},
    "tap --decap --key-vlan --key-tunnel": {"decap": True, "key_vlan": True, "key_tunnel": True},
    "tap --capture features": {"capture": "features", "features": FEW},
    "tap --capture features, all columns": {"capture": "features", "features": ALL, "first_n": 50},
    "tap --stage0 kernel": {"capture": "features", "features": FEW, "tree_depth": 3},
    "tap --stage0 kernel beside copies": {"features": FEW, "tree_depth": 3},
    "forward": XDP_WIRE,
    "forward --capture features": {**XDP_WIRE, "capture": "features", "features": FEW},
    "forward --capture ringbuf": {**XDP_WIRE, "capture": "ringbuf"},
    "forward --mode tc": {"forward": "other", "mode": "tc"},
}
FILES = (
    "test_bpf_tap.py",  # the table of packets
    "test_bpf_parsing.py",  # tunnels, tags and fragments, and --decap with them
    "test_act.py",  # what verdicts do to a packet
    "test_settled.py",  # and that a final one ends the copies of its flow
    "test_flow_table.py",  # who finds a flow, who gets a place, who makes room
    "test_flows.py",  # when flows begin and end
    "test_kernel_features_live.py",  # what the kernel gathers of flows
    "test_stage0_live.py",  # trees that judge in the kernel
    "test_stage0_beside.py",  # and beside copies
    "test_tap_traffic.py",  # live taps whose counters must be exact
    "test_forward.py",
    "test_forward_tc.py",
)
# bcc compiles for minutes under emulation, and what it loads is the plain object's source;
# the host's parser is the same on every kernel; of all recordings three, each a minute; ten
# thousand packets through trees take ten of them
SELECTION = (
    "not bcc and not slow and not test_the_host and not judges_as_onnx_runtime"
    " and (not the_kernel_s_columns or dtls.pcap or quic_0RTT or modbus)"
)


@contextmanager
def last_words(names: tuple[str, ...]) -> Iterator[dict[str, ctypes.Array]]:
    """Have the verifier say what it walked of each program that is loaded in the block."""
    lib = libbpf.library()
    lib.bpf_program__set_log_level.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    lib.bpf_program__set_log_buf.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    buffers = {name: ctypes.create_string_buffer(LOG_BYTES) for name in names}
    load = lib.bpf_object__load

    def load_with_log(handle: int) -> int:
        for name, buffer in buffers.items():
            program = lib.bpf_object__find_program_by_name(handle, name.encode())
            lib.bpf_program__set_log_level(program, LOG_STATS)
            lib.bpf_program__set_log_buf(program, buffer, LOG_BYTES)
        return load(handle)

    lib.bpf_object__load = load_with_log
    try:
        yield buffers
    finally:
        lib.bpf_object__load = load


def verify(path: Path, build: Build) -> str:
    """Return what this kernel says to an object: each program's instructions, or why not."""
    with last_words(build.programs) as logs:
        try:
            libbpf.load_object(path, build).close()
        except (OSError, EtcpipeError) as error:
            return f"refused: {error}"
    walked = ((name, WALKED.search(log.value)) for name, log in logs.items())
    return ", ".join(f"{name} {int(found[1]):,}" for name, found in walked if found)


def verify_all() -> None:
    """Print what this kernel says to every object, in every variant."""
    for variant, settings in VARIANTS.items():
        port = NO_SUCH_IFINDEX + 1 if "forward" in settings else 0
        build = Build(TapSettings(**settings), 1, NO_SUCH_IFINDEX, port_ifindex=port)
        for path in libbpf.object_paths(build.source):
            started = monotonic()
            said = verify(path, build)
            print(f"{path.name} [{variant}]: {said} ({monotonic() - started:.1f} s)", flush=True)


class Reporter:
    """Tells a failure as soon as it is there: the machine may be stopped before the summary."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            print(f"\n{report.nodeid}: {report.longreprtext}", flush=True)


def main() -> int:
    """Check this kernel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verify", action="store_true", help="ask the verifier only")
    parser.add_argument("-k", dest="select", default=SELECTION, help="as pytest has it")
    parser.add_argument("tests", nargs="*", default=FILES, help="files of tests/")
    chosen = parser.parse_args()
    # packets of two emulated processors overtake each other, and tests look at their order
    os.sched_setaffinity(0, {0})
    print(f"kernel {platform.release()}", flush=True)
    if chosen.verify or chosen.tests == FILES:
        verify_all()
    if chosen.verify:
        return 0
    options = ["-v", "-p", "no:cacheprovider", "--color=no", "--tb=short", "--durations=10"]
    tests = [str(TESTS / name) for name in chosen.tests]
    return pytest.main([*options, "-k", chosen.select, *tests], plugins=[Reporter()])


if __name__ == "__main__":
    sys.exit(main())
