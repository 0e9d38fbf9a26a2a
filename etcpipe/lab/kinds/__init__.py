"""The kinds of traffic that the lab makes, by label."""

from etcpipe.lab.kind import Kind
from etcpipe.lab.kinds import (
    call,
    database,
    dns,
    messages,
    quic,
    ssh,
    torrent,
    tunnels,
    video,
    web,
)

KINDS: dict[str, Kind] = {
    kind.name: kind
    for module in (web, video, quic, ssh, dns, tunnels, messages, call, database, torrent)
    for kind in module.KINDS
}
