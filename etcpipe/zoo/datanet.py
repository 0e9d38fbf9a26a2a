"""A perceptron on the bytes of one packet.

Source: Wang et al., DataNet, IEEE Access 2018, and ETCpipe's "Darknet", which is the same.
"""

import torch

from etcpipe.zoo.layers import perceptron, scaled
from etcpipe.zoo.network import ZooNetwork


class DatanetMlp(ZooNetwork):
    """1480 bytes, 128 and 32 hidden units."""

    def __init__(self, classes: int, length: int = 1480) -> None:
        super().__init__()
        self.length = length
        self.layers = perceptron(length, 128, 32, classes)

    def forward(self, packets: torch.Tensor) -> torch.Tensor:
        """Return (flows, classes) scores of (flows, 1 or more, bytes) uint8; one packet counts."""
        return self.layers(scaled(packets[:, 0, : self.length]))
