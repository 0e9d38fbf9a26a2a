"""Pre-training without labels: fields are hidden, and told from those that are left.

Only fields that say something are hidden and asked for (etcpipe.gpu.tokens.LEARNABLE): what
a mask made zero teaches nothing, and what is random teaches a network to learn by heart
(FlowSem-MAE, arXiv 2603.10051). Headers and numbers of a packet are hidden together, since
each tells the size; so are its first bytes of payload.
"""

import torch
from torch import nn
from torch.nn import functional

from etcpipe.gpu.mask import HIDDEN
from etcpipe.gpu.tokens import LEARNABLE, NO_BYTE, PATCH, PAYLOAD, TOKENS
from etcpipe.zoo.network import ZooNetwork
from etcpipe.zoo.traffic_moe import MASKED, PATCHES, TrafficMoe, parts

HIDE_PART, HIDE_PACKET = 0.4, 0.15
BYTES = 256
SIZE, DIRECTION, GAP = 0, 1, 2
HEADER_PATCHES = PAYLOAD // PATCH


class MaskedFields(ZooNetwork):
    """The encoder of a network, with a head that tells bytes and one that tells numbers."""

    learnable: torch.Tensor

    def __init__(self, network: TrafficMoe) -> None:
        super().__init__()
        self.network = network
        width = network.head.in_features
        self.byte_head = nn.Linear(width, PATCH * BYTES)
        self.number_head = nn.Linear(width, 3)
        places = torch.zeros(TOKENS, dtype=torch.bool)
        places[[place for field in LEARNABLE.values() for place in field]] = True
        self.register_buffer("learnable", places, persistent=False)

    def forward(self, packets: torch.Tensor) -> torch.Tensor:
        """Return how badly hidden fields are told, of (flows, 10, 72) float32, the view tok."""
        values, numbers, came = parts(packets)
        header, payload = hide(came)
        is_hidden = torch.cat(
            [
                header[..., None].expand(-1, -1, HEADER_PATCHES),
                payload[..., None].expand(-1, -1, PATCHES - HEADER_PATCHES),
            ],
            dim=2,
        )
        shown = values.masked_fill(is_hidden.repeat_interleave(PATCH, dim=2), MASKED)
        states = self.network.encoder(shown, numbers * ~header[..., None], came)
        states = states[:, 1:].reshape(*came.shape, 1 + PATCHES, -1)
        return self._bytes(states[:, :, 1:][is_hidden], values, is_hidden) + self._numbers(
            states[:, :, 0][header], numbers[header]
        )

    def _bytes(
        self, states: torch.Tensor, values: torch.Tensor, is_hidden: torch.Tensor
    ) -> torch.Tensor:
        told = self.byte_head(states).float().reshape(-1, BYTES)
        wanted = is_wanted(values, self.learnable)
        split = (*is_hidden.shape, PATCH)
        wanted, values = (part.reshape(split)[is_hidden].flatten() for part in (wanted, values))
        losses = functional.cross_entropy(
            told, values.clamp(max=BYTES - 1), reduction="none", label_smoothing=0.0
        )
        return (losses * wanted).sum() / wanted.sum().clamp(min=1)

    def _numbers(self, states: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        told = self.number_head(states).float()
        count = max(len(told), 1)
        losses = (
            functional.huber_loss(told[:, 0], numbers[:, SIZE], reduction="sum"),
            functional.huber_loss(told[:, 1], numbers[:, GAP], reduction="sum"),
            functional.binary_cross_entropy_with_logits(
                told[:, 2], (numbers[:, DIRECTION] > 0).float(), reduction="sum"
            ),
        )
        return torch.stack(losses).sum() / count

    def extra_loss(self) -> torch.Tensor:
        """Return what the routers are to pay."""
        return self.network.extra_loss()

    def after_step(self, progress: float) -> None:
        """Balance the loads of the experts."""
        self.network.after_step(progress)


def hide(came: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two (flows, packets) bool at random: whose headers and whose payload is hidden."""
    header, payload = torch.rand(2, *came.shape, device=came.device) < HIDE_PART
    whole = torch.rand(came.shape, device=came.device) < HIDE_PACKET
    return (header | whole) & came, (payload | whole) & came


def is_wanted(values: torch.Tensor, learnable: torch.Tensor) -> torch.Tensor:
    """Return (flows, packets, tokens) bool, bytes that are there and say something."""
    is_payload = torch.arange(TOKENS, device=values.device) >= PAYLOAD
    says_nothing = (values >= NO_BYTE) | (is_payload & (values == HIDDEN))
    return learnable & ~says_nothing
