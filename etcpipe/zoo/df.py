"""Convolutions over size, direction and gap of the first packets.

Source: Sirinam et al., Deep Fingerprinting, CCS 2018, table 1: blocks of two convolutions
with batch normalisation, ELU in the first block and ReLU in the others. Theirs looks at the
directions of 5000 packets; with 30 there is less to pool.
"""

from collections.abc import Sequence

import torch
from torch import nn

from etcpipe.zoo.network import ZooNetwork


class DeepFingerprinting(ZooNetwork):
    """Blocks of two convolutions each, pooled, then one hidden layer."""

    def __init__(
        self,
        classes: int,
        packets: int = 30,
        channels: Sequence[int] = (32, 64, 128, 256),
        kernel: int = 8,
        pools: Sequence[int] = (1, 2, 2, 2),
        hidden: int = 512,
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        inputs, length = 3, packets
        for i, (width, pool) in enumerate(zip(channels, pools, strict=True)):
            for _ in range(2):
                blocks += [
                    nn.ConstantPad1d(((kernel - 1) // 2, kernel // 2), 0.0),
                    nn.Conv1d(inputs, width, kernel, bias=False),
                    nn.BatchNorm1d(width),
                    nn.ReLU() if i else nn.ELU(),
                ]
                inputs = width
            if pool > 1:
                blocks.append(nn.MaxPool1d(pool))
                length //= pool
        self.blocks = nn.Sequential(*blocks)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs * length, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, packets: torch.Tensor) -> torch.Tensor:
        """Return (flows, classes) scores of (flows, packets, 3) float32, the view seq."""
        return self.layers(self.blocks(packets.transpose(1, 2)))
