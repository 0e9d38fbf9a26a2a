"""Passes flows to the C code of views of packet fields (etcpipe/native/packet_views.c)."""

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.columns import address_of
from etcpipe.layout import FLOW_KEY, PACKET_FIELDS


class KeptPackets:
    """The arrays of flows as the C code reads them; keeps them alive.

    Attributes:
        arguments: addresses, sizes and depth, the first arguments of each of these views.

    Raises:
        ValueError: regrouping kept fewer bytes a packet than `needed` of the view `name`.
    """

    def __init__(self, flows: FlowBatch, depth: int, name: str, needed: int) -> None:
        kept = flows.raw.shape[2]
        if kept < needed:
            raise ValueError(f"the flows keep {kept} bytes a packet, {name} needs {needed}")
        self._keys = np.ascontiguousarray(flows.key, FLOW_KEY)
        self._packets = np.ascontiguousarray(flows.packets, PACKET_FIELDS)
        self._raw = np.ascontiguousarray(flows.raw, np.uint8)
        addresses = map(address_of, (self._keys, self._packets, self._raw))
        self.arguments: tuple[int, ...] = (*addresses, *self._raw.shape, depth)
