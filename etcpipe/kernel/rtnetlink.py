"""pyroute2's rtnetlink without the rest of pyroute2.

`import pyroute2` imports every protocol that it speaks, a network database and SQLite with
it: 130 ms, of which rtnetlink's share is 70. So the package is imported without running its
__init__, which runs when somebody asks the package for more than its modules.
"""

import errno
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any


def _defer(name: str) -> None:
    """Make a package's modules importable, and its __init__ run at the first need of it."""
    spec = find_spec(name)
    if name in sys.modules or spec is None or spec.loader is None:
        return  # somebody imported it in full, or the import below tells that it is missing
    package, loader = module_from_spec(spec), spec.loader

    def attribute(wanted: str) -> Any:
        try:
            return import_module(f"{name}.{wanted}")
        except ModuleNotFoundError:
            pass
        vars(package).pop("__getattr__", None)
        loader.exec_module(package)
        return getattr(package, wanted)

    vars(package)["__getattr__"] = attribute  # PEP 562
    sys.modules[name] = package


_defer("pyroute2")

try:
    from pyroute2.iproute import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError
except ModuleNotFoundError:  # 0.6 has its modules elsewhere, and only its __init__ tells where
    sys.modules.pop("pyroute2", None)
    from pyroute2 import IPRoute, NetlinkError  # type: ignore[no-redef]

__all__ = ["IPRoute", "NetlinkError", "delete"]

_MESSAGES = {"link del": 17, "tc del": 37, "tc del-filter": 45}  # RTM_DELLINK, QDISC, TFILTER
_REQUEST_ACK = 0x5  # NLM_F_REQUEST | NLM_F_ACK


def delete(ip: Any, what: str, *names: Any, **options: Any) -> None:
    """Do a deletion, "link del" being that of ip.link(), with any version of pyroute2.

    Before 0.6.13 deletions have the flags of additions, of which Linux takes one for a wish to
    delete many since 5.19, and refuses. Those versions take a message's type and flags, too.
    """
    method, command = what.split()
    request = getattr(ip, method)
    try:
        request(command, *names, **dict(options))
    except NetlinkError as error:
        if error.code != errno.EOPNOTSUPP:
            raise
        request((_MESSAGES[what], _REQUEST_ACK), *names, **options)
