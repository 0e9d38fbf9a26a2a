"""The output of regrouping on a GPU.

Rows are gathered into one of two buffers. From there the model's input is built and the columns are
copied to the host in a second stream, so that the next batch is staged, regrouped and gathered into
the other buffer at the same time.
"""

from collections.abc import Callable

import numpy as np

from etcpipe.batch import FlowBatch, concatenate, rows_of
from etcpipe.gpu.cuda import Columns, Device, DeviceArray, Record, launch
from etcpipe.gpu.regroup import Settings
from etcpipe.gpu.scorer_gpu import Scorer
from etcpipe.layout import FLOW_KEY, PACKET_FIELDS

# Rows and bytes of one gather: as many as a full batch can close.
GATHER_ROWS = 4096
GATHER_BYTES = 16 << 20


class Rows:
    """Rows that were gathered in one go."""

    def __init__(self, wait: Callable[[], FlowBatch]):
        self._wait: Callable[[], FlowBatch] | None = wait
        self._flows: FlowBatch

    def flows(self) -> FlowBatch:
        """Wait until they are on the host, and return them."""
        if self._wait:
            self._flows, self._wait = self._wait(), None
        return self._flows


class Outputs:
    """Two buffers that take turns.

    Attributes:
        branch: of the device, in whose stream rows are judged and copied to the host.
        scorer: judges closed rows, whose bytes then stay on the device; None: none does.
    """

    def __init__(self, device: Device, settings: Settings, table: Record):
        self.branch = device.branch()
        self._device = device
        self._table = table
        self._outputs = [Output(device, settings) for _ in range(2)]
        self._settings = settings
        self.scorer: Scorer | None = None

    def close(self, rows: np.ndarray, why: np.ndarray) -> None:
        """Close open rows, so that they can be gathered."""
        output = self._outputs[0]
        for part in output.parts(len(rows)):
            output.choose(rows[part], why=why[part])
            launch(self._device, "regroup_close", -(-len(rows[part]) // 256), *self._with(output))

    def gather(self, rows: np.ndarray, depth: np.ndarray | None = None) -> list[Rows]:
        """Begin to copy rows to the host: closed ones, which become free, or early ones.

        Args:
            depth: (rows,) uint8, of early rows.
        """
        scorer = self.scorer if depth is None else None
        kernel = "regroup_gather" if depth is None else "regroup_early"
        found = []
        for part in self._outputs[0].parts(len(rows)):
            output = self._outputs[0]
            self._outputs.reverse()
            output.free()
            output.choose(rows[part], depth=None if depth is None else depth[part])
            launch(self._device, kernel, len(rows[part]), *self._with(output))
            self.branch.follow(self._device.mark())
            if scorer:
                scorer.put(len(rows[part]), output.addresses)
            found.append(output.begin(self.branch, len(rows[part]), with_raw=scorer is None))
        return found

    def joined(self, found: list[Rows]) -> FlowBatch:
        """Wait for the rows of several gathers and return them."""
        if found:
            return concatenate([rows.flows() for rows in found])
        return rows_of(0, self._settings.first_n, 0 if self.scorer else self._settings.raw_len)

    def _with(self, output: "Output") -> tuple[Record, Record]:
        return self._table, output.record


class Output:
    """One of the two buffers.

    Attributes:
        addresses: of the columns of the last chosen rows, by name.
    """

    def __init__(self, device: Device, settings: Settings):
        first_n = settings.first_n
        row_bytes = first_n * (settings.raw_len + PACKET_FIELDS.itemsize)
        self._settings = settings
        self._room = max(1, min(GATHER_ROWS, GATHER_BYTES // row_bytes))
        # the columns of a FlowBatch
        self._columns = Columns(
            device,
            self._room,
            {
                "flow_id": (np.uint64, ()),
                "key": (FLOW_KEY, ()),
                "initiator": (np.uint8, ()),
                "vlan": (np.uint16, ()),
                "ifindex": (np.uint32, ()),
                "packets": (PACKET_FIELDS, (first_n,)),
                "lost": (np.uint16, ()),
                "reason": (np.uint8, ()),
                "ready_ns": (np.uint64, ()),
                # last, so that one copy can move all other columns
                "raw": (np.uint8, (first_n, settings.raw_len)),
            },
        )
        self.addresses: dict[str, int] = {}
        self._rows = DeviceArray(device, self._room, np.uint32)
        self._why = DeviceArray(device, self._room, np.uint8)
        self._depth = DeviceArray(device, self._room, np.uint8)
        self.record = Record(device, "row_output", row=self._rows, why=self._why, depth=self._depth)
        self._held: Rows | None = None

    def parts(self, rows: int) -> list[slice]:
        """Return a number of rows as slices for which there is room."""
        return [slice(at, min(at + self._room, rows)) for at in range(0, rows, self._room)]

    def choose(
        self, rows: np.ndarray, why: np.ndarray | None = None, depth: np.ndarray | None = None
    ) -> None:
        """Set the rows for the next kernel, and why they are closed or their depths."""
        self._rows.write(rows)
        if why is not None:
            self._why.write(why)
        if depth is not None:
            self._depth.write(depth)
        self.addresses = self._columns.addresses(len(rows))
        self.record.write(rows=len(rows), **self.addresses)

    def free(self) -> None:
        """Wait until nothing in the buffer is needed any more."""
        if self._held:
            self._held.flows()
            self._held = None

    def begin(self, branch: Device, n: int, with_raw: bool) -> Rows:
        """Begin to copy the first n rows; without raw, their bytes have a length of 0."""
        columns = self._columns.read_later(branch, n, before=None if with_raw else "raw")
        if with_raw:
            self._held = Rows(lambda: FlowBatch(**columns()))
        else:
            no_raw = np.zeros((n, self._settings.first_n, 0), np.uint8)
            self._held = Rows(lambda: FlowBatch(**columns(), raw=no_raw))
        return self._held
