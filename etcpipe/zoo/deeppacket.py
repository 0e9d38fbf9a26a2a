"""One-dimensional convolutions over the bytes of one packet.

Source: Lotfollahi et al., Deep Packet, Soft Computing 2020, its CNN.
"""

import torch
from torch import nn

from etcpipe.zoo.layers import perceptron, scaled
from etcpipe.zoo.network import ZooNetwork

CHANNELS = 200


class DeepPacket(ZooNetwork):
    """Two convolutions, one pooling, three hidden layers."""

    def __init__(self, classes: int, length: int = 1500) -> None:
        super().__init__()
        self.length = length
        pooled = ((length - 4) // 3 + 1 - 4) // 2
        self.layers = nn.Sequential(
            nn.Conv1d(1, CHANNELS, 4, stride=3),
            nn.ReLU(),
            nn.Conv1d(CHANNELS, CHANNELS, 5),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Flatten(),
            nn.Dropout(0.05),
            perceptron(CHANNELS * pooled, 200, 100, 50, classes, dropout=0.05),
        )

    def forward(self, packets: torch.Tensor) -> torch.Tensor:
        """Return (flows, classes) scores of (flows, 1 or more, bytes) uint8; one packet counts."""
        return self.layers(scaled(packets[:, :1, : self.length]))
