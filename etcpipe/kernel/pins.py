"""A tap's programs and maps in bpffs: put there, and taken over from one that was killed.

Beside them a symbolic link, `schema`, names the ABI that the maps are of, for whoever reads
them: programs of another version of etcpipe, or somebody's own.
"""

import os

from etcpipe.errors import DataplaneError
from etcpipe.kernel import bpf, libbpf, links, modes, status
from etcpipe.kernel.build import MAPS, Build, Loaded, source_digest
from etcpipe.kernel.journal import Journal
from etcpipe.kernel.settings import TapSettings
from etcpipe.layout import CONSTANTS

SCHEMA = f"etcpipe-abi-{CONSTANTS['ETCPIPE_ABI']}"


class Misfit(Exception):
    """An earlier tap cannot be taken over; the message says why."""


def put(loaded: Loaded, state: Journal) -> None:
    """Pin all programs and maps in the tap's folder."""
    state.pins.mkdir(mode=0o700, parents=True, exist_ok=True)
    (state.pins / "schema").symlink_to(SCHEMA)
    for name, fd in loaded.programs.items():
        bpf.pin(fd, state.pins / f"prog_{name}")
    for name, fd in loaded.maps.items():
        bpf.pin(fd, state.pins / f"map_{name}")


def adopt(ip, state: Journal, device: links.Device, settings: TapSettings) -> Loaded:
    """Return the programs and maps of an earlier tap, its flow table among them.

    Programs of another version are replaced by ours, with no packet in between, if both
    agree on the ABI and on the shape of every map.

    Raises:
        Misfit: the earlier tap is not complete, or not one that these settings ask for.
    """
    _check_fit(ip, state, device, settings)
    loaded = _open_pins(state)
    try:
        if status.tags(loaded.programs) != state.tags:
            raise Misfit("somebody replaced its programs")
        if state.source_digest == source_digest():
            return loaded
        newer = _upgrade(ip, state, settings, loaded)
    except BaseException:
        loaded.close()
        raise
    loaded.close()
    return newer


def _check_fit(ip, state: Journal, device: links.Device, settings: TapSettings) -> None:
    if not state.ready:
        raise Misfit("its set-up was interrupted")
    if not state.is_readable or _schema(state) != SCHEMA:
        raise Misfit(f"its maps are of another version (ABI {state.abi})")
    if not state.is_at_home():
        raise Misfit("its namespace is gone")
    if state.ifindex != device.ifindex:
        raise Misfit("it was on another device of this name")
    if different := _different_settings(state, settings):
        raise Misfit(f"it was made with {different}")
    if [links.ifindex_of(name) for name in state.mirror] != state.mirror_ifindex:
        raise Misfit("its mirror is gone")
    if not modes.is_attached(ip, state):
        raise Misfit("its programs are no longer attached")


def _schema(state: Journal) -> str:
    try:
        return os.readlink(state.pins / "schema")
    except OSError:
        return ""


def _different_settings(state: Journal, settings: TapSettings) -> str:
    """Return what a tap made so lacks; "auto" is served by whatever was chosen.

    A setting that the other version did not have yet was at what is now its default.
    """
    wanted = settings.asdict()
    chosen = {"mode": state.mode, "loader": state.loader.split()[0], "hook": state.hook}
    for name, value in chosen.items():
        if wanted[name] == "auto":
            wanted[name] = value
    made = {**TapSettings().asdict(), **state.settings, **chosen}
    names = [name for name in made if made[name] != wanted.get(name)]
    return ", ".join(f"{name} {made[name]}" for name in names)


def _open_pins(state: Journal) -> Loaded:
    loaded = Loaded(state.loader, {}, {})
    try:
        for name in state.tags:
            loaded.programs[name] = bpf.pinned(state.pins / f"prog_{name}")
        for name in MAPS:
            loaded.maps[name] = bpf.pinned(state.pins / f"map_{name}")
    except OSError as error:
        loaded.close()
        raise Misfit("some of its pins are gone") from error
    return loaded


def _upgrade(ip, state: Journal, settings: TapSettings, old: Loaded) -> Loaded:
    """Load this version's programs over the old maps and put them in the old ones' places."""
    if not state.loader.startswith("libbpf"):
        raise Misfit("bcc cannot load newer programs over its maps")
    build = Build(
        settings,
        state.ifindex,
        state.mirror_ifindex[1] if state.mirror_ifindex else 0,
        with_xdp="xdp_track" in state.tags,
        port_ifindex=state.ports[1] if state.ports else 0,
        maps=old.maps,
    )
    try:
        loaded = libbpf.load(build)
    except DataplaneError as error:
        raise Misfit(f"of another version: {error}") from error
    try:
        modes.replace(ip, state, loaded)
        # killed until here, the next one does the same again; after, it makes it all anew
        _pin_programs_anew(state, loaded)
        state.loader, state.source_digest = loaded.loader, source_digest()
        state.tags = status.tags(loaded.programs)
        state.settings = settings.asdict()
        state.write()
    except OSError as error:
        loaded.close()
        raise Misfit(f"its programs cannot be replaced: {error.strerror}") from error
    except BaseException:
        loaded.close()
        raise
    return loaded


def _pin_programs_anew(state: Journal, loaded: Loaded) -> None:
    for name in state.tags:
        (state.pins / f"prog_{name}").unlink(missing_ok=True)
    for name, fd in loaded.programs.items():
        bpf.pin(fd, state.pins / f"prog_{name}")
