"""Sequences of packet sizes, read and told again.

Source: Liu et al., FS-Net, INFOCOM 2019; embedding of 16 as in the authors' repository.
"""

import torch
from torch import nn

from etcpipe.zoo.network import ZooNetwork

SIZES = 1504  # 0: no packet; a packet of n bytes is n + 1, the longest of them share the last
EMBEDDING, HIDDEN = 16, 128
REBUILT = 0.5  # weight of the reconstruction in the loss


class FsNet(ZooNetwork):
    """An encoder and a decoder of two bidirectional GRU layers each."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SIZES, EMBEDDING, padding_idx=0)
        self.encoder = nn.GRU(EMBEDDING, HIDDEN, 2, bidirectional=True, batch_first=True)
        self.decoder = nn.GRU(4 * HIDDEN, HIDDEN, 2, bidirectional=True, batch_first=True)
        self.rebuild = nn.Linear(2 * HIDDEN, SIZES)
        self.layers = nn.Sequential(nn.Linear(16 * HIDDEN, 256), nn.SELU(), nn.Linear(256, classes))
        self._rebuilt = torch.zeros(())

    def forward(self, packets: torch.Tensor) -> torch.Tensor:
        """Return (flows, classes) scores of (flows, packets, 3) float32, the view seq."""
        sizes = size_ids(packets)
        _, last = self.encoder(self.embedding(sizes))
        encoded = last.transpose(0, 1).flatten(1)
        told, last = self.decoder(encoded[:, None].expand(-1, packets.shape[1], -1))
        decoded = last.transpose(0, 1).flatten(1)
        if self.training:
            self._rebuilt = nn.functional.cross_entropy(
                self.rebuild(told).flatten(0, 1), sizes.flatten(), ignore_index=0
            )
        both = [encoded, decoded, encoded * decoded, (encoded - decoded).abs()]
        return self.layers(torch.cat(both, dim=1))

    def extra_loss(self) -> torch.Tensor:
        """Return how badly the sizes are told again."""
        return REBUILT * self._rebuilt


def size_ids(packets: torch.Tensor) -> torch.Tensor:
    """Return (flows, packets) int64, ids of sizes; 0 where there is no packet."""
    sizes = (packets[..., 0] * 1500).round().clamp(0, SIZES - 2).long() + 1
    return sizes * (packets[..., 1] != 0)
