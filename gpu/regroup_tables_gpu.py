"""The tables that regrouping keeps on a GPU, and the buffers for a batch."""

import numpy as np

from etcpipe.batch import PacketBatch
from etcpipe.columns import DTYPES
from etcpipe.gpu.cuda import Columns, Device, DeviceArray, Record
from etcpipe.gpu.cuda_frames import Frames
from etcpipe.gpu.cuda_source import CONSTANTS, RECORDS
from etcpipe.gpu.mask import MASKS
from etcpipe.gpu.regroup import Settings
from etcpipe.layout import PACKET_FIELDS

BATCH_MAX = CONSTANTS["BATCH_MAX"]
ROW_NONE = CONSTANTS["ROW_NONE"]


class Tables:
    """The tables, which persist between batches."""

    def __init__(self, device: Device, settings: Settings):
        row_room = settings.max_rows + BATCH_MAX
        cells = (row_room, settings.first_n)
        free_rows = DeviceArray(device, row_room, np.uint32)
        free_rows.write(np.arange(row_room, dtype=np.uint32)[::-1])
        slot_rows = DeviceArray(device, settings.slots, np.uint32)
        slot_rows.write(np.full(settings.slots, ROW_NONE, np.uint32))
        self.state = Record(device, "regroup_state", n_free=row_room)
        self.table = Record(
            device,
            "regroup_table",
            owners=DeviceArray(device, settings.slots, np.uint64),
            slot_rows=slot_rows,
            rows=DeviceArray(device, row_room, RECORDS["row"]),
            packets=DeviceArray(device, cells, PACKET_FIELDS),
            raw=DeviceArray(device, (*cells, settings.raw_len), np.uint8),
            free_rows=free_rows,
            state=self.state.address,
            slots=settings.slots,
            wait_ns=settings.wait_ns,
            first_n=settings.first_n,
            raw_len=settings.raw_len,
            max_rows=settings.max_rows,
            row_room=row_room,
            mask=MASKS.index(settings.mask),
            parse=settings.parse,
        )
        self._found = {
            "touched": DeviceArray(device, row_room, np.uint64),
            "last_ns": DeviceArray(device, row_room, np.uint64),
            "row": DeviceArray(device, row_room, np.uint32),
        }
        self.idle = Record(device, "idle_rows", **self._found)

    def found_rows(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that regroup_idle() found and their last times, the oldest first."""
        touched, last_ns, rows = (array.read(n) for array in self._found.values())
        order = np.argsort(touched)
        return rows[order], last_ns[order]


class Batch:
    """Buffers for the columns of one batch and for the outcome of its packets."""

    def __init__(self, device: Device):
        self._frames = Frames(device)
        kinds = {name: (dtype, ()) for name, dtype in DTYPES.items()}
        self._columns = Columns(device, BATCH_MAX, kinds)
        self._places = Columns(
            device, BATCH_MAX, {"place_row": (np.uint32, ()), "place_ranks": (np.uint64, ())}
        )
        self.record = Record(
            device,
            "regroup_batch",
            parsed=DeviceArray(device, (BATCH_MAX, CONSTANTS["PARSED_SIZE"]), np.uint8),
            **self._places.addresses(BATCH_MAX),
            **self._columns.addresses(BATCH_MAX),
        )

    def write(self, batch: PacketBatch, start: int, end: int, first_number: int) -> None:
        columns = {name: getattr(batch, name)[start:end] for name in DTYPES}
        self._columns.write(end - start, columns)
        self.record.write(
            memory=self._frames.place(batch.memory, columns["offset"], columns["captured"]),
            memory_len=len(batch.memory),
            first_number=first_number,
            packets=end - start,
            link_type=batch.link_type,
            **self._places.addresses(end - start),
            **self._columns.addresses(end - start),
        )

    def flow_ids(self, n: int) -> np.ndarray:
        """Return the column as the device has it."""
        return self._columns.read(n)["flow_id"]

    def places(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (n,) uint32 and (n,) uint64: each packet's row, and a bit for each of its ranks.

        The row of a packet that filled no rank means nothing.
        """
        places = self._places.read(n)
        return places["place_row"], places["place_ranks"]


class Leaving:
    """A buffer for the ids of flows that need no more rows."""

    def __init__(self, device: Device):
        self._flow_id = DeviceArray(device, BATCH_MAX, np.uint64)
        self._record = Record(device, "leaving_flows", flow_id=self._flow_id)

    def write(self, flow_id: np.ndarray) -> Record:
        """Write the ids of at most BATCH_MAX flows."""
        self._flow_id.write(flow_id)
        self._record.write(flows=len(flow_id))
        return self._record
