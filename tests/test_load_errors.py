"""What a refused load means: missing rights, a kernel too old, or too little memory."""

import errno

import pytest

from etcpipe.errors import DataplaneError, PermissionDeniedError, UnsupportedError
from etcpipe.kernel import checks, settings

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
    monkeypatch.setattr(settings.platform, "release", lambda: "4.19.0")
    error = settings.load_error(OSError(number, "no"))
    assert type(error) is kind
    assert says in str(error)
    assert len(str(error).splitlines()) == 1
