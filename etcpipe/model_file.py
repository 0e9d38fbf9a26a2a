"""The model file: one .onnx that carries everything needed to use it, and its checks.

The file's metadata hold a description (JSON, key "etcpipe") and a SHA-256 of the file
itself (key "etcpipe.sha256", computed with zeros in its place), so a model that was cut,
changed, or made for other inputs is refused when it is loaded and never guesses.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from etcpipe import __version__, families
from etcpipe.errors import ModelError
from etcpipe.gpu.inference import Runner
from etcpipe.gpu.views import MASKS, VIEWS, schema_hash
from etcpipe.layout import CONSTANTS, COUNT_RULES

FORMAT = 1
DESCRIPTION_KEY = "etcpipe"
DIGEST_KEY = "etcpipe.sha256"
NO_DIGEST = "0" * 64


@dataclass(frozen=True)
class Description:
    """The description of a model in its file.

    Attributes:
        classes: labels in the order of the model's scores.
        columns: of the view, in order; empty for a view without columns.
        schema_hash: gpu.views.schema_hash of the input that it was trained on.
        first_n: packets of a flow that it uses.
        count: which packets count towards first_n, a name of COUNT_RULES.
        wait_s: a flow is judged when no counted packet came for so long.
        temperature: scores are divided by it before the softmax.
        threshold: below this calibrated probability an answer is "unknown".
        families: classes of each family, see etcpipe/families.py.
        family_threshold: if no class is probable enough, a family is named whose classes
            together have at least this probability.
        data: digest of the training rows.
        captures: first 16 hex digits of the SHA-256 of each capture of the training. Unlike
            rows, these do not change with the depth at which a capture is read.
        scores: what was measured in its training.
    """

    name: str
    classes: tuple[str, ...]
    view: str
    columns: tuple[str, ...]
    schema_hash: str
    first_n: int
    mask: str = "strict"
    count: str = "payload"
    wait_s: float = 1.0
    temperature: float = 1.0
    threshold: float = 0.0
    families: dict[str, tuple[str, ...]] = field(default_factory=dict)
    family_threshold: float = 1.0
    data: str = ""
    captures: tuple[str, ...] = ()
    created: str = ""
    version: str = __version__
    format: int = FORMAT
    scores: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the description in the form of the file."""
        return json.dumps(asdict(self), sort_keys=True)


def seal(model: bytes) -> bytes:
    """Return an ONNX file with its SHA-256 in place of the zeros under DIGEST_KEY.

    Raises:
        ValueError: the zeros are not there exactly once.
    """
    zeros = NO_DIGEST.encode()
    if model.count(zeros) != 1:
        raise ValueError(f"the model has no unique {DIGEST_KEY} of zeros")
    return model.replace(zeros, hashlib.sha256(model).hexdigest().encode())


def parse_description(text: str) -> Description:
    """Return the description of a file, checked against the abilities of this version.

    Raises:
        ModelError: it is unreadable, of another format, or for inputs of another schema.
    """
    try:
        values = json.loads(text)
        known = {one.name for one in fields(Description)}
        description = _as_tuples(Description(**{k: v for k, v in values.items() if k in known}))
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError("its description cannot be read: make it again") from error
    if description.format != FORMAT:
        raise ModelError(f"of format {description.format}, this etcpipe reads format {FORMAT}")
    _check_settings(description)
    return description


def _as_tuples(description: Description) -> Description:
    values = vars(description) | {
        "classes": tuple(description.classes),
        "columns": tuple(description.columns),
        "captures": tuple(description.captures),
        "families": {name: tuple(of) for name, of in description.families.items()},
    }
    return Description(**values)


def _check_settings(description: Description) -> None:
    for kind, name, known in (
        ("view", description.view, VIEWS),
        ("mask", description.mask, MASKS),
        ("count rule", description.count, COUNT_RULES),
    ):
        if name not in known:
            raise ModelError(f"needs {kind} {name!r}, known are {', '.join(known)}")
    if not 1 <= description.first_n <= CONSTANTS["FIRST_N_MAX"]:
        raise ModelError(f"asks for {description.first_n} packets of a flow")
    try:
        families.check(description.families, description.classes)
    except ValueError as error:
        raise ModelError(str(error)) from error
    try:
        ours = schema_hash(
            VIEWS[description.view],
            description.first_n,
            description.mask,
            description.columns or None,
        )
    except KeyError as error:
        raise ModelError(f"needs column {error} that view {description.view} lacks") from error
    if ours != description.schema_hash:
        raise ModelError(
            f"trained on inputs of schema {description.schema_hash}, this etcpipe makes {ours}: "
            "train it again"
        )


def check_input(description: Description, runner: Runner) -> None:
    """Check that input and output of the graph agree with the description.

    Raises:
        ModelError: it does not.
    """
    view = VIEWS[description.view]
    shape = (len(description.columns),) if view.is_choice else view.shape
    if runner.input_shape != shape or runner.input_dtype != view.dtype:
        raise ModelError(
            f"takes {runner.input_dtype} {list(runner.input_shape)}, "
            f"view {view.name} gives {view.dtype} {list(shape)}"
        )
    row = np.zeros((1, *shape), view.dtype)
    scores = runner.infer(row)
    if scores.shape != (1, len(description.classes)):
        raise ModelError(f"gives {scores.shape[-1]} scores for {len(description.classes)} classes")


def checked_digest(contents: bytes, digest: str) -> str:
    """Return digest if it is the file's SHA-256.

    Raises:
        ModelError: it is not.
    """
    original = contents.replace(digest.encode(), NO_DIGEST.encode()) if digest else contents
    if hashlib.sha256(original).hexdigest() != digest:
        raise ModelError("damaged: its contents do not match its SHA-256, get it again")
    return digest
