"""The views on a GPU: the host's side of gpu/views.cu.

Rows that a GPU regrouped lie there already; those of another FlowBatch are copied. The result
stays on the device for a model, or is read back as views.compute() returns it.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import prod

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.gpu.cuda import Columns, Device, DeviceArray, Record, launch
from etcpipe.gpu.views import VIEWS, View
from etcpipe.layout import FLOW_KEY, PACKET_FIELDS

ROWS_MAX = 4096  # flows of one call of a kernel
# The kernel that computes each view; of the others there is none.
KERNELS = {
    "stats": "view_stats",
    "seq": "view_seq",
    "raw": "view_raw",
    "raw1500": "view_raw",
    "packet": "view_raw",
}
INPUTS = ("key", "initiator", "packets", "raw")
_PLACES = {column.name: i for i, column in enumerate(VIEWS["stats"].columns)}


def has_kernel(view: View) -> bool:
    """Return whether a view can be computed on a GPU."""
    return view.name in KERNELS


class ViewComputer:
    """Computes one view of rows with first_n packets and raw_len bytes each.

    Args:
        columns: for stats, the columns wanted and their order; None for those that the
            strict mask leaves.

    Attributes:
        rows: DeviceArray (ROWS_MAX, ...) of the view's shape and dtype; the first ones are
            those of the last call.

    Raises:
        ValueError: depth below 1, an unknown column, flows without the bytes for the view, or
            a view that has no kernel.
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
        if not has_kernel(view):
            raise ValueError(f"the view {view.name} has no kernel: it is computed on the CPU")
        if depth < 1:
            raise ValueError(f"depth is {depth}, a view needs at least one packet")
        if raw_len < view.raw_len:
            needed = f"{view.name} needs {view.raw_len}"
            raise ValueError(f"the flows keep {raw_len} bytes a packet, {needed}")
        names = view.column_names() if columns is None else tuple(columns)
        unknown = set(names) - {column.name for column in view.columns}
        if view.name == "stats" and unknown:
            raise ValueError(f"no such stats column: {', '.join(sorted(unknown))}")
        shape = (len(names),) if view.name == "stats" else view.shape
        self._device = device
        self._kernel = KERNELS[view.name]
        self._first_n, self._raw_len = first_n, raw_len if view.raw_len else 0
        self.rows = DeviceArray(device, (ROWS_MAX, *shape), view.dtype)
        self._row_bytes = prod(shape) * self.rows.dtype.itemsize
        chosen = DeviceArray(device, len(_PLACES), np.uint8)
        if view.name == "stats":
            chosen.write(np.array([_PLACES[name] for name in names], np.uint8))
        self._output = Record(
            device, "view_output", rows=self.rows, chosen=chosen, ranks=shape[0], columns=shape[-1]
        )
        self._input = Record(device, "view_input", first_n=first_n, raw_len=raw_len, depth=depth)

    @cached_property
    def _columns(self) -> Columns:
        """Room for flows of the host: as much as for the rows, so only where there are any."""
        return Columns(self._device, ROWS_MAX, self._kinds())

    def _kinds(self) -> dict[str, tuple[type | np.dtype, tuple[int, ...]]]:
        return {
            "key": (FLOW_KEY, ()),
            "initiator": (np.uint8, ()),
            "packets": (PACKET_FIELDS, (self._first_n,)),
            "raw": (np.uint8, (self._first_n, self._raw_len)),
        }

    def compute(self, flows: FlowBatch) -> np.ndarray:
        """Return the rows of a view, one a flow, as views.compute() does."""
        parts = [self._part(flows, start) for start in range(0, len(flows), ROWS_MAX)]
        return np.concatenate(parts) if parts else self.rows.read(0)

    def run(self, flows: int, addresses: Mapping[str, int], first: int = 0) -> None:
        """Compute rows of flows whose columns are on the device.

        Args:
            addresses: of the INPUTS, by name; raw for views of bytes only.
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
