"""Real-time classification of encrypted traffic, from the wire to a verdict.

    classify()  the flows of captures       etcpipe/offline.py
    attach()    the traffic of a device     etcpipe/live/attach.py

Both give batches of verdicts (etcpipe.verdict.VerdictBatch). All that is raised on purpose
derives from etcpipe.errors.EtcpipeError.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etcpipe.live.attach import attach
    from etcpipe.offline import classify

__all__ = ["attach", "classify"]
__version__ = "0.1.0"

# They pull in NumPy and the engines: imported when they are used.
_MODULES = {"attach": "etcpipe.live.attach", "classify": "etcpipe.offline"}


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'etcpipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
