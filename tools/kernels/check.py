"""What works on this kernel; tools/kernels/matrix runs it in each emulated machine.

Prints one line an object: how the verifier likes it. Then the packet table, and live taps
whose counters must be exact, as pytest has them. The status is pytest's.
"""

import platform
import sys
from pathlib import Path

import pytest

from etcpipe.errors import EtcpipeError
from etcpipe.kernel import libbpf
from etcpipe.kernel.settings import Build, TapSettings

ROOT = Path(__file__).parents[2]
NO_SUCH_IFINDEX = 0x7FFFFFF0
TESTS = ("tests/test_bpf_tap.py", "tests/test_tap_traffic.py", "tests/test_tap_lifecycle.py")
# bcc compiles for minutes under emulation, and what it loads is the plain object's source
SELECTION = "not bcc and not slow"


def verdict_on(path: Path) -> str:
    """Return what this kernel says to an object."""
    try:
        libbpf.load_object(path, Build(TapSettings(), 1, NO_SUCH_IFINDEX)).close()
    except (OSError, EtcpipeError) as error:
        return f"refused ({error})"
    return "loads"


def main() -> int:
    """Check this kernel."""
    print(f"kernel {platform.release()}")
    for path in libbpf.object_paths():
        print(f"{path.name} {verdict_on(path)}", flush=True)
    options = ["-q", "-p", "no:cacheprovider", "--color=no", "-o", "console_output_style=classic"]
    return pytest.main([*options, "-k", SELECTION, *(str(ROOT / test) for test in TESTS)])


if __name__ == "__main__":
    sys.exit(main())
