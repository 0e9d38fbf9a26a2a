"""Collects the CUDA source into one folder for nvcc, NVRTC or a host compiler.

The packet parser, the tracker's rules, masks, columns, tokens and bits exist only once: the C files
of the BPF programs and of the native extension are used as they are, apart from the three changes
that turn C into device code in C++.
"""

import hashlib
import re
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from etcpipe.layout import read_header

# C files that the device shares with the BPF programs and with the native extension; the files
# that they include are added.
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
    """How a kernel is called: threads in a block, and the two records that it takes."""

    name: str
    threads: int
    first: str
    second: str


_SYSTEM_INCLUDE = re.compile(r"^#include <.*>$", re.MULTILINE)
_INCLUDE = re.compile(r'^#include "(.*)"$', re.MULTILINE)
_VOID_POINTER = re.compile(r"\bvoid \*")
# the first line of a function: not indented, no "#", and it contains a parenthesis
_FUNCTION = re.compile(r"^(?=[a-z][\w *]*\()", re.MULTILINE)
_KERNEL = re.compile(
    r"^KERNEL\((\w+)\) (\w+)\((?:const )?struct (\w+) \*\w+,\s(?:const )?struct (\w+) \*\w+\)",
    re.MULTILINE,
)


def device_code(text: str) -> str:
    """Return a C file as device code: no system headers, void * arithmetic in bytes."""
    text = _SYSTEM_INCLUDE.sub("", text)
    text = _VOID_POINTER.sub("struct byte_pointer ", text)
    return _FUNCTION.sub("__device__ ", text)


def sources() -> dict[str, str]:
    """Return the text of each file, by name."""
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
    """Return a digest of all source files."""
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
