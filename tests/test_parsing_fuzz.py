"""The parser under libFuzzer, for a short while; `make fuzz` runs it for longer."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SECONDS = "5"


def has_fuzzer(folder: Path) -> bool:
    """Is clang's fuzzer runtime installed (libclang-rt-dev)?"""
    if not shutil.which("clang"):
        return False
    source = folder / "empty.c"
    source.write_text("int LLVMFuzzerTestOneInput(const char *d, long n) { return !d && n; }\n")
    command = ["clang", "-fsanitize=fuzzer,address", source, "-o", folder / "empty"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.slow
def test_no_input_breaks_the_parser(tmp_path: Path) -> None:
    if not has_fuzzer(tmp_path):
        pytest.skip("clang has no fuzzer runtime: apt install libclang-rt-dev")
    run = subprocess.run(
        [ROOT / "tests/fuzz/run", SECONDS, tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert run.returncode == 0, run.stderr[-4000:]
    assert "stat::number_of_executed_units" in run.stderr
