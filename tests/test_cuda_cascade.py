"""A cascade whose flows the kernels regroup, on the shim."""

import pytest
from lazy_cuda import lazy_device

pytest.importorskip("onnx", reason="making models needs etcpipe[train]")
from test_cascade_offline import cascade, verdicts  # noqa: F401  a fixture


def test_a_cascade_answers_as_on_the_cpu(gpu, cascade, monkeypatch):  # noqa: F811
    expected, counters = verdicts(cascade=cascade, device="cpu")
    devices = [lazy_device()]
    monkeypatch.setattr("etcpipe.gpu.cuda_cupy.CupyDevice", devices.pop)
    got, also = verdicts(cascade=cascade, device="gpu")
    assert not devices and len(expected) > 100  # it was asked for, once
    assert [said[0] for said in got.values()] == [said[0] for said in expected.values()]
    assert {name: also[name] for name in counters if name.startswith("CASCADE")} == {
        name: n for name, n in counters.items() if name.startswith("CASCADE")
    }
