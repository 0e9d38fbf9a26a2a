"""A load of the kernel programs: what is asked for, and what a loader gives back."""

import errno
import mmap
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from etcpipe.errors import DataplaneError, EtcpipeError, PermissionDeniedError, UnsupportedError
from etcpipe.kernel import bpf, checks, flow_table
from etcpipe.kernel.settings import CAPTURES, MAPS_HEADER, TapSettings
from etcpipe.layout import BPF, COUNT_RULES, read_header

# Every tap's programs, and those beside them where XDP may track.
TC_MODE_PROGRAMS = ("tc_track", "tc_matched", "mirror_pop")
XDP_MODE_PROGRAMS = ("xdp_track", "xdp_matched", "tc_mirror", "xdp_canary", "tc_canary")
TC_WIRE_PROGRAMS = ("tc_missed",)  # beside those of TC mode
FORWARD_PROGRAMS = ("xdp_forward", "xdp_matched", "xdp_missed", "mirror_pop")
DROP_PROGRAMS = ("forward_dropped", "forward_refused")  # where the kernel has BTF
XDP_PROGRAMS = ("xdp_track", "xdp_matched", "mirror_pop", "xdp_canary")  # by type
MAPS = (
    "flows",
    "flow_tags",
    "flow_locks",
    "flow_plan",
    "verdicts",
    "packet_counters",
    "flow_ids",
    "canary_counts",
    "xsks",
    "actions",
    "fragments",
    "packet_records",
    "features",
    "features_begun",
    "trees",
    "tree_works",
    "tree_records",
    "filters_tc",
    "filters_xdp",
)
KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")
# what the verifier, or a kernel that lacks a map type or a helper, answers to a load
REFUSALS = (errno.EACCES, errno.EINVAL, errno.E2BIG, errno.ENOTSUP, 524)
FORWARD_MAPS = ("forward_ports", "forward_group")

_SETTINGS = ("etcpipe.h", "features_plan.h", "settings.h")
TAP_SETTINGS = read_header("".join((BPF / name).read_text() for name in _SETTINGS))[2][
    "tap_settings"
]
CANARY_COUNTS = MAPS_HEADER[1]["canary_count"]
FILTER_SLOTS = read_header((BPF / "filter.h").read_text())[1]["filter_slot"]
FILTER_TARGETS = {
    "filters_tc": {"FILTER_MATCHED": "tc_matched", "FILTER_MISSED": "tc_missed"},
    "filters_xdp": {"FILTER_MATCHED": "xdp_matched", "FILTER_MISSED": "xdp_missed"},
}


@dataclass(frozen=True)
class Build:
    """One load of the programs: the settings and the two interfaces they are made for.

    Attributes:
        port_ifindex: of a wire: the other port.
        netns_inode: of a wire by XDP: where both ports are.
        with_xdp: load also what XDP mode needs; the verifier takes its time for each program.
        maps: descriptors of an earlier tap's maps by name, to go on with (libbpf only).
    """

    settings: TapSettings
    device_ifindex: int
    mirror_ifindex: int
    with_xdp: bool = True
    port_ifindex: int = 0
    netns_inode: int = 0
    maps: Mapping[str, int] = field(default_factory=dict)

    @property
    def programs(self) -> tuple[str, ...]:
        """The programs to load."""
        if self.is_xdp_wire:
            return FORWARD_PROGRAMS + (DROP_PROGRAMS if KERNEL_BTF.exists() else ())
        if self.port_ifindex:
            return TC_MODE_PROGRAMS + TC_WIRE_PROGRAMS
        return TC_MODE_PROGRAMS + (XDP_MODE_PROGRAMS if self.with_xdp else ())

    @property
    def optional(self) -> tuple[str, ...]:
        """The programs of that object which are loaded for some builds alone."""
        return DROP_PROGRAMS if self.is_xdp_wire else XDP_MODE_PROGRAMS + TC_WIRE_PROGRAMS

    @property
    def source(self) -> str:
        """The object that the programs are in."""
        return "forward" if self.is_xdp_wire else "tap"

    @property
    def map_names(self) -> tuple[str, ...]:
        """The maps of that object."""
        return MAPS + (FORWARD_MAPS if self.is_xdp_wire else ())

    @property
    def is_xdp_wire(self) -> bool:
        """Whether XDP forwards; a wire by TC is a tap with a second port."""
        return bool(self.settings.forward) and self.settings.mode == "xdp"

    def record(self) -> np.ndarray:
        """Return struct tap_settings, (1,)."""
        record = np.zeros(1, TAP_SETTINGS)
        record["first_n"] = self.settings.first_n
        record["count_rule"] = COUNT_RULES[self.settings.count]
        record["snap_len"] = self.settings.snap_len
        record["device_ifindex"] = self.device_ifindex
        record["slots"] = self.settings.slots
        record["policy"] = self.settings.policy
        record["mirror_ifindex"] = self.mirror_ifindex
        record["port_ifindex"] = self.port_ifindex
        record["netns_inode"] = self.netns_inode
        record["capture"] = CAPTURES.index(self.settings.capture)
        record["queues"] = self.settings.queues
        record["n_cpus"] = bpf.possible_cpus()
        record["idle_ns"] = round(self.settings.idle_timeout_s * 1e9)
        record["establish_ns"] = round(self.settings.establish_timeout_s * 1e9)
        record["tombstone_ns"] = round(self.settings.tombstone_timeout_s * 1e9)
        record["sample_every"] = self.settings.sample
        record["sample_seed"] = self.settings.sample_seed
        record["parse"] = self.settings.parse
        record["features"] = self.settings.feature_plan.record()
        record["tree_depth"] = self.settings.tree_depth
        return record

    def map_sizes(self) -> dict[str, int]:
        """Return the entries of the maps that settings size."""
        uses_records = self.settings.capture != "afxdp"
        return {
            "flows": flow_table.sets_for(self.settings.max_flows),
            "flow_tags": flow_table.sets_for(self.settings.max_flows),
            "verdicts": self.settings.slots,
            "packet_records": self.settings.ringbuf_bytes if uses_records else mmap.PAGESIZE,
            "features": self.settings.feature_plan.slots,
            "tree_records": self.settings.tree_records_bytes,
        }

    def value_sizes(self) -> dict[str, int]:
        """Return the bytes of the values that settings size."""
        return {"features": self.settings.feature_plan.bytes}


