"""A killed test run leaves nothing that hinders the next one, or others at work."""

import os
import subprocess
import sys

import pytest
from kernel_fixtures import CONSUMER, Wire, kill, run
from stale import is_stale, remove_stale

from etcpipe.kernel import bpf, netns
from etcpipe.kernel.ebpf import EXIT, JMP, Assembler
from etcpipe.kernel.journal import PINS, RUN


def ended_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("name", ["etcp{}n", "etcw{}b", "etcparity{}", "etcshape-{}-lab0"])
def test_names_of_ended_runs_are_known(name: str) -> None:
    assert is_stale(name.format(ended_pid()))
    assert not is_stale(name.format(os.getpid()))


@pytest.mark.parametrize("name", ["etcd{}", "etc{}", "etcpd", "web{}", "etcbench-{}-server"])
def test_names_of_others_are_not_taken_for_ours(name: str) -> None:
    assert not is_stale(name.format(ended_pid()))


@pytest.mark.root
def test_what_a_killed_run_left_is_removed_and_others_stay(wire: Wire) -> None:
    gone = Wire(f"etcp{ended_pid()}")
    inode = netns.inode(gone.near)
    command = [sys.executable, "-c", CONSUMER, gone.device, gone.near, "auto", "start"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "ready\n"
    kill(process)
    pin = f"/sys/fs/bpf/etcneighbour{ended_pid()}"
    code = Assembler()
    code.constant(0, 0)
    code.emit(JMP | EXIT)
    fd = bpf.program_load(code.assemble(), bpf.PROGRAM_TC, "left")
    bpf.pin(fd, pin)
    os.close(fd)

    remove_stale()

    names = run("ip netns list")
    assert gone.near not in names and gone.far not in names
    assert wire.near in names and wire.far in names
    assert not (PINS / str(inode)).exists() and not (RUN / str(inode)).exists()
    assert not os.path.exists(pin)
