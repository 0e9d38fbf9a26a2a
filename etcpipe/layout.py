"""NumPy dtypes and constants read from the shared header bpf/etcpipe.h.

The header is the only place where a record is described. It keeps to a small
subset of C (fixed-width fields, explicit padding, plain enums and #defines),
so that reading it takes a page, and anything outside the subset is an error.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from etcpipe.errors import LayoutError

# Where the headers are. importlib.resources says the same and takes 30 ms to import.
BPF = Path(__file__).parent / "bpf"

SCALARS = {
    "__u8": "u1",
    "__u16": "<u2",
    "__u32": "<u4",
    "__u64": "<u8",
    "__be16": ">u2",
    "__be32": ">u4",
}

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_DEFINE = re.compile(r"^#define\s+(\w+)\s+(\w+)\s*$", re.MULTILINE)
_ENUM = re.compile(r"enum\s+(\w+)\s*\{([^}]*)\}\s*;")
_STRUCT = re.compile(r"struct\s+(\w+)\s*\{([^}]*)\}\s*;")
_FIELD = re.compile(r"(?:struct\s+)?(\w+)\s+(\w+)(?:\[(\w+)\])?")


def read_header(
    text: str,
) -> tuple[dict[str, int], dict[str, tuple[str, ...]], dict[str, np.dtype]]:
    """Return what the shared header defines.

    Args:
        text: C source in the subset described above.

    Returns:
        Constants by name (#define and enum), the names of each enum in order of
        value, and dtypes by struct name.

    Raises:
        LayoutError: a field is not fixed-width, or a struct has implicit padding.
    """
    text = _COMMENT.sub("", text)
    constants = {name: int(value, 0) for name, value in _DEFINE.findall(text) if value[0].isdigit()}
    enums: dict[str, tuple[str, ...]] = {}
    for enum, body in _ENUM.findall(text):
        names = [name.strip() for name in body.split(",") if name.strip()]
        constants |= {name: value for value, name in enumerate(names)}
        enums[enum] = tuple(name for name in names if not name.startswith("N_"))

    dtypes: dict[str, np.dtype] = {}
    for struct, body in _STRUCT.findall(text):
        lines = (line.strip() for line in body.split(";"))
        fields = [_field(struct, line, constants, dtypes) for line in lines if line]
        dtypes[struct] = np.dtype(fields, align=True)
        if dtypes[struct] != np.dtype(fields):
            raise LayoutError(f"struct {struct} has implicit padding; add pad[] fields")
    return constants, enums, dtypes


def _field(
    struct: str, text: str, constants: Mapping[str, int], dtypes: Mapping[str, np.dtype]
) -> tuple:
    match = _FIELD.fullmatch(text)
    if not match:
        raise LayoutError(f"struct {struct}: cannot read field {text!r}")
    kind, name, count = match.groups()
    dtype = SCALARS.get(kind) or dtypes.get(kind)
    if dtype is None:
        raise LayoutError(f"struct {struct}: {kind} {name} is not a fixed-width type")
    if count is None:
        return name, dtype
    return name, dtype, (constants[count] if count in constants else int(count),)


CONSTANTS, ENUMS, DTYPES = read_header((BPF / "etcpipe.h").read_text())
FLOW_KEY = DTYPES["flow_key"]
FLOW_STATE = DTYPES["flow_state"]
TABLE_ENTRY = DTYPES["table_entry"]
FLOW_PLAN = DTYPES["flow_plan"]
FLOW_RECORD = DTYPES["flow_record"]
PACKET_META = DTYPES["packet_meta"]
PACKET_FIELDS = DTYPES["packet_fields"]
PACKET_COUNTERS = ENUMS["packet_counter"]
COUNT_RULES = {name.removeprefix("COUNT_").lower(): i for i, name in enumerate(ENUMS["count_rule"])}
READY_REASONS = tuple(name.removeprefix("READY_").lower() for name in ENUMS["ready_reason"])
_VERDICT = read_header((BPF / "verdict.h").read_text())
VERDICT_CONSTANTS = _VERDICT[0]
ACTION = _VERDICT[2]["action"]
END_REASONS = tuple(name.removeprefix("END_").lower() for name in ENUMS["end_reason"])
