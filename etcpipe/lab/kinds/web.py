"""HTTPS with nginx: pages and large downloads. Tunnels carry the pages too."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from etcpipe.lab.certificates import make_certificate
from etcpipe.lab.kind import MARKER, Client, Kind, Site, command
from etcpipe.lab.processes import Program

NGINX = Program("nginx", "nginx-light")
CURL = Program("curl", "curl")
WGET = Program("wget", "wget")

NGINX_CONF = """
daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    default_type application/octet-stream;
    sendfile on;
    server {{
        {listen}
        server_name {host};
        root {folder}/www;
        ssl_certificate {chain};
        ssl_certificate_key {key};
        ssl_protocols {protocols};
        keepalive_timeout 30s;
    }}
}}
"""
USER_AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/126.0.0.0 Safari/537.36",
    "curl/8.8.0",
)


@dataclass(frozen=True)
class Web:
    """What a web server offers: paths of each page's parts, the page itself first."""

    pages: list[list[str]]
    downloads: list[str]


def write_content(path: Path, rng: np.random.Generator, size: int) -> None:
    """Write size random bytes that begin with the marker."""
    path.write_bytes((MARKER + rng.bytes(max(0, size - len(MARKER))))[: max(size, len(MARKER))])


def start_nginx(site: Site, addresses: list[str]) -> None:
    """Start nginx with TLS on port 443 of the addresses; it serves the folder www."""
    certificate = make_certificate(site)
    urls = [f"[{address}]" if ":" in address else address for address in addresses]
    configuration = site.folder / "nginx.conf"
    configuration.write_text(
        NGINX_CONF.format(
            folder=site.folder,
            host=site.host,
            chain=certificate.chain,
            key=certificate.key,
            listen="\n        ".join(f"listen {url}:443 ssl http2;" for url in urls),
            protocols="TLSv1.2" if site.rng.random() < 0.2 else "TLSv1.2 TLSv1.3",
        )
    )
    site.start(
        ["nginx", "-p", str(site.folder), "-e", "stderr", "-c", str(configuration)],
        *[("tcp", address, 443) for address in addresses],
    )


def make_web(site: Site, pages: int = 8, downloads: tuple[int, ...] = ()) -> Web:
    """Fill the folder www: pages of an HTML file and its objects, and files to download.

    Sizes are log-normal as on the web: medians of 30 kB (HTML) and 12 kB (objects).
    """
    www = site.folder / "www"
    www.mkdir()
    made = []
    for page in range(pages):
        sizes = [int(site.rng.lognormal(10.3, 0.6))]
        count = int(site.rng.integers(2, 22))
        sizes += site.rng.lognormal(9.4, 1.2, count).clip(200, 600_000).astype(int).tolist()
        names = [f"/{page}-{number}.bin" for number in range(len(sizes))]
        for name, size in zip(names, sizes, strict=True):
            write_content(www / name[1:], site.rng, size)
        made.append(names)
    for number, size in enumerate(downloads):
        write_content(www / f"download-{number}.bin", site.rng, size)
    return Web(made, [f"/download-{number}.bin" for number in range(len(downloads))])


def serve_pages(site: Site) -> Web:
    """Serve pages on the site's addresses."""
    web = make_web(site)
    start_nginx(site, list(site.addresses))
    return web


def serve_hidden_pages(site: Site) -> Web:
    """Serve pages and smaller downloads where only a tunnel reaches them."""
    sizes = tuple(int(size) for size in site.rng.integers(200_000, 3_000_000, 3))
    web = make_web(site, pages=5, downloads=sizes)
    start_nginx(site, [site.hidden])
    return web


