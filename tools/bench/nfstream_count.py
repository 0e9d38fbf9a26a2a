"""Runs nfstream over a capture with its statistics on and prints the flows and packets it found.

Runs in nfstream's own virtual environment: nothing of etcpipe is imported here.
"""

import sys

from nfstream import NFStreamer

if __name__ == "__main__":
    flows = packets = 0
    for flow in NFStreamer(
        source=sys.argv[1], statistical_analysis=True, splt_analysis=10, n_meters=1
    ):
        flows += 1
        packets += flow.bidirectional_packets
    print(flows, packets)
