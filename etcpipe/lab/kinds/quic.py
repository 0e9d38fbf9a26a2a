"""HTTP/3 over QUIC: pages and downloads, with aioquic at both ends."""

import sys
from dataclasses import dataclass

from etcpipe.lab.certificates import make_certificate
from etcpipe.lab.kind import Client, Kind, Site, command
from etcpipe.lab.processes import Program

PORT = 443


@dataclass(frozen=True)
class Pages:
    """Sizes in bytes of each page's parts, the page itself first."""

    sizes: list[list[int]]


def serve(site: Site) -> Pages:
    """Start the HTTP/3 server on both addresses; it answers /SIZE with SIZE bytes."""
    certificate = make_certificate(site)
    for address in site.addresses:
        site.start(
            command(
                "{python} -m etcpipe.lab.programs.http3 serve {address} {chain} {key}",
                python=sys.executable,
                address=address,
                chain=certificate.chain,
                key=certificate.key,
            ),
            ("udp", address, PORT),
        )
    pages = []
    for _ in range(8):
        count = int(site.rng.integers(1, 14))
        objects = site.rng.lognormal(9.4, 1.1, count).clip(200, 300_000).astype(int).tolist()
        pages.append([int(site.rng.lognormal(10.3, 0.6)), *objects])
    pages.append([int(site.rng.integers(300_000, 900_000))])
    return Pages(pages)


def visit(client: Client, pages: Pages) -> None:
    """Load one to three pages over one connection, parts of a page multiplexed."""
    count = int(client.rng.integers(1, 4))
    chosen = [
        pages.sizes[int(number)] for number in client.rng.integers(len(pages.sizes), size=count)
    ]
    pause_s = client.rng.exponential(0.4) / client.speed
    client.run_python(
        "http3",
        *["fetch", client.address, client.site.host, f"{pause_s:.3f}"],
        *[",".join(map(str, page)) for page in chosen],
    )


KINDS = (
    Kind(
        name="quic_h3",
        summary="web pages over HTTP/3 (aioquic)",
        programs=(Program("aioquic", "aioquic", is_module=True, is_from_pypi=True),),
        endpoints=(("udp", PORT),),
        serve=serve,
        visit=visit,
    ),
)
