"""A tap's programs and maps in bpffs: put there, and taken over from one that was killed."""

from etcpipe.kernel import bpf, links, modes, status
from etcpipe.kernel.journal import Journal
from etcpipe.kernel.settings import MAPS, Loaded, TapSettings, source_digest
from etcpipe.layout import CONSTANTS


def put(loaded: Loaded, state: Journal) -> None:
    """Pin all programs and maps in the tap's folder."""
    state.pins.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, fd in loaded.programs.items():
        bpf.pin(fd, state.pins / f"prog_{name}")
    for name, fd in loaded.maps.items():
        bpf.pin(fd, state.pins / f"map_{name}")


def adopt(ip, state: Journal, device: links.Device, settings: TapSettings) -> Loaded | None:
    """Return the pinned programs and maps that a consumer left, None if they do not fit."""
    fits = (
        state.ready
        and state.abi == CONSTANTS["ETCPIPE_ABI"]
        and state.source_digest == source_digest()
        and state.ifindex == device.ifindex
        and _same_settings(state, settings)
        and [links.ifindex_of(name) for name in state.mirror] == state.mirror_ifindex
    )
    if not fits:
        return None
    loaded = Loaded(state.loader, {}, {})
    try:
        for name in state.tags:
            loaded.programs[name] = bpf.pinned(state.pins / f"prog_{name}")
        for name in MAPS:
            loaded.maps[name] = bpf.pinned(state.pins / f"map_{name}")
        if status.tags(loaded.programs) == state.tags and modes.is_attached(ip, state):
            return loaded
    except OSError:
        pass  # somebody removed a pin: make it all anew
    loaded.close()
    return None


def _same_settings(state: Journal, settings: TapSettings) -> bool:
    """Whether a tap made so serves these settings; "auto" is served by whatever was chosen."""
    wanted = settings.asdict()
    chosen = {"mode": state.mode, "loader": state.loader.split()[0], "hook": state.hook}
    for name, value in chosen.items():
        if wanted[name] == "auto":
            wanted[name] = value
    return {**state.settings, **chosen} == wanted
