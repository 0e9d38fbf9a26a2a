"""Proof that verdicts act: one encrypted download is held to 4 Mbit/s, and SSH is not.

A client and a server on both sides of a router that runs `etcpipe attach --policy` with the last
stage of the model that ships, and an HTB tree which knows nothing of ports or addresses. Without
links' delay the model cannot tell whether the download is a page; that it is HTTPS is enough.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
from command import Running
from kernel_fixtures import run

from etcpipe.lab.network import AddressPlan, Links, Network
from etcpipe.lab.processes import is_listening, wait_until

pytestmark = [pytest.mark.root, pytest.mark.slow]

HELD_MBIT, LEAST_MBIT = 4.0, 3.5
POLICY = """
[[rule]]
class = "https"
min_probability = 0.8
action = {priority = "1:20"}
"""
WEB = ("https", "https_bulk", "https_page", "video_hls")
HTB = f"""
qdisc add dev lab0 root handle 1: htb default 10
class add dev lab0 parent 1: classid 1:10 htb rate 60mbit
class add dev lab0 parent 1: classid 1:20 htb rate {HELD_MBIT:g}mbit
"""
NGINX = """
daemon off;
user root;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    server {{
        listen {address}:443 ssl;
        root {folder}/www;
        ssl_certificate {folder}/tls.pem;
        ssl_certificate_key {folder}/tls.key;
    }}
}}
"""
SSHD = """
ListenAddress {address}
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin prohibit-password
StrictModes no
PidFile none
UsePAM yes
UseDNS no
Subsystem sftp internal-sftp
"""
SETTLE_S, MEASURE_S = 3.0, 3.0  # from the verdict on, bursts and queues level out
WINDOWS = 4  # the best counts: in others a program may have had too little of the processor
MEGABYTES = 200


class Bed:
    """Client, router and server; files that grow by what the client receives."""

    def __init__(self, folder: Path, stack: ExitStack):
        self.folder = folder
        self._stack = stack
        plan = AddressPlan(np.random.default_rng(7))
        links = Links(offloads=False, rate_mbit=0, rtt_ms=None)
        self.network = Network(f"etcshape-{os.getpid()}", plan, links)
        stack.callback(self.network.close)
        addresses = plan.server()
        self.network.add_server(addresses)
        self.server = addresses.ipv4

    def start(self, namespace: str, argv: list[str], out: Path | None = None) -> subprocess.Popen:
        """Run a program in a namespace until the end of the test."""
        output = self._stack.enter_context(open(out or os.devnull, "wb"))
        process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{namespace}", *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._stack.callback(process.wait)
        # with what it started itself: scp's ssh, nginx's workers
        self._stack.callback(os.killpg, process.pid, signal.SIGKILL)
        return process

    def serve(self, argv: list[str], port: int) -> None:
        process = self.start(self.network.server, argv)

        def ready() -> bool:
            return is_listening(self.network.server, "tcp", self.server, port)

        wait_until(ready, process, Path(os.devnull), 10)


@contextmanager
def bed(folder: Path) -> Iterator[Bed]:
    with ExitStack() as stack:
        yield Bed(folder, stack)


def serve_https(bed: Bed) -> None:
    """Serve a file of random bytes over TLS, port 443."""
    folder = bed.folder
    (folder / "www").mkdir()
    (folder / "www" / "file.bin").write_bytes(np.random.default_rng(1).bytes(MEGABYTES << 20))
    certificate = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=lab"
    run(f"openssl req {certificate} -keyout {folder}/tls.key -out {folder}/tls.pem -days 2")
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, address=bed.server))
    bed.serve(["nginx", "-e", "stderr", "-p", str(folder), "-c", f"{folder}/nginx.conf"], 443)


def serve_ssh(bed: Bed) -> None:
    """Let root in with a key made here, port 22."""
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's chroot, wired in at its build
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{bed.folder}/key"], check=True
    )
    (bed.folder / "sshd.conf").write_text(SSHD.format(folder=bed.folder, address=bed.server))
    bed.serve(["/usr/sbin/sshd", "-D", "-f", f"{bed.folder}/sshd.conf"], 22)


def download(bed: Bed) -> Path:
    """Begin to fetch the file; returns what grows meanwhile."""
    into = bed.folder / "https.out"
    url = f"https://{bed.server}/file.bin"
    bed.start(bed.network.client, ["curl", "-q", "-s", "-k", "--http1.1", url], into)
    return into


def copy(bed: Bed) -> Path:
    """Begin to copy the file over SSH; returns what grows meanwhile."""
    into = bed.folder / "ssh.out"
    into.touch()
    source = f"root@{bed.server}:{bed.folder}/www/file.bin"
    options = "-F none -o BatchMode=yes -o StrictHostKeyChecking=no -o IdentitiesOnly=yes"
    options += " -o UserKnownHostsFile=/dev/null -o IdentityAgent=none"
    key = ["-i", f"{bed.folder}/key"]
    bed.start(bed.network.client, ["scp", "-q", *options.split(), *key, source, str(into)])
    return into


def mbit(*growing: Path) -> list[float]:
    """Return at what rate files grow."""
    began, before = monotonic(), [path.stat().st_size for path in growing]
    sleep(MEASURE_S)
    took, after = monotonic() - began, [path.stat().st_size for path in growing]
    return [(b - a) * 8e-6 / took for a, b in zip(before, after, strict=True)]


def labels(etcpipe: Running) -> dict[int, str]:
    """Return what was said so far of the flow to each port."""
    whole = etcpipe.stdout.rpartition("\n")[0]
    events = [json.loads(line) for line in whole.splitlines()]
    return {event["dest_port"]: event["etcpipe"]["label"] for event in events}


def test_a_download_is_held_by_its_verdict_and_ssh_is_not(tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    with bed(tmp_path) as path:
        router = path.network.router
        for command in HTB.strip().splitlines():
            run(f"tc -n {router} {command}")
        serve_https(path)
        serve_ssh(path)
        attach = ("-j", "-n", router, "attach", "lab0", "--policy", policy, "--model", "default")
        with Running(*attach, folder=tmp_path) as etcpipe:
            etcpipe.until_attached()
            files = download(path), copy(path)
            etcpipe.until(lambda: etcpipe.stdout.count("\n") >= 2)
            sleep(SETTLE_S)
            https = ssh = 0.0
            for _ in range(WINDOWS):
                https, ssh = map(max, (https, ssh), mbit(*files))
                if https >= LEAST_MBIT and ssh >= 10 * HELD_MBIT:
                    break
    said = labels(etcpipe)
    # without the delay of real links, the model may say no more of SSH than "unknown"
    assert said[443] in WEB and said[22] not in WEB, said
    # 4 Mbit/s of frames are 3.8 of the file: 1448 of 1514 bytes, less TLS
    assert LEAST_MBIT <= https <= 4.2
    assert ssh >= 10 * HELD_MBIT
