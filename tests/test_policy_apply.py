"""etcpipe policy apply, show and undo on a device: queues by tc, verdicts of a running attach."""

# ruff: noqa: F401, F811  (wire is a fixture, imported and then taken as an argument)

import json
import signal
import socket
import subprocess
from contextlib import suppress

import pytest
from command import Running, fails, run
from kernel_fixtures import Wire, wire
from test_policy_tree import TREE

from etcpipe.kernel import netns

pytestmark = pytest.mark.root

MARK = '[[rule]]\nclass = "*"\naction = {mark = "0x20/0xff"}\n'
# whatever else the kernel of a test machine has
HOLD = (
    TREE.replace("[tree]", '[tree]\nleaf = "pfifo"', 1)
    + '[[rule]]\nclass = "*"\naction = {priority = "1:2a"}\n'
)


def queues(wire: Wire) -> list[dict]:
    return json.loads(wire.shell(wire.near, f"tc -j qdisc show dev {wire.device}"))


@pytest.fixture
def files(tmp_path):
    """A policy without queues, and one with them."""
    paths = tmp_path / "mark.toml", tmp_path / "hold.toml"
    for path, text in zip(paths, (MARK, HOLD), strict=True):
        path.write_text(text)
    return paths


def test_queues_are_made_shown_and_taken_away(wire, files):
    before = queues(wire)
    at = ("-n", wire.near, "policy")
    apply = (*at, "apply", files[1], wire.device)
    dry = run(*apply, "--dry-run", check=0).stdout.splitlines()
    assert queues(wire) == before
    assert len(dry) == 4 and all(line.startswith(f"tc -n {wire.near} ") for line in dry)
    for _ in range(2):  # the second time in place of the first
        assert "2 classes made; no attach runs there" in run(*apply, check=0).stdout
    assert [one["kind"] for one in queues(wire)] == ["htb"]
    assert len(run(*apply, "--dry-run", check=0).stdout.splitlines()) == 5
    send_by(wire, priority=0x1002A, packets=5)
    shown = json.loads(run("-j", *at, "show", wire.device, check=0).stdout)
    packets = {one["name"]: one["packets"] for one in shown["tree"]["classes"]}
    assert packets["bulk"] == 5
    assert "0.5mbit" not in (text := run(*at, "show", wire.device, check=0).stdout)
    assert text.startswith("no verdict acts\n\nclass") and "500kbit" in text
    run(*at, "undo", wire.device, check=0)
    assert queues(wire) == before
    assert fails(*at, "undo", wire.device, status=1) == "tap0: no policy was applied there"
    assert wire.leftovers() == []


def kinds_there(wire: Wire) -> list[str]:
    """Try the queues that classes may have on the device itself, the best first."""
    done = []
    for kind in ("fq_codel", "sfq", "pfifo"):
        with suppress(subprocess.CalledProcessError):
            wire.shell(wire.near, f"tc qdisc add dev {wire.device} root {kind}")
            wire.shell(wire.near, f"tc qdisc del dev {wire.device} root")
            done.append(kind)
    return done


def test_a_class_has_the_best_queue_of_this_kernel(wire, tmp_path):
    file = tmp_path / "hold.toml"
    file.write_text(TREE + MARK)
    best = kinds_there(wire)[0]
    apply = ("-n", wire.near, "policy", "apply", file, wire.device)
    dry, done = run(*apply, "--dry-run", check=0), run(*apply, check=0)
    made = [one["kind"] for one in queues(wire)]
    commands = dry.stdout.splitlines()
    if best == "fq_codel":
        assert (dry.stderr, done.stderr) == ("", "")
    else:
        line = f"this kernel has no fq_codel: each class gets {best} instead"
        assert dry.stderr == done.stderr == f"etcpipe: warning: {line}\n"
    leaves = [best] * 2 if best != "pfifo" else []
    assert sorted(made) == sorted(["htb", *leaves])
    assert [one.split()[-1] for one in commands if " qdisc add " in one][1:] == leaves
    run("-n", wire.near, "policy", "undo", wire.device, check=0)
    assert wire.leftovers() == []


def send_by(wire: Wire, priority: int, packets: int) -> None:
    """Send from the near end with a priority, as a verdict would have given it."""
    with netns.enter(wire.near):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)
        sender.sendto(b"first, for the neighbour's address", ("10.77.0.2", 9))
        for _ in range(packets - 1):
            sender.sendto(b"x", ("10.77.0.2", 9))


def test_queues_of_somebody_else_stay(wire, files):
    wire.shell(wire.near, f"tc qdisc add dev {wire.device} root handle 7: pfifo")
    theirs = queues(wire)
    line = fails("-n", wire.near, "policy", "apply", files[1], wire.device, status=1)
    assert line.startswith("tap0: its queues (pfifo 7:) were made by somebody else")
    assert queues(wire) == theirs
    wire.shell(wire.near, f"tc qdisc del dev {wire.device} root")
    run("-n", wire.near, "policy", "apply", files[1], wire.device, check=0)
    wire.shell(wire.near, f"tc qdisc replace dev {wire.device} root handle 7: pfifo")
    line = fails("-n", wire.near, "policy", "undo", wire.device, status=1)
    assert "made by somebody else" in line
    assert queues(wire) == theirs
    wire.shell(wire.near, f"ip link del {wire.device}")
    run("-n", wire.near, "policy", "undo", wire.device, check=0)
    assert wire.leftovers() == []


def test_nothing_to_do_is_said(wire, files):
    line = fails("-n", wire.near, "policy", "apply", files[0], wire.device, status=2)
    assert line == "tap0: no attach runs there, and the policy has no [tree]"
    dry = ("policy", "apply", files[0], wire.device, "--dry-run")
    assert run("-n", wire.near, *dry, check=0).stdout == ""


def test_a_running_attach_takes_a_policy_and_its_own_again(wire, files, tmp_path):
    mark, hold = files
    at = ("-n", wire.near, "policy")
    attach = ("-j", "-n", wire.near, "attach", wire.device, "--policy", mark)
    with Running(*attach, folder=tmp_path) as etcpipe:
        etcpipe.until_attached()

        def actions() -> list[dict]:
            shown = json.loads(run("-j", *at, "show", wire.device, check=0).stdout)
            return [rule["action"] for rule in shown["rules"]]

        etcpipe.until(lambda: actions() == [{"mark": "0x20/0xff"}])
        done = run(*at, "apply", hold, wire.device, check=0)
        assert done.stdout.startswith("tap0: 2 classes made, verdicts act by ")
        etcpipe.until(lambda: actions() == [{"priority": "1:2a"}])
        wrong = tmp_path / "wrong.toml"
        wrong.write_text(MARK.replace("*", "no_such"))
        line = fails(*at, "apply", wrong, wire.device, status=1)
        assert "the model has no class 'no_such'" in line
        run(*at, "undo", wire.device, check=0)
        etcpipe.until(lambda: actions() == [{"mark": "0x20/0xff"}])
        assert etcpipe.signalled(signal.SIGINT) == 0
    assert wire.leftovers() == []


def test_an_attach_without_a_policy_says_so(wire, files, tmp_path):
    with Running("-j", "-n", wire.near, "attach", wire.device, folder=tmp_path) as etcpipe:
        etcpipe.until_attached()
        line = fails("-n", wire.near, "policy", "apply", files[1], wire.device, status=1)
        assert "attached without a policy" in line
        assert "htb" not in {one["kind"] for one in queues(wire)}
