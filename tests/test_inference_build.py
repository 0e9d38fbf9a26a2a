"""TensorRT for RTX really builds plans of networks here: its builder needs no GPU."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
from trt_stub import building

from etcpipe.errors import EngineError
from etcpipe.gpu import cuda_device
from etcpipe.gpu.plan_cache import PlanCache
from etcpipe.gpu.tensorrt_plan import Profile
from etcpipe.gpu.views import VIEWS, schema_hash
from etcpipe.model import find, list_shipped
from etcpipe.model_file import Description
from etcpipe.zoo import ARCHS

pytest.importorskip("tensorrt_rtx_bindings", reason="needs etcpipe[gpu-test]")
networks = pytest.importorskip("networks", reason="making models needs etcpipe[train]")

# Of a network in two forms, that for GPU engines; trees run on the CPU.
NO_TREES = [
    path
    for path in list_shipped()
    if b"TreeEnsemble" not in path.read_bytes() and not path.with_suffix(".gpu.onnx").exists()
]
MODELS = {**networks.NETWORKS, **{path.stem: path.read_bytes for path in NO_TREES}}
# Others of the zoo have the same graph in another size.
SAME = ("_small", "_base", "_1000", "dense_total_tiny")
# Scores of its attention within packets need more than a plan's workspace: ONNX Runtime runs it.
LARGE = ("yatc",)


@pytest.fixture(scope="module")
def in_a_process():
    """Return a function that calls another one in a process of its own, the same each time."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        yield lambda function, *arguments: process.submit(function, *arguments).result(120)


@pytest.fixture
def plan_size(in_a_process):
    """Return a function that builds a plan and returns its size."""
    return lambda model, profile=Profile(): in_a_process(building.plan_size, model, profile)  # noqa: B008


@pytest.mark.parametrize("name", MODELS)
def test_a_plan_is_built(plan_size, name):
    assert plan_size(MODELS[name]()) > 10_000


@pytest.mark.parametrize("name", [name for name in ARCHS if not name.endswith(SAME + LARGE)])
def test_a_plan_is_built_of_the_zoo(plan_size, name):
    pytest.importorskip("torch", reason="needs etcpipe[torch]")
    from etcpipe.training.network_export import to_onnx

    arch = ARCHS[name]
    schema = schema_hash(VIEWS[arch.view], arch.first_n)
    description = Description(name, tuple("abcde"), arch.view, (), schema, arch.first_n)
    network = arch.build(len(description.classes))
    for layer in network.modules():
        if hasattr(layer, "dispatch"):
            layer.dispatch = "static"  # tokens to experts by shapes that are known beforehand
    assert plan_size(to_onnx(network, description)) > 10_000


def test_a_plan_is_built_for_the_profile(plan_size):
    """The builder sees the shapes: one that makes no sense is refused."""
    with pytest.raises(EngineError, match="cannot build the model"):
        plan_size(networks.mlp(), Profile(min=64, opt=8, max=4))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: find(None).read_bytes(), "cannot read the model: node 0"),
        (lambda: b"not a model", "cannot read the model"),
        (lambda: networks.mlp()[:2000], "cannot read the model"),
    ],
    ids=["trees", "text", "cut"],
)
def test_what_it_cannot_read_is_an_error_of_ours(plan_size, model, reason):
    with pytest.raises(EngineError, match=reason):
        plan_size(model())


def test_only_the_batch_may_be_of_any_size(plan_size):
    import onnx

    model = onnx.load_from_string(networks.mlp())
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "columns"
    with pytest.raises(EngineError, match="only the batch may be of any size"):
        plan_size(model.SerializeToString())


def test_a_gpu_that_refuses_a_real_plan_leaves_it_to_the_cpu(monkeypatch, tmp_path):
    """The real runtime, told that there is a GPU where there is none."""
    if cuda_device.is_present():
        pytest.skip("there is a GPU here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # the process inherits it
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        run = process.submit(building.run_where_no_gpu_is, networks.mlp())
        refused, device, lines = run.result(120)
    assert refused.startswith("NVIDIA Nowhere does not take the plan: ")
    assert device == "cpu" and any("the model runs on the CPU: " in line for line in lines)
    assert not PlanCache().folder.exists()  # a plan that does not load is not kept
