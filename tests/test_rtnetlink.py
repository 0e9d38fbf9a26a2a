"""pyroute2 is imported in part, and nobody who uses it in full notices."""

import subprocess
import sys

import pytest

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
