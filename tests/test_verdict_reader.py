"""The example of a TC program of one's own, built and loaded as its comment says."""

import json
import os
import shutil
from pathlib import Path

import captures
import numpy as np
import pytest
from command import ROOT
from kernel_fixtures import Wire, pinned_flows, run

from etcpipe.kernel import journal, netns
from etcpipe.kernel.tap import Tap, TapSettings
from etcpipe.policy.rules import verdict_words

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not (shutil.which("bpftool") and shutil.which("clang")), reason="needs bpftool and clang"
    ),
]

BPFFS = Path("/sys/fs/bpf")
HEADERS = ("-I", f"{ROOT}/bpf", "-I", f"/usr/include/{os.uname().machine}-linux-gnu")
MAPS = ("flows", "flow_tags", "flow_plan", "verdicts")
CLASS = 6


def test_your_own_program_counts_bytes_by_class(wire: Wire, tmp_path: Path):
    compiled, pin = tmp_path / "reader.o", BPFFS / f"etcreader{os.getpid()}"
    source = ROOT / "examples" / "verdict_reader.bpf.c"
    run(f"clang -O2 -g -target bpf {' '.join(HEADERS)} -c {source} -o {compiled}")
    with Tap(wire.device, TapSettings(first_n=1), netns=wire.near) as tap:
        tap.start()
        pins = journal.PINS / str(netns.inode(wire.near)) / wire.device
        reuse = " ".join(f"map name {name} pinned {pins}/map_{name}" for name in MAPS)
        run(f"bpftool prog load {compiled} {pin} {reuse}")
        try:
            wire.shell(wire.near, f"tc qdisc add dev {wire.device} clsact")
            wire.shell(
                wire.near,
                f"tc filter add dev {wire.device} ingress bpf da object-pinned {pin}",
            )
            frame = captures.ether(captures.udp(b"x" * 100, "10.77.0.2", "10.77.0.1"))
            with wire.raw() as sender:
                sender.send(frame)
                judge(tap, wire)
                sender.send(frame)
                sender.send(frame)
            assert class_bytes(pin)[CLASS + 1] == 2 * len(frame)
        finally:
            pin.unlink()


def judge(tap: Tap, wire: Wire) -> None:
    """Give the only UDP flow a verdict."""
    keys, states = pinned_flows(wire)
    (flow_id,) = states["flow_id"][keys["protocol"] == 17]
    word = verdict_words(np.array([flow_id]), np.array([CLASS]), np.zeros(1, np.uint8))
    tap.verdicts[int(flow_id) % len(tap.verdicts)] = word[0]


def class_bytes(pin: Path) -> list[int]:
    """Return what the program at `pin` counted, over all CPUs."""
    program = json.loads(run(f"bpftool -j prog show pinned {pin}"))
    for number in program["map_ids"]:
        shown = json.loads(run(f"bpftool -j map show id {number}"))
        if shown["name"] == "class_bytes":
            entries = json.loads(run(f"bpftool -j map dump id {number}"))
            return [sum(cpu["value"] for cpu in e["formatted"]["values"]) for e in entries]
    raise AssertionError("the program has no class_bytes")
