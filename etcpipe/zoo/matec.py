"""Attention between packets.

Source: Cheng et al., MATEC, IEEE/ACM Transactions on Networking 2021. ETCpipe's splits heads by
a view without a transpose, so that each packet attends to pieces of itself and none to
another; here they are split by the features, and packets do attend to each other.
"""

import torch
from torch import nn

from etcpipe.zoo.layers import MultiHead, scaled
from etcpipe.zoo.network import ZooNetwork

WIDTH, LAYERS = 432, 2


class MatecLayer(nn.Module):
    """Attention and a convolution over packets, each with a dense layer and normalised."""

    def __init__(self, packets: int, heads: int) -> None:
        super().__init__()
        self.attention = MultiHead(WIDTH, heads)
        self.mixing = nn.Conv1d(packets, packets, 1)
        self.dense = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return (flows, packets, WIDTH) of the same."""
        for part, dense, norm in zip(
            (self.attention, self.mixing), self.dense, self.norms, strict=True
        ):
            states = norm(dense(part(states)).relu() + states)
        return states


class Matec(ZooNetwork):
    """Two layers over packets whose bytes are embedded whole."""

    def __init__(self, classes: int, packets: int = 10, length: int = 1000, heads: int = 4) -> None:
        super().__init__()
        self.packets, self.length = packets, length
        self.embedding = nn.Linear(length, WIDTH)
        self.layers = nn.Sequential(*(MatecLayer(packets, heads) for _ in range(LAYERS)))
        self.head = nn.Linear(packets * WIDTH, classes)

    def forward(self, packets: torch.Tensor) -> torch.Tensor:
        """Return (flows, classes) scores of (flows, packets, bytes) uint8."""
        shown = scaled(packets[:, : self.packets, : self.length])
        return self.head(self.layers(self.embedding(shown)).flatten(1))