def fetch(client: Client, address: str, paths: list[str], *options: str) -> None:
    """Fetch paths with curl: over one connection, or as its options say."""
    host = client.site.host
    prefix = str(client.rng.choice(["", "", "www.", "cdn.", "static-eu1."]))
    client.run(
        command(
            "curl -q -s -S -f -k -A {agent} --connect-to ::{address}: {options} {outputs}",
            agent=USER_AGENTS[int(client.rng.integers(len(USER_AGENTS)))],
            address=f"[{address}]" if ":" in address else address,
            options=list(options),
            outputs=[
                w for path in paths for w in ("-o", "/dev/null", f"https://{prefix}{host}{path}")
            ],
        )
    )


def fetch_otherwise(client: Client, paths: list[str]) -> None:
    """Fetch paths with another client than curl, so that curl's manners mark no kind."""
    if client.rng.random() < 0.5:
        client.run_python("https_client", "fetch", client.address, client.site.host, *paths)
        return
    urls = [f"https://{client.url_address}{path}" for path in paths]
    client.run(command("wget --no-config -q --no-check-certificate -O /dev/null {urls}", urls=urls))


def load_page(client: Client, address: str, paths: list[str], *options: str) -> None:
    """Fetch a page, then its objects: in turn, over six connections, or multiplexed."""
    manner = (
        ["--http1.1"],
        ["--http1.1", "--parallel", "--parallel-max", "6"],
        ["--http2", "--parallel", "--parallel-max", "30"],
        ["--http2"],
    )[int(client.rng.choice(4, p=[0.2, 0.25, 0.4, 0.15]))]
    if "--parallel" in manner:
        fetch(client, address, paths[:1], *options, manner[0])
        paths = paths[1:]
    fetch(client, address, paths, *options, *manner)


def browse(client: Client, address: str, web: Web, *options: str) -> None:
    """Read one to three pages, with the pauses of a reader."""
    for _ in range(int(client.rng.integers(1, 4))):
        load_page(client, address, web.pages[int(client.rng.integers(len(web.pages)))], *options)
        client.pause(client.rng.exponential(0.4))


def browse_or_download(client: Client, address: str, web: Web, *options: str) -> None:
    """Do in a tunnel what people do: pages mostly, a download now and then."""
    if client.rng.random() < 0.3:
        fetch(client, address, [str(client.rng.choice(web.downloads))], *options)
    else:
        browse(client, address, web, *options)


def visit_pages(client: Client, web: Web) -> None:
    """Browse over HTTPS."""
    if client.rng.random() < 0.25:
        fetch_otherwise(client, web.pages[int(client.rng.integers(len(web.pages)))])
    else:
        browse(client, client.address, web)


def serve_downloads(site: Site) -> Web:
    """Serve files of 2 to 10 MB."""
    sizes = np.exp(site.rng.uniform(np.log(2e6), np.log(10e6), 4))
    web = make_web(site, pages=0, downloads=tuple(sizes.astype(int).tolist()))
    start_nginx(site, list(site.addresses))
    return web


def visit_downloads(client: Client, web: Web) -> None:
    """Download one file: whole, from its middle, or in a hurry no faster than allowed."""
    path = str(client.rng.choice(web.downloads))
    if client.rng.random() < 0.35:
        fetch_otherwise(client, [path])
        return
    options = (
        ["--http1.1"],
        ["--http2"],
        ["--http2", "--range", f"{int(client.rng.integers(100_000, 1_000_000))}-"],
        ["--http1.1", "--limit-rate", str(int(client.rng.integers(3_000_000, 8_000_000)))],
    )[int(client.rng.integers(4))]
    fetch(client, client.address, [path], *options)


KINDS = (
    Kind(
        name="https_page",
        summary="web pages, HTTP/1.1 and HTTP/2 (nginx; curl, wget)",
        programs=(NGINX, CURL, WGET),
        endpoints=(("tcp", 443),),
        serve=serve_pages,
        visit=visit_pages,
    ),
    Kind(
        name="https_bulk",
        summary="large downloads over HTTPS (nginx; curl, wget)",
        programs=(NGINX, CURL, WGET),
        endpoints=(("tcp", 443),),
        serve=serve_downloads,
        visit=visit_downloads,
    ),
)
