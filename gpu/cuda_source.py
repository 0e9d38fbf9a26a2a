"""The CUDA source as one folder, which nvcc, NVRTC and a host compiler read alike.

The packet parser, the tracker's rules, masks, columns, tokens and bits are not written again: the
kernel's and the native extension's C files are taken as they are, with the three changes
that make C device code in C++.
"""

import hashlib
import re
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from etcpipe.layout import read_header

# C that the device shares with the kernel programs and with the native extension; what these
# include comes along.
SHARED = (
    "etcpipe.h",
    "flows.h",
    "link.h",
    "mask.c",
    "tls.c",
    "feature_lanes.c",
    "feature_rows.c",
    "tokens.c",
    "bits.c",
    "regroup_counters.h",
)
OWN = (
    "wire.cuh",
    "tables.h",
    "block.cuh",
    "packets.cuh",
    "regroup_rows.cuh",
    "regroup_turn.cuh",
    "regroup_plan.cu",
    "regroup_rows.cu",
    "flow_sort.cu",
    "views.cu",
    "kernels.cu",
)
MAIN = "kernels.cu"


class Kernel(NamedTuple):
    """What a kernel is called with: blocks of `threads`, and addresses of two records."""

    name: str
    threads: int
    first: str
    second: str


_SYSTEM_INCLUDE = re.compile(r"^#include <.*>$", re.MULTILINE)
_INCLUDE = re.compile(r'^#include "(.*)"$', re.MULTILINE)
_VOID_POINTER = re.compile(r"\bvoid \*")
# a line that begins a function: no "#", no indentation, and a parenthesis in it
_FUNCTION = re.compile(r"^(?=[a-z][\w *]*\()", re.MULTILINE)
_KERNEL = re.compile(
    r"^KERNEL\((\w+)\) (\w+)\((?:const )?struct (\w+) \*\w+,\s(?:const )?struct (\w+) \*\w+\)",
    re.MULTILINE,
)


def device_code(text: str) -> str:
    """Return a C file as device code: without system headers, void * counting in bytes."""
    text = _SYSTEM_INCLUDE.sub("", text)
    text = _VOID_POINTER.sub("struct byte_pointer ", text)
    return _FUNCTION.sub("__device__ ", text)


def sources() -> dict[str, str]:
    """Return the text of every file by its name."""
    package = files("etcpipe")
    texts = {name: (package / "gpu" / name).read_text() for name in OWN}
    wanted = list(SHARED)
    while wanted:
        name = wanted.pop()
        if name in texts:
            continue
        here = package / "bpf" / name
        text = (here if here.is_file() else package / "native" / name).read_text()
        texts[name] = device_code(text)
        wanted += _INCLUDE.findall(text)
    return texts


def _kernels() -> dict[str, Kernel]:
    texts = (text for name, text in sources().items() if name.endswith(".cu"))
    found = [match for text in texts for match in _KERNEL.findall(text)]
    return {
        name: Kernel(name, CONSTANTS.get(threads) or int(threads), first, second)
        for threads, name, first, second in found
    }


def digest() -> str:
    """Return what changes whenever a kernel may have."""
    return hashlib.sha256(repr(sorted(sources().items())).encode()).hexdigest()[:16]


def write_sources(folder: Path) -> Path:
    """Write all files and return the one to compile."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in sources().items():
        (folder / name).write_text(text)
    return folder / MAIN


_HEADERS = (
    "bpf/etcpipe.h",
    "native/regroup_counters.h",
    "native/feature_rows.h",
    "gpu/tables.h",
)
CONSTANTS, _ENUMS, RECORDS = read_header(
    "".join((files("etcpipe") / header).read_text() for header in _HEADERS)
)
KERNELS = _kernels()
