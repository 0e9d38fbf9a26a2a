"""etcpipe monitor: what it shows, and that it fits a terminal of 80 columns."""

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import tempfile
import termios
import time
from copy import deepcopy
from fcntl import ioctl
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command import ETCPIPE, ROOT, run
from records import flow_record
from reports import report
from test_cli_live import attached, send_flows
from verdicts import Flow, verdicts
from waiting import until

from etcpipe.kernel import journal, netns
from etcpipe.outputs import watch
from etcpipe.outputs.histogram import Histogram, quantile
from etcpipe.outputs.movement import movement
from etcpipe.outputs.talkers import Talkers
from etcpipe.outputs.tally import Tally

rich_console = pytest.importorskip("rich.console")

READERS = 54320  # a group


def look(report: dict[str, Any] | None, seconds: float = 0, **changed: Any) -> dict[str, Any]:
    return {
        "device": "eth0",
        "netns": 4026531840,
        "mode": "tc",
        "loader": "libbpf",
        "capture": "afxdp",
        "pid": 4711,
        "flows": 1234,
        "counters": {"PACKETS_SEEN": int(1000 * seconds)},
        "time": 1_700_000_000.0 + seconds,
        "report": report,
        **changed,
    }


def two_looks() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return looks two seconds apart: 500 packets a second, a verdict and a half, one lost."""
    old = report()
    new = deepcopy(report(time=old["time"] + 2))
    old.update(verdicts={}, counters={}, probability=Histogram([1.0]).asdict())
    empty = [0] * len(new["probability"]["counts"])
    old["probability"] = {**new["probability"], "counts": empty, "sum": 0.0}
    old["latency_s"] = {
        name: {**spans, "counts": [0] * len(spans["counts"]), "sum": 0.0}
        for name, spans in new["latency_s"].items()
    }
    new["counters"]["PACKETS_CLONE_FAILED"] = 2
    return look(old), look(new, 2)


def drawn(*moved: dict[str, Any]) -> list[str]:
    from etcpipe.outputs.screen import screen

    text = StringIO()
    rich_console.Console(file=text, width=80).print(screen(moved))
    return [line.rstrip() for line in text.getvalue().splitlines()]


SCREEN = """\
eth0  tc, libbpf  test, ONNX Runtime  HH:MM:SS ─────────────────────────────────
packets/s                            500  time to verdict     median       99 %
first of flows/s                      19  total            1375.0 ms  2477.5 ms
settled/s                              4  wait              625.0 ms   992.5 ms
lost/s                                 1  queue               0.1 ms     0.1 ms
new flows/s                            2  infer               0.1 ms     0.1 ms
flows in table                     1,234

class              flows/s  total  share  initiator                bytes  flows
ssh                    0.5      1    33%  192.0.2.1               7.5 kB      2
unknown                0.5      1    33%  mean probability           77%
web                    0.5      1    33%  unknown                    33%

lost: clone failed 2

