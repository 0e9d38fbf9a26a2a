"""Features as the kernel gathers them: bpf/feature_words.h for this machine, and in the kernel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_captures import real_captures
from test_views import flow_batch, packet

from etcpipe import _native
from etcpipe.batch import FlowBatch
from etcpipe.capture import Capture
from etcpipe.errors import UsageError
from etcpipe.gpu import features_cpu, features_native
from etcpipe.gpu.features import FEATURE_COLUMNS
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.views import VIEWS, compute
from etcpipe.kernel.features_plan import ENTRY_HEAD, FeaturePlan, plan_for
from etcpipe.kernel.features_rows import Gathered

FEATURES = VIEWS["features"]
NAMES = tuple(column.name for column in FEATURE_COLUMNS)
SYN, ACK = 2, 16
TCP, UDP = 6, 17


def gathered(flows: FlowBatch, plan: FeaturePlan) -> Gathered:
    """Return what the kernel's code, compiled for this machine, keeps of whole rows."""
    entries = np.zeros(len(flows), plan.dtype)
    packets, record = np.ascontiguousarray(flows.packets), plan.record()
    keys, flow_ids = np.ascontiguousarray(flows.key), np.ascontiguousarray(flows.flow_id)
    _native.features_gather(
        record.ctypes.data,
        packets.ctypes.data,
        keys.ctypes.data,
        flow_ids.ctypes.data,
        len(flows),
        packets.shape[1],
        entries.ctypes.data,
    )
    entries["initiator"] = flows.initiator
    return Gathered(entries, plan)


def rows_of(flows: FlowBatch, depth: int, columns: tuple[str, ...]) -> np.ndarray:
    return gathered(flows, plan_for(columns, depth, 1.0, 64)).rows(columns)


def assert_equal(ours: np.ndarray, defined: np.ndarray, columns: tuple[str, ...]) -> None:
    """All bits are the same; a deviation from the sum of squares may be one unit away."""
    for i, name in enumerate(columns):
        if name.endswith("_std") and "iat" not in name:
            np.testing.assert_array_max_ulp(ours[:, i], defined[:, i], maxulp=1)
        else:
            np.testing.assert_array_equal(ours[:, i], defined[:, i], err_msg=name)


PACKETS = st.builds(
    packet,
    ms=st.floats(-5, 1e5, allow_nan=False),
    size=st.integers(20, 65535),
    direction=st.integers(0, 1),
    flags=st.integers(0, 255),
    window=st.integers(0, 65535),
    ttl=st.integers(0, 255),
)
FLOWS = st.lists(st.lists(PACKETS, min_size=1, max_size=50), min_size=1, max_size=8)
COLUMNS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=12, unique=True).map(tuple)


@settings(max_examples=150, deadline=None)
@given(FLOWS, st.integers(1, 50), COLUMNS, st.sampled_from([TCP, UDP]))
def test_any_columns_at_any_depth_are_the_definition_s(flows, depth, columns, protocol):
    batch = flow_batch(flows, protocol)
    if protocol == UDP:
        batch.packets["tcp_flags"] = batch.packets["tcp_window"] = 0
    rows = rows_of(batch, depth, columns)
    assert rows.shape == (len(flows), len(columns))
    assert_equal(rows, compute(FEATURES, batch, depth, columns), columns)


def regrouped(path, depth: int, count: str) -> list[FlowBatch]:
    capture, regroup = Capture([path], first_n=depth, count=count), Regroup(depth)
    batches = [regroup.add(batch) for batch in capture]
    return [batch for batch in (*batches, regroup.flush()) if len(batch)]


@pytest.mark.parametrize("path", real_captures(), ids=lambda path: path.name)
def test_numpy_c_and_kernel_code_are_equal_on_real_captures(path):
    random = np.random.default_rng(7)
    depth = int(random.integers(1, 51))
    batches = regrouped(path, depth, "all")
    assert batches
    for batch in batches:
        for columns in (NAMES, tuple(random.choice(NAMES, 10, replace=False))):
            defined = features_cpu.rows(batch, depth, columns)
            assert features_native.rows(batch, depth, columns).tobytes() == defined.tobytes()
            assert_equal(rows_of(batch, depth, columns), defined, columns)


def test_a_handshake_by_hand():
    flow = [packet(0, flags=SYN), packet(20, direction=1, flags=SYN | ACK), packet(50)]
    columns = ("syn_ack", "tcp_rtt", "ack_dat", "dur", "s_iat_mean", "syn_cnt")
    got = rows_of(flow_batch([flow]), 10, columns)[0]
    assert got.tolist() == np.float32([0.02, 0.05, 0.03, 0.05, 0.05, 2]).tolist()


def test_only_what_the_columns_need_is_kept():
    assert plan_for(("dur", "s_pkt_cnt", "proto"), 10, 1.0, 64).bytes == ENTRY_HEAD.itemsize
    assert plan_for(("s_bytes_mean", "d_bytes_sum"), 10, 1.0, 64).words == 2
    assert plan_for(("s_bytes_std", "s_bytes_mean"), 10, 1.0, 64).words == 4
    # a median takes the packets, and with them whatever can be had of them
    assert plan_for(("s_bytes_med", "d_burst_pkts_max"), 10, 1.0, 64).words == 10
    assert plan_for(("s_bytes_med", "s_iat_std"), 50, 1.0, 64).words == 100


def test_a_column_that_no_kernel_gathers_is_named():
    with pytest.raises(UsageError, match=r"gathers no size: see docs/kernel-stage\.md"):
        plan_for(("dur", "size"), 10, 1.0, 64)
