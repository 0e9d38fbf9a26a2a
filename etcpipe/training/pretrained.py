"""Weights that were trained without labels, as a file: NumPy arrays and a description."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from etcpipe import __version__
from etcpipe.dataset.rows import Dataset
from etcpipe.errors import ModelError, UsageError

_ABOUT = "about"


@dataclass(frozen=True)
class Pretrained:
    """An encoder's weights.

    Attributes:
        arch: of which network, a name of zoo.ARCHS.
        schema_hash: of the rows that it was trained on.
        captures: SHA-256 of the captures that it saw: no score may come from them.
        report: what was measured.
        weights: by name.
    """

    arch: str
    schema_hash: str
    captures: tuple[str, ...]
    report: dict[str, Any] = field(default_factory=dict)
    version: str = __version__
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the contents of a file, which numpy.load reads too."""
        about = asdict(self)
        del about["weights"]
        file = io.BytesIO()
        arrays: dict[str, Any] = {**self.weights, _ABOUT: np.array(json.dumps(about))}
        np.savez(file, **arrays)
        return file.getvalue()


def load(path: Path) -> Pretrained:
    """Return what a file holds.

    Raises:
        ModelError: it cannot be read, or is something else.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            about = json.loads(str(arrays[_ABOUT]))
            weights = {name: arrays[name] for name in arrays.files if name != _ABOUT}
        about["captures"] = tuple(about["captures"])
        return Pretrained(**about, weights=weights)
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise ModelError(
            f"{path}: not weights of `etcpipe train --pretrain`, or damaged: make them again"
        ) from error


def check_disjoint(pretrained: Pretrained, dataset: Dataset) -> None:
    """Check that no capture that scores come from was seen in the pre-training.

    Raises:
        UsageError: one was.
    """
    seen = set(pretrained.captures)
    for digest, name in dataset.capture_digests().items():
        if digest in seen:
            raise UsageError(
                f"{name} was in the pre-training, so its scores would be too good: leave it out"
            )
