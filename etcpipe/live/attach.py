"""Classify live traffic: a tap on a device, and the model that judges what it sees."""

from collections.abc import Mapping
from os import PathLike
from typing import Any, NamedTuple

from etcpipe import model as models
from etcpipe.cascade import serving
from etcpipe.cascade.gathered import KernelCascade, is_gatherable
from etcpipe.cascade.serving import CascadeModel
from etcpipe.cascade.stage0 import KernelStage
from etcpipe.errors import UsageError
from etcpipe.kernel import filters, tap
from etcpipe.kernel.features_source import features_of
from etcpipe.live.tap import Live
from etcpipe.model_choice import AnyModel, depth_for, load, model_of_point
from etcpipe.policy import rules as policies


def attach(
    device: str,
    *,
    model: str | PathLike[str] | None = None,
    cascade: str | PathLike[str] | None = None,
    point: str | None = None,
    stage0: str = "user",
    first_n: int | None = None,
    mode: str = "auto",
    forward: str | None = None,
    capture: str | None = None,
    queues: int = 1,
    compute: str = "auto",
    loader: str = "auto",
    netns: str | None = None,
    wait_s: float | None = None,
    duration_s: float | None = None,
    keep: bool = False,
    policy: str | PathLike[str] | None = None,
    filter: str | None = None,
    shadow: str | PathLike[str] | None = None,
    tracking: Mapping[str, Any] | None = None,
) -> Live:
    """Return a tap on `device`; enter it to attach, iterate for verdicts, leave it to detach.

    Traffic is never delayed, and changed or dropped only by a policy. Each flow comes out
    once, as soon as its first packets are there or nothing came for the waiting time.

    Args:
        device: name of the interface.
        model: a model file; None takes what ships: a cascade, of which the last stage's model
            answers alone where the kernel gathers features or a shadow is compared.
        cascade: instead, a cascade.toml: flows are answered as soon as one of its stages is sure.
        stage0: "kernel": the cascade's first stage is trees in the kernel, whose sure flows are
            copied no further.
        point: instead, a point that a search found, as front.json#7.
        first_n: packets of a flow to mirror; None: as many as the model was trained with.
        mode: "tc", "xdp", or "auto" to take what this device does best.
        forward: a second device: both become one wire past the stack, see docs/operations.md;
            "auto" then is XDP where both do it well, else TC.
        capture: how packets come from the kernel: "afxdp" sockets, or the cheaper "ringbuf";
            "features": none does, the kernel gathers the model's columns. None: features for a
            point, or a cascade that is gathered as a whole (docs/kernel-stage.md); else afxdp.
        queues: AF_XDP sockets, each with a queue of the mirror.
        compute: where flows are regrouped and the model runs, as `device` of classify().
        loader: "libbpf", "bcc", or "auto".
        netns: name or path of the network namespace that the device is in.
        wait_s: a flow is judged by what there is when nothing came for so long.
        duration_s: end after so many seconds; None: run until stop().
        keep: leave the programs attached on exit, for the next attach to adopt.
        policy: a file that says what verdicts do to their flows (docs/policy.md); only with
            one is traffic changed, as it says.
        filter: packets to look at, in libpcap's syntax; None: all.
        shadow: another model file, asked about the same flows; see Live.shadow_report().
        tracking: more fields of TapSettings by name: timeouts, sample, count (which packets
            count towards the first N; else as the model was trained).

    Raises:
        PermissionDeniedError: not root, or a capability or limit is missing.
        DataplaneError: no such device, already attached, or the kernel refused.
        UnsupportedError: this device or kernel cannot do it in the mode asked for.
        ModelError, UsageError: as classify(); or the policy or the duration is wrong.
    """
    # faults are found before anything is made
    if duration_s is not None and not duration_s > 0:
        raise UsageError(f"duration {duration_s:g}: more than 0 seconds")
    if filter is not None:
        filters.compile_filter(filter)
    rules = policies.load(policy) if policy else None
    if rules and forward:
        mode = _mode_of_wire(mode, rules)
    if point is not None:
        model, capture = model_of_point(point, model), capture or "features"
    if stage0 == "kernel":
        choice = _kernel_choice(model, cascade, capture, compute)
    else:
        alone = capture == "features" or shadow is not None
        choice = _Choice(load(model, cascade, compute, alone), capture or "afxdp")
    settings = tap.TapSettings(
        mode=mode,
        forward=forward or "",
        loader=loader,
        wait_s=wait_s or choice.model.wait_s,
        queues=queues,
        policy=rules is not None,
        **choice.settings(first_n),
        **{"count": choice.model.count, **(tracking or {})},
    )
    return Live(
        device,
        choice.model,
        settings,
        netns=netns,
        keep=keep,
        wait_s=wait_s,
        duration_s=duration_s,
        compute=compute,
        policy=rules,
        filter=filter,
        shadow=models.load(shadow, device=compute) if shadow is not None else None,
        stage0=choice.stage,
    )


class _Choice(NamedTuple):
    """What answers flows, and by which way it sees them."""

    model: AnyModel | KernelCascade
    capture: str
    stage: KernelStage | None = None  # trees in the kernel, which answer first

    def settings(self, first_n: int | None) -> dict[str, Any]:
        """Return the tap's settings that follow from it.

        Raises:
            UsageError: the model does not take that many packets, or no columns.
        """
        if isinstance(self.model, KernelCascade):
            depth = first_n or self.model.first_n
        else:
            depth = depth_for(self.model, first_n)
        columns = _columns_of(self.model, depth) if self.capture == "features" else ()
        return {
            "first_n": depth,
            "capture": self.capture,
            "features": columns or (self.stage.columns if self.stage else ()),
            "tree_depth": self.stage.depth if self.stage else 0,
        }


def _kernel_choice(
    model: str | PathLike[str] | None,
    cascade: str | PathLike[str] | None,
    capture: str | None,
    device: str,
) -> _Choice:
    """Return a cascade and its first stage for the kernel, which gathers all of it if it can."""
    if cascade is None or model is not None:
        raise UsageError("--stage0 kernel is of a cascade: give --cascade, and no model or point")
    opened = serving.load(cascade, device)
    stage = KernelStage(opened)
    if is_gatherable(opened) if capture is None else capture == "features":
        return _Choice(KernelCascade(opened, stage), "features", stage)
    return _Choice(opened, capture or "afxdp", stage)


def _mode_of_wire(mode: str, rules: policies.Policy) -> str:
    if mode == "xdp":
        rules.check_xdp_wire()
    return "tc" if mode == "auto" and rules.needs_tc() else mode


def _columns_of(model: AnyModel | KernelCascade, depth: int) -> tuple[str, ...]:
    """Return the columns that the kernel gathers."""
    if isinstance(model, CascadeModel):
        raise UsageError("a cascade sees packets: take another --capture than features")
    if depth != model.first_n:
        raise UsageError(f"--first {depth}: the kernel gathers the model's {model.first_n}")
    return model.columns if isinstance(model, KernelCascade) else features_of(model)
