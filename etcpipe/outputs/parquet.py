"""Verdicts as an Apache Parquet file, for data frames and SQL engines."""

from dataclasses import fields
from typing import Any, BinaryIO

from etcpipe import runtime
from etcpipe.errors import UsageError
from etcpipe.outputs.columns import Columns

# Rows a group: small groups compress badly and are slow to read.
GROUP_ROWS = 65536

_TYPES = {
    "flow_id": "uint64",
    "src_port": "uint16",
    "dest_port": "uint16",
    "vlan": "uint16",
    "pkts_toserver": "uint32",
    "pkts_toclient": "uint32",
    "bytes_toserver": "uint64",
    "bytes_toclient": "uint64",
    "probability": "float32",
    "stage": "uint8",
    "depth": "uint16",
    "packets_used": "uint16",
    "wait_us": "float64",
    "queue_us": "float64",
    "infer_us": "float64",
    "lost": "uint16",
}
_TIMES = ("timestamp", "start", "end")


class Parquet:
    """Collects rows and writes them in groups. The file is readable once it is closed."""

    def __init__(self, file: BinaryIO):
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise UsageError(
                f"writing Parquet needs pyarrow: {runtime.remedy_for('parquet')}"
            ) from error
        self._arrow: Any = pyarrow
        self._schema = pyarrow.schema(
            [(field.name, self._type(field.name)) for field in fields(Columns)]
        )
        self._writer = pyarrow.parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._batches: list[Any] = []
        self._rows = 0

    def write(self, columns: Columns) -> None:
        """Take one row a flow."""
        arrays = [
            self._arrow.array(getattr(columns, field.name), type=field.type)
            for field in self._schema
        ]
        self._batches.append(self._arrow.record_batch(arrays, schema=self._schema))
        self._rows += len(columns)
        if self._rows >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what was collected, and the file's footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._batches:
            table = self._arrow.Table.from_batches(self._batches)
            self._writer.write_table(table, row_group_size=GROUP_ROWS)
        self._batches, self._rows = [], 0

    def _type(self, name: str) -> Any:
        if name in _TIMES:
            return self._arrow.timestamp("us", tz="UTC")
        return self._arrow.type_for_alias(_TYPES.get(name, "string"))
