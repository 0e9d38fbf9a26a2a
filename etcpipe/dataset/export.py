"""A dataset as one Parquet file, for data frames and SQL engines."""

from pathlib import Path

import numpy as np

from etcpipe import runtime
from etcpipe.dataset.payload import KINDS
from etcpipe.dataset.rows import STATS, Dataset
from etcpipe.errors import OutputError, UsageError

GROUP_ROWS = 16384


def to_parquet(dataset: Dataset, path: Path, mask: str = "strict") -> int:
    """Write label, capture, statistics and sequences of each flow; return how many flows.

    Columns: label, capture, host, first (a time), payload, then the statistics that the mask
    leaves by their names, then size, direction and gap as lists of 30. Views of bytes stay in
    the folder: Parquet makes nothing of them.

    Raises:
        UsageError: pyarrow is not installed.
        OutputError: the file cannot be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            f"writing Parquet needs pyarrow: {runtime.remedy_for('parquet')}"
        ) from error
    columns = STATS.column_names(mask)
    part = path.with_name(f".{path.name}.part")
    try:
        writer = None
        for start in range(0, len(dataset), GROUP_ROWS):
            rows = dataset.select(np.arange(start, min(start + GROUP_ROWS, len(dataset))))
            table = pyarrow.table(_columns(rows, columns))
            if writer is None:
                writer = pyarrow.parquet.ParquetWriter(part, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()
            part.rename(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    return len(dataset)


def _columns(rows: Dataset, names: tuple[str, ...]) -> dict[str, object]:
    """Return a column's values by name; what nobody noted is left out."""
    found: dict[str, object] = {
        "label": np.array(rows.classes)[rows.label],
        "capture": np.array(rows.captures)[rows.capture],
    }
    if len(rows.host):
        found["host"] = rows.host
    if len(rows.first_us):
        found["first"] = rows.first_us.astype("datetime64[us]")
    if len(rows.payload):
        found["payload"] = np.array(KINDS)[rows.payload]
    found |= {name: rows.columns((name,))[:, 0] for name in names}
    for i, name in enumerate(("size", "direction", "gap")):
        found[name] = list(np.asarray(rows.seq[:, :, i]))
    return found
