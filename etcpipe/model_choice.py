"""Finds the model or cascade that is asked for, and makes the regrouping that it needs."""

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
        model: None without a cascade: the default one, which is a cascade.
        alone: of the default cascade, return the model of the last stage only.

    Raises:
        ModelError: it is damaged, foreign, or made for other inputs.
        UsageError: both are given, or the cascade's file has a mistake.
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
    """Return the model file of a point of a search, such as front.json#7.

    Raises:
        UsageError: a model is given too, or there is no such point.
    """
    if model is not None:
        raise UsageError("a point has its own model: give one of the two")
    from etcpipe.tune.front import load_point  # imported only if it is needed

    return load_point(point).model


def depth_for(model: AnyModel, first_n: int | None) -> int:
    """Return how many packets of a flow are needed.

    Args:
        first_n: the number asked for; None: that of the model.

    Raises:
        UsageError: the model needs more, or it is above FIRST_N_MAX.
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
    """Return the Regroup that a model needs; device "auto" means that of the model.

    Args:
        raw_len: bytes of a packet, if another model needs more than this one.

    Several threads are of use only for whole packets: other rows take less time than waking up a
    thread. All rows of a cascade are needed on the host, so a GPU makes them only if asked to.

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
