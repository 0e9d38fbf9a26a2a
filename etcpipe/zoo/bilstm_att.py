"""A recurrent network over packets, with attention to the ones that tell.

Source: Yao et al., Identification of Encrypted Traffic Through Attention Mechanism Based Long
Short Term Memory, IEEE Transactions on Big Data 2019, as ETCpipe has it, but: there is a
nonlinearity between the two last layers, weights stay where they are during forward(), and
packets that never came get no attention.
"""

import torch
from torch import nn

from etcpipe.zoo.layers import FAR, has_bytes, perceptron, scaled
from etcpipe.zoo.network import ZooNetwork

HIDDEN = 100


class BiLstmAttention(ZooNetwork):
    """Two bidirectional LSTM layers, then a softmax over packets."""

    def __init__(self, classes: int, length: int = 1500) -> None:
        super().__init__()
        self.over_packets = nn.LSTM(length, HIDDEN, 2, bidirectional=True, batch_first=True)
        self.attention = nn.Linear(2 * HIDDEN, 1, bias=False)
        self.layers = perceptron(2 * HIDDEN, 128, classes)

    def forward(self, packets: torch.Tensor) -> torch.Tensor:
        """Return (flows, classes) scores of (flows, packets, bytes) uint8."""
        states, _ = self.over_packets(scaled(packets))
        wanted = self.attention(states).masked_fill(~has_bytes(packets)[..., None], FAR)
        return self.layers((states * wanted.softmax(dim=1)).sum(dim=1).relu())
