"""What a tap is told, and how that reaches the kernel; what a loader gives back."""

import errno
import mmap
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np

from etcpipe.errors import (
    DataplaneError,
    EtcpipeError,
    PermissionDeniedError,
    UnsupportedError,
    UsageError,
)
from etcpipe.kernel import bpf, checks
from etcpipe.kernel.features_plan import FeaturePlan, plan_for
from etcpipe.layout import BPF, CONSTANTS, COUNT_RULES, read_header
from etcpipe.parsing import parse_bits
from etcpipe.timeouts import TIMEOUTS

# Every tap's programs, and those beside them where XDP may track.
TC_MODE_PROGRAMS = ("tc_track", "tc_matched", "mirror_pop")
XDP_MODE_PROGRAMS = ("xdp_track", "xdp_matched", "tc_mirror", "xdp_canary", "tc_canary")
FORWARD_PROGRAMS = ("xdp_forward", "mirror_pop")
DROP_PROGRAMS = ("forward_dropped", "forward_refused")  # where the kernel has BTF
XDP_PROGRAMS = ("xdp_track", "xdp_matched", "mirror_pop", "xdp_canary")  # by type
MAPS = (
    "flows",
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
    "filters_tc",
    "filters_xdp",
)
KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")
# what the verifier, or a kernel that lacks a map type or a helper, answers to a load
REFUSALS = (errno.EACCES, errno.EINVAL, errno.E2BIG, errno.ENOTSUP, 524)
FORWARD_MAPS = ("forward_ports", "forward_group")

MODES = ("auto", "tc", "xdp")
LOADERS = ("auto", "libbpf", "bcc")
CAPTURES = ("afxdp", "ringbuf", "features")
HOOKS = ("auto", "tcx", "clsact")
# An AF_XDP frame of a page has 256 bytes of room in front.
SNAP_LEN_MIN, SNAP_LEN_MAX = 128, 3072
RINGBUF_BYTES_MAX = 1 << 30

_SETTINGS = ("etcpipe.h", "features_plan.h", "settings.h")
TAP_SETTINGS = read_header("".join((BPF / name).read_text() for name in _SETTINGS))[2][
    "tap_settings"
]
_MAPS = read_header("".join((BPF / name).read_text() for name in ("etcpipe.h", "maps.h")))
CANARY_COUNTS = _MAPS[1]["canary_count"]
QUEUES_MAX = _MAPS[0]["QUEUES_MAX"]
FILTER_SLOTS = read_header((BPF / "filter.h").read_text())[1]["filter_slot"]
FILTER_TARGETS = {"filters_tc": "tc_matched", "filters_xdp": "xdp_matched"}


@dataclass(frozen=True)
class TapSettings:
    """How a device is tapped.

    Attributes:
        first_n: packets of a flow that reach the consumer.
        count: which packets count towards them ("payload", "all", "non_ack").
        snap_len: bytes of a frame that reach the consumer.
        mode: where ingress is tracked: "tc", "xdp", or "auto" which lets a canary decide.
        forward: the device at the other end of the wire in forward mode, else empty.
        loader: "libbpf", "bcc", or "auto": libbpf where it works.
        hook: how TC programs are attached: "tcx" (Linux 6.6), "clsact", or "auto".
        capture: how packets reach the consumer: "afxdp", or "ringbuf" at a fraction of the cost;
            "features": not at all, the kernel gathers `features` and tells each flow's once.
        features: columns of a view, for capture "features".
        tree_depth: for the same, packets after which the kernel judges by Tap.set_tree(); 0: never.
        wait_s: for the same, a row is told when nothing that counts came for so long.
        queues: of the mirror, each with an AF_XDP socket of its own; a flow keeps its queue.
        ringbuf_bytes: of the ring of records, a power of two and a multiple of the page size.
        max_flows: room in the flow table; the longest idle flow makes room for a new one.
        slots: entries of the verdict array, flow_id % slots.
        policy: verdicts act as Tap.set_actions() says; else that code is not even loaded.
        idle_timeout_s: silence after which a flow has ended.
        establish_timeout_s: the same for a SYN that nobody answered.
        active_timeout_s: a flow older than this is reported while it goes on, each time.
        tombstone_timeout_s: silence after which an ended flow's tuple may be used anew by
            other packets than a SYN.
        sample: track one flow of so many, chosen by a hash of its key.
        sample_seed: moves the sample.
        decap, key_vlan, key_tunnel: see etcpipe.parsing.parse_bits().

    Raises:
        UsageError: a value is out of range.
    """

    first_n: int = 10
    count: str = "payload"
    snap_len: int = CONSTANTS["SNAP_LEN_DEFAULT"]
    mode: str = "auto"
    forward: str = ""
    loader: str = "auto"
    hook: str = "auto"
    capture: str = "afxdp"
    features: tuple[str, ...] = ()
    tree_depth: int = 0
    wait_s: float = 1.0
    queues: int = 1
    ringbuf_bytes: int = 1 << 24
    max_flows: int = 65536
    slots: int = 262144
    policy: bool = False
    idle_timeout_s: float = 120.0
    establish_timeout_s: float = 5.0
    active_timeout_s: float = 1800.0
    tombstone_timeout_s: float = 30.0
    sample: int = 1
    sample_seed: int = 0
    decap: bool = False
    key_vlan: bool = False
    key_tunnel: bool = False

    def __post_init__(self) -> None:
        _check_range("first_n", self.first_n, 1, CONSTANTS["FIRST_N_MAX"])
        _check_range("snap_len", self.snap_len, SNAP_LEN_MIN, SNAP_LEN_MAX)
        _check_range("max_flows", self.max_flows, 64, 1 << 26)
        _check_range("slots", self.slots, 64, 1 << 28)
        for name in TIMEOUTS:
            _check_range(f"{name}_timeout_s", getattr(self, f"{name}_timeout_s"), 0.001, 86400)
        _check_range("sample", self.sample, 1, CONSTANTS["SAMPLE_MAX"])
        _check_range("sample_seed", self.sample_seed, 0, 0xFFFFFFFF)
        _check_choice("count", self.count, tuple(COUNT_RULES))
        _check_choice("mode", self.mode, MODES)
        _check_choice("loader", self.loader, LOADERS)
        _check_choice("hook", self.hook, HOOKS)
        _check_choice("capture", self.capture, CAPTURES)
        parse_bits(self.decap, self.key_vlan, self.key_tunnel)
        _check_queues(self.queues, self.capture)
        _check_ringbuf(self.ringbuf_bytes)
        _check_features(self)
        if self.forward:
            _check_forward(self)

    @property
    def parse(self) -> int:
        """How packets are parsed, for Regroup."""
        return parse_bits(self.decap, self.key_vlan, self.key_tunnel)

    def asdict(self) -> dict:
        """Return the settings as JSON takes them."""
        return {**asdict(self), "features": list(self.features)}

    @cached_property
    def feature_plan(self) -> FeaturePlan:
        """What the kernel keeps of a flow; empty unless it gathers features."""
        return plan_for(self.features, self.first_n, self.wait_s, self.max_flows)


