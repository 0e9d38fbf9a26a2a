"""Where things are kept that can be made again."""

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Return a folder of etcpipe's, as the XDG Base Directory Specification has it."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "etcpipe" / name
