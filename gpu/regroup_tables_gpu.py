"""What regrouping keeps on a GPU, and the room for a batch and for rows that come out."""

import numpy as np

from etcpipe.batch import FlowBatch, PacketBatch
from etcpipe.columns import DTYPES
from etcpipe.gpu.cuda import Columns, Device, DeviceArray, Record
from etcpipe.gpu.cuda_frames import Frames
from etcpipe.gpu.cuda_source import CONSTANTS, RECORDS
from etcpipe.gpu.mask import MASKS
from etcpipe.gpu.regroup import Settings
from etcpipe.layout import FLOW_KEY, PACKET_FIELDS

BATCH_MAX = CONSTANTS["BATCH_MAX"]
ROW_NONE = CONSTANTS["ROW_NONE"]
# Rows and bytes that one gather hands over.
GATHER_ROWS = 4096
GATHER_BYTES = 64 << 20


class Tables:
    """What stays on the device between batches."""

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
        """Return the rows that regroup_idle() found and their last times, oldest first."""
        touched, last_ns, rows = (array.read(n) for array in self._found.values())
        order = np.argsort(touched)
        return rows[order], last_ns[order]


class Batch:
    """Room for one batch's columns and for what becomes of its packets."""

    def __init__(self, device: Device):
        self._frames = Frames(device)
        kinds = {name: (dtype, ()) for name, dtype in DTYPES.items()}
        self._columns = Columns(device, BATCH_MAX, kinds)
        self.record = Record(
            device,
            "regroup_batch",
            parsed=DeviceArray(device, (BATCH_MAX, CONSTANTS["PARSED_SIZE"]), np.uint8),
            place_row=DeviceArray(device, BATCH_MAX, np.uint32),
            place_ranks=DeviceArray(device, BATCH_MAX, np.uint64),
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
            **self._columns.addresses(end - start),
        )

    def flow_ids(self, n: int) -> np.ndarray:
        """Return the column as the device has it."""
        return self._columns.read(n)["flow_id"]


class Output:
    """Room for the rows that come out.

    Attributes:
        addresses: of the columns of the rows that were chosen last, by name.
    """

    def __init__(self, device: Device, settings: Settings):
        first_n = settings.first_n
        row_bytes = first_n * (settings.raw_len + PACKET_FIELDS.itemsize)
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
                # the last, so that a copy of the others leaves it out
                "raw": (np.uint8, (first_n, settings.raw_len)),
            },
        )
        self._no_raw = (first_n, 0)
        self.addresses: dict[str, int] = {}
        self._rows = DeviceArray(device, self._room, np.uint32)
        self._why = DeviceArray(device, self._room, np.uint8)
        self.record = Record(device, "row_output", row=self._rows, why=self._why)

    def parts(self, rows: int) -> list[slice]:
        """Return how many rows are handed over in pieces that there is room for."""
        return [slice(at, min(at + self._room, rows)) for at in range(0, rows, self._room)]

    def choose(self, rows: np.ndarray, why: np.ndarray | None = None) -> None:
        """Name the rows that the next kernel is for, and why they are closed."""
        self._rows.write(rows)
        if why is not None:
            self._why.write(why)
        self.addresses = self._columns.addresses(len(rows))
        self.record.write(rows=len(rows), **self.addresses)

    def read(self, n: int, with_raw: bool) -> FlowBatch:
        if with_raw:
            return FlowBatch(**self._columns.read(n))
        no_raw = np.zeros((n, *self._no_raw), np.uint8)
        return FlowBatch(**self._columns.read(n, before="raw"), raw=no_raw)