@dataclass
class Loaded:
    """Descriptors of the loaded programs and maps by name; the loader itself is gone.

    Attributes:
        loader: which loader and object they come from, for people.
    """

    loader: str
    programs: dict[str, int]
    maps: dict[str, int]

    @classmethod
    def duplicate(
        cls,
        loader: str,
        names: Sequence[str],
        program: Callable[[str], int],
        map_: Callable[[str], int],
        maps: Sequence[str] = MAPS,
    ) -> "Loaded":
        """Return a Loaded of its own descriptors, made from a loader's."""
        loaded = cls(loader, {}, {})
        try:
            for name in names:
                loaded.programs[name] = os.dup(program(name))
            for name in maps:
                loaded.maps[name] = os.dup(map_(name))
            loaded._connect_filters()
            flow_table.plan(loaded.maps)
        except BaseException:
            loaded.close()
            raise
        return loaded

    def _connect_filters(self) -> None:
        """Tell filters, those to come and one that is there, where packets go on."""
        for array, targets in FILTER_TARGETS.items():
            for slot, program in targets.items():
                if program in self.programs:
                    row = np.array(
                        [[FILTER_SLOTS.index(slot)], [self.programs[program]]], np.uint32
                    )
                    bpf.update(self.maps[array], row[0], row[1])

    def close(self) -> None:
        """Close all descriptors; what is pinned or attached stays."""
        for fd in (*self.programs.values(), *self.maps.values()):
            os.close(fd)
        self.programs, self.maps = {}, {}


@cache
def source_digest() -> str:
    """Return what changes with the programs' source: old pins are not adopted then."""
    digest = sha256()
    sources = [file for file in BPF.iterdir() if file.name.endswith((".h", ".bpf.c"))]
    for source in sorted(sources, key=lambda file: file.name):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def load_error(error: OSError) -> EtcpipeError:
    """Return what a refused load means to a user.

    The verifier answers EACCES too, to those who may load programs: then it is the kernel.
    """
    lacking = checks.missing_capabilities(checks.effective_capabilities())
    if error.errno == errno.EPERM or (error.errno == errno.EACCES and lacking):
        return PermissionDeniedError(
            "the kernel refused to load BPF programs: needs root, or CAP_BPF, CAP_PERFMON and"
            " CAP_NET_ADMIN (and on Linux before 5.11 a higher RLIMIT_MEMLOCK)"
        )
    if error.errno == errno.ENOMEM:
        return DataplaneError("no memory for the flow table: ask for a smaller one (max_flows)")
    if error.errno in REFUSALS:
        return UnsupportedError(
            f"Linux {platform.release()} does not take these BPF programs ({error.strerror}):"
            " see docs/kernels.md"
        )
    return DataplaneError(f"the kernel refused the BPF programs: {error.strerror}")
