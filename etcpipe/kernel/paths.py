"""Where a tap leaves what others may read."""

from pathlib import Path

RUN = Path("/run/etcpipe")
PINS = Path("/sys/fs/bpf/etcpipe")

# Beside a tap's journal: what its process says of itself each second.
LIVE = ".live"
# A report that was not renewed for so long is of a process that hangs or was killed.
STALE_S = 10.0
