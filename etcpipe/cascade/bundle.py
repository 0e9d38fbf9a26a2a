"""A cascade in one model file: the last stage's model, with the other models in its metadata.

Read as a model, the file is the last stage alone; read by `--cascade`, it is the whole cascade.
"""

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

from etcpipe import runtime
from etcpipe.cascade.stages import Cascade, from_toml
from etcpipe.errors import ModelError, OutputError, UnsupportedError
from etcpipe.model import Model
from etcpipe.model_file import DIGEST_KEY, NO_DIGEST, seal

KEY = "etcpipe.cascade"
SUFFIX = ".onnx"


def embed(cascade: Cascade, files: Sequence[Path]) -> bytes:
    """Return the contents of a model file that holds a cascade.

    Args:
        files: the model of each stage.

    Raises:
        UnsupportedError: the package onnx is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise UnsupportedError(
            f"writing a model file needs onnx: {runtime.remedy_for('train')}"
        ) from error

    names = [f"stage{i}{SUFFIX}" for i in range(len(files))]
    stages = zip(cascade.stages, names, strict=True)
    named = replace(cascade, stages=tuple(replace(one, model=name) for one, name in stages))
    contents = [file.read_bytes() for file in files]
    model = onnx.load_model_from_string(contents.pop())
    others = {name: b64encode(one).decode() for name, one in zip(names[:-1], contents, strict=True)}
    properties = {one.key: one.value for one in model.metadata_props}
    properties |= {
        KEY: json.dumps({"cascade": named.to_toml(), "models": others}),
        DIGEST_KEY: NO_DIGEST,
    }
    onnx.helper.set_model_props(model, properties)
    return seal(model.SerializeToString())


def save(contents: bytes, path: str | PathLike[str]) -> None:
    """Write a model file.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        Path(path).write_bytes(contents)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def held(metadata: Mapping[str, str], name: str) -> tuple[Cascade, list[bytes]] | None:
    """Return the cascade that a model file holds and the models of its stages but the last.

    The last one is the file itself. None: it holds no cascade.

    Args:
        metadata: of the model file; `name` names it in messages.

    Raises:
        ModelError: it cannot be read.
    """
    text = metadata.get(KEY)
    if text is None:
        return None
    try:
        inside = json.loads(text)
        cascade = from_toml(inside["cascade"], name)
        early = [stage.model for stage in cascade.stages[:-1]]
        return cascade, [b64decode(inside["models"][one], validate=True) for one in early]
    except (ValueError, KeyError, TypeError, Base64Error) as error:
        raise ModelError(f"{name}: its cascade cannot be read: make it again") from error


def depths(model: Model) -> list[int]:
    """Return after how many packets a flow may be answered, by the cascade inside or the model.

    Raises:
        ModelError: as held().
    """
    inside = held(model.metadata, model.name)
    return [stage.packets for stage in inside[0].stages] if inside else [model.first_n]
