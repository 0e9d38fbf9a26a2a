"""Each barrier of the kernels is needed: without it some result changes, or threads never meet."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parent / "cuda_mutate.py"


@pytest.mark.slow
def test_without_any_barrier_it_shows():
    command = [sys.executable, str(CHECK)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    noticed = json.loads(done.stdout)
    assert noticed.pop("none") is False
    assert len(noticed) > 20
    assert [barrier for barrier, seen in noticed.items() if not seen] == []
