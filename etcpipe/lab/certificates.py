"""Keys and certificates of a lab: one authority, one certificate per server."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from etcpipe.errors import LabError
from etcpipe.lab.kind import Site

EC_KEY = ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
RSA_KEY = ["rsa:2048"]


@dataclass(frozen=True)
class Certificate:
    """PEM files: the certificate followed by its authority's, and the key."""

    chain: Path
    key: Path
    authority: Path


def make_authority(folder: Path) -> Path:
    """Make the lab's certificate authority; return its certificate's path."""
    certificate = folder / "authority.pem"
    _openssl(
        *["req", "-x509", "-nodes", "-newkey", *EC_KEY, "-days", "3650"],
        *["-subj", "/O=etcpipe lab/CN=authority", "-addext", "basicConstraints=critical,CA:TRUE"],
        *["-keyout", str(folder / "authority.key"), "-out", str(certificate)],
    )
    return certificate


def make_certificate(site: Site, name: str | None = None, usage: str = "serverAuth") -> Certificate:
    """Make a certificate of the lab's authority for a server, or a client of its.

    Most keys are elliptic, some RSA, as on the Internet: handshakes differ in size.
    """
    name = name or site.host
    chain, key = site.folder / f"{name}.pem", site.folder / f"{name}.key"
    _openssl(
        *["req", "-x509", "-nodes", "-newkey", *(RSA_KEY if site.rng.random() < 0.3 else EC_KEY)],
        *["-days", str(int(site.rng.integers(30, 900))), "-subj", f"/O=etcpipe lab/CN={name}"],
        *["-addext", "basicConstraints=critical,CA:FALSE"],
        *["-addext", "keyUsage=digitalSignature,keyEncipherment"],
        *["-addext", f"subjectAltName=DNS:{name}", "-addext", f"extendedKeyUsage={usage}"],
        *["-CA", str(site.authority), "-CAkey", str(site.authority.with_suffix(".key"))],
        *["-keyout", str(key), "-out", str(chain)],
    )
    chain.write_text(chain.read_text() + site.authority.read_text())
    return Certificate(chain, key, site.authority)


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"openssl made no certificate: {done.stderr.strip().splitlines()[-1]}")
