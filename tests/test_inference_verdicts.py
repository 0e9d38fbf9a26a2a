"""classify and attach with --device: verdicts do not depend on where they were computed."""

import numpy as np
import pytest
from command import LAB, fails, run

from etcpipe import offline
from etcpipe.gpu import cuda_device, regroup
from etcpipe.gpu.views import VIEWS, schema_hash
from etcpipe.model import load
from etcpipe.model_file import DESCRIPTION_KEY, DIGEST_KEY, NO_DIGEST, Description, seal

networks = pytest.importorskip("networks", reason="making models needs etcpipe[train]")

CAPTURE = LAB / "lab-1.pcap"
FIRST_N = {"stats": 10, "seq": 30, "raw": 10}


def sealed(network: bytes, view: str, columns: tuple[str, ...] = ()) -> bytes:
    """Return a network as a model file of etcpipe."""
    import onnx

    schema = schema_hash(VIEWS[view], FIRST_N[view], "strict", columns or None)
    description = Description(
        name="network",
        classes=tuple(f"class{i}" for i in range(networks.CLASSES)),
        view=view,
        columns=columns,
        schema_hash=schema,
        first_n=FIRST_N[view],
        temperature=1.5,
        threshold=0.3,
    )
    model = onnx.load_from_string(network)
    metadata = {DESCRIPTION_KEY: description.to_json(), DIGEST_KEY: NO_DIGEST}
    onnx.helper.set_model_props(model, metadata)
    return seal(model.SerializeToString())


@pytest.fixture(params=["raw", "seq", "stats"])
def file(request, tmp_path):
    """A model file of a network for each view."""
    columns = VIEWS["stats"].column_names()
    network = {
        "raw": networks.cnn,
        "seq": networks.transformer,
        "stats": lambda: networks.mlp(len(columns)),
    }[request.param]()
    path = tmp_path / "network.onnx"
    path.write_bytes(sealed(network, request.param, columns if request.param == "stats" else ()))
    return path


def verdicts(file, device):
    """Return the label, the probability and the second label of each flow, by its key."""
    with offline.classify(CAPTURE, file, device=device) as flows:
        found = {
            (batch.flows.key[i].tobytes(), int(batch.flows.flow_id[i])): (
                batch.label[i],
                batch.probability[i],
                batch.runner_up[i],
            )
            for batch in flows
            for i in range(len(batch.label))
        }
        return flows.model, found


@pytest.mark.parametrize("device", ["auto", "gpu"])
def test_verdicts_of_the_gpu_are_those_of_the_cpu(gpu, monkeypatch, file, device):
    monkeypatch.setitem(regroup.BACKENDS, "gpu", "regroup_native")
    model, on_gpu = verdicts(file, device)
    assert model.device == "gpu" and model.engine.startswith("tensorrt ")
    model, on_cpu = verdicts(file, "cpu")
    assert model.device == "cpu"
    assert on_gpu.keys() == on_cpu.keys() and len(on_cpu) > 50
    for flow, (label, probability, runner_up) in on_cpu.items():
        assert on_gpu[flow][::2] == (label, runner_up)
        assert on_gpu[flow][1] == pytest.approx(probability, abs=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["auto", "gpu"])
def test_on_hardware_verdicts_are_those_of_the_cpu(file, device):
    _, on_gpu = verdicts(file, device)
    _, on_cpu = verdicts(file, "cpu")
    assert on_gpu.keys() == on_cpu.keys()
    for flow, (label, probability, _) in on_cpu.items():
        assert on_gpu[flow][0] == label
        assert on_gpu[flow][1] == pytest.approx(probability, abs=1e-3)


def test_auto_regroups_on_the_cpu_where_the_gpu_cannot(gpu, monkeypatch, file, caplog):
    monkeypatch.setitem(regroup.BACKENDS, "gpu", "regroup_of_nobody")
    model, found = verdicts(file, "auto")
    assert model.device == "gpu" and found
    assert "flows are regrouped on the CPU" in caplog.text


def test_the_digest_and_checks_are_the_same_on_any_device(gpu, file):
    assert str(load(file, device="gpu")) == str(load(file))
    np.testing.assert_array_equal(load(file, device="auto").columns, load(file).columns)


needs_no_gpu = pytest.mark.skipif(cuda_device.is_present(), reason="there is a GPU here")


@needs_no_gpu
@pytest.mark.parametrize("verb", [("classify", CAPTURE), ("attach", "lo")])
def test_a_gpu_that_is_not_there_is_said_in_one_line(verb):
    assert fails(*verb, "--device", "gpu", status=5).startswith("no GPU: ")


@needs_no_gpu
def test_auto_without_a_gpu_is_the_cpu(file):
    both = [
        run("classify", CAPTURE, "--all", "-m", file, "--device", device, check=0)
        for device in ("auto", "cpu")
    ]
    assert both[0].stdout == both[1].stdout and both[0].stderr == both[1].stderr == ""
