"""The folder for files that can be built again: compiled kernels, TensorRT plans."""

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Return a folder below the user's cache, by the XDG Base Directory Specification."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "etcpipe" / name
