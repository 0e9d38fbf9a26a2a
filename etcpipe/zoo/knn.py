"""The nearest flows by sizes, directions and gaps of the first packets.

Source: When Simple Model Just Works, arXiv 2506.08655: L1 distance on ten packets.
"""

import numpy as np
import torch

from etcpipe.zoo.network import ZooNetwork

PACKETS = 10
REMEMBERED = 4000  # flows; each costs a comparison with every flow that is judged
# The nearest counts a little more, so that of two classes with the same votes it wins.
VOTES = (1.04, 1.03, 1.02, 1.01, 1.0)
FLOOR = 0.1


class Knn(ZooNetwork):
    """Five nearest neighbours among the flows that it was shown."""

    flows: torch.Tensor
    votes: torch.Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._classes = classes
        self.register_buffer("flows", torch.zeros(len(VOTES), 3 * PACKETS))
        self.register_buffer("votes", torch.zeros(len(VOTES), classes))

    def memorise(self, rows: np.ndarray, label: np.ndarray) -> bool:
        """Keep flows and their labels; that is all of the training."""
        if len(rows) > REMEMBERED:
            kept = np.random.default_rng(0).choice(len(rows), REMEMBERED, replace=False)
            rows, label = rows[kept], label[kept]
        shown = rows[:, :PACKETS].reshape(len(rows), -1)
        flows, place = np.unique(shown, axis=0, return_inverse=True)
        votes = np.zeros((len(flows), self._classes), np.float32)
        np.add.at(votes, (place.reshape(-1), label), 1)
        # Flows that look the same are one, or chance would tell which of them are the nearest.
        self.flows = torch.from_numpy(flows)
        self.votes = torch.from_numpy(votes / votes.sum(axis=1, keepdims=True))
        return True

    def forward(self, packets: torch.Tensor) -> torch.Tensor:
        """Return (flows, classes), logarithms of votes, of (flows, packets, 3) float32."""
        shown = packets[:, :PACKETS].flatten(1)
        distance = (shown[:, :1] - self.flows[:, 0]).abs()
        for i in range(1, 3 * PACKETS):  # column by column: all at once would not fit a cache
            distance = distance + (shown[:, i : i + 1] - self.flows[:, i]).abs()
        _, nearest = (-distance).topk(min(len(VOTES), len(self.flows)), dim=1)
        weight = torch.tensor(VOTES)[: nearest.shape[1], None]
        return ((self.votes[nearest] * weight).sum(dim=1) + FLOOR).log()
