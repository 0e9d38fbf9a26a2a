"""Each barrier of the kernels is needed: without it some result changes, or threads never meet."""

import subprocess
import sys
from pathlib import Path

import pytest
from cuda_mutate import barriers, compile_without, name_of

CHECK = Path(__file__).parent / "cuda_mutate.py"


def check(library: Path) -> int:
    """Return 0 if a build does what the definitions say."""
    return subprocess.run(
        [sys.executable, str(CHECK), str(library)], capture_output=True
    ).returncode


@pytest.mark.slow
def test_with_all_barriers_nothing_differs(tmp_path):
    assert check(compile_without(None, tmp_path)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("barrier", barriers(), ids=name_of)
def test_without_a_barrier_it_shows(barrier, tmp_path):
    assert check(compile_without(barrier, tmp_path)) != 0
