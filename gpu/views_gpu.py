"""The views on a GPU: the host's side of gpu/views.cu.

Rows that the GPU regrouped are there already; those of another FlowBatch are copied to it. The
result stays on the device for a model, or is read back in the form of views.compute().
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import prod

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.gpu.cuda import Columns, Device, DeviceArray, Record, launch
from etcpipe.gpu.features_cpu import LOG2
from etcpipe.gpu.features_native import plan_of
from etcpipe.gpu.views import View
from etcpipe.layout import FLOW_KEY, PACKET_FIELDS

ROWS_MAX = 4096  # flows in one call of a kernel
# The kernel that computes each view.
KERNELS = {
    "stats": "view_columns",
    "features": "view_columns",
    "seq": "view_seq",
    "raw": "view_raw",
    "raw1500": "view_raw",
    "packet": "view_raw",
    "image": "view_image",
    "tok": "view_tok",
    "bits": "view_bits",
}
INPUTS = ("key", "initiator", "packets", "raw")


class ViewComputer:
    """Computes one view of rows with first_n packets and raw_len bytes each.

    Args:
        columns: for stats and features, the columns wanted and their order; None for those
            that the strict mask leaves.

    Attributes:
        rows: DeviceArray (ROWS_MAX, ...) of the view's shape and dtype; the first ones are
            those of the last call.

    Raises:
        ValueError: depth below 1, an unknown column, or flows without the bytes for the view.
    """

    def __init__(
        self,
        device: Device,
        view: View,
        first_n: int,
        raw_len: int,
        depth: int,
        columns: Sequence[str] | None = None,
    ):
        if depth < 1:
            raise ValueError(f"depth is {depth}, a view needs at least one packet")
        if raw_len < view.raw_len:
            needed = f"{view.name} needs {view.raw_len}"
            raise ValueError(f"the flows keep {raw_len} bytes a packet, {needed}")
        names = view.chosen(columns) if view.is_choice else ()
        shape = (len(names),) if names else view.shape
        self._device = device
        self._kernel = KERNELS[view.name]
        self._first_n, self._raw_len = first_n, raw_len if view.raw_len else 0
        self.rows = DeviceArray(device, (ROWS_MAX, *shape), view.dtype)
        self._row_bytes = prod(shape) * self.rows.dtype.itemsize
        self._output = Record(
            device,
            "view_output",
            plan=_plan(device, names, depth).address if names else 0,
            ranks=shape[0],
            columns=shape[-1],
            raw_len=view.raw_len,
        )
        self._input = Record(device, "view_input", first_n=first_n, raw_len=raw_len, depth=depth)

    @cached_property
    def _columns(self) -> Columns:
        """Buffers for flows from the host; as large as the rows, so made only if needed."""
        return Columns(self._device, ROWS_MAX, self._kinds())

    def _kinds(self) -> dict[str, tuple[type | np.dtype, tuple[int, ...]]]:
        return {
            "key": (FLOW_KEY, ()),
            "initiator": (np.uint8, ()),
            "packets": (PACKET_FIELDS, (self._first_n,)),
            "raw": (np.uint8, (self._first_n, self._raw_len)),
        }

    def compute(self, flows: FlowBatch) -> np.ndarray:
        """Return the rows of the view, as views.compute() does."""
        parts = [self._part(flows, start) for start in range(0, len(flows), ROWS_MAX)]
        return np.concatenate(parts) if parts else self.rows.read(0)

    def run(self, flows: int, addresses: Mapping[str, int], first: int = 0) -> None:
        """Compute the rows of flows whose columns are on the device.

        Args:
            addresses: of the INPUTS, by name; raw is needed for views of bytes only.
            first: where in rows the first one goes; first + flows is at most ROWS_MAX.
        """
        places = {name: addresses[name] for name in INPUTS if name in addresses}
        self._input.write(flows=flows, **places)
        self._output.write(rows=self.rows.address + first * self._row_bytes)
        launch(
            self._device,
            self._kernel,
            self._device.processors,
            self._input,
            self._output,
        )

    def _part(self, flows: FlowBatch, start: int) -> np.ndarray:
        part = flows.select(slice(start, start + ROWS_MAX))
        columns = {name: getattr(part, name) for name in self._kinds()}
        columns["raw"] = columns["raw"][:, :, : self._raw_len]
        self._columns.write(len(part), columns)
        self.run(len(part), self._columns.addresses(len(part)))
        return self.rows.read(len(part))


def _plan(device: Device, names: tuple[str, ...], depth: int) -> Record:
    """Return the plan of features_native, on the device."""
    plan = plan_of(names)
    return Record(
        device,
        "feature_plan",
        lanes=_copied(device, plan.lanes),
        columns=_copied(device, plan.values),
        log2=_copied(device, LOG2),
        n_lanes=len(plan.lanes),
        n_columns=len(plan.values),
        parts=plan.parts,
        depth=depth,
    )


def _copied(device: Device, values: np.ndarray) -> DeviceArray:
    array = DeviceArray(device, len(values), values.dtype)
    array.write(values)
    return array
