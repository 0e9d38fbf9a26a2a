"""Which model or cascade is asked for, and the regrouping that it needs."""

import logging
from functools import partial
from os import PathLike
from pathlib import Path

from etcpipe import model as models
from etcpipe.cascade import serving
from etcpipe.cascade.serving import CascadeModel
from etcpipe.errors import UnsupportedError, UsageError
from etcpipe.gpu.regroup import Regroup
from etcpipe.layout import CONSTANTS

log = logging.getLogger(__name__)

AnyModel = models.Model | CascadeModel


def load(
    model: str | PathLike[str] | None,
    cascade: str | PathLike[str] | None,
    device: str,
    alone: bool = False,
) -> AnyModel:
    """Return a model or a cascade.

    Args:
        model: None, and no cascade: what ships, a cascade.
        alone: of what ships the last stage's model, where one model is wanted.

    Raises:
        ModelError: it is damaged, foreign, or made for other inputs.
        UsageError: both are given, or the cascade's file says something wrong.
        UnsupportedError: the device is not there.
    """
    if cascade is None:
        if model is None and not alone:
            return serving.load_inside(None, device)
        return models.load(model, device=device)
    if model is not None:
        raise UsageError("give a model or a cascade, not both")
    return serving.load(cascade, device)


def model_of_point(point: str, model: str | PathLike[str] | None) -> Path:
    """Return the model's file of a point that a search found, as front.json#7.

    Raises:
        UsageError: a model is given too, or there is no such point.
    """
    if model is not None:
        raise UsageError("a point has its own model: give one of the two")
    from etcpipe.tune.front import load_point  # a search's words are needed here alone

    return load_point(point).model


def depth_for(model: AnyModel, first_n: int | None) -> int:
    """Return how many packets of a flow are needed.

    Args:
        first_n: as asked for; None: as many as the model looks at.

    Raises:
        UsageError: the model needs more, or nobody keeps so many.
    """
    if first_n is None:
        return model.first_n
    most = CONSTANTS["FIRST_N_MAX"]
    if not 1 <= first_n <= most:
        raise UsageError(f"--first {first_n}: a model sees 1 to {most} packets of a flow")
    if first_n < model.first_n:
        raise UsageError(
            f"--first {first_n}: model {model.name} needs {model.first_n} packets of a flow"
        )
    return first_n


def regroup_for(
    model: AnyModel,
    first_n: int,
    wait_s: float | None,
    parse: int = 0,
    device: str = "cpu",
    threads: int = 1,
    raw_len: int | None = None,
) -> Regroup:
    """Return a Regroup that builds what the model needs; on device "auto", where it runs.

    Args:
        raw_len: bytes of a packet, where another model wants more than this one.

    Only whole packets are worth several threads: other rows are done before those are awake.
    Rows of a cascade all come to the host: a GPU makes them only where it was asked for.

    Raises:
        UnsupportedError: the device cannot regroup here.
    """
    raw_len = model.raw_len if raw_len is None else raw_len
    early = model.early_depths(first_n) if isinstance(model, CascadeModel) else ()
    on = partial(
        Regroup,
        first_n,
        raw_len=raw_len,
        wait_s=model.wait_s if wait_s is None else wait_s,
        mask=model.mask,
        parse=parse,
        depths=early,
        threads=threads if raw_len else 1,
    )
    if device != "auto":
        return on(device=device)
    try:
        return on(device=model.device)
    except UnsupportedError as error:
        log.warning("flows are regrouped on the CPU: %s", error)
        return on(device="cpu")
