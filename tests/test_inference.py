"""The runner: batches of any size, one answer a row, errors as errors."""

import numpy as np
import pytest

from etcpipe.errors import ModelError
from etcpipe.gpu.inference import open_runner
from etcpipe.model import find, load


@pytest.fixture(scope="module")
def runner():
    return open_runner(find(None).read_bytes())


@pytest.fixture(scope="module")
def rows(runner):
    rng = np.random.default_rng(1)
    return rng.normal(500, 400, (1025, *runner.input_shape)).astype(np.float32)


@pytest.mark.parametrize("flows", [0, 1, 2, 1023, 1024, 1025])
def test_a_row_has_the_same_scores_in_any_batch(runner, rows, flows):
    scores = runner.infer(rows[:flows])
    assert scores.shape == (flows, len(load().classes)) and scores.dtype == np.float32
    alone = [runner.infer(rows[i : i + 1])[0] for i in range(0, flows, 100)]
    np.testing.assert_allclose(scores[::100], np.reshape(alone, scores[::100].shape), rtol=1e-5)


def test_no_rows_are_no_error_for_a_recurrent_network():
    torch = pytest.importorskip("torch", reason="networks need etcpipe[torch]")
    from etcpipe.gpu.views import VIEWS, schema_hash
    from etcpipe.model_file import Description
    from etcpipe.training.network_export import to_onnx
    from etcpipe.zoo import ARCHS

    arch = ARCHS["bilstm_att"]
    torch.manual_seed(1)
    schema = schema_hash(VIEWS[arch.view], arch.first_n)
    about = Description("net", ("a", "b"), arch.view, (), schema, arch.first_n)
    recurrent = open_runner(to_onnx(arch.build(2).eval(), about))
    rows = np.zeros((0, *recurrent.input_shape), recurrent.input_dtype)
    assert recurrent.infer(rows).shape == (0, 2)


def test_rows_of_another_shape_are_an_error(runner, rows):
    with pytest.raises(ModelError, match="inference failed"):
        runner.infer(rows[:, :3])


def test_several_threads_give_the_same_scores(runner, rows):
    other = open_runner(find(None).read_bytes(), threads=2)
    np.testing.assert_allclose(other.infer(rows), runner.infer(rows), rtol=1e-5, atol=1e-5)
