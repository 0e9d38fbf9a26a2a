"""What a refusal means: missing rights, a kernel too old, or too little memory."""

import errno

import pytest
from kernel_fixtures import Wire

from etcpipe.errors import DataplaneError, PermissionDeniedError, UnsupportedError
from etcpipe.kernel import bcc_loader, build, checks
from etcpipe.kernel.build import Build
from etcpipe.kernel.settings import TapSettings
from etcpipe.kernel.tap import Tap

DEBIAN_11 = "5.10.0-32-amd64"
ALL_RIGHTS, NO_RIGHTS = (1 << 41) - 1, 0


@pytest.mark.parametrize(
    ("number", "rights", "kind", "says"),
    [
        (errno.EPERM, ALL_RIGHTS, PermissionDeniedError, "needs root"),
        (errno.EACCES, NO_RIGHTS, PermissionDeniedError, "needs root"),
        (errno.EACCES, ALL_RIGHTS, UnsupportedError, "Linux 4.19.0 does not take"),
        (errno.EINVAL, ALL_RIGHTS, UnsupportedError, "see docs/kernels.md"),
        (errno.E2BIG, ALL_RIGHTS, UnsupportedError, "see docs/kernels.md"),
        (errno.ENOMEM, ALL_RIGHTS, DataplaneError, "no memory for the flow table"),
        (errno.EIO, ALL_RIGHTS, DataplaneError, "the kernel refused"),
    ],
)
def test_a_refusal_is_told_by_whoever_can_do_something(
    monkeypatch: pytest.MonkeyPatch, number: int, rights: int, kind: type, says: str
) -> None:
    monkeypatch.setattr(checks, "effective_capabilities", lambda: rights)
    monkeypatch.setattr(build.platform, "release", lambda: "4.19.0")
    error = build.load_error(OSError(number, "no"))
    assert type(error) is kind
    assert says in str(error)
    assert len(str(error).splitlines()) == 1


def test_what_an_older_kernel_cannot_do_is_told_with_what_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks.platform, "release", lambda: DEBIAN_11)
    with pytest.raises(UnsupportedError) as caught:
        checks.linux((5, 15), "this", "do that")
    assert str(caught.value) == f"this needs Linux 5.15, this is {DEBIAN_11}: do that"
    assert caught.value.exit_code == 5
    checks.linux((5, 10), "what is old enough")


@pytest.mark.root
def test_capture_by_af_xdp_is_refused_there_and_leaves_nothing(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks.platform, "release", lambda: DEBIAN_11)
    with pytest.raises(UnsupportedError, match="use --capture ringbuf"):
        with Tap(wire.device, netns=wire.near):
            pass
    assert wire.leftovers() == []


def test_trees_are_refused_by_bcc_before_it_compiles() -> None:
    settings = TapSettings(capture="features", features=("dur",), tree_depth=3)
    with pytest.raises(UnsupportedError, match="trees in the kernel need the loader libbpf"):
        bcc_loader.load(Build(settings, 1, 2))
