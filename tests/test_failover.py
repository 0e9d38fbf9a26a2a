"""A GPU that fails in the middle of its work: the CPU goes on, and every packet is counted once."""

import numpy as np
import pytest
from cuda_shim import ShimDevice
from frames import rows_of
from lazy_cuda import LazyCuda
from test_cuda_ahead import FakeRing, batches, regroup_on, tap_source, while_there_are_packets
from test_inference_verdicts import file  # noqa: F401  a fixture
from test_scorer import regroup_for, source

from etcpipe import pipeline
from etcpipe.errors import DeviceLostError
from etcpipe.gpu import regroup_failover, regroup_gpu
from etcpipe.gpu.regroup_failover import GPU_LOST
from etcpipe.gpu.staging import StagedDevice
from etcpipe.model import load

PACKETS_BY_OUTCOME = (
    "REGROUP_STORED",
    "REGROUP_DUPLICATES",
    "REGROUP_LATE",
    "REGROUP_STRAGGLERS",
    "REGROUP_BEYOND",
    "REGROUP_UNPARSED",
)


class FailingCuda(LazyCuda):
    """Fails at the n-th wait or copy from `fails_at` on, as all its streams then do."""

    def __init__(self, fails_at: int | None = None):
        self.left = [fails_at]  # shared with its branches
        super().__init__(ShimDevice())

    def copy(self, to, source, size):
        self._fail_if_it_is_time()
        super().copy(to, source, size)

    def wait(self, event):
        self._fail_if_it_is_time()
        super().wait(event)

    def launch(self, *launch):
        self._fail_if_it_is_time(0)
        super().launch(*launch)

    def _fail_if_it_is_time(self, step=1):
        if self.left[0] is not None:
            self.left[0] -= step
            if self.left[0] < 0:
                raise DeviceLostError("the GPU failed: cudaErrorECCUncorrectable")


def failing(regroup, fails_at=None):
    """Let a Regroup work on a GPU that fails, and return that one's CUDA."""
    cuda = FailingCuda()
    on_gpu = regroup_gpu.Backend(regroup.settings, StagedDevice(cuda))
    regroup._backend = regroup_failover.Backend(regroup.settings, on_gpu)
    cuda.left[0] = fails_at
    return cuda


def calls_until_the_end() -> int:
    regroup, ring = regroup_on(None), FakeRing(batches(3), [])
    cuda = failing(regroup, 1_000_000)
    for _ in pipeline.completed(tap_source(ring, while_there_are_packets(ring)), regroup):
        pass
    return 1_000_000 - cuda.left[0]


def run(fails_at: int):
    """Return the rows that came out, those at the end, the regroup, and the ring."""
    regroup, ring = regroup_on(None), FakeRing(batches(3), [])
    failing(regroup, fails_at)
    source = tap_source(ring, while_there_are_packets(ring))
    rows = [row for flows in pipeline.completed(source, regroup) for row in rows_of([flows])]
    return rows, rows_of([regroup.flush()]), regroup, ring


def test_wherever_it_fails_packets_and_rows_are_counted_once(caplog):
    expected = regroup_on(None)
    before = [row for part in batches(3) for row in rows_of([expected.add(part)])]
    calls = calls_until_the_end()
    assert calls > 100
    for fails_at in range(0, calls, 11):
        caplog.clear()
        rows, rest, regroup, ring = run(fails_at)
        counters = regroup.counters
        assert sum(counters[name] for name in PACKETS_BY_OUTCOME) == sum(map(len, batches(3)))
        assert len(rows) + len(rest) + counters[GPU_LOST] == counters["REGROUP_FLOWS"]
        assert not ring.out and not ring.waiting
        assert caplog.text.count("on the CPU from now on: the GPU failed: cudaErrorECC") == 1
        assert 0 <= counters[GPU_LOST] <= 64 + len(before)
        assert regroup.pending == 0


def test_what_came_before_is_what_would_have_come():
    expected = regroup_on(None)
    before = [row for part in batches(3) for row in rows_of([expected.add(part)])]
    rows, *_ = run(calls_until_the_end() // 2)
    same = [got == wanted for got, wanted in zip(rows, before, strict=False)]
    assert 10 < same.index(False) < len(before)


def test_a_gpu_that_does_not_fail_loses_nothing():
    rows, rest, regroup, _ = run(1_000_000)
    expected = regroup_on(None)
    assert rows == [row for part in batches(3) for row in rows_of([expected.add(part)])]
    assert rest == rows_of([expected.flush()])
    assert regroup.counters == {**expected.counters, GPU_LOST: 0}


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_each_row_is_answered_once_and_without_scores_it_is_unknown(gpu, file, share):  # noqa: F811
    calls = None
    for fails_at in (1_000_000, None):
        model = load(file, device="gpu")
        regroup = regroup_for(model)
        cuda = failing(regroup, fails_at or round(calls * share))
        if fails_at is None:
            gpu.failing.add("execute")  # the model's engine is gone with the rest
        verdicts = list(pipeline.run(source(1), regroup, model))
        calls = calls or 1_000_000 - cuda.left[0]
    counters = regroup.counters
    assert sum(map(len, verdicts)) + counters[GPU_LOST] == counters["REGROUP_FLOWS"]
    assert cuda.left[0] < 0 and model.device == "cpu"
    known = np.concatenate([batch.label >= 0 for batch in verdicts])
    assert known.any()
    for batch in verdicts:
        assert np.isfinite(batch.probability).all()
        assert (batch.probability[batch.label < 0] >= 0).all()


def test_without_anybody_who_goes_on_the_failure_is_told():
    regroup = regroup_on(None)
    cuda = FailingCuda()
    regroup._backend = regroup_gpu.Backend(regroup.settings, StagedDevice(cuda))
    cuda.left[0] = 0
    with pytest.raises(DeviceLostError, match="the GPU failed"):
        regroup.add(batches(3)[0])
