"""What the benchmark does on a GPU, with the host's shim in its place: figures of nothing."""

import sys
from importlib import import_module
from pathlib import Path

import pytest
from cuda_shim import ShimDevice
from lazy_cuda import lazy_device

BENCH = Path(__file__).parents[1] / "tools" / "bench"
FLOWS, RUNS = 12, 3

pytest.importorskip("networks", reason="making models needs etcpipe[train]")


@pytest.fixture
def bench(gpu, monkeypatch):
    """The benchmark's modules, and a Gpu that is none."""
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.setattr("etcpipe.gpu.cuda_cupy.CupyDevice", lambda: lazy_device(1, ShimDevice()))
    flow_load, program, gpu_device = map(import_module, ("flow_load", "gpu", "gpu_device"))
    yield flow_load, program, gpu_device.Gpu()
    for name in [name for name, module in sys.modules.items() if _is_of_the_bench(module)]:
        del sys.modules[name]


def _is_of_the_bench(module) -> bool:
    return str(getattr(module, "__file__", None)).startswith(str(BENCH))


def test_latency_is_taken_by_events(bench):
    flow_load, program, gpu = bench
    case = flow_load.CASES[2]
    found = gpu.latencies(flow_load.Load(case, FLOWS), case, RUNS)
    (features, to_features), (logits, to_logits) = found.items()
    assert features == "raw [10,1000], on the GPU"
    assert logits.startswith("logits, ") and "NVIDIA Test" in logits
    pairs = list(zip(to_features.values, to_logits.values, strict=True))
    assert len(pairs) == RUNS
    assert all(0 < first < last for first, last in pairs)
    rows = program.latency_table({"cpu": {}, "gpu": found}).rows
    assert [row[:2] for row in rows] == [["gpu", features], ["gpu", logits]]


def test_transfers_and_link(bench):
    flow_load, _, gpu = bench
    case = flow_load.CASES[0]
    took = gpu.transfers(flow_load.Load(case, FLOWS), case, RUNS)
    assert len(took.values) == RUNS and min(took.values) > 0
    assert gpu.link_bytes_a_second() > 0


def test_what_there_is_no_time_for_is_not_measured(bench):
    _, program, _ = bench
    begun = []

    def one(load, case):
        begun.append((case.name, load.flows))
        return {}

    program.measured([4, 2], 60, one)
    assert begun[:3] == [("[10,1000]", 4), ("[10,1000]", 2), ("[5,500]", 4)] and len(begun) == 10
    results, sizes = program.measured([4, 2], 0, one)
    assert len(begun) == 10
    table = program.speed_table(results, sizes, (1,), None)
    assert [row[:2] for row in table.rows[:3]] == [
        ["[5,500]", "2"],
        ["[5,500]", "4"],
        ["[10,500]", "2"],
    ]
    assert {cell for row in table.rows for cell in row[2:]} == {program.NOT_MEASURED}
    assert [goal.met for goal in program.goals(results, sizes, 1e9)] == [None] * 3
