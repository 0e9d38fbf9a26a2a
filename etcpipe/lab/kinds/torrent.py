"""BitTorrent with its encryption required: libtorrent seeds and leeches, over TCP and uTP."""

import sys
from dataclasses import dataclass
from pathlib import Path

from etcpipe.lab.kind import Client, Kind, Site, command
from etcpipe.lab.kinds.web import write_content
from etcpipe.lab.processes import Program

PORT = 6881


@dataclass(frozen=True)
class Seed:
    """Files that are seeded; each has its .torrent beside it."""

    files: list[Path]


def serve(site: Site) -> Seed:
    """Start a client that seeds three files."""
    folder = site.folder / "seed"
    folder.mkdir()
    files = []
    for number, size in enumerate(site.rng.uniform(3e5, 4e6, 3)):
        files.append(folder / f"share-{number}.bin")
        write_content(files[-1], site.rng, int(size))
    site.start(
        command(
            "{python} -m etcpipe.lab.programs.torrent seed {folder} {listen}",
            python=sys.executable,
            folder=folder,
            listen=[f"{_host(address)}:{PORT}" for address in site.addresses],
        ),
        *[("tcp", address, PORT) for address in site.addresses],
        says="seeding 3",
    )
    return Seed(files)


def visit(client: Client, seed: Seed) -> None:
    """Fetch one file from the seed."""
    file = seed.files[int(client.rng.integers(len(seed.files)))]
    target = client.folder / f"{client.number}-leech"
    target.mkdir()
    transport = "utp" if client.rng.random() < 0.35 else "tcp"
    listen = f"{_host(client.own_address)}:{client.local_port()}"
    client.run_python(
        "torrent", "leech", f"{file}.torrent", str(target), listen, client.address, transport
    )


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


KINDS = (
    Kind(
        name="bittorrent",
        summary="BitTorrent with encryption required, TCP and uTP (libtorrent)",
        programs=(Program("libtorrent", "python3-libtorrent", is_module=True),),
        endpoints=(("tcp", PORT), ("udp", PORT)),
        serve=serve,
        visit=visit,
    ),
)
