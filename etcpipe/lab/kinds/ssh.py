"""OpenSSH: somebody typing in a shell, and files copied with scp and rsync."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from etcpipe.lab.kind import MARKER, Client, Kind, Site
from etcpipe.lab.kinds.web import write_content
from etcpipe.lab.processes import Program

SSHD_CONF = """
{listen}
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
PidFile none
UsePAM {use_pam}
PrintMotd no
PrintLastLog no
UseDNS no
MaxStartups 100
Subsystem sftp internal-sftp
"""
SHELL = "bash --norc --noprofile -i"
COMMANDS = (
    "ls -l /usr/bin | head -{n}",
    "echo {text}",
    "cat /etc/services | tail -{n}",
    "uptime",
    "df -h",
    "ps aux | head -{n}",
    "grep -n tcp /etc/services | head -{n}",
    "for i in 1 2 3; do date; sleep 0.1; done",
    "cd /etc; pwd",
    "seq {n} | tr '\\n' ' '",
)


@dataclass(frozen=True)
class SshServer:
    """What a client needs: the user's key, and files to copy."""

    key: Path
    files: list[Path]


def serve(site: Site) -> SshServer:
    """Start sshd on port 22 of the site's addresses; root enters with the lab's key alone."""
    for name in ("host_key", "user_key"):
        kind = str(site.rng.choice(["ed25519", "ecdsa"]))
        site.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(site.folder / name)])
    configuration = site.folder / "sshd_config"
    configuration.write_text(
        SSHD_CONF.format(
            folder=site.folder,
            listen="\n".join(f"ListenAddress {address}" for address in site.addresses),
            # sshd refuses accounts whose password is locked, unless PAM is asked instead.
            use_pam="yes" if _is_root_locked() else "no",
        )
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's chroot, wired in at its build
    site.start(
        ["sshd", "-D", "-e", "-f", str(configuration)],
        *[("tcp", address, 22) for address in site.addresses],
    )
    return SshServer(site.folder / "user_key", [])


def serve_files(site: Site) -> SshServer:
    """Start sshd, with single files and one folder of small files to copy."""
    files = []
    for number, size in enumerate(site.rng.lognormal(12.5, 1.2, 6).clip(2e4, 4e6)):
        files.append(site.folder / f"file-{number}.bin")
        write_content(files[-1], site.rng, int(size))
    folder = site.folder / "tree"
    folder.mkdir()
    for number, size in enumerate(site.rng.lognormal(9, 1.5, 12).clip(100, 2e5)):
        write_content(folder / f"{number}.bin", site.rng, int(size))
    return SshServer(serve(site).key, [*files, folder])


def visit_shell(client: Client, server: SshServer) -> None:
    """Type commands key by key, read, go on; typing errors are taken back."""
    typist = client.start_typing(["ssh", "-tt", *_options(server), f"root@{client.address}", SHELL])
    client.pause(0.3 + client.rng.exponential(0.2))
    for _ in range(int(client.rng.integers(2, 6))):
        command = str(client.rng.choice(COMMANDS)).format(
            n=int(client.rng.integers(3, 60)), text=MARKER.decode().split(":")[0]
        )
        for key in command + "\n":
            if client.rng.random() < 0.03:
                typist.write("x")
                client.pause(client.rng.gamma(2.0, 0.05))
                typist.write("\x7f")
            typist.write(key)
            client.pause(client.rng.gamma(2.0, 0.025))
        client.pause(client.rng.exponential(0.3))
    typist.write("exit\n")
    typist.finish(accept=(0, 1, 127, 130))  # the shell's code is that of its last command


def visit_files(client: Client, server: SshServer) -> None:
    """Copy one thing: with scp or rsync, a file or a tree, up or down."""
    source = server.files[int(client.rng.integers(len(server.files)))]
    target = client.folder / f"{client.number}-copy"
    remote = f"root@{client.url_address}:"
    if client.rng.random() < 0.5:
        source_name, target_name = f"{remote}{source}", str(target)
    else:
        source_name, target_name = str(source), f"{remote}{target}"
    if client.rng.random() < 0.5:
        client.run(["scp", "-q", "-r", *_options(server), source_name, target_name])
        return
    shell = " ".join(["ssh", *_options(server)])
    compress = ["-z"] if client.rng.random() < 0.3 else []
    client.run(["rsync", "-a", *compress, "-e", shell, source_name, target_name])


def _options(server: SshServer) -> list[str]:
    return ["-F", "none", "-i", str(server.key)] + [
        f"-o{option}"
        for option in (
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "BatchMode=yes",
            "LogLevel=ERROR",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "GlobalKnownHostsFile=/dev/null",
        )
    ]


def _is_root_locked() -> bool:
    status = subprocess.run(["passwd", "-S", "root"], capture_output=True, text=True).stdout
    return status.split()[1:2] == ["L"]


PROGRAMS = (
    Program("sshd", "openssh-server"),
    Program("ssh", "openssh-client"),
    Program("ssh-keygen", "openssh-client"),
)
KINDS = (
    Kind(
        name="ssh_shell",
        summary="somebody typing in a remote shell (OpenSSH)",
        programs=PROGRAMS,
        endpoints=(("tcp", 22),),
        serve=serve,
        visit=visit_shell,
    ),
    Kind(
        name="ssh_transfer",
        summary="files copied over SSH (scp, rsync)",
        programs=(*PROGRAMS, Program("scp", "openssh-client"), Program("rsync", "rsync")),
        endpoints=(("tcp", 22),),
        serve=serve_files,
        visit=visit_files,
    ),
)
