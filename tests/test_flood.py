"""A flood of new flows against those that are alive: a small run of tools/bench/flood.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parent.parent


def flood(*options: str) -> dict:
    command = [sys.executable, str(ROOT / "tools/bench/flood.py"), "--json", *options]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_flows_that_are_alive_outlive_a_flood() -> None:
    result = flood(
        *("--flows", "16384", "--bursts", "4000", "--syns", "200000", "--established", "300")
    )
    assert result["flows_created"] + result["table_full"] == result["syns"] == 200_000
    assert result["touches"] == 50 * 300
    assert (result["flows_lost"], result["verdicts_lost"]) == (0, 0)
    assert result["table_bytes_after"] == result["table_bytes_before"]


def test_flows_outlive_a_flood_of_many_tables_between_two_of_their_packets() -> None:
    result = flood(
        *("--flows", "16384", "--bursts", "100000", "--syns", "400000", "--established", "300")
    )
    assert result["touches"] == 4 * 300
    assert (result["flows_lost"], result["verdicts_lost"]) == (0, 0)


def test_more_flows_alive_than_the_table_holds_are_seen_by_the_bench() -> None:
    """Else the tests above could not fail."""
    result = flood(*("--flows", "512", "--bursts", "8000", "--syns", "8000"))
    assert result["flows_lost"] > 0
    assert result["verdicts_lost"] > 0


def test_half_open_flows_are_swept_out_and_the_others_stay() -> None:
    result = flood(
        *("--flows", "16384", "--bursts", "5000", "--syns", "5000", "--established", "100")
    )
    assert result["ended"] == 5000 + 100  # one beside each established flow was not answered
