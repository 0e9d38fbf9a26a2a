"""Settings from files under /etc/etcpipe: defaults of the command's options."""

from pathlib import Path

FOLDER = Path("/etc/etcpipe")
