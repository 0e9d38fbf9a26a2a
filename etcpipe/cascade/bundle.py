"""A cascade in one model file: that of its last stage, with the others and the stages inside.

Whoever reads the file as a model has the last stage alone; `--cascade` has all of it.
"""

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

from etcpipe.cascade.stages import Cascade, from_toml
from etcpipe.errors import ModelError, OutputError, UnsupportedError
from etcpipe.gpu.inference import open_runner
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
            "writing a model file needs onnx: pip install 'etcpipe[train]'"
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


def unpack(file: Path, folder: Path) -> Path:
    """Write the stages and models of a model file into an empty folder; return the stages' file.

    Raises:
        ModelError: it cannot be read, is no model file, or holds no cascade.
    """
    try:
        contents = file.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read cascade {file}: {error.strerror}") from error
    text = open_runner(contents).metadata.get(KEY)
    if text is None:
        raise ModelError(f"model {file}: holds no cascade: give its cascade.toml, or --model")
    try:
        inside = json.loads(text)
        cascade = from_toml(inside["cascade"], str(file))
        models = {name: b64decode(one, validate=True) for name, one in inside["models"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, Base64Error) as error:
        raise ModelError(f"model {file}: its cascade cannot be read: make it again") from error
    names = [stage.model for stage in cascade.stages]
    for name, one in zip(names, [*map(models.get, names[:-1]), contents], strict=True):
        if one is None or Path(name).name != name:
            raise ModelError(f"model {file}: its cascade cannot be read: make it again")
        (folder / name).write_bytes(one)
    cascade.save(folder / "cascade.toml")
    return folder / "cascade.toml"
