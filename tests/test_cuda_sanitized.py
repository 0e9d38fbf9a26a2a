"""The kernels under AddressSanitizer and UBSan, alignment included: a GPU traps on that too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_shim import BUILDS

HERE = Path(__file__).parent


# Those in which every kernel meets every kind of packet; the others differ in what is decided.
SOME = "random_packets or alignment or garbage or over_several or full_table"
WHICH = pytest.mark.parametrize(
    "which", ["not exhaustive", pytest.param("exhaustive", marks=pytest.mark.exhaustive)]
)


def run(build: str, which: str, **environment: str) -> str:
    """Run the cases that fit all kernels in a build of the shim; return what went wrong."""
    tests = str(HERE / "test_cuda_agree.py")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    if which == "not exhaustive":
        command += ["-k", SOME, "-m", "not gpu and not exhaustive", tests]
    else:
        command += ["-m", "not gpu", tests]
    finished = subprocess.run(
        command,
        env={**os.environ, "ETCPIPE_SHIM": build, **environment},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
    )
    return finished.stdout + finished.stderr if finished.returncode else ""


def runtime(name: str) -> str:
    """Return where the compiler's library is."""
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True)
    return found.stdout.strip()


@pytest.mark.slow
@WHICH
def test_no_access_is_out_of_bounds_unaligned_or_undefined(which):
    assert "-fsanitize=address,undefined" in BUILDS["sanitized"]
    wrong = run(
        "sanitized",
        which,
        LD_PRELOAD=f"{runtime('libasan.so')} {runtime('libubsan.so')}",
        ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=0",
        PYTHONMALLOC="malloc",
    )
    assert not wrong, wrong[-5000:]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_another_compiler_agrees():
    assert not (wrong := run("clang++", "exhaustive")), wrong[-5000:]
