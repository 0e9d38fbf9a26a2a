"""What a tap is told."""

import mmap
from dataclasses import asdict, dataclass
from functools import cached_property

from etcpipe.errors import UsageError
from etcpipe.kernel.features_plan import FeaturePlan, plan_for
from etcpipe.layout import BPF, CONSTANTS, COUNT_RULES, read_header
from etcpipe.parsing import parse_bits
from etcpipe.timeouts import TIMEOUTS

MODES = ("auto", "tc", "xdp")
LOADERS = ("auto", "libbpf", "bcc")
CAPTURES = ("afxdp", "ringbuf", "features")
HOOKS = ("auto", "tcx", "clsact")
# An AF_XDP frame of a page has 256 bytes of room in front.
SNAP_LEN_MIN, SNAP_LEN_MAX = 128, 3072
RINGBUF_BYTES_MAX = 1 << 30
# Some 4,000 flows that the kernel is sure of; for more at once the copies go on.
TREE_RECORDS_BYTES = 1 << 20
MAPS_HEADER = read_header("".join((BPF / name).read_text() for name in ("etcpipe.h", "maps.h")))
QUEUES_MAX = MAPS_HEADER[0]["QUEUES_MAX"]


@dataclass(frozen=True)
class TapSettings:
    """How a device is tapped.

    Attributes:
        first_n: packets of a flow that reach the consumer.
        count: which packets count towards them ("payload", "all", "non_ack").
        snap_len: bytes of a frame that reach the consumer.
        mode: where ingress is tracked: "tc", "xdp", or "auto": what the device does best.
        forward: the device at the other end of the wire in forward mode, else empty.
        loader: "libbpf", "bcc", or "auto": libbpf where it works.
        hook: how TC programs are attached: "tcx" (Linux 6.6), "clsact", or "auto".
        capture: how packets reach the consumer: "afxdp", or "ringbuf" at a fraction of the cost;
            "features": not at all, the kernel gathers `features` and tells each flow's once.
        features: columns of a view, for capture "features" or for a tree.
        tree_depth: packets after which the kernel judges by Tap.set_tree(); 0: never. Beside
            captures that copy packets, those of flows that it is sure of are copied no more.
        wait_s: for both, a row is closed when nothing that counts came for so long.
        queues: of the mirror, each with an AF_XDP socket of its own; a flow keeps its queue.
        ringbuf_bytes: of the ring of records, a power of two and a multiple of the page size.
        max_flows: room in the flow table; see docs/operations.md for who makes room for a new flow.
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
        if self.forward and self.mode == "xdp" and (reason := self.why_not_xdp_wire()):
            raise UsageError(f"--forward --mode xdp: {reason}")

    @property
    def parse(self) -> int:
        """How packets are parsed, for Regroup."""
        return parse_bits(self.decap, self.key_vlan, self.key_tunnel)

    def asdict(self) -> dict:
        """Return the settings as JSON takes them."""
        return {**asdict(self), "features": list(self.features)}

    def why_not_xdp_wire(self) -> str:
        """Return what these settings want of a wire that XDP cannot do; else nothing."""
        if self.queues > 1:
            return "the processor chooses the mirror's queue, so there is one"
        return "only libbpf loads its programs" if self.loader == "bcc" else ""

    @cached_property
    def feature_plan(self) -> FeaturePlan:
        """What the kernel keeps of a flow; empty unless it gathers features."""
        depth = self.first_n if self.capture == "features" else self.tree_depth
        return plan_for(self.features, depth, self.wait_s, self.max_flows)

    @property
    def judges_beside(self) -> bool:
        """Are packets copied, and flows judged in the kernel too?"""
        return self.tree_depth > 0 and self.capture != "features"

    @property
    def tree_records_bytes(self) -> int:
        """Of the ring of rows that the kernel is sure of, beside copies."""
        return max(TREE_RECORDS_BYTES if self.judges_beside else 0, mmap.PAGESIZE)


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
    gathers = settings.capture == "features" or settings.tree_depth > 0
    if gathers != bool(settings.features):
        raise UsageError(
            f"capture {settings.capture} with {len(settings.features)} features:"
            " only features are gathered by their columns, and at least one"
        )
    _check_range("tree_depth", settings.tree_depth, 0, settings.first_n)
    if gathers:
        _check_range("wait_s", settings.wait_s, 0.001, 86400)
        _ = settings.feature_plan  # refuses what no kernel can gather


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} is {value!r}, must be one of {', '.join(choices)}")
