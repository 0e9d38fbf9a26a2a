"""Load the programs through bcc: compiled from source, specialised by -D constants.

bcc wants the running kernel's headers. The programs use UAPI types only, so bcc gets a
small tree made here instead, which needs linux-libc-dev and no headers package.
"""

import ctypes
import errno
import mmap
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from etcpipe.errors import DataplaneError, UnsupportedError
from etcpipe.kernel.build import TAP_SETTINGS, XDP_PROGRAMS, Build, Loaded, load_error
from etcpipe.layout import BPF

UAPI = Path("/usr/include")
SOURCE = "tap.bpf.c"
INCLUDE = re.compile(r'^#include "(\w+\.h)"$', re.MULTILINE)
WARNINGS = ("-Wno-everything",)  # bcc's own headers

# What bcc's own headers include of a kernel tree, and just enough of it.
KERNEL_FILES = {
    "linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n",
    "linux/log2.h": "",
    "asm/page.h": "",
    "uapi/linux/bpf.h": "",
    "linux/version.h": "#define LINUX_VERSION_CODE 0\n#define KERNEL_VERSION(a, b, c) 0\n",
    "linux/types.h": """#pragma once
#include <uapi/linux/types.h>
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
typedef unsigned long size_t;
typedef unsigned long uintptr_t;
#define NULL ((void *)0)
""",
}


def load(build: Build) -> Loaded:
    """Return the programs and maps, compiled now.

    Raises:
        UnsupportedError: bcc is not installed, or cannot do what the settings ask for.
        DataplaneError: it could not compile the programs, or the kernel refused them.
        PermissionDeniedError: loading needs capabilities that this process lacks.
    """
    if build.settings.tree_depth:  # without functions of their own the verifier walks too much
        raise UnsupportedError("trees in the kernel need the loader libbpf")
    try:
        from bcc import BPF
    except ImportError as error:
        raise UnsupportedError("bcc not found: apt install python3-bpfcc") from error
    if not hasattr(BPF, "SCHED_CLS"):
        raise UnsupportedError("this bcc is another program: apt install python3-bpfcc")
    module = _compile(BPF, build)
    try:
        return Loaded.duplicate(
            "bcc",
            build.programs,
            lambda name: _load_program(module, BPF, name),
            lambda name: module[name.encode()].map_fd,
        )
    except OSError as error:
        raise load_error(error) from error
    finally:
        module.cleanup()


def _compile(bpf_class, build: Build):
    with tempfile.TemporaryDirectory(prefix="etcpipe-bcc-") as folder, _kernel_source(folder):
        try:
            return bpf_class(text=_source().encode(), cflags=_flags(build))
        except Exception as error:  # bcc raises no other; the compiler's words are on stderr
            raise DataplaneError(f"bcc cannot compile the programs: {error}") from error


def _load_program(module, bpf_class, name: str) -> int:
    kind = bpf_class.XDP if name in XDP_PROGRAMS else bpf_class.SCHED_CLS
    ctypes.set_errno(0)
    try:
        return module.load_func(name.encode(), kind).fd
    except Exception as error:  # bcc raises no other; errno is what it saw
        number = errno.EPERM if "super-user" in str(error) else ctypes.get_errno()
        raise OSError(number, str(error)) from error


@contextmanager
def _kernel_source(folder: str) -> Iterator[None]:
    """Make the header tree, and let bcc use it for the length of the block."""
    include = Path(folder) / "include"
    for name, text in KERNEL_FILES.items():
        path = include / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    # the rest is the UAPI as user space has it, under both of the kernel's names for it
    for target, source in _uapi_folders().items():
        _link_missing(include / target, source)
    before = os.environ.get("BCC_KERNEL_SOURCE")
    os.environ["BCC_KERNEL_SOURCE"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["BCC_KERNEL_SOURCE"]
        else:
            os.environ["BCC_KERNEL_SOURCE"] = before


def _uapi_folders() -> dict[str, Path]:
    multiarch = UAPI / f"{platform.machine()}-linux-gnu" / "asm"
    asm = multiarch if multiarch.is_dir() else UAPI / "asm"
    return {
        "linux": UAPI / "linux",
        "uapi/linux": UAPI / "linux",
        "asm": asm,
        "uapi/asm": asm,
        "asm-generic": UAPI / "asm-generic",
    }


def _link_missing(target: Path, source: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        with suppress(FileExistsError):
            (target / entry.name).symlink_to(entry)


def _source() -> str:
    """Return the programs with our own headers put in: bcc rewrites one file only."""
    seen: set[str] = set()

    def expand(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (BPF / name).read_text()
        return INCLUDE.sub(lambda found: expand(found[1]), text)

    return expand(SOURCE)


def _flags(build: Build) -> list[str]:
    record = build.record()
    settings = {f"SETTING_{name}": _constant(record[name][0]) for name in TAP_SETTINGS.names or ()}
    sizes = build.map_sizes()
    constants = {
        **settings,
        "FLOW_SETS": sizes["flows"],
        "SLOTS": sizes["verdicts"],
        "PAGE_SIZE": mmap.PAGESIZE,  # which bcc's macro takes from the kernel's headers
        "RECORD_PAGES": sizes["packet_records"] // mmap.PAGESIZE,
        "FEATURE_SLOTS": sizes["features"],
        "FEATURE_WORDS_AN_ENTRY": build.value_sizes()["features"] // 8,
    }
    gathers = build.settings.capture == "features"
    return [
        "-DETCPIPE_BCC",
        *([] if gathers else ["-DETCPIPE_NO_GATHER"]),
        *WARNINGS,
        *(f"-D{name}={value}" for name, value in constants.items()),
    ]


def _constant(value: Any) -> str:
    """Return a setting as C writes it, a struct or an array in braces."""
    if getattr(value, "shape", ()) or isinstance(value, np.void):
        return "{" + ",".join(_constant(part) for part in value) + "}"
    return f"{value}ull"
