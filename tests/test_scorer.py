"""Flows that a GPU regrouped are judged there: the same verdicts, and no row goes to the host."""

import random
import sys

import numpy as np
import pytest
from cuda_shim import ShimDevice
from frames import batch, ether, ipv4, split, udp
from lazy_cuda import LazyCuda
from test_cuda_views import rows
from test_inference_verdicts import file  # noqa: F401  a fixture
from test_regroup_agree import cuts, random_packets

from etcpipe import pipeline
from etcpipe.errors import UnsupportedError
from etcpipe.gpu.cuda import Columns
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.regroup_gpu import Backend
from etcpipe.gpu.scorer_gpu import Scorer
from etcpipe.gpu.staging import StagedDevice
from etcpipe.gpu.views import VIEWS, compute
from etcpipe.gpu.views_gpu import INPUTS, ROWS_MAX, ViewComputer
from etcpipe.layout import DTYPES
from etcpipe.model import load

PACKETS = 400


class Source:
    """Batches of packets, of whose flows nothing else is known."""

    def __init__(self, batches):
        self._batches = batches

    def __iter__(self):
        return iter(self._batches)

    def clock_ns(self):
        return None

    def records(self, flows):
        return np.zeros(len(flows), DTYPES["flow_state"])


def source(seed):
    rng = random.Random(seed)
    return Source(split(random_packets(rng, PACKETS, 60, depth=12), cuts(rng, PACKETS)))


def regroup_for(model):
    return Regroup(
        model.first_n, model.raw_len, slots=64, max_rows=100, wait_s=0.05, device="reference"
    )


def on_gpu(model, seed=None):
    """Return a Regroup by the kernels and the CUDA that it works on."""
    regroup = regroup_for(model)
    cuda = LazyCuda(ShimDevice(), seed)
    regroup._backend = Backend(regroup.settings, StagedDevice(cuda))
    return regroup, cuda


def answers(batches):
    """Return flow, label, second label and packets of each verdict, and the probabilities."""
    columns = [
        (batch.flows.flow_id, batch.label, batch.runner_up, batch.packets_used, batch.wait_ns)
        for batch in batches
    ]
    told = [np.concatenate(column).tolist() for column in zip(*columns, strict=True)]
    return told, np.concatenate([batch.probability for batch in batches])


@pytest.mark.parametrize("seed, rows_min", [(None, 1), (1, 30), (None, pipeline.ROWS_MAX)])
def test_verdicts_are_those_of_the_cpu(gpu, file, seed, rows_min):  # noqa: F811
    on_cpu = load(file)
    expected = answers(list(pipeline.run(source(1), regroup_for(on_cpu), on_cpu)))
    model = load(file, device="gpu")
    regroup, _ = on_gpu(model, seed)
    got = answers(list(pipeline.run(source(1), regroup, model, rows_min)))
    assert len(expected[1]) > 60 and len(set(expected[0][1])) > 1
    assert got[0] == expected[0]
    np.testing.assert_allclose(got[1], expected[1], atol=1e-3)
    assert not regroup._backend._outputs.scorer._scores


def test_nothing_may_be_left_at_the_end(gpu, file):  # noqa: F811
    frame = ether(ipv4(17, udp(b"x" * 100)))
    model = load(file, device="gpu")
    packets = batch([{"frame": frame, "flow_id": 1, "rank": rank} for rank in range(model.first_n)])
    regroup, _ = on_gpu(model)
    (verdict,) = pipeline.run(Source([packets]), regroup, model, pipeline.ROWS_MAX)
    assert verdict.flows.flow_id.tolist() == [1]


def from_device(cuda):
    """Return the bytes that were copied to the host."""
    return sum(size for _, to, _, size in cuda.calls_of("copy") if cuda.is_pinned(to, size))


