"""Reads the trees of an ONNX file without the package onnx, which only training needs.

The file is a message of Protocol Buffers: numbered fields, some of which are messages themselves.
Only the fields of a tree ensemble are read; their numbers are those of onnx.proto.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

MODEL_GRAPH, MODEL_METADATA = 7, 14
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 1, 5, 11, 12
METADATA_KEY, METADATA_VALUE = 1, 2
VALUE_TYPE, TYPE_TENSOR, TENSOR_ELEMENT, TENSOR_SHAPE, SIZE_VALUE = 2, 1, 1, 2, 1
ELEMENTS = {1: "float32", 2: "uint8", 3: "int8"}
NODE_OPERATOR, NODE_ATTRIBUTE = 4, 5
ATTRIBUTE_NAME = 1
ATTRIBUTE_FLOATS, ATTRIBUTE_INTS, ATTRIBUTE_STRINGS = 7, 8, 9
TENSOR_NAME, TENSOR_RAW = 8, 9
OPERATOR = "TreeEnsembleRegressor"

# Wire types: how the value of a field is encoded.
_VARINT, _BYTES, _WORD = 0, 2, 5
_SIZES = {1: 8, _WORD: 4}

Attribute = int | bytes | list[bytes] | np.ndarray


class Ensemble(NamedTuple):
    """A graph that ends in the operator TreeEnsembleRegressor.

    Attributes:
        operators: of all nodes, in order.
        attributes: of the trees, by name.
        constants: tensors of int64 by name.
        metadata: the file's metadata, by key.
        input_shape: of one row.
        input_dtype: as NumPy names it.
    """

    operators: tuple[str, ...]
    attributes: dict[str, Attribute]
    constants: dict[str, np.ndarray]
    metadata: dict[str, str]
    input_shape: tuple[int, ...]
    input_dtype: str


def read(contents: bytes) -> Ensemble:
    """Return the tree ensemble in the graph of a file.

    Raises:
        ValueError, IndexError: the file is damaged, or takes or gives other than one tensor.
    """
    model = list(_fields(contents))
    graph = list(_fields(next(iter(_all(model, MODEL_GRAPH)), b"")))
    nodes = _all(graph, GRAPH_NODE)
    operators = tuple(_first(node, NODE_OPERATOR).decode() for node in nodes)
    trees = [node for node, name in zip(nodes, operators, strict=True) if name == OPERATOR]
    inputs, outputs = _all(graph, GRAPH_INPUT), _all(graph, GRAPH_OUTPUT)
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs")
    return Ensemble(
        operators,
        _attributes(trees[-1]) if trees else {},
        {
            _first(one, TENSOR_NAME).decode(): np.frombuffer(_first(one, TENSOR_RAW), "<i8")
            for one in _all(graph, GRAPH_INITIALIZER)
        },
        {
            _first(one, METADATA_KEY).decode(): _first(one, METADATA_VALUE).decode()
            for one in _all(model, MODEL_METADATA)
        },
        *_row_of(inputs[0]),
    )


def _all(fields: list[tuple[int, Any]], wanted: int) -> list[bytes]:
    """Return the values of all fields of a message that have a number."""
    return [value for number, value in fields if number == wanted]


def _attributes(node: bytes) -> dict[str, Attribute]:
    """Return the attributes of a node by name."""
    messages = _all(list(_fields(node)), NODE_ATTRIBUTE)
    return {_first(one, ATTRIBUTE_NAME).decode(): _attribute(one) for one in messages}


def _row_of(value: bytes) -> tuple[tuple[int, ...], str]:
    """Return shape and dtype of one row of an input, whose first dimension counts rows."""
    tensor = _first(_first(value, VALUE_TYPE), TYPE_TENSOR)
    kind = next((one for number, one in _fields(tensor) if number == TENSOR_ELEMENT), 0)
    if kind not in ELEMENTS:
        raise ValueError(f"takes none of {', '.join(ELEMENTS.values())}")
    sizes = [dict(_fields(size)) for _, size in _fields(_first(tensor, TENSOR_SHAPE))]
    return tuple(int(size[SIZE_VALUE]) for size in sizes[1:]), ELEMENTS[kind]


def _attribute(message: bytes) -> Attribute:
    """Return the value of an attribute, of one of the types that tree ensembles use."""
    start = len(_first(message, ATTRIBUTE_NAME)) + 2  # the length of a name takes one byte
    kind, how = divmod(message[start], 8) if start < len(message) else (0, _BYTES)
    if kind == ATTRIBUTE_INTS and how == _VARINT:
        return _varints(message, start)
    if kind == ATTRIBUTE_FLOATS and how == _WORD:
        return _words(message, start).view("<f4")
    if kind == ATTRIBUTE_STRINGS:
        return _texts(message, start)
    return next(value for number, value in _fields(message) if number == kind)


def _words(message: bytes, start: int) -> np.ndarray:
    """Return (values,) uint32 of a repeated 4-byte field that begins at `start`."""
    octets = np.frombuffer(message, np.uint8)[start:]
    is_other = octets[::5] != octets[0]
    ours = int(np.argmax(is_other)) if is_other.any() else len(octets) // 5
    return octets[: 5 * ours].reshape(-1, 5)[:, 1:].copy().view("<u4").ravel()


def _texts(message: bytes, start: int) -> list[bytes]:
    """Return the texts of a repeated field that begins at `start`, each below 128 bytes."""
    tag, at, found = message[start], start, []
    while at < len(message) and message[at] == tag:
        end = at + 2 + message[at + 1]
        found.append(message[at + 2 : end])
        at = end
    return found


def _varints(message: bytes, start: int) -> np.ndarray:
    """Return (values,) int64 of a repeated field that begins at `start`, each below 2**56.

    Vectorised, because reading one value at a time took a tenth of a second per model.
    """
    octets = np.frombuffer(message, np.uint8)[start:]
    ends = np.flatnonzero(octets < 0x80)
    starts = np.append(0, ends[:-1] + 1)
    tags = octets[starts[::2]]
    ours = int(np.argmax(tags != tags[0])) if (tags != tags[0]).any() else len(tags)
    first, size = starts[1 : 2 * ours : 2], (ends - starts + 1)[1 : 2 * ours : 2]
    values = np.zeros(len(first), np.int64)
    for i in range(int(size.max(initial=0))):
        there = i < size
        values[there] |= (octets[first[there] + i].astype(np.int64) & 0x7F) << (7 * i)
    return values


def _first(message: bytes, wanted: int) -> bytes:
    """Return the first field with a number, which is text, bytes or a message; else b""."""
    found = (value for number, value in _fields(message) if number == wanted)
    value = next(found, b"")
    if isinstance(value, int):
        raise ValueError(f"field {wanted} is a number")
    return value


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field: an int if it is a varint, else bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
            end = at + size
        elif kind in _SIZES:
            end = at + _SIZES[kind]
        else:
            raise ValueError("not a message of protocol buffers")
        if end > len(message):
            raise ValueError("a field is cut short")
        yield tag >> 3, message[at:end]
        at = end


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the varint at a position, and the position behind it."""
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("not a message of protocol buffers")
        octet = message[at]
        value |= (octet & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if octet < 0x80:
            return value, at