output                      written  waiting  dropped
flows.jsonl                       2        1        4  No space left on device
"""


def test_screen_as_it_is():
    lines = drawn(movement(*two_looks()))
    lines[0] = re.sub(r"\d\d:\d\d:\d\d", "HH:MM:SS", lines[0])
    assert "\n".join(lines) == SCREEN


def test_every_line_fits_80_columns_whatever_the_names_are():
    old, new = two_looks()
    long = "a_class_with_a_name_that_is_very_long_and_goes_on_and_on_and_on_and_on_and_on"
    new["report"].update(
        verdicts={f"{long}{i}": 10**9 for i in range(30)},
        talkers=[
            {"address": "2001:db8:1111:2222:3333:4444:5555:6666", "bytes": 10**16, "flows": 1}
        ],
        model={"name": long, "digest": "0", "engine": long},
    )
    new["report"]["outputs"][0]["output"] = f"kafka://{long}/{long}"
    lines = drawn(movement(old, new), movement(old, new))
    assert max(map(len, lines)) <= 80
    assert any("21 more" in line for line in lines)


def test_tap_without_a_consumer_says_so():
    moved = movement(look(None, pid=None), look(None, 2, pid=None))
    assert moved["consumer"] is None
    assert moved["counters"] == {"PACKETS_SEEN": 2000}
    assert any("nothing is judged" in line for line in drawn(moved))


def test_consumer_that_was_started_anew_shows_no_movement_of_another():
    old, new = two_looks()
    new["report"]["since"] += 1
    assert movement(old, new)["consumer"] is None


def test_quantiles_by_hand():
    histogram = Histogram([1.0, 2.0, 4.0])
    histogram.add(np.array([0.5, 1.5, 1.5, 3.0]))
    counted = histogram.asdict()
    assert counted == {"bounds": [1.0, 2.0, 4.0], "counts": [1, 3, 4, 4], "sum": 6.5}
    assert quantile(counted, 0.5) == pytest.approx(1.5)
    assert quantile(counted, 0.25) == pytest.approx(1.0)
    histogram.add(np.array([100.0] * 100))
    assert quantile(histogram.asdict(), 0.99) == 4.0
    assert quantile(Histogram([1.0]).asdict(), 0.5) is None


def test_tally_adds_up_batches_of_two_models():
    tally = Tally()
    for _ in range(3000):
        tally.add(verdicts(Flow(), Flow(label=-1)))
    tally.add(verdicts(Flow(label=0), classes=("web", "quic")))
    tally.add(verdicts())
    counted = tally.asdict()
    assert counted["verdicts"] == {"web": 3001, "unknown": 3000}
    assert counted["sources"] == {"model": 6001}
    assert counted["probability"]["counts"][-1] == 6001
    assert counted["batch_flows"]["counts"][:2] == [1, 3001]


def test_early_verdict_is_an_event_and_no_flow():
    tally = Tally()
    tally.add(verdicts(Flow(event="early"), Flow(event="revised", label=0, stage=1)))
    counted = tally.asdict()
    assert counted["events"] == {"early": 1, "revised": 1}
    assert counted["verdicts"] == {"ssh": 1}
    assert counted["stages"] == {"1": 1}


def test_tally_counts_ended_flows_by_reason():
    tally = Tally()
    tally.add_ended(np.concatenate([flow_record(reason=r) for r in ("idle", "idle", "active")]))
    assert tally.asdict()["ended"] == {"idle": 2}


def test_lines_where_no_terminal_is(capsys):
    from etcpipe.cli.monitor import _lines

    _lines(iter([[movement(*two_looks())]]))
    heads, values = (line.split() for line in capsys.readouterr().out.splitlines())
    assert heads == ["device", "seen/s", "first/s", "settled/s", "taken/s", "flows/s"]
    assert values == ["eth0", "500", "19", "4", "14", "2"]


def test_talkers_by_initiator_the_largest_first():
    records = np.concatenate(
        [flow_record(), flow_record(octets=(100, 100)), flow_record(version=6, octets=(1, 1))]
    )
    talkers = Talkers()
    assert talkers.asdict() == {"flows": None, "talkers": []}
    for _ in range(2):  # each round anew
        talkers.take(records["key"][:2], records["state"][:2])
        talkers.take(records["key"][2:], records["state"][2:])
        talkers.end_round()
    assert talkers.asdict() == {
        "flows": 3,
        "talkers": [
            {"address": "198.51.100.7", "bytes": 7700, "flows": 2},
            {"address": "2001:db8::2", "bytes": 2, "flows": 1},
        ],
    }


def test_talkers_are_bounded(monkeypatch):
    monkeypatch.setattr("etcpipe.outputs.talkers.ADDRESSES_MAX", 4)
    monkeypatch.setattr("etcpipe.outputs.talkers.KEPT", 2)
    records = np.concatenate([flow_record(octets=(i, 0)) for i in range(9)])
    records["key"]["b_addr"][:, 15] = np.arange(9)
    talkers = Talkers()
    for i in range(9):
        talkers.take(records["key"][i : i + 1], records["state"][i : i + 1])
    talkers.end_round()
    assert [t["bytes"] for t in talkers.asdict()["talkers"]] == [8, 7, 6]


def test_report_of_a_process_that_hangs_or_was_killed_is_not_told(tmp_path, monkeypatch):
    monkeypatch.setattr("etcpipe.kernel.journal.RUN", tmp_path)
    folder = tmp_path / "7"
    folder.mkdir()
    fresh = {**report(netns=7), "time": time.time()}
    (folder / "eth0.live").write_text(json.dumps(fresh))
    (folder / "eth1.live").write_text(json.dumps({**fresh, "time": time.time() - 60}))
    (folder / "eth2.live").write_text("{")
    (folder / "eth3.live").write_text(json.dumps({**fresh, "version": 99}))
    assert watch.read_reports() == [fresh]
    assert watch.read_reports([(7, "eth0"), (7, "none")]) == [fresh]


@pytest.mark.root
def test_json_lines_say_what_the_consumer_did(wire, tmp_path):
    with attached(wire, tmp_path, "-o", str(tmp_path / "flows.jsonl")) as etcpipe:
        etcpipe.until_attached()
        options = ("monitor", wire.device, "--interval", "1.5", "--count", "1")
        command = [*ETCPIPE, "-j", "-n", wire.near, *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as monitor:
            port = 20000
            while monitor.poll() is None:
                send_flows(wire, 1, first_port=port)
                port += 1
                time.sleep(0.1)
            moved = json.loads(monitor.stdout.read())
        assert etcpipe.signalled(signal.SIGINT) == 0
    consumer = moved["consumer"]
    assert sum(consumer["verdicts_total"].values()) >= sum(consumer["verdicts"].values()) >= 1
    assert consumer["latency_s"]["total"]["median"] > 0
    assert 0 < consumer["probability"] <= 1
    assert [output["output"] for output in consumer["outputs"]] == [str(tmp_path / "flows.jsonl")]
    assert wire.leftovers() == []


@pytest.mark.root
def test_view_on_a_terminal_ends_by_interrupt(wire, tmp_path):
    with attached(wire, tmp_path) as etcpipe:
        etcpipe.until_attached()
        send_flows(wire, 3)
        shown, status = on_terminal(
            "-n", wire.near, "monitor", wire.device, "--interval", "0.5", until="time to verdict"
        )
        assert etcpipe.signalled(signal.SIGINT) == 0
    assert status == 0
    assert "flows in table" in shown
    shown = shown.replace("^C", "")  # the terminal's own echo
    rows = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.replace("\x1b[H", "\n")).splitlines()
    assert max(map(len, rows)) <= 80


@pytest.mark.root
def test_killed_consumer_leaves_no_report_after_detach(wire, tmp_path):
    with attached(wire, tmp_path) as etcpipe:
        etcpipe.until_attached()
        path = journal.run_path(netns.inode(wire.near), wire.device, watch.SUFFIX)
        etcpipe.until(path.exists)
        etcpipe.signalled(signal.SIGKILL)
    run("-n", wire.near, "detach", wire.device, check=0)
    assert wire.leftovers() == []


def on_terminal(*args: str, until: str) -> tuple[str, int]:
    """Run etcpipe on a terminal of 24 x 80 until it shows a text; then press Ctrl-C."""
    process, terminal = pty.fork()
    if not process:
        os.chdir(ROOT)
        os.environ["TERM"] = "xterm"
        os.execv(ETCPIPE[0], [*ETCPIPE, *args])
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    shown, deadline, pressed = "", time.monotonic() + 60, False
    while True:
        assert time.monotonic() < deadline, shown
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            more = os.read(terminal, 65536)
        except OSError:  # the process has ended
            break
        shown += more.decode(errors="replace")
        if until in shown and not pressed:
            os.write(terminal, b"\x03")
            pressed = True
    os.close(terminal)
    return shown, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_devices_of_one_name_are_told_apart():
    of = [("eth0", 7), ("eth0", 8), ("eth1", 7)]
    told = watch.told_apart([{"device": device, "netns": inode} for device, inode in of])
    assert [one["device"] for one in told] == ["eth0@7", "eth0@8", "eth1"]


@pytest.fixture
def run_folder(monkeypatch):
    """A folder in the place of /run/etcpipe, made as tmpfiles.d of the package makes it."""
    with tempfile.TemporaryDirectory(dir="/run") as name:
        os.chown(name, 0, READERS)
        os.chmod(name, 0o2750)
        monkeypatch.setattr(journal, "RUN", Path(name))
        yield Path(name)


@pytest.mark.root
def test_the_group_of_the_folder_may_read_reports_and_nobody_else(run_folder, monkeypatch):
    tap = SimpleNamespace(device="eth0")
    journal.Journal("eth0", 7, netns.inode(), {}, []).write()
    monkeypatch.setattr(watch.Watch, "report", lambda self: {"version": 1})
    path = journal.run_path(netns.inode(), "eth0", watch.SUFFIX)
    with watch.Watch(tap):
        until(path.exists)
        for groups, status in ((str(READERS), 0), ("54322", 1)):
            who = ["setpriv", "--reuid=54321", "--regid=54321", f"--groups={groups}"]
            done = subprocess.run([*who, "cat", path], capture_output=True, check=False)
            assert done.returncode == status, done.stderr
        who[-1] = f"--groups={READERS}"
        done = subprocess.run([*who, "touch", path.with_suffix(".ask")], check=False)
        assert done.returncode == 1
