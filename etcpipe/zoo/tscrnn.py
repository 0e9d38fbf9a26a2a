"""Convolutions within packets, a recurrent network over packets.

Source: Lin et al., TSCRNN, Future Generation Computer Systems 2021. ETCpipe's runs its LSTM
over the 64 channels of convolutions that take packets for channels; here one convolution
looks at the bytes of each packet, and the LSTM runs over packets, as the paper means it.
"""

import torch
from torch import nn

from etcpipe.zoo.layers import has_bytes, scaled
from etcpipe.zoo.network import ZooNetwork

FEATURES = 128


class Tscrnn(ZooNetwork):
    """Shared convolutions, two bidirectional LSTM layers, mean over the packets that came."""

    def __init__(self, classes: int, length: int = 1000) -> None:
        super().__init__()
        self.length = length
        pooled = (((length - 8) // 4 + 1) // 2 - 5) // 2 + 1
        self.within_packets = nn.Sequential(
            nn.Conv1d(1, 32, 8, stride=4),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(32, 64, 5, stride=2),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.MaxPool1d(4),
            nn.Flatten(),
            nn.Linear(64 * (pooled // 4), FEATURES),
            nn.ReLU(),
        )
        self.over_packets = nn.LSTM(FEATURES, FEATURES, 2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * FEATURES, classes)

    def forward(self, packets: torch.Tensor) -> torch.Tensor:
        """Return (flows, classes) scores of (flows, packets, bytes) uint8."""
        features = self.within_packets(scaled(packets).reshape(-1, 1, self.length))
        states, _ = self.over_packets(features.reshape(-1, packets.shape[1], FEATURES))
        came = has_bytes(packets)[..., None].float()
        return self.head((states * came).sum(dim=1) / came.sum(dim=1).clamp(min=1))
