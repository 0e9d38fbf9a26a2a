"""Small messages on long connections: MQTT over TLS, mail over IMAPS."""

import re
import subprocess
from dataclasses import dataclass

from etcpipe.lab.certificates import make_certificate
from etcpipe.lab.kind import MARKER, Client, Kind, Site
from etcpipe.lab.processes import Program

MQTT_PORT = 8883
IMAPS_PORT = 993


def serve_mqtt(site: Site) -> str:
    """Start mosquitto with TLS; return the path of its authority's certificate."""
    certificate = make_certificate(site)
    listeners = [
        f"listener {MQTT_PORT} {address}\n"
        f"cafile {certificate.authority}\ncertfile {certificate.chain}\nkeyfile {certificate.key}\n"
        for address in site.addresses
    ]
    configuration = site.folder / "mosquitto.conf"
    configuration.write_text("user root\nallow_anonymous true\n" + "".join(listeners))
    site.start(
        ["mosquitto", "-c", str(configuration)],
        *[("tcp", address, MQTT_PORT) for address in site.addresses],
    )
    return str(certificate.authority)


def visit_mqtt(client: Client, authority: str) -> None:
    """Report as a sensor does, while a second connection listens to it."""
    topic = f"plant/{client.number}/sensor"
    quality = str(client.rng.integers(0, 3))
    common = ["-h", client.address, "-p", str(MQTT_PORT), "--cafile", authority, "--insecure"]
    common += ["-t", topic, "-q", quality]
    count = int(client.rng.integers(3, 15))
    if client.rng.random() < 0.6:
        client.start(["mosquitto_sub", *common, "-k", str(client.rng.integers(5, 30))])
    sensor = client.start_typing(["mosquitto_pub", *common, "-l"])
    period_s = client.rng.uniform(0.05, 0.4)
    for reading in range(count):
        payload = "x" * int(client.rng.lognormal(4, 1))
        sensor.write(f'{{"n":{reading},"note":"{MARKER.decode().strip()}","v":"{payload}"}}\n')
        client.pause(period_s * client.rng.uniform(0.8, 1.2))
    sensor.finish()


DOVECOT_CONF = """
base_dir = {folder}/run
log_path = /dev/stderr
protocols = imap
listen = {listen}
ssl = required
auth_mechanisms = plain
service imap-login {{
  inet_listener imap {{
    port = 0
  }}
}}
"""
# Certificate, users and where mail is: what dovecot 2.4 calls otherwise.
DOVECOT_2_3 = """
ssl_cert = <{chain}
ssl_key = <{key}
passdb {{
  driver = static
  args = password=lab
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={folder}/mail/%u
}}
mail_location = maildir:{folder}/mail/%u
"""
DOVECOT_2_4 = """
ssl_server_cert_file = {chain}
ssl_server_key_file = {key}
passdb static {{
  password = lab
}}
userdb static {{
  fields {{
    uid = nobody
    gid = nogroup
    home = {folder}/mail/%{{user}}
  }}
}}
mail_driver = maildir
mail_path = {folder}/mail/%{{user}}
"""
# Must stand first; a newer dovecot goes by it too.
DOVECOT_2_4_FIRST = "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"
HEADER = "From: a@example\r\nTo: b@example\r\nSubject: message {number}\r\n\r\n{marker}"


@dataclass(frozen=True)
class Mailbox:
    """How many messages there are, and a file with one more."""

    messages: int
    draft: str


def serve_imaps(site: Site) -> Mailbox:
    """Start dovecot with TLS on port 993 and one mailbox, sizes of messages log-normal."""
    certificate = make_certificate(site)
    inbox = site.folder / "mail" / "lab"
    for folder in ("cur", "new", "tmp"):
        (inbox / folder).mkdir(parents=True)
    messages = int(site.rng.integers(10, 40))
    sizes = site.rng.lognormal(8.5, 1.5, messages + 1).clip(100, 800_000).astype(int)
    texts = [
        HEADER.format(number=number, marker=MARKER.decode()) + _mail_text(site, int(size))
        for number, size in enumerate(sizes)
    ]
    for number, text in enumerate(texts[:messages]):
        (inbox / "cur" / f"1700000000.{number}.lab:2,").write_text(text)
    draft = site.folder / "draft.eml"
    draft.write_text(texts[-1])
    site.run(["chown", "-R", "nobody:nogroup", str(site.folder / "mail")])
    configuration = site.folder / "dovecot.conf"
    configuration.write_text(
        dovecot_conf(dovecot_version()).format(
            folder=site.folder,
            listen=", ".join(site.addresses),
            chain=certificate.chain,
            key=certificate.key,
        )
    )
    site.start(
        ["dovecot", "-F", "-c", str(configuration)],
        *[("tcp", address, IMAPS_PORT) for address in site.addresses],
    )
    return Mailbox(messages, str(draft))


def dovecot_version() -> tuple[int, ...]:
    """Return the version of the dovecot that is installed: (2, 4, 1) of "2.4.1-4 (7d8c0e5759)"."""
    said = subprocess.run(["dovecot", "--version"], capture_output=True, text=True, check=False)
    return tuple(map(int, re.findall(r"\d+", said.stdout.partition("-")[0])))


def dovecot_conf(version: tuple[int, ...]) -> str:
    """Return the configuration as a version of dovecot reads it, for format()."""
    if version < (2, 4):
        return DOVECOT_CONF + DOVECOT_2_3
    return DOVECOT_2_4_FIRST + DOVECOT_CONF + DOVECOT_2_4


def visit_imaps(client: Client, mailbox: Mailbox) -> None:
    """Look at the inbox, read some messages, perhaps store a draft; then look again."""
    url = f"imaps://{client.url_address}:{IMAPS_PORT}"
    curl = ["curl", "-q", "-s", "-S", "-k", "-u", "lab:lab", "-o", "/dev/null"]
    client.run([*curl, f"{url}/INBOX", "-X", "FETCH 1:* (FLAGS ENVELOPE)"])
    for _ in range(int(client.rng.integers(1, 4))):
        numbers = client.rng.integers(1, mailbox.messages + 1, client.rng.integers(1, 6))
        urls = [f"{url}/INBOX;MAILINDEX={number}" for number in numbers]
        client.run(
            [*curl, urls[0], *[part for url in urls[1:] for part in ("-o", "/dev/null", url)]]
        )
        client.pause(client.rng.exponential(0.4))
    if client.rng.random() < 0.3:
        client.run([*curl, "-T", mailbox.draft, f"{url}/INBOX"])
    if client.rng.random() < 0.5:
        client.run([*curl, f"{url}/INBOX", "-X", "NOOP"])


def _mail_text(site: Site, size: int) -> str:
    line = "".join(map(chr, site.rng.integers(97, 123, 70))) + "\r\n"
    return line * (size // len(line) + 1)


KINDS = (
    Kind(
        name="mqtt_tls",
        summary="sensor readings over MQTT with TLS (mosquitto)",
        programs=(
            Program("mosquitto", "mosquitto"),
            Program("mosquitto_pub", "mosquitto-clients"),
            Program("mosquitto_sub", "mosquitto-clients"),
        ),
        endpoints=(("tcp", MQTT_PORT),),
        serve=serve_mqtt,
        visit=visit_mqtt,
    ),
    Kind(
        name="imaps",
        summary="reading mail over IMAP with TLS (dovecot, curl)",
        programs=(Program("dovecot", "dovecot-imapd"), Program("curl", "curl")),
        endpoints=(("tcp", IMAPS_PORT),),
        serve=serve_imaps,
        visit=visit_imaps,
    ),
)
