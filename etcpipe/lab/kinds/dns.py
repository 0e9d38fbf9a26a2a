"""Encrypted DNS: dnsdist answers over TLS and HTTPS, kdig asks."""

from etcpipe.lab.certificates import make_certificate
from etcpipe.lab.kind import Client, Kind, Site
from etcpipe.lab.processes import Program

# dnsdist invents the answers itself: one address, several, or a long text.
DNSDIST_CONF = """
setACL({{"0.0.0.0/0", "::/0"}})
setSecurityPollSuffix("")
{listen}
addAction(QTypeRule(DNSQType.A), SpoofAction({{{addresses4}}}))
addAction(QTypeRule(DNSQType.AAAA), SpoofAction({{{addresses6}}}))
addAction(QTypeRule(DNSQType.TXT), SpoofRawAction("\\\\{length:03d}{text}"))
addAction(AllRule(), RCodeAction(DNSRCode.NXDOMAIN))
"""
WORDS = "mail www cdn api img static login news shop video maps chat docs files ads".split()


def serve(site: Site) -> None:
    """Start dnsdist: DNS over TLS on port 853, over HTTPS on port 443."""
    certificate = make_certificate(site)
    listen = []
    for address in site.addresses:
        host = f"[{address}]" if ":" in address else address
        files = f'"{certificate.chain}", "{certificate.key}"'
        listen.append(f'addTLSLocal("{host}:853", {files})')
        listen.append(f'addDOHLocal("{host}:443", {files}, "/dns-query")')
    text = "v=" + "x" * int(site.rng.integers(20, 230))
    configuration = site.folder / "dnsdist.conf"
    configuration.write_text(
        DNSDIST_CONF.format(
            listen="\n".join(listen),
            addresses4=", ".join(f'"192.0.2.{n}"' for n in range(1, site.rng.integers(2, 9))),
            addresses6=", ".join(f'"2001:db8::{n}"' for n in range(1, site.rng.integers(2, 9))),
            length=len(text),
            text=text,
        )
    )
    site.start(
        ["dnsdist", "--supervised", "--disable-syslog", "-C", str(configuration)],
        *[("tcp", address, port) for address in site.addresses for port in (853, 443)],
    )


def visit(client: Client, served: None) -> None:
    """Resolve names as a page load makes a resolver do: in bursts over one connection."""
    transport = "+tls" if client.rng.random() < 0.5 else "+https"
    for _ in range(int(client.rng.integers(1, 4))):
        queries = []
        for _ in range(int(client.rng.geometric(0.25))):
            queries += [_name(client), str(client.rng.choice(["A", "A", "AAAA", "TXT"]))]
        pad = ["+padding"] if client.rng.random() < 0.6 else []
        client.run(["kdig", "+keepopen", transport, *pad, f"@{client.address}", *queries])
        client.pause(client.rng.exponential(0.4))


def _name(client: Client) -> str:
    word = str(client.rng.choice(WORDS))
    label = "".join(
        client.rng.choice(list("abcdefghijklmnopqrstuvwxyz"), client.rng.integers(3, 16))
    )
    return f"{word}.{label}.example."


KINDS = (
    Kind(
        name="dns_encrypted",
        summary="DNS over TLS and over HTTPS (dnsdist, kdig)",
        programs=(Program("dnsdist", "dnsdist"), Program("kdig", "knot-dnsutils")),
        endpoints=(("tcp", 853), ("tcp", 443)),
        serve=serve,
        visit=visit,
    ),
)
