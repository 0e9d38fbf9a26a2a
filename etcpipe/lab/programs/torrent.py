"""A BitTorrent client that requires encryption, without trackers, DHT or local discovery.

Usage: python -m etcpipe.lab.programs.torrent seed FOLDER LISTEN...
       python -m etcpipe.lab.programs.torrent leech TORRENT FOLDER LISTEN PEER tcp|utp
"""

import sys
import time
from pathlib import Path

import libtorrent

PORT = 6881
TIMEOUT_S = 50.0  # of a busy machine
RETRY_S = 5.0
POLL_S = 0.05


def open_session(listen: list[str], **settings) -> libtorrent.session:
    """Return a session that listens on the addresses and speaks to encrypted peers only."""
    forced = int(libtorrent.enc_policy.pe_forced)
    return libtorrent.session(
        {
            "listen_interfaces": ",".join(listen),
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "in_enc_policy": forced,
            "out_enc_policy": forced,
            "allowed_enc_level": int(libtorrent.enc_level.pe_rc4),  # not only the handshake
            "prefer_rc4": True,
            "allow_multiple_connections_per_ip": True,
            "min_reconnect_time": 1,
            **settings,
        }
    )


def seed(folder: Path, listen: list[str]) -> None:
    """Make a .torrent of each file in the folder and seed it for ever."""
    session = open_session(listen)
    handles = []
    for file in sorted(folder.glob("*.bin")):
        storage = libtorrent.file_storage()
        libtorrent.add_files(storage, str(file))
        maker = libtorrent.create_torrent(storage)
        libtorrent.set_piece_hashes(maker, str(folder))
        torrent = file.with_name(file.name + ".torrent")
        torrent.write_bytes(libtorrent.bencode(maker.generate()))
        handles.append(add(session, torrent, folder))
    while not all(handle.status().is_seeding for handle in handles):
        time.sleep(POLL_S)
    print("seeding", len(handles), flush=True)
    while True:
        time.sleep(60)


def leech(torrent: Path, folder: Path, listen: str, peer: str, transport: str) -> None:
    """Fetch a torrent from one peer, over TCP or uTP alone."""
    is_utp = transport == "utp"
    session = open_session(
        [listen],
        enable_outgoing_tcp=not is_utp,
        enable_outgoing_utp=is_utp,
        enable_incoming_utp=is_utp,
    )
    handle = add(session, torrent, folder)
    deadline = time.monotonic() + TIMEOUT_S
    retry = 0.0
    while not handle.status().is_seeding:
        if handle.status().num_peers == 0 and time.monotonic() > retry:
            handle.connect_peer((peer, PORT))
            retry = time.monotonic() + RETRY_S
        if time.monotonic() > deadline:
            raise SystemExit(f"no download from {peer} in {TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)


def add(session: libtorrent.session, torrent: Path, folder: Path) -> libtorrent.torrent_handle:
    """Add a torrent whose files are, or come to be, in folder."""
    parameters = libtorrent.add_torrent_params()
    parameters.ti = libtorrent.torrent_info(str(torrent))
    parameters.save_path = str(folder)
    return session.add_torrent(parameters)


if __name__ == "__main__":
    if sys.argv[1] == "seed":
        seed(Path(sys.argv[2]), sys.argv[3:])
    else:
        leech(Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
