"""The views of the kernels are those of NumPy, bit for bit."""

import random

import numpy as np
import pytest
from cuda_device import ON, device
from frames import ACK, SYN, batch, ether, ipv4, tcp
from test_regroup_agree import random_packets
from test_tokens import random_flows

from etcpipe.batch import FlowBatch, concatenate
from etcpipe.gpu import bits_cpu, features_cpu, tokens_cpu, views_cpu
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.tokens import META, TOKENS
from etcpipe.gpu.views import MASKS, VIEWS, compute
from etcpipe.gpu.views_gpu import KERNELS, ROWS_MAX, ViewComputer

GAP = TOKENS + [name for name, *_ in META].index("gap")


def rows(seed: int, first_n: int, raw_len: int = 0, flows: int = 60) -> FlowBatch:
    """Flows with losses, both directions, handshakes by chance, steps back in time."""
    rng = random.Random(seed)
    regroup = Regroup(first_n, raw_len, mask="none")
    found = [regroup.add(random_packets(rng, 1500, flows, depth=first_n)), regroup.flush()]
    return concatenate(found)


def on_device(on: str, name: str, flows: FlowBatch, depth: int, columns=None) -> np.ndarray:
    first_n, raw_len = flows.raw.shape[1:]
    computer = ViewComputer(device(on), VIEWS[name], first_n, raw_len, depth, columns)
    return computer.compute(flows)


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("depth", [1, 2, 3, 10, 64])
@pytest.mark.parametrize("first_n", [1, 2, 10, 64])
@pytest.mark.parametrize("name", ["stats", "features"])
def test_columns(on, name, first_n, depth):
    flows = rows(first_n, first_n)
    names = VIEWS[name].column_names("none")
    got = on_device(on, name, flows, depth, names)
    assert len(got) > 60
    assert got.tobytes() == features_cpu.rows(flows, depth, names).tobytes()


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("seed", range(5))
def test_any_choice_of_columns(on, seed):
    rng = random.Random(seed)
    flows = rows(seed, 10)
    names = tuple(rng.sample(VIEWS["features"].column_names("none"), rng.randrange(1, 12)))
    got = on_device(on, "features", flows, 10, names)
    assert got.tobytes() == features_cpu.rows(flows, 10, names).tobytes()


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("depth", [1, 5, 30, 64])
@pytest.mark.parametrize("first_n", [3, 30, 64])
def test_seq(on, first_n, depth):
    flows = rows(first_n, first_n)
    got, expected = on_device(on, "seq", flows, depth), compute(VIEWS["seq"], flows, depth)
    assert got.shape == expected.shape
    assert got[..., :2].tobytes() == expected[..., :2].tobytes()
    # the logarithm of another library may round the last bit of a double the other way
    np.testing.assert_array_almost_equal_nulp(
        got[..., 2], expected[..., 2], 0 if on == "shim" else 1
    )


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("first_n, raw_len, depth", [(10, 1500, 10), (12, 1503, 4), (3, 1600, 9)])
@pytest.mark.parametrize("name", ["raw", "raw1500", "packet", "image"])
def test_views_of_bytes(on, name, first_n, raw_len, depth):
    flows = rows(1, first_n, raw_len)
    got = on_device(on, name, flows, depth)
    assert got.any()
    assert np.array_equal(got, compute(VIEWS[name], flows, depth))


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("depth", [1, 3, 12])
@pytest.mark.parametrize("ranks", [1, 4, 12])
def test_tok(on, ranks, depth):
    flows = random_flows(200, np.random.default_rng(ranks * 100 + depth), ranks)
    got = on_device(on, "tok", flows, depth)
    expected = tokens_cpu.tok(flows, views_cpu.seq(flows, depth))
    others = np.arange(got.shape[2]) != GAP
    assert got[..., others].tobytes() == expected[..., others].tobytes()
    np.testing.assert_array_almost_equal_nulp(
        got[..., GAP], expected[..., GAP], 0 if on == "shim" else 1
    )


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("depth", [1, 3, 12])
@pytest.mark.parametrize("ranks", [1, 4, 12])
def test_bits(on, ranks, depth):
    flows = random_flows(200, np.random.default_rng(ranks * 100 + depth), ranks)
    got = on_device(on, "bits", flows, depth)
    assert np.array_equal(got, bits_cpu.bits(flows, depth))


@pytest.mark.parametrize("on", ON)
def test_images_of_any_bytes(on):
    flows = random_flows(200, np.random.default_rng(5), raw_len=370)
    # headers no longer than packets, as regrouping makes them
    flows.packets["payload_len"] = np.minimum(flows.packets["payload_len"], flows.packets["ip_len"])
    flows.packets["raw_len"][::2] *= 2
    assert np.array_equal(on_device(on, "image", flows, 4), views_cpu.image(flows, 4))


def test_every_view_has_a_kernel():
    assert KERNELS.keys() == VIEWS.keys()


@pytest.mark.parametrize("on", ON)
def test_chosen_columns_come_in_their_order(on):
    flows = rows(2, 5)
    names = ["d_ttl_std", "dur", "fin_cnt", "s_iat_med"]
    expected = compute(VIEWS["stats"], flows, 5, names)
    assert on_device(on, "stats", flows, 5, names).tobytes() == expected.tobytes()
    strict = on_device(on, "stats", flows, 5)
    assert strict.shape[1] == len(VIEWS["stats"].column_names(next(iter(MASKS))))


@pytest.mark.parametrize("on", ON)
def test_a_handshake_by_hand(on):
    steps = [(SYN, 0, 0.0), (SYN | ACK, 1, 0.25), (ACK, 0, 0.75)]
    packets = [
        {
            "frame": ether(ipv4(6, tcp(flags=flags))),
            "flow_id": 1,
            "rank": rank,
            "direction": side,
            "at": at,
        }
        for rank, (flags, side, at) in enumerate(steps)
    ]
    flows = Regroup(3).add(batch(packets))
    names = ["syn_ack", "tcp_rtt", "ack_dat", "dur", "s_pkt_cnt", "syn_cnt"]
    assert on_device(on, "stats", flows, 3, names).tolist() == [[0.25, 0.75, 0.5, 0.75, 2, 2]]


@pytest.mark.parametrize("on", ON)
def test_no_flow_and_more_flows_than_one_call_takes(on):
    few = rows(3, 2, flows=5)
    many = few.select(np.arange(ROWS_MAX + 100) % len(few))
    assert np.array_equal(on_device(on, "seq", many, 2), compute(VIEWS["seq"], many, 2))
    assert on_device(on, "seq", few.select(slice(0)), 2).shape == (0, 30, 3)


def test_what_does_not_fit_is_refused():
    flows = rows(4, 2)
    with pytest.raises(ValueError, match="depth"):
        on_device("shim", "stats", flows, 0)
    with pytest.raises(ValueError, match="no_such"):
        on_device("shim", "stats", flows, 1, ["no_such"])
    for name, needs in (("raw", 1000), ("image", 360), ("tok", 144), ("bits", 144)):
        with pytest.raises(ValueError, match=f"{name} needs {needs}"):
            on_device("shim", name, flows, 1)
