"""Networks as model files: one ONNX graph with the description inside."""

import io
import warnings
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from etcpipe.gpu.views import VIEWS
from etcpipe.model_file import DESCRIPTION_KEY, DIGEST_KEY, NO_DIGEST, Description, seal

# Every engine reads it: ONNX Runtime from 1.12, TensorRT from 8.5 on.
OPSET = 17


class _FloatFirst(nn.Module):
    """A network whose first step makes bytes numbers: TensorRT takes them nowhere else."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.module(rows.float())


def to_onnx(module: nn.Module, description: Description) -> bytes:
    """Return the contents of a model file (see etcpipe.model_file).

    Args:
        module: takes (flows, *shape) rows of the description's view and gives
            (flows, classes) float32; any number of flows, one included.
    """
    view = VIEWS[description.view]
    example = torch.from_numpy(np.zeros((2, *view.shape), view.dtype))
    graph: Any = io.BytesIO()  # any file, though the newest signature names paths only
    with warnings.catch_warnings():
        # The exporter by tracing is called old, but the new one needs a package more, and
        # fixes the number of flows of recurrent layers. Its other warnings are of the same
        # kind; what counts is that the file answers as the network, which train() checks.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _FloatFirst(module).eval(),
            (example,),
            graph,
            opset_version=OPSET,
            input_names=["rows"],
            output_names=["scores"],
            dynamic_axes={"rows": {0: "flows"}, "scores": {0: "flows"}},
            dynamo=False,
        )
    model = onnx.load_from_string(graph.getvalue())
    model.producer_name, model.graph.name = "etcpipe", description.name
    onnx.helper.set_model_props(
        model, {DESCRIPTION_KEY: description.to_json(), DIGEST_KEY: NO_DIGEST}
    )
    onnx.checker.check_model(model)
    return seal(model.SerializeToString())
