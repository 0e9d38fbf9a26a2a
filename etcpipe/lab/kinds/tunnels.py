"""Tunnels with web traffic inside: OpenVPN, WireGuard, Shadowsocks."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from etcpipe.errors import LabError
from etcpipe.lab.certificates import Certificate, make_certificate
from etcpipe.lab.kind import Client, Kind, Site, command
from etcpipe.lab.kinds.web import CURL, NGINX, Web, browse_or_download, serve_hidden_pages
from etcpipe.lab.network import ip
from etcpipe.lab.processes import Program

OPENVPN_PORT = 1194
WIREGUARD_PORT = 51820
VERBOSE = {"LOG_LEVEL": "verbose"}  # wireguard-go says when it is ready


@dataclass(frozen=True)
class OpenVpn:
    """What a client needs: its certificate, and what is behind the tunnel."""

    web: Web
    client: Certificate


def serve_openvpn(site: Site) -> OpenVpn:
    """Start OpenVPN servers: UDP and TCP, over IPv4 and IPv6, each with its own subnet."""
    web = serve_hidden_pages(site)
    server = make_certificate(site)
    client = make_certificate(site, "client", usage="clientAuth")
    for number, (address, protocol) in enumerate(
        (address, protocol) for address in site.addresses for protocol in ("udp", "tcp")
    ):
        family = "6" if ":" in address else "4"
        suffix = f"tcp{family}-server" if protocol == "tcp" else f"udp{family}"
        site.start(
            command(
                "openvpn --dev tun{number} --dev-type tun --proto {protocol} --local {address}"
                " --port {port} --topology subnet --server 10.254.{number}.0 255.255.255.0"
                " --push {route} --keepalive 5 30 --duplicate-cn --dh none {tls}",
                number=number,
                protocol=suffix,
                address=address,
                port=OPENVPN_PORT,
                route=f"route {site.hidden} 255.255.255.255",
                tls=_tls(server),
            ),
            (protocol, address, OPENVPN_PORT),
            says="Initialization Sequence Completed",
        )
    return OpenVpn(web, client)


def visit_openvpn(client: Client, server: OpenVpn) -> None:
    """Connect, use the tunnel, disconnect."""
    family = "6" if client.is_ipv6 else "4"
    protocol = f"udp{family}" if client.rng.random() < 0.7 else f"tcp{family}-client"
    client.start(
        command(
            "openvpn --client --dev tun --nobind --proto {protocol} --remote {address} {port}"
            " --remote-cert-tls server {tls}",
            protocol=protocol,
            address=client.address,
            port=OPENVPN_PORT,
            tls=_tls(server.client),
        ),
        says="Initialization Sequence Completed",
    )
    browse_or_download(client, client.site.hidden, server.web)


def _tls(certificate: Certificate) -> list[str]:
    return command(
        "--ca {authority} --cert {chain} --key {key} --verb 3",
        authority=certificate.authority,
        chain=certificate.chain,
        key=certificate.key,
    )


@dataclass(frozen=True)
class WireGuard:
    """What a client needs: key files, the server's public key, and what is behind."""

    web: Web
    client_key: Path
    server_public: str


def serve_wireguard(site: Site) -> WireGuard:
    """Start WireGuard on the port of both addresses, with one client known to it."""
    web = serve_hidden_pages(site)
    keys = {}
    for name in ("server", "client"):
        private = _wg("genkey")
        (site.folder / f"{name}.key").write_text(private)
        keys[name] = _wg("pubkey", private)
    device = f"wgs{site.token}"
    if not _add_kernel_device(site.namespace, device):
        site.start(
            ["wireguard-go", "-f", device], says="UAPI listener started", environment=VERBOSE
        )
    site.run(
        command(
            "wg set {device} listen-port {port} private-key {folder}/server.key"
            " peer {peer} allowed-ips 10.255.0.2/32",
            device=device,
            port=WIREGUARD_PORT,
            folder=site.folder,
            peer=keys["client"],
        )
    )
    site.ip(f"addr add 10.255.0.1/24 dev {device}")
    site.ip(f"link set {device} mtu 1420 up")
    return WireGuard(web, site.folder / "client.key", keys["server"])


