"""What show prints without asking the kernel: only what running taps said lately."""

import json
import os
import subprocess
import sys
from time import time

import pytest

from etcpipe.cli import command, shortcut
from etcpipe.kernel import first_packets, glance, netns
from etcpipe.outputs.summary import loss_line

RUNNING = os.getpid()
GONE = 2**22 + 1  # more than Linux gives


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(glance, "RUN", tmp_path)
    return tmp_path


def tap(folder, device="eth0", inode=7, age_s=0.0, capture="afxdp", **report):
    """Leave a journal and, unless age_s is None, a report."""
    place = folder / str(inode)
    place.mkdir(exist_ok=True)
    (place / f"{device}.json").write_text(
        json.dumps({"settings": {"first_n": 10, "capture": capture}})
    )
    if age_s is not None:
        told = {"device": device, "netns": inode, "pid": RUNNING, "flows": 3, **report}
        told["time"] = time() - age_s
        (place / f"{device}.live").write_text(json.dumps(told))


def test_running_taps_are_shown_as_they_said(run_folder):
    tap(run_folder, counters={"PACKETS_SEEN": 9})
    tap(run_folder, device="eth0.7", inode=8)
    first, second = glance.taps(None, None)
    assert (first["device"], first["pid"], first["flows"]) == ("eth0", RUNNING, 3)
    assert first["first_n"] == 10
    assert first["counters"] == {"PACKETS_SEEN": 9}
    assert (second["device"], second["netns"]) == ("eth0.7", 8)


def test_a_device_of_a_namespace_is_found_by_both(run_folder):
    tap(run_folder)
    tap(run_folder, inode=8)
    tap(run_folder, device="eth1")
    assert [one["netns"] for one in glance.taps(8, "eth0")] == [8]
    assert len(glance.taps(7, None)) == 2
    assert glance.taps(9, "eth0") == []


@pytest.mark.parametrize("left", [{"age_s": None}, {"age_s": 11.0}, {"flows": None}, {"pid": GONE}])
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
        "import sys; from etcpipe.cli import shortcut; from etcpipe.kernel import glance;"
        " glance.taps = lambda *of: []; shortcut.show(['show'], {}); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "etcpipe.kernel.glance" in done.stdout
    assert not {"click", "numpy", "pyroute2", "socket"} & set(done.stdout.split())


@pytest.mark.parametrize("args", [["show"], ["show", "eth0"], ["show", "eth9"]])
def test_the_shortcut_prints_what_the_command_does(run_folder, monkeypatch, capsys, args):
    monkeypatch.setattr(netns, "inode", lambda name=None: 7)
    tap(run_folder, counters={"PACKETS_SEEN": 9}, mode="tc", loader="libbpf")
    assert shortcut.show(args, {})
    said = capsys.readouterr().out
    assert command.run(args) == 0
    assert capsys.readouterr().out == said
    assert said.split()[-1] == ("3" if "eth9" not in args else "eth9")


@pytest.mark.parametrize(
    ("args", "environ"),
    [
        (["-j", "show"], {}),
        (["show", "-h"], {}),
        (["show", "help"], {}),
        (["show", "eth0", "eth1"], {}),
        (["-n"], {}),
        (["-n", "no such namespace", "show"], {}),
        (["detach", "eth0"], {}),
        ([], {}),
        (["show"], {"ETCPIPE_STATS": "1"}),
        (["show"], {"_ETCPIPE_COMPLETE": "bash_complete"}),
    ],
)
def test_all_else_goes_the_ordinary_way(run_folder, capsys, args, environ):
    tap(run_folder, counters={}, mode="tc", loader="libbpf")
    assert not shortcut.show(args, environ)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("left", [{"age_s": None}, {"shadow": {"model": "b@1"}}])
def test_what_a_glance_does_not_tell_goes_the_ordinary_way(run_folder, capsys, left):
    tap(run_folder, **left)
    assert not shortcut.show(["show"], {})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("captures", "head", "counts"),
    [
        (["afxdp"], "mirrored", ["1"]),
        (["ringbuf"], "copied", ["2"]),
        (["features"], "gathered", ["4"]),
        (["afxdp", "features"], "taken", ["1", "4"]),
    ],
)
def test_first_packets_are_counted_as_they_were_captured(
    run_folder, capsys, captures, head, counts
):
    counters = {"PACKETS_REDIRECTED": 1, "PACKETS_CLONED": 2, "PACKETS_GATHERED": 4}
    for i, capture in enumerate(captures):
        tap(run_folder, f"eth{i}", counters=counters, mode="tc", loader="l", capture=capture)
    assert shortcut.show(["show"], {})
    heads, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert heads[-2] == head
    assert [row[-2] for row in rows] == counts
    line = loss_line({**counters, "PACKETS_SEEN": 9, "PACKETS_FIRST_N": 5}, {}, captures[0])
    assert f"{counts[0]} {first_packets.participle(captures[0])}; lost: none" in line


def test_first_packets_of_answered_flows_are_told_beside_those_that_were_mirrored():
    counters = {"PACKETS_SEEN": 9, "PACKETS_FIRST_N": 7, "PACKETS_REDIRECTED": 5}
    line = loss_line({**counters, "PACKETS_SETTLED": 2}, {})
    assert line.endswith("7 among the first of their flow, 5 mirrored, 2 settled; lost: none")
