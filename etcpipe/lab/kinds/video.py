"""HLS video (RFC 8216) over HTTPS: ffmpeg encodes, nginx serves, players pace themselves."""

from dataclasses import dataclass

from etcpipe.lab.kind import MARKER, Client, Kind, Site, command
from etcpipe.lab.kinds.web import CURL, NGINX, fetch, start_nginx
from etcpipe.lab.processes import Program

FFMPEG = Program("ffmpeg", "ffmpeg")
CLIP_S = 8


@dataclass(frozen=True)
class Video:
    """Paths of the playlists, one for each bit rate, and the length of their segments."""

    playlists: list[str]
    segment_s: float


def serve(site: Site) -> Video:
    """Encode a test picture into HLS segments at two bit rates; serve them."""
    (site.folder / "www").mkdir()
    segment_s = float(site.rng.choice([1.0, 2.0]))
    playlists = []
    for size, kbit in (("426x240", 400), ("854x480", 1500)):
        rate = f"{int(kbit * site.rng.uniform(0.7, 1.6))}k"
        folder = site.folder / "www" / rate
        folder.mkdir()
        site.run(
            command(
                "ffmpeg -nostdin -v error -f lavfi -i {source} -c:v libx264 -preset ultrafast -g 25"
                " -b:v {rate} -maxrate {rate} -bufsize {rate} -metadata {title} -f hls"
                " -hls_time {segment_s} -hls_list_size 0"
                " -hls_segment_filename {folder}/%d.ts {folder}/list.m3u8",
                source=f"testsrc2=s={size}:r=25:d={CLIP_S},noise=alls=20:allf=t",
                rate=rate,
                title=f"title={MARKER.decode().strip()}",
                segment_s=segment_s,
                folder=folder,
            )
        )
        playlists.append(f"/{rate}/list.m3u8")
    start_nginx(site, list(site.addresses))
    return Video(playlists, segment_s)


def visit(client: Client, video: Video) -> None:
    """Watch some seconds with one of three players."""
    seconds = client.rng.uniform(3.0, 7.0)
    playlist = str(client.rng.choice(video.playlists))
    play = (_play_buffered, _play_with_ffmpeg, _play_with_curl)[
        int(client.rng.choice(3, p=[0.5, 0.25, 0.25]))
    ]
    play(client, video, playlist, seconds)


def _play_buffered(client: Client, _: Video, playlist: str, seconds: float) -> None:
    """Keep a buffer full over one connection, as browsers do."""
    client.run_python(
        *["https_client", "play", client.address, client.site.host],
        *[playlist, f"{seconds:.2f}", str(client.speed)],
    )


def _play_with_ffmpeg(client: Client, _: Video, playlist: str, seconds: float) -> None:
    client.run(
        command(
            "ffmpeg -nostdin -v error -re -t {seconds:.2f} -i https://{address}{playlist}"
            " -c copy -f null -",
            seconds=seconds / client.speed,
            address=client.url_address,
            playlist=playlist,
        )
    )


def _play_with_curl(client: Client, video: Video, playlist: str, seconds: float) -> None:
    """Fetch every segment over a new connection, as simple players do."""
    folder = playlist.rsplit("/", 1)[0]
    fetch(client, client.address, [playlist])
    for number in range(int(seconds / video.segment_s)):
        fetch(client, client.address, [f"{folder}/{number}.ts"])
        client.pause(video.segment_s * 0.7)


KINDS = (
    Kind(
        name="video_hls",
        summary="HLS video over HTTPS, played as it comes (nginx; ffmpeg, curl)",
        programs=(NGINX, FFMPEG, CURL),
        endpoints=(("tcp", 443),),
        serve=serve,
        visit=visit,
    ),
)
