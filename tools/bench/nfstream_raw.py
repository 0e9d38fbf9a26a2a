"""Keeps the first ten payload packets of each flow of a capture, 1,000 bytes each, by a plugin.

The same as raw_rows.py, without any masking. nfstream is at its fastest: no dissection and no
statistics. Runs in nfstream's own virtual environment: nothing of etcpipe is imported here.
"""

import sys

from nfstream import NFPlugin, NFStreamer

FIRST_N, RAW_LEN = 10, 1000
TCP, UDP = 6, 17


class FirstBytes(NFPlugin):
    """Gives each flow `raw`, [FIRST_N, RAW_LEN] bytes from the IP header on, zero where none."""

    def on_init(self, packet, flow):
        flow.udps.raw = bytearray(FIRST_N * RAW_LEN)
        flow.udps.packets = flow.udps.bytes = 0
        self.on_update(packet, flow)

    def on_update(self, packet, flow):
        rank = flow.udps.packets
        counts = packet.protocol in (TCP, UDP) and packet.payload_size
        if rank >= FIRST_N or not counts:
            return
        kept = packet.ip_packet[:RAW_LEN]
        start = rank * RAW_LEN
        flow.udps.raw[start : start + len(kept)] = kept
        flow.udps.packets += 1
        flow.udps.bytes += len(kept)


if __name__ == "__main__":
    flows = packets = kept = 0
    for flow in NFStreamer(source=sys.argv[1], udps=FirstBytes(), n_dissections=0, n_meters=1):
        flows += flow.udps.packets > 0
        packets += flow.udps.packets
        kept += flow.udps.bytes
    print(flows, packets, kept, 0)
