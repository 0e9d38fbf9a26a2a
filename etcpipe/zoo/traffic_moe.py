"""Traffic-MoE: a transformer over fields of packets whose dense parts are experts.

A flow is 91 tokens: one for the flow, and nine for each of ten packets, its eight patches of
eight bytes and its numbers (etcpipe.gpu.tokens). Patches that say nothing, because their bytes
are masked, ciphertext or not there, are left out: half of them and more, as a rule. The first
layer is dense, the others are mixtures of experts. Two dense twins tell what the experts are
worth: dense_active has as many units as a token meets, dense_total as many as there are.

The idea is that of Traffic-MoE (arXiv 2601.00357, abstract); shapes and training are ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from etcpipe.gpu.mask import HIDDEN
from etcpipe.gpu.tokens import META, NO_BYTE, PACKETS, PATCH, TOKENS
from etcpipe.zoo.layers import Block, SwiGlu
from etcpipe.zoo.moe import MixtureOfExperts
from etcpipe.zoo.network import ZooNetwork

MASKED = NO_BYTE + 1
PATCHES = TOKENS // PATCH
BYTE_WIDTH = 16
DIRECTION = TOKENS + 1  # its place in a packet's row
STATIC_AT_ONCE = 64
LAYER_DECAY = 0.75  # of the learning rate, a layer further from the head of a pre-trained one


# Sines of each number of a packet, and the deviation of their frequencies at the start.
FREQUENCIES, FREQUENCY = 16, 2.0
# Share of a flow's tokens that a step with labels does not see: no token must tell all.
TOKENS_LOST = 0.2


class Size(NamedTuple):
    """How large a network is."""

    width: int
    layers: int
    heads: int
    hidden: int  # units of a routed expert
    experts: int
    chosen: int
    shared: int  # units of the shared expert


SIZES = {
    "tiny": Size(64, 2, 4, 64, 4, 1, 64),
    "small": Size(128, 4, 4, 128, 8, 2, 256),
    "base": Size(256, 6, 8, 256, 16, 2, 512),
}


def dense_part(size: Size, kind: str, layer: int, balance: str) -> nn.Module:
    """Return the dense part of a layer of traffic_moe, dense_active or dense_total."""
    active = size.shared + size.chosen * size.hidden
    if layer == 0 or kind == "dense_active":
        return SwiGlu(size.width, active)
    if kind == "dense_total":
        return SwiGlu(size.width, size.shared + size.experts * size.hidden)
    return MixtureOfExperts(
        size.width, size.hidden, size.experts, size.chosen, size.shared, balance
    )


class Numbers(nn.Module):
    """Numbers of a packet as a token: themselves, and sines of them at learnt frequencies.

    So one linear layer tells sizes apart that are close. Source: Gorishniy et al., On
    Embeddings for Numerical Features in Tabular Deep Learning, NeurIPS 2022.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequency = nn.Parameter(FREQUENCY * torch.randn(len(META), FREQUENCIES))
        self.token = nn.Linear(len(META) * (1 + 2 * FREQUENCIES), width)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return (flows, packets, width) of (flows, packets, 8)."""
        angle = (2 * torch.pi * numbers[..., None] * self.frequency).flatten(2)
        return self.token(torch.cat([numbers, angle.sin(), angle.cos()], dim=2))


class Encoder(nn.Module):
    """Tokens in, their states out."""

    def __init__(self, size: Size, kind: str, balance: str) -> None:
        super().__init__()
        self.bytes = nn.Embedding(MASKED + 1, BYTE_WIDTH)
        self.patch = nn.Linear(BYTE_WIDTH * PATCH, size.width)
        self.numbers = Numbers(size.width)
        self.packet = nn.Parameter(0.02 * torch.randn(PACKETS, 1, size.width))
        self.place = nn.Parameter(0.02 * torch.randn(1 + PATCHES, size.width))
        self.flow = nn.Parameter(torch.zeros(1, 1, size.width))
        self.layers = nn.ModuleList(
            Block(size.width, size.heads, dense_part(size, kind, layer, balance))
            for layer in range(size.layers)
        )
        self.norm = nn.LayerNorm(size.width)
        # Whether shapes must not depend on what flows hold.
        self.is_static = False

    def forward(
        self, values: torch.Tensor, numbers: torch.Tensor, came: torch.Tensor
    ) -> torch.Tensor:
        """Return (flows, 91, width), the flow's token first, then nine a packet.

        Args:
            values: (flows, 10, 64) int64, 0 .. MASKED.
            numbers: (flows, 10, 8) float32.
            came: (flows, 10) bool; what did not come is not looked at.
        """
        tokens, shown = self._embedded(values, numbers, came)
        order = front(shown)
        kept, kept_shown = _taken(tokens, shown, order)
        for layer in self.layers:
            kept = layer(kept, kept_shown)
        places = order[..., None].expand(-1, -1, kept.shape[-1])
        return self.norm(tokens.scatter(1, places, kept))

    def of_flow(
        self, values: torch.Tensor, numbers: torch.Tensor, came: torch.Tensor
    ) -> torch.Tensor:
        """Return (flows, width), the flow's token of forward(): all that a class is told by."""
        tokens, shown = self._embedded(values, numbers, came)
        if self.training:
            shown = shown & (torch.rand(shown.shape, device=shown.device) >= TOKENS_LOST)
            shown[:, 0] = True
        if not self.is_static:
            tokens, shown = _taken(tokens, shown, front(shown))
        *layers, last = self.layers
        for layer in layers:
            tokens = layer(tokens, shown)
        return self.norm(cast(Block, last).of_first(tokens, shown)[:, 0])

    def _embedded(
        self, values: torch.Tensor, numbers: torch.Tensor, came: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (flows, 91, width) tokens, and (flows, 91) bool, those that say something."""
        flows = values.shape[0]
        patches = self.patch(self.bytes(values).reshape(flows, PACKETS, PATCHES, -1))
        packets = torch.cat([self.numbers(numbers)[:, :, None], patches], dim=2)
        packets = packets + self.packet + self.place
        tokens = torch.cat([self.flow.expand(flows, -1, -1), packets.flatten(1, 2)], dim=1)
        told = torch.cat([came[..., None], says_something(values) & came[..., None]], dim=2)
        shown = torch.cat([torch.ones_like(came[:, :1]), told.flatten(1)], dim=1)
        return tokens, shown


class TrafficMoe(ZooNetwork):
    """The encoder and a linear head on the flow's token."""

    def __init__(
        self, classes: int, size: str, kind: str = "traffic_moe", balance: str = "bias"
    ) -> None:
        super().__init__()
        self.encoder = Encoder(SIZES[size], kind, balance)
        self.head = nn.Linear(SIZES[size].width, classes)
        self._is_pretrained = False

    def forward(self, packets: torch.Tensor) -> torch.Tensor:
        """Return (flows, classes) scores of (flows, 10, 72) float32, the view tok."""
        values, numbers, came = parts(packets)
        return self.head(self.encoder.of_flow(values, numbers, came))

    def mixtures(self) -> list[MixtureOfExperts]:
        """Return the layers of experts, the first one first."""
        return [one for one in self.modules() if isinstance(one, MixtureOfExperts)]

    @contextmanager
    def static(self) -> Iterator[bool]:
        """Give each expert a fixed room a flow: see etcpipe.zoo.moe."""
        mixtures = self.mixtures()
        for one in mixtures:
            one.dispatch, one.routed, one.dropped = "static", 0, 0
        self.encoder.is_static = True
        try:
            yield bool(mixtures)
        finally:
            self.encoder.is_static = False
            for one in mixtures:
                one.dispatch = "loop"

    @torch.inference_mode()
    def static_facts(self, rows: np.ndarray) -> dict[str, Any]:
        """Return which part of what experts are asked has no room, and whether it matters."""
        if not self.mixtures() or not len(rows):
            return {}
        self.eval()
        shown = torch.tensor(rows).split(STATIC_AT_ONCE)
        exact = torch.cat([self(some) for some in shown])
        with self.static():
            static = torch.cat([self(some) for some in shown])
            routed = sum(one.routed for one in self.mixtures())
            dropped = sum(one.dropped for one in self.mixtures())
        same = (static.argmax(dim=1) == exact.argmax(dim=1)).float().mean()
        facts = {"dropped": round(dropped / max(routed, 1), 5), "same_class": round(float(same), 5)}
        return {"static": facts}

    def extra_loss(self) -> torch.Tensor:
        """Return what the routers are to pay."""
        losses = [one.extra_loss() for one in self.mixtures()]
        return torch.stack(losses).sum() if losses else super().extra_loss()

    def after_step(self, progress: float) -> None:
        """Balance the loads of the experts."""
        for one in self.mixtures():
            one.after_step(progress)

    def pretraining(self) -> ZooNetwork:
        """Return the telling of hidden fields by this network's encoder."""
        from etcpipe.zoo.masked_fields import MaskedFields

        return MaskedFields(self)

    def encoder_weights(self) -> dict[str, torch.Tensor]:
        """Return the encoder's weights."""
        return self.encoder.state_dict()

    def take_encoder(self, weights: dict[str, torch.Tensor], is_frozen: bool) -> None:
        """Begin with an encoder that was trained before, and leave it so if it is frozen."""
        self.encoder.load_state_dict(weights)
        self.encoder.requires_grad_(not is_frozen)
        self._is_pretrained = True

    def learning_rates(self, rate: float) -> list[dict[str, Any]]:
        """Return groups of parameters; what was trained before learns slower, layer by layer."""
        if not self._is_pretrained:
            return super().learning_rates(rate)
        layers = len(self.encoder.layers)
        groups: dict[int, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(_distance(name, layers), []).append(parameter)
        return [
            {"params": parameters, "lr": rate * LAYER_DECAY**distance}
            for distance, parameters in sorted(groups.items())
        ]

    def facts(self) -> dict[str, Any]:
        """Return how evenly experts are asked, and how many parameters a token meets."""
        mixtures = self.mixtures()
        idle = sum(
            (one.experts - one.chosen)
            * sum(part[0].numel() for part in (one.gate, one.up, one.down))
            for one in mixtures
        )
        total = sum(parameter.numel() for parameter in self.parameters())
        facts: dict[str, Any] = {"active_parameters": total - idle}
        if mixtures:
            facts["experts"] = [one.facts() for one in mixtures]
        return facts


def parts(packets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the byte tokens, the numbers, and which packets came, of the view tok."""
    return packets[..., :TOKENS].long(), packets[..., TOKENS:], packets[..., DIRECTION] != 0


def says_something(values: torch.Tensor) -> torch.Tensor:
    """Return (flows, packets, 8) bool, patches with a byte that is not masked, hidden or none."""
    told = (values != 0) & (values != NO_BYTE) & (values != HIDDEN)
    return told.reshape(*values.shape[:2], PATCHES, PATCH).any(dim=3)


def front(shown: torch.Tensor) -> torch.Tensor:
    """Return (flows, longest) int64, places of the tokens that are shown, in order.

    Behind them, where a flow has less than the longest one, are places of others.
    """
    count = shown.shape[1]
    # A topk of numbers that float32 holds exactly: no two are alike, so all engines agree.
    key = shown.float() * count - torch.arange(count, device=shown.device)
    return key.topk(count, dim=1).indices[:, : shown.sum(dim=1).max()]


def _taken(
    tokens: torch.Tensor, shown: torch.Tensor, places: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens at some places, and which of them are shown."""
    width = tokens.shape[-1]
    taken = tokens.gather(1, places[..., None].expand(-1, -1, width))
    return taken, shown.gather(1, places)


def _distance(name: str, layers: int) -> int:
    """Return how many layers a parameter is from the head."""
    if not name.startswith("encoder."):
        return 0
    if name.startswith("encoder.layers."):
        return layers - int(name.split(".")[2])
    return 1 if name.startswith("encoder.norm.") else layers + 1
