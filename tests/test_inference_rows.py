"""The model reads the very buffer that the kernels wrote the view to."""

import sys

import numpy as np
import pytest
from cuda_device import ON, device
from test_cuda_views import rows

from etcpipe.errors import EngineError
from etcpipe.gpu.inference import GPU_ENGINES, open_runner
from etcpipe.gpu.views import VIEWS, compute
from etcpipe.gpu.views_gpu import ViewComputer

networks = pytest.importorskip("networks", reason="making models needs etcpipe[train]")

COLUMNS = VIEWS["stats"].column_names()
MODELS = {
    "raw": (networks.cnn, 10, 1000),
    "seq": (networks.transformer, 30, 0),
    "stats": (lambda: networks.mlp(len(COLUMNS)), 10, 0),
}


def opened(model, on, request):
    """Return a runner that computes where the view is."""
    if on == "shim":
        request.getfixturevalue("gpu")  # fakes: a device's address is one of the host's
        return open_runner(model, device="tensorrt")
    for engine in GPU_ENGINES:
        try:
            return open_runner(model, device=engine)
        except EngineError:
            continue
    return pytest.skip("no engine takes the model here")


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("name", MODELS)
def test_scores_of_rows_that_never_left_the_device(request, on, name):
    make, first_n, raw_len = MODELS[name]
    flows = rows(3, first_n, raw_len)
    view = VIEWS[name]
    on_cpu = open_runner(make())
    expected = on_cpu.infer(compute(view, flows, first_n))
    runner = opened(make(), on, request)
    cupy = sys.modules["cupy"]
    computer = ViewComputer(device(on), view, first_n, raw_len, first_n)
    for _ in range(3):  # the same buffer again: from graphs where the size has one
        computer.compute(flows)
        there = cupy.asarray(computer.rows)
        assert there.data.ptr == computer.rows.address
        stream = cupy.cuda.Stream(non_blocking=True)
        scores = runner.infer_device(there[: len(flows)], stream)
        stream.synchronize()
        assert len(flows) > 60
        np.testing.assert_allclose(cupy.asnumpy(scores), expected, atol=1e-3, rtol=1e-3)