def test_no_row_goes_to_the_host_and_none_comes_back(gpu, file, monkeypatch):  # noqa: F811
    on_cpu = load(file)
    regroup, cuda = on_gpu(on_cpu)
    flows = [batch.flows for batch in pipeline.run(source(2), regroup, on_cpu)]
    bytes_of_rows = sum(batch.raw.nbytes for batch in flows)
    assert all(batch.raw.shape[2] == on_cpu.raw_len for batch in flows)

    model = load(file, device="gpu")
    monkeypatch.delattr(sys.modules["cupy"].Array, "set")  # how rows of the host come there
    regroup, there = on_gpu(model)
    verdicts = list(pipeline.run(source(2), regroup, model))
    scores = sum(map(len, verdicts)) * len(model.classes) * 4
    assert scores > 60 * 4
    assert from_device(there) == from_device(cuda) - bytes_of_rows + scores
    assert all(batch.flows.raw.shape[2] == 0 for batch in verdicts)


def test_an_engine_that_fails_is_followed_by_the_cpu(gpu, file, caplog):  # noqa: F811
    expected = answers(list(pipeline.run(source(3), regroup_for(load(file)), load(file))))
    model = load(file, device="gpu")
    regroup, _ = on_gpu(model)
    verdicts = pipeline.run(source(3), regroup, model)
    got = [next(verdicts)]
    gpu.failing.add("execute")
    got += verdicts
    assert "goes on on the CPU" in caplog.text and model.device == "cpu"
    told, probability = answers(got)
    assert told == expected[0]
    np.testing.assert_allclose(probability, expected[1], atol=1e-3)


class Sums:
    """A runner whose one score is the sum of a row, when the stream comes to it."""

    def infer_device(self, rows, stream):
        scores = sys.modules["cupy"].empty((len(rows), 1), np.float32)

        def work():
            scores[:, 0] = np.asarray(rows).sum(axis=(1, 2))

        stream.enqueue(work)
        return scores


def test_more_flows_may_wait_than_there_are_rows(gpu):
    flows = rows(4, 2)
    device, n = StagedDevice(LazyCuda(ShimDevice())), ROWS_MAX // 2 - 100
    many = flows.select(np.arange(3 * n) % len(flows))
    scorer = Scorer(device, ViewComputer(device, VIEWS["seq"], 2, 0, 2), Sums())
    kinds = {name: (getattr(many, name).dtype, getattr(many, name).shape[1:]) for name in INPUTS}
    columns = Columns(device, n, kinds)
    for start in range(0, 3 * n, n):
        part = many.select(slice(start, start + n))
        columns.write(n, {name: getattr(part, name) for name in INPUTS})
        scorer.put(n, columns.addresses(n))  # and the next ones lie in the same place
    got = np.concatenate([scorer.take(70), scorer.take(3 * n - 70)])
    expected = compute(VIEWS["seq"], many, 2).sum(axis=(1, 2))
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="1 flows asked for, 0 are there"):
        scorer.take(1)


def test_without_memory_for_rows_they_take_the_way_through_the_host(gpu, file, caplog):  # noqa: F811
    class Full(ShimDevice):
        room = None

        def allocate(self, size):
            if self.room is not None and size > self.room:
                raise UnsupportedError(f"the GPU has no {size} bytes left")
            return super().allocate(size)

    model, device = load(file, device="gpu"), Full()
    regroup = regroup_for(model)
    regroup._backend = Backend(regroup.settings, StagedDevice(LazyCuda(device)))
    device.room = 1 << 16
    verdicts = list(pipeline.run(source(4), regroup, model))
    assert "through the host: the GPU has no " in caplog.text
    assert sum(map(len, verdicts)) > 60
    assert all(batch.flows.raw.shape[2] == model.raw_len for batch in verdicts)


def test_flows_regrouped_by_the_cpu_are_judged_from_the_host(gpu, file):  # noqa: F811
    model = load(file, device="gpu")
    assert model.scorer(regroup_for(model)) is None
