"""Calls: Opus and H.264 in SRTP (RFC 3711) in both directions, with ffmpeg at each end."""

import base64
from dataclasses import dataclass
from pathlib import Path

from etcpipe.lab.kind import Client, Kind, Site
from etcpipe.lab.kinds.web import FFMPEG

SUITE = "AES_CM_128_HMAC_SHA1_80"


@dataclass(frozen=True)
class Media:
    """Encoded once, sent by every call."""

    voice: Path
    picture: Path


def serve(site: Site) -> Media:
    """Encode what the calls send; the far ends start with each call."""
    media = Media(site.folder / "voice.ogg", site.folder / "picture.mp4")
    kbit = int(site.rng.integers(16, 64))
    frame_ms = str(site.rng.choice([20, 20, 40, 60]))
    # Pulsed noise: syllables and silence, so that packet sizes vary as with speech.
    speech = f"anoisesrc=d=12:c=pink:a=0.5,tremolo=f={site.rng.uniform(1, 4):.1f}:d=0.95"
    _encode(site, speech, media.voice, "libopus", "-b:a", f"{kbit}k", "-frame_duration", frame_ms)
    rate = f"{int(site.rng.integers(150, 600))}k"
    _encode(
        site,
        "testsrc2=s=320x240:r=20:d=12,noise=alls=12:allf=t",
        media.picture,
        *["libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "40"],
        *["-b:v", rate, "-maxrate", rate, "-bufsize", rate],
    )
    return media


def visit(client: Client, media: Media) -> None:
    """Talk for some seconds, now and then with a picture; each stream is one flow."""
    seconds = client.rng.uniform(2.0, 5.0) / client.speed
    streams = [media.voice, media.picture] if client.rng.random() < 0.35 else [media.voice]
    ends = []
    for number, file in enumerate(streams):
        near = client.local_port() + 2 * number
        far = client.local_port() + 2 * number
        ends.append((client.namespace, file, (client.own_address, near), (client.address, far)))
        ends.append(
            (client.site.namespace, file, (client.address, far), (client.own_address, near))
        )
    senders = [_start_sender(client, seconds, *end) for end in ends]
    client.pause(seconds * client.speed)
    for sender in senders:
        client.finish(sender)


def _start_sender(client: Client, seconds: float, namespace, file, source, target):
    key = base64.b64encode(client.rng.bytes(30)).decode()  # 128 bits of key, 112 of salt
    start_s = client.rng.uniform(0, 6)
    host = f"[{target[0]}]" if ":" in target[0] else target[0]
    url = f"srtp://{host}:{target[1]}?localaddr={source[0]}&localrtpport={source[1]}&pkt_size=1200"
    return client.start(
        ["ffmpeg", "-nostdin", "-v", "error", "-re", "-ss", f"{start_s:.2f}", "-i", str(file)]
        + ["-t", f"{seconds:.2f}", "-c", "copy", "-f", "rtp"]
        + ["-srtp_out_suite", SUITE, "-srtp_out_params", key, url],
        namespace=namespace,
    )


def _encode(site: Site, source: str, path: Path, codec: str, *options: str) -> None:
    option = "-c:a" if codec == "libopus" else "-c:v"
    site.run(
        ["ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", source]
        + [option, codec, *options, str(path)]
    )


KINDS = (
    Kind(
        name="srtp",
        summary="voice and video calls (Opus and H.264 in SRTP, ffmpeg)",
        programs=(FFMPEG,),
        endpoints=(("udp", None),),
        serve=serve,
        visit=visit,
    ),
)