def visit_wireguard(client: Client, server: WireGuard) -> None:
    """Bring a tunnel up, use it, take it down."""
    device = f"wgc{client.site.token}"
    is_kernel = _add_kernel_device(client.namespace, device)
    if not is_kernel:
        client.start(
            ["wireguard-go", "-f", device],
            says="UAPI listener started",
            environment=VERBOSE,
        )
    try:
        client.run(
            command(
                "wg set {device} private-key {key} peer {peer} allowed-ips {hidden}/32"
                " endpoint {address}:{port} persistent-keepalive {keepalive_s}",
                device=device,
                key=server.client_key,
                peer=server.server_public,
                hidden=client.site.hidden,
                address=client.url_address,
                port=WIREGUARD_PORT,
                keepalive_s=client.rng.integers(1, 26),
            )
        )
        ip(client.namespace, f"addr add 10.255.0.2/32 dev {device}")
        ip(client.namespace, f"link set {device} mtu 1420 up")
        ip(client.namespace, f"route add {client.site.hidden}/32 dev {device}")
        browse_or_download(client, client.site.hidden, server.web)
    finally:
        if is_kernel:
            ip(client.namespace, f"link del {device}")


def _add_kernel_device(namespace: str, device: str) -> bool:
    """Make a WireGuard device of the kernel's; return whether this kernel has them."""
    argv = ["ip", "-n", namespace, "link", "add", device, "type", "wireguard"]
    return subprocess.run(argv, capture_output=True).returncode == 0


def _wg(verb: str, text: str = "") -> str:
    done = subprocess.run(["wg", verb], input=text, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"wg {verb} failed: {done.stderr.strip()}")
    return done.stdout.strip()


@dataclass(frozen=True)
class Shadowsocks:
    """What a client needs: how to reach the proxy, and what is behind it."""

    web: Web
    port: int
    password: str
    method: str


def serve_shadowsocks(site: Site) -> Shadowsocks:
    """Start ss-server with an AEAD cipher on a port of the seed's."""
    server = Shadowsocks(
        web=serve_hidden_pages(site),
        port=int(site.rng.integers(8000, 9000)),
        password=site.rng.bytes(12).hex(),
        method=str(site.rng.choice(["chacha20-ietf-poly1305", "aes-256-gcm"])),
    )
    configuration = site.folder / "ss.json"
    configuration.write_text(
        json.dumps(
            {
                "server": list(site.addresses),
                "server_port": server.port,
                "password": server.password,
                "method": server.method,
            }
        )
    )
    site.start(
        ["ss-server", "-c", str(configuration)],
        *[("tcp", address, server.port) for address in site.addresses],
    )
    return server


def visit_shadowsocks(client: Client, server: Shadowsocks) -> None:
    """Browse through a SOCKS proxy whose other end is the server."""
    local = client.local_port()
    client.start(
        command(
            "ss-local -s {address} -p {port} -k {password} -m {method} -b 127.0.0.1 -l {local}",
            address=client.address,
            port=server.port,
            password=server.password,
            method=server.method,
            local=local,
        ),
        says="listening at",
    )
    proxy = ["--socks5", f"127.0.0.1:{local}"]
    browse_or_download(client, client.site.hidden, server.web, *proxy)


KINDS = (
    Kind(
        name="openvpn",
        summary="web traffic in a VPN over UDP or TCP (OpenVPN)",
        programs=(Program("openvpn", "openvpn"), NGINX, CURL),
        endpoints=(("udp", OPENVPN_PORT), ("tcp", OPENVPN_PORT)),
        serve=serve_openvpn,
        visit=visit_openvpn,
        exclusive=True,
    ),
    Kind(
        name="wireguard",
        summary="web traffic in a WireGuard tunnel (of the kernel's, or wireguard-go)",
        programs=(
            Program("wireguard-go", "wireguard-go"),
            Program("wg", "wireguard-tools"),
            NGINX,
            CURL,
        ),
        endpoints=(("udp", WIREGUARD_PORT),),
        serve=serve_wireguard,
        visit=visit_wireguard,
        exclusive=True,
    ),
    Kind(
        name="shadowsocks",
        summary="web traffic through an encrypted proxy (shadowsocks-libev)",
        programs=(
            Program("ss-server", "shadowsocks-libev"),
            Program("ss-local", "shadowsocks-libev"),
            NGINX,
            CURL,
        ),
        endpoints=(("tcp", None),),
        serve=serve_shadowsocks,
        visit=visit_shadowsocks,
    ),
)
