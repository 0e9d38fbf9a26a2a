"""Which kinds can run here, and which packages are wanting for the others."""

from collections.abc import Iterable

from etcpipe.errors import LabError
from etcpipe.lab.kind import Kind
from etcpipe.lab.kinds import KINDS
from etcpipe.lab.processes import Program

# What every lab needs, whatever its kinds.
BASE_PROGRAMS = (
    Program("ip", "iproute2"),
    Program("tc", "iproute2"),
    Program("ss", "iproute2"),
    Program("ethtool", "ethtool"),
    Program("sysctl", "procps"),
    Program("setpriv", "util-linux"),
    Program("openssl", "openssl"),
)


def missing(kind: Kind | str) -> list[str]:
    """Return the programs and modules that a kind needs and that are not installed."""
    kind = KINDS[kind] if isinstance(kind, str) else kind
    return [program.name for program in _absent(kind.programs)]


def choose_kinds(names: Iterable[str] | None) -> list[Kind]:
    """Return the kinds of the names; None stands for all that can run here.

    Raises:
        LabError: an unknown name, or programs that are not installed.
    """
    require("the lab", BASE_PROGRAMS)
    if names is None:
        kinds = [kind for kind in KINDS.values() if not missing(kind)]
        if not kinds:
            raise LabError("no kind can run here: `etcpipe lab list` shows what each lacks")
        return kinds
    kinds = []
    for name in dict.fromkeys(names):
        if name not in KINDS:
            raise LabError(f"no kind {name!r}: `etcpipe lab list` shows the kinds there are")
        require(name, KINDS[name].programs)
        kinds.append(KINDS[name])
    return kinds


def require(what: str, programs: Iterable[Program]) -> None:
    """Raise LabError, which names the packages to install, unless all programs are there."""
    absent = _absent(programs)
    if not absent:
        return
    advice = []
    for installer, is_from_pypi in (("apt", False), ("pip", True)):
        packages = {program.package for program in absent if program.is_from_pypi == is_from_pypi}
        if packages:
            advice.append(f"{installer} install {' '.join(sorted(packages))}")
    names = ", ".join(program.name for program in absent)
    raise LabError(f"{what} needs {names}: {'; '.join(advice)}")


def _absent(programs: Iterable[Program]) -> list[Program]:
    return [program for program in programs if not program.is_installed()]
