"""The benchmark of specialised pipelines runs; no test here looks at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "bench" / "specialised.py"


@pytest.mark.slow
def test_a_point_is_measured_beside_the_general_pipeline(tmp_path):
    command = [sys.executable, SCRIPT, "--quick", "--json", "--work", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    results = json.loads(done.stdout)["results"]
    assert set(results) == {"six at 3", "all at 50"}
    assert all(cost["extract_ns"] > 0 for costs in results.values() for cost in costs)
