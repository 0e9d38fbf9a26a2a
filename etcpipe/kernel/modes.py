"""How a device is watched: by TC alone, or by XDP at ingress with TC behind it."""

import socket
from collections.abc import Iterable

from etcpipe.errors import UnsupportedError
from etcpipe.kernel import canary, hooks, links, occupied
from etcpipe.kernel.build import Loaded
from etcpipe.kernel.journal import PORT, Journal

# Native XDP on veth costs 780 ns a packet and turns off its peer's segmentation offload.
SLOW_XDP = {"veth": "native XDP on veth costs more than it gives"}


def may_use_xdp(device: links.Device, wanted: str) -> bool:
    """Return whether attach() may come to use XDP on this device."""
    return wanted == "xdp" or (wanted == "auto" and not _why_tc(device))


def choose_hook(wanted: str, program_fd: int) -> str:
    """Return "tcx" or "clsact"; what "auto" means the kernel is asked.

    Raises:
        UnsupportedError: tcx was wanted, and this kernel has none.
    """
    if wanted == "clsact":
        return wanted
    if hooks.tcx_works(program_fd):
        return "tcx"
    if wanted == "tcx":
        raise UnsupportedError("no tcx before Linux 6.6: use the clsact hook")
    return "clsact"


def attach_mirror(ip, state: Journal, loaded: Loaded) -> None:
    """Attach to the mirror's receiving end, where copies come in; the program goes with it.

    Raises:
        UnsupportedError: the kernel has no generic XDP.
    """
    if not state.mirror_ifindex:
        return
    pop, receiver = loaded.programs["mirror_pop"], state.mirror_ifindex[1]
    try:
        hooks.attach_xdp(pop, receiver, state.pins / "link_pop", hooks.XDP_GENERIC_MODE)
    except OSError as error:
        raise UnsupportedError(f"no generic XDP here: {error.strerror}") from error


def attach(ip, state: Journal, loaded: Loaded, wanted: str) -> None:
    """Attach to the device in the wanted mode; "auto" takes TC unless XDP is proven good.

    Raises:
        UnsupportedError: XDP was wanted and cannot be had.
    """
    device = links.device(state.device)
    if wanted == "auto" and (reason := _why_tc(device)):
        _attach_tc_mode(ip, state, loaded, device, reason)
        return
    if wanted == "tc":
        _attach_tc_mode(ip, state, loaded, device, "asked for")
        return
    fits, reason = _attach_xdp_canary(ip, state, loaded, device)
    if fits or (fits is None and wanted == "xdp"):
        _attach_xdp_mode(ip, state, loaded, reason)
    elif wanted == "xdp":
        raise UnsupportedError(f"{reason}: use --mode tc")
    else:
        _attach_tc_mode(ip, state, loaded, device, reason)


def attach_wire(ip, state: Journal, loaded: Loaded) -> None:
    """Attach to both ports of a wire by TC: what comes in at one goes out at the other."""
    for side in ("ingress", PORT):
        _attach_tc(ip, state, loaded, side, "tc_track")


def placed(state: Journal) -> dict[str, str]:
    """Return which program stands where, by place: the mirror first, as in set-up."""
    xdp = state.mode == "xdp"
    places = {"pop": "mirror_pop"} if state.mirror_ifindex else {}
    for side in state.sides:
        places[side] = "tc_mirror" if xdp and side == "ingress" else "tc_track"
    if xdp:
        places["xdp"] = "xdp_track"
    return places


def is_attached(ip, state: Journal) -> bool:
    """Return whether the programs that this mode needs are on the device still."""
    return all(
        links.has_filter(ip, *state.tc_place(place))
        if _is_filter(state, place)
        else (state.pins / f"link_{place}").exists()
        for place in placed(state)
    )


def replace(ip, state: Journal, loaded: Loaded) -> None:
    """Put other programs in the places of those attached, each with no packet in between."""
    for place, name in placed(state).items():
        program = loaded.programs[name]
        if _is_filter(state, place):
            links.add_filter(ip, *state.tc_place(place), program, name, replace=True)
        else:
            hooks.replace(state.pins / f"link_{place}", program)


def _is_filter(state: Journal, place: str) -> bool:
    return state.hook == "clsact" and place not in ("pop", "xdp")


def why_slow(devices: Iterable[links.Device]) -> str:
    """Return why XDP is not worth it on one of the devices; else nothing."""
    return next((SLOW_XDP[one.driver] for one in devices if one.driver in SLOW_XDP), "")


def _why_tc(device: links.Device) -> str:
    """Why XDP is not even tried, or an empty string."""
    return "loopback has no native XDP" if device.is_loopback else why_slow([device])


def _attach_tc_mode(ip, state: Journal, loaded: Loaded, device: links.Device, reason: str) -> None:
    # on loopback each packet passes both sides: count it once
    sides = ["ingress"] if device.is_loopback else ["ingress", "egress"]
    for side in sides:
        _attach_tc(ip, state, loaded, side, "tc_track")
    state.mode, state.mode_reason = "tc", reason


def _attach_xdp_canary(
    ip, state: Journal, loaded: Loaded, device: links.Device
) -> tuple[bool | None, str]:
    """Try the driver with a packet. Leaves the canary at XDP unless metadata is lost."""
    pin = state.pins / "link_xdp"
    if program_id := links.xdp_program(ip, device.ifindex):
        other = occupied.describe_program(program_id)
        return False, f"{device.name} has another XDP program ({other})"
    try:
        hooks.attach_xdp(loaded.programs["xdp_canary"], state.ifindex, pin)
    except OSError as error:
        return False, hooks.xdp_refusal(device.name, error)
    _attach_tc(ip, state, loaded, "ingress", "tc_canary")
    fits, reason = canary.judge(canary.watch(loaded, state.ifindex))
    _detach_tc(ip, state, "ingress")
    if fits is False:
        hooks.release(pin)
    return fits, f"{device.name}: {reason}"


def _attach_xdp_mode(ip, state: Journal, loaded: Loaded, reason: str) -> None:
    _attach_tc(ip, state, loaded, "ingress", "tc_mirror")
    hooks.replace(state.pins / "link_xdp", loaded.programs["xdp_track"])
    _attach_tc(ip, state, loaded, "egress", "tc_track")
    state.mode, state.mode_reason = "xdp", reason


def _attach_tc(ip, state: Journal, loaded: Loaded, side: str, name: str) -> None:
    program = loaded.programs[name]
    if side not in state.sides:
        state.sides.append(side)
        state.write()
    ifindex, hook_side = state.tc_place(side)
    if state.hook == "tcx":
        hooks.attach_tcx(program, ifindex, hook_side, state.pins / f"link_{side}")
        return
    with occupied.clsact_explained(ip, socket.if_indextoname(ifindex), ifindex, hook_side):
        if not links.has_clsact(ip, ifindex):
            state.clsact_made.append(ifindex)
            state.write()
            ip.tc("add", "clsact", ifindex)
        links.add_filter(ip, ifindex, hook_side, program, name)


def _detach_tc(ip, state: Journal, side: str) -> None:
    if state.hook == "tcx":
        hooks.release(state.pins / f"link_{side}")
    else:
        links.delete_filter(ip, state.ifindex, side)
