"""Engines that the distribution does not package: found under /opt/etcpipe, where they were put.

etcpipe-install-runtime of the Debian package puts them there, for one version of Python each;
nothing else does, and nothing of it is seen by other programs. In a virtual environment they
are installed as any other package, and /opt/etcpipe is left alone.
"""

import sys
from pathlib import Path

FOLDER = Path("/opt/etcpipe")
INSTALLER = Path("/usr/sbin/etcpipe-install-runtime")


def use(folder: Path = FOLDER) -> None:
    """Let imports find what was installed for this Python, before the distribution's packages.

    Before, since an engine for a GPU brings a newer NumPy along. Call it before the first
    import of such a package.
    """
    packages = folder / f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not _is_virtual() and packages.is_dir() and str(packages) not in sys.path:
        first = next((i for i, path in enumerate(sys.path) if "-packages" in path), len(sys.path))
        sys.path.insert(first, str(packages))


def remedy(package: str = "onnxruntime") -> str:
    """Return the command that brings a missing engine here."""
    if not _is_virtual() and INSTALLER.exists():
        return f"run {INSTALLER.name}" + ("" if package == "onnxruntime" else " gpu")
    return f"pip install {package}"


def _is_virtual() -> bool:
    return sys.prefix != sys.base_prefix
