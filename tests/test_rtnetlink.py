"""pyroute2 is imported in part, and nobody who uses it in full notices."""

import errno
import subprocess
import sys

import pytest

from etcpipe.kernel import links, rtnetlink

PART = "import sys; from etcpipe.kernel import rtnetlink; "


def python(code: str) -> list[str]:
    """Return the words that a fresh interpreter prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_rtnetlink_comes_without_the_database():
    code = "print(sorted({'sqlite3', 'pyroute2.ndb', 'pyroute2.iproute'} & set(sys.modules)))"
    assert python(PART + code) == ["['pyroute2.iproute']"]


@pytest.mark.parametrize(
    "use",
    [
        pytest.param("import pyroute2; full = pyroute2.NDB, pyroute2.IPRoute", id="attribute"),
        pytest.param("from pyroute2 import NDB, IPRoute; full = NDB, IPRoute", id="from"),
        pytest.param(
            "import pyroute2.ndb.main as main, pyroute2; full = main.NDB, pyroute2.IPRoute",
            id="module",
        ),
    ],
)
def test_the_rest_of_pyroute2_comes_when_it_is_asked_for(use):
    check = "; print(full[0].__name__, full[1] is rtnetlink.IPRoute, pyroute2.__version__ > '0')"
    assert python(PART + use + "; import pyroute2" + check) == ["NDB", "True", "True"]


def test_a_name_that_pyroute2_lacks_is_an_attribute_error():
    code = "import pyroute2; print(hasattr(pyroute2, 'nothing'), hasattr(pyroute2, 'nothing'))"
    assert python(PART + code) == ["False", "False"]


def test_pyroute2_imported_before_stays_as_it_is():
    before = "import pyroute2, sys; whole = pyroute2; from etcpipe.kernel import rtnetlink; "
    code = "print(sys.modules['pyroute2'] is whole, rtnetlink.IPRoute is whole.IPRoute)"
    assert python(before + code) == ["True", "True"]


class Old:
    """rtnetlink as pyroute2 before 0.6.13 speaks it to Linux since 5.19."""

    def __init__(self, error: int):
        self.error = error
        self.asked: list[tuple] = []

    def tc(self, command, *names, **options):
        self.asked.append((command, *names, options))
        if isinstance(command, str):
            raise rtnetlink.NetlinkError(self.error)

    def get_attr(self, name):
        # nested: XDP_ATTACHED (2) a byte, XDP_PROG_ID (4) a number
        return {"IFLA_XDP": "05:00:02:00:01:00:00:00:08:00:04:00:39:05:00:00"}[name]


def test_a_refused_deletion_is_asked_for_without_the_flags_of_an_addition():
    ip = Old(errno.EOPNOTSUPP)
    rtnetlink.delete(ip, "tc del-filter", "bpf", 7, prio=1)
    assert ip.asked == [
        ("del-filter", "bpf", 7, {"prio": 1}),
        ((45, 5), "bpf", 7, {"prio": 1}),  # RTM_DELTFILTER, NLM_F_REQUEST | NLM_F_ACK
    ]


def test_a_deletion_that_is_refused_for_another_reason_is_not_asked_for_again():
    ip = Old(errno.ENOENT)
    with pytest.raises(rtnetlink.NetlinkError):
        rtnetlink.delete(ip, "tc del", "clsact", 7)
    assert ip.asked == [("del", "clsact", 7, {})]


def test_an_xdp_program_is_read_from_attributes_that_nobody_decoded():
    assert links.xdp_program_of(Old(0)) == 0x539
