"""What works on this machine and this device, what does not, and what to do about it.

Checks try things rather than compare version numbers, wherever a try leaves nothing behind.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from etcpipe.errors import EtcpipeError, PermissionDeniedError, UnsupportedError

OK, WARN, FAIL = "ok", "warn", "fail"
EXIT_NOT_PERMITTED = PermissionDeniedError.exit_code
EXIT_UNSUPPORTED = UnsupportedError.exit_code


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: what was looked at, a word or two.
        status: OK, WARN (works, but see text) or FAIL (live traffic cannot be classified).
        text: what was found.
        remedy: what to do, "" if nothing.
        permission: it fails for lack of a right, not of a feature.
    """

    check: str
    status: str
    text: str
    remedy: str = ""
    permission: bool = False


Check = Callable[[], Finding]


def examine(checks: Iterable[Check]) -> list[Finding]:
    """Run checks in their order; one that raises an EtcpipeError has failed with it."""
    return [_outcome(check) for check in checks]


def exit_status(findings: Iterable[Finding]) -> int:
    """Return 0 if live classification can run here, 4 if only a right is missing, else 5."""
    failed = [finding for finding in findings if finding.status == FAIL]
    if not failed:
        return 0
    return EXIT_NOT_PERMITTED if all(f.permission for f in failed) else EXIT_UNSUPPORTED


def _outcome(check: Check) -> Finding:
    try:
        return check()
    except EtcpipeError as error:
        denied = isinstance(error, PermissionDeniedError)
        name = check.__name__.replace("_", " ")
        return Finding(name, FAIL, str(error), permission=denied)
