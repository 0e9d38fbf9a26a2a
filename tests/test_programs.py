"""Loading beside other work: what the programs are told before it is there, and clean ends."""

# ruff: noqa: F401, F811  (wire is a fixture, imported and then taken as an argument)

import os
import socket

import pytest
from kernel_fixtures import LINUX, NO_SUCH_IFINDEX, Wire, wire

from etcpipe.errors import UnsupportedError
from etcpipe.kernel import hooks, links, netns, programs
from etcpipe.kernel.build import Build
from etcpipe.kernel.settings import TapSettings
from etcpipe.kernel.tap import Tap

pytestmark = pytest.mark.root


def build(**settings: object) -> Build:
    return Build(TapSettings(**settings), 1, NO_SUCH_IFINDEX, with_xdp=False)


def test_the_mirror_gets_the_index_that_the_programs_were_told(wire: Wire) -> None:
    with Tap(wire.device, netns=wire.near) as tap, netns.enter(wire.near):
        device = links.device(wire.device)
        assert tap.mirror_ifindex == device.mirror_index == device.ifindex + (1 << 30)
        assert socket.if_nametoindex(f"etcm{device.ifindex}b") == tap.mirror_ifindex


def test_what_is_loaded_is_closed_where_the_block_fails() -> None:
    with programs.loading(build()) as loading:  # libbpf keeps descriptors of its own, once
        loading.result().close()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ZeroDivisionError), programs.loading(build()):
        raise ZeroDivisionError
    assert os.listdir("/proc/self/fd") == before


def test_what_loading_finds_wrong_comes_with_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs.libbpf, "object_paths", lambda source: [])
    with (
        pytest.raises(UnsupportedError, match="no precompiled BPF object"),
        programs.loading(build(loader="libbpf")) as loading,
    ):
        loading.result()


def test_tcx_is_found_where_the_kernel_has_it() -> None:
    loaded = programs.load(build())
    try:
        assert hooks.tcx_works(loaded.programs["tc_track"]) == (LINUX >= (6, 6))
    finally:
        loaded.close()
