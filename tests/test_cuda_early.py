"""Early rows by the kernels: the cases of test_regroup_early.py, and equal to the definition."""

import random

import pytest
from cuda_device import ON
from cuda_device import device as on_device
from frames import split
from lazy_cuda import lazy_device
from test_cuda_agree import MORE
from test_regroup_agree import cuts, random_packets

from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.regroup_gpu import Backend

pytest.register_assert_rewrite("test_regroup_early")
from test_regroup_early import (  # noqa: E402, F401
    played,
    test_a_flow_has_a_row_at_each_depth,
    test_a_flow_whose_place_is_needed_keeps_its_early_rows,
    test_a_row_at_a_depth_may_have_a_hole_and_a_lost_last_rank_makes_none,
    test_a_short_flow_has_the_rows_that_it_reached,
    test_a_super_packet_reaches_several_depths_at_once,
    test_early_rows_do_not_depend_on_the_batches,
    test_early_rows_wait_until_they_are_taken,
    test_flows_that_leave_free_their_row_and_say_no_more,
    test_what_a_rank_overtook_in_its_batch_is_in_the_row,
)


@pytest.fixture(params=ON)
def device(request, monkeypatch):
    monkeypatch.setattr("etcpipe.gpu.cuda_cupy.CupyDevice", lambda: on_device(request.param))
    return "gpu"


@pytest.mark.parametrize("on", [*ON, "late"])
@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(i, marks=MORE) for i in range(3, 12))])
def test_random_packets(on, seed):
    rng = random.Random(f"early {seed}")
    n = rng.choice([300, 1025, 1500])
    options = {
        "first_n": 6,
        "depths": rng.choice([(1,), (1, 2, 3, 4, 5), (2, 4), (1, 3)]),
        "raw_len": rng.choice([0, 33]),
        "slots": rng.choice([3, 64, 1 << 20]),
        "max_rows": rng.choice([2, 50, 1000, 5000]),
        "wait_s": rng.choice([0.005, 0.2]),
    }
    batches = split(random_packets(rng, n, rng.choice([7, 300])), cuts(rng, n))[:40]
    defined, regroup = (Regroup(**options, device="reference") for _ in range(2))
    there = lazy_device(seed) if on == "late" else on_device(on, seed)
    regroup._backend = Backend(regroup.settings, there)
    got = played(regroup, batches, random.Random(seed))
    assert got == played(defined, batches, random.Random(seed))
    assert any(depth for _, depth, _ in got[0])