@dataclass(frozen=True)
class Build:
    """One load of the programs: the settings and the two interfaces they are made for.

    Attributes:
        port_ifindex, netns_inode: forward mode: the other port, and where both are.
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
        if self.settings.forward:
            return FORWARD_PROGRAMS + (DROP_PROGRAMS if KERNEL_BTF.exists() else ())
        return TC_MODE_PROGRAMS + (XDP_MODE_PROGRAMS if self.with_xdp else ())

    @property
    def source(self) -> str:
        """The object that the programs are in."""
        return "forward" if self.settings.forward else "tap"

    @property
    def map_names(self) -> tuple[str, ...]:
        """The maps of that object."""
        return MAPS + (FORWARD_MAPS if self.settings.forward else ())

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
            "flows": flow_entries(self.settings.max_flows),
            "verdicts": self.settings.slots,
            "packet_records": self.settings.ringbuf_bytes if uses_records else mmap.PAGESIZE,
            "features": self.settings.feature_plan.slots,
        }

    def value_sizes(self) -> dict[str, int]:
        """Return the bytes of the values that settings size."""
        return {"features": self.settings.feature_plan.bytes}


def flow_entries(max_flows: int) -> int:
    """Return the entries of a flow table for so many flows.

    The kernel's hash maps have a bucket an entry, rounded up to a power of two: one entry
    more than such a power gets twice the buckets, and a full table half as many collisions. A
    packet of one flow among a million then costs 60 ns less, for 16 bytes a flow.
    """
    return max_flows | 1


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
        except BaseException:
            loaded.close()
            raise
        return loaded

    def _connect_filters(self) -> None:
        """Tell filters, those to come and one that is there, where what they want goes on."""
        slot = np.array([FILTER_SLOTS.index("FILTER_MATCHED")], np.uint32)
        for array, program in FILTER_TARGETS.items():
            if program in self.programs:
                fd = np.array([self.programs[program]], np.uint32)
                bpf.update(self.maps[array], slot, fd)

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


def _check_forward(settings: TapSettings) -> None:
    fixed = {"mode": "auto", "queues": 1}  # XDP alone; the CPU chooses the mirror's queue
    for name, value in fixed.items():
        if getattr(settings, name) != value:
            raise UsageError(f"{name} cannot be chosen in forward mode")
    if settings.loader == "bcc":
        raise UsageError("forward mode needs the loader libbpf")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} is {value}, must be {low} to {high}")


def _check_queues(queues: int, capture: str) -> None:
    _check_range("queues", queues, 1, QUEUES_MAX)
    if queues > 1 and capture != "afxdp":
        raise UsageError(f"queues is {queues}: a ring buffer has one, use --capture afxdp")


def _check_ringbuf(size: int) -> None:
    if size & (size - 1) or not mmap.PAGESIZE <= size <= RINGBUF_BYTES_MAX:
        raise UsageError(
            f"ringbuf_bytes is {size}, must be a power of two from {mmap.PAGESIZE}"
            f" to {RINGBUF_BYTES_MAX}"
        )


def _check_features(settings: TapSettings) -> None:
    gathers = settings.capture == "features"
    if gathers != bool(settings.features):
        raise UsageError(
            f"capture {settings.capture} with {len(settings.features)} features:"
            " only features are gathered by their columns, and at least one"
        )
    _check_range("tree_depth", settings.tree_depth, 0, settings.first_n if gathers else 0)
    if gathers:
        _check_range("wait_s", settings.wait_s, 0.001, 86400)
        _ = settings.feature_plan  # refuses what no kernel can gather


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} is {value!r}, must be one of {', '.join(choices)}")
