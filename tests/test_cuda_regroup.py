"""The cases of test_regroup.py, by the kernels."""

import pytest
from cuda_device import ON, device

pytest.register_assert_rewrite("test_regroup")
from test_regroup import *  # noqa: E402, F403

pytestmark = pytest.mark.parametrize("device", ["gpu"])


@pytest.fixture(autouse=True, params=ON)
def _compute(request, monkeypatch):
    monkeypatch.setattr("etcpipe.gpu.cuda_cupy.CupyDevice", lambda: device(request.param))
