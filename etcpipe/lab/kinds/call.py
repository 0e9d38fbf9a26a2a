"""Calls: Opus and H.264 in SRTP (RFC 3711) in both directions, with ffmpeg at each end."""

import base64
import subprocess
from dataclasses import dataclass

from etcpipe.lab.kind import Client, Kind, Site, command
from etcpipe.lab.kinds.video import FFMPEG

SUITE = "AES_CM_128_HMAC_SHA1_80"


@dataclass(frozen=True)
class Stream:
    """One direction of a flow: encoder options, and who sends to whom."""

    namespace: str
    encoder: list[str]
    source: tuple[str, int]
    target: tuple[str, int]


def serve(_: Site) -> None:
    """Return at once: the far end of a call starts with the call."""


def visit(client: Client, _: None) -> None:
    """Talk for some seconds, now and then with a picture; each stream is one flow."""
    seconds = client.rng.uniform(2.0, 5.0) / client.speed
    encoders = [_voice(client)]
    if client.rng.random() < 0.35:
        encoders.append(_picture(client))
    streams = []
    for number, encoder in enumerate(encoders):
        port = client.local_port() + 2 * number  # RTCP takes the one above
        near, far = (client.own_address, port), (client.address, port)
        streams += [
            Stream(client.namespace, encoder, near, far),
            Stream(client.site.namespace, encoder, far, near),
        ]
    senders = [_start_sender(client, stream, seconds) for stream in streams]
    for sender in senders:
        client.finish(sender)


def _voice(client: Client) -> list[str]:
    # Pulsed noise: syllables and silence, so that packet sizes vary as with speech.
    return command(
        "-f lavfi -i anoisesrc=c=pink:a=0.5,tremolo=f={pulse:.1f}:d=0.95"
        " -c:a libopus -b:a {kbit}k -frame_duration {frame_ms}",
        pulse=client.rng.uniform(1, 4),
        kbit=client.rng.integers(16, 64),
        frame_ms=client.rng.choice([20, 20, 40, 60]),
    )


def _picture(client: Client) -> list[str]:
    return command(
        "-f lavfi -i testsrc2=s=320x240:r={frames},noise=alls=12:allf=t -c:v libx264"
        " -preset ultrafast -tune zerolatency -g 40 -b:v {rate} -maxrate {rate} -bufsize {rate}",
        frames=client.rng.integers(12, 26),
        rate=f"{client.rng.integers(150, 600)}k",
    )


def _start_sender(client: Client, stream: Stream, seconds: float) -> subprocess.Popen:
    key = base64.b64encode(client.rng.bytes(30)).decode()  # 128 bits of key, 112 of salt
    host = f"[{stream.target[0]}]" if client.is_ipv6 else stream.target[0]
    return client.start(
        command(
            "ffmpeg -nostdin -v error -re {encoder} -t {seconds:.2f} -f rtp"
            " -srtp_out_suite {suite} -srtp_out_params {key}"
            " srtp://{host}:{port}?localaddr={own_host}&localrtpport={own_port}&pkt_size=1200",
            encoder=stream.encoder,
            seconds=seconds,
            suite=SUITE,
            key=key,
            host=host,
            port=stream.target[1],
            own_host=stream.source[0],
            own_port=stream.source[1],
        ),
        namespace=stream.namespace,
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
