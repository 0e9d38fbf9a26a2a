"""Where somebody else's program stands in our place, it stays, and is named."""

import os
from collections.abc import Iterator

import pytest
from kernel_fixtures import NEEDS_TCX, Wire, run
from test_lifetime import listing

from etcpipe.errors import DataplaneError
from etcpipe.kernel import bpf, netns
from etcpipe.kernel.ebpf import EXIT, JMP, Assembler
from etcpipe.kernel.tap import Tap, TapSettings

pytestmark = pytest.mark.root

PLACE = "prio 231 handle 0xe7"
IFINDEX = 2  # of Wire's near device


def program(name: str) -> int:
    """Load a TC program that passes everything on."""
    code = Assembler()
    code.constant(0, 0xFFFFFFFF)  # TC_ACT_UNSPEC, TCX_NEXT
    code.emit(JMP | EXIT)
    return bpf.program_load(code.assemble(), bpf.PROGRAM_TC, name)


def refusal(wire: Wire, hook: str) -> str:
    """Return why a tap was refused; the device is as it was then."""
    before = listing(wire)
    with pytest.raises(DataplaneError) as caught:
        with Tap(wire.device, TapSettings(hook=hook, mode="tc"), netns=wire.near) as opened:
            opened.start()
    assert listing(wire) == before
    assert wire.leftovers() == (["clsact"] if "clsact" in before else [])
    return str(caught.value)


@pytest.mark.parametrize("side", ["ingress", "egress"])
def test_a_bpf_filter_in_our_place_is_named(wire: Wire, side: str) -> None:
    other = program("neighbour")
    number = bpf.program_info(other)[0]
    pin = f"/sys/fs/bpf/etcneighbour{os.getpid()}"
    bpf.pin(other, pin)
    os.close(other)
    run(f"tc -n {wire.near} qdisc add dev {wire.device} clsact")
    try:
        wire.shell(
            wire.near,
            f"tc filter add dev {wire.device} {side} {PLACE} bpf da object-pinned {pin}",
        )
    finally:
        os.unlink(pin)
    assert refusal(wire, "clsact") == (
        f"tap0: priority 231 of TC {side} is taken by another filter"
        f" (bpf id {number} neighbour): tc filter del dev tap0 {side} prio 231"
    )


def test_a_filter_of_another_kind_in_our_place_is_named(wire: Wire) -> None:
    run(f"tc -n {wire.near} qdisc add dev {wire.device} clsact")
    other = "ingress protocol all prio 231 u32 match u32 0 0"
    run(f"tc -n {wire.near} filter add dev {wire.device} {other}")
    assert "priority 231 of TC ingress is taken by another filter (u32)" in refusal(wire, "clsact")


def test_an_ingress_qdisc_in_the_place_of_clsact_is_told(wire: Wire) -> None:
    run(f"tc -n {wire.near} qdisc add dev {wire.device} ingress")
    said = refusal(wire, "clsact")
    assert said.startswith("tap0: a qdisc `ingress` stands where clsact goes")
    assert "tc qdisc replace dev tap0 clsact" in said


@pytest.fixture
def crowd(wire: Wire) -> Iterator[list[int]]:
    """As many programs at the near device's ingress as the kernel takes; their ids."""
    links, ids = [], []
    with netns.enter(wire.near):
        for number in range(bpf.PROGRAMS_MAX - 1):
            fd = program(f"crowd_{number}")
            ids.append(bpf.program_info(fd)[0])
            links.append(bpf.link_create(fd, IFINDEX, bpf.ATTACH_TCX_INGRESS))
            os.close(fd)
    try:
        yield ids
    finally:
        for link in links:
            os.close(link)


@NEEDS_TCX
def test_programs_that_leave_no_room_at_tcx_are_named(wire: Wire, crowd: list[int]) -> None:
    named = ", ".join(f"id {number} crowd_{turn}" for turn, number in enumerate(crowd[:3]))
    assert refusal(wire, "tcx") == (
        "cannot attach at TC ingress: Numerical result out of range;"
        f" there are 63 other programs: {named}, .."
    )
