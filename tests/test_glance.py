"""What show prints without asking the kernel: only what running taps said lately."""

import json
import subprocess
import sys
from time import time

import pytest

from etcpipe.kernel import glance


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(glance, "RUN", tmp_path)
    return tmp_path


def tap(folder, device="eth0", inode=7, age_s=0.0, **report):
    """Leave a journal and, unless age_s is None, a report."""
    place = folder / str(inode)
    place.mkdir(exist_ok=True)
    (place / f"{device}.json").write_text(json.dumps({"settings": {"first_n": 10}}))
    if age_s is not None:
        told = {"device": device, "netns": inode, "time": time() - age_s, "flows": 3, **report}
        (place / f"{device}.live").write_text(json.dumps(told))


def test_running_taps_are_shown_as_they_said(run_folder):
    tap(run_folder, pid=5, counters={"PACKETS_SEEN": 9})
    tap(run_folder, device="eth0.7", inode=8)
    first, second = glance.taps(None, None)
    assert (first["device"], first["pid"], first["flows"], first["first_n"]) == ("eth0", 5, 3, 10)
    assert first["counters"] == {"PACKETS_SEEN": 9}
    assert (second["device"], second["netns"]) == ("eth0.7", 8)


def test_a_device_of_a_namespace_is_found_by_both(run_folder):
    tap(run_folder)
    tap(run_folder, inode=8)
    tap(run_folder, device="eth1")
    assert [one["netns"] for one in glance.taps(8, "eth0")] == [8]
    assert len(glance.taps(7, None)) == 2
    assert glance.taps(9, "eth0") == []


@pytest.mark.parametrize("left", [{"age_s": None}, {"age_s": 11.0}, {"flows": None}])
def test_the_kernel_is_asked_where_a_tap_did_not_say(run_folder, left):
    tap(run_folder)
    tap(run_folder, device="eth1", **left)
    assert glance.taps(None, None) is None


def test_a_report_that_is_no_json_is_none(run_folder):
    tap(run_folder)
    (run_folder / "7" / "eth0.live").write_text("{")
    assert glance.taps(None, None) is None


def test_nothing_heavy_is_imported():
    script = (
        "import sys; from etcpipe.cli import show; from etcpipe.kernel import glance, netns;"
        " import etcpipe.text_table; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "etcpipe.kernel.glance" in done.stdout
    assert not {"numpy", "pyroute2"} & set(done.stdout.split())
