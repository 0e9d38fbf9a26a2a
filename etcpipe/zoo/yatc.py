"""A masked autoencoder over an image of five packets, the usual pre-trained competitor.

Source: Zhao et al., Yet Another Traffic Classifier, AAAI 2023, restated: 40 x 40 pixels, eight
rows a packet, patches of 2 x 2, four layers of width 192 that look first within packets and
then across the flow. Here the normalised mean is what the head sees; in the published code
the result of that normalisation is thrown away.
"""

import torch
from torch import nn

from etcpipe.zoo.layers import Block, scaled
from etcpipe.zoo.network import ZooNetwork

SIDE, PATCH, PACKETS = 40, 2, 5
ROWS, COLUMNS = SIDE // PACKETS // PATCH, SIDE // PATCH  # of patches in a packet
A_PACKET = ROWS * COLUMNS
WIDTH, LAYERS, HEADS = 192, 4, 16
DECODER_WIDTH, DECODER_LAYERS = 128, 2
HIDDEN_SHARE = 0.9


class Gelu(nn.Module):
    """The dense part of a layer, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: torch.Tensor, shown: torch.Tensor | None = None) -> torch.Tensor:
        """Return (flows, tokens, width) of the same."""
        return self.layers(tokens)


class YatcEncoder(nn.Module):
    """Patches in, their states out; of a packet, of a flow, or of a few patches of one."""

    places: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Linear(PATCH * PATCH, WIDTH)
        self.layers = nn.ModuleList(Block(WIDTH, HEADS, Gelu(WIDTH)) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.register_buffer("places", waves(PACKETS * A_PACKET, WIDTH), persistent=False)

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (flows, 400, WIDTH) of (flows, 400, 4)."""
        return self.patch(pixels) + self.places

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return (flows, tokens, WIDTH) of the same, not normalised."""
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens


class Yatc(ZooNetwork):
    """The encoder twice, within packets and across them, then a linear head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = YatcEncoder()
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, packets: torch.Tensor) -> torch.Tensor:
        """Return (flows, classes) scores of (flows, 5, 320) uint8, the view image."""
        tokens = self.encoder.embed(patches(packets)).reshape(-1, A_PACKET, WIDTH)
        within = self.encoder(tokens).reshape(-1, PACKETS, ROWS, COLUMNS, WIDTH)
        across = self.encoder(within.mean(dim=2).reshape(-1, PACKETS * COLUMNS, WIDTH))
        return self.head(self.encoder.norm(across.mean(dim=1)))

    def pretraining(self) -> ZooNetwork:
        """Return the telling of hidden patches by this network's encoder."""
        return MaskedPatches(self)

    def encoder_weights(self) -> dict[str, torch.Tensor]:
        """Return the encoder's weights."""
        return self.encoder.state_dict()

    def take_encoder(self, weights: dict[str, torch.Tensor], is_frozen: bool) -> None:
        """Begin with an encoder that was trained before, and leave it so if it is frozen."""
        self.encoder.load_state_dict(weights)
        self.encoder.requires_grad_(not is_frozen)


class MaskedPatches(ZooNetwork):
    """Nine of ten patches are hidden; the encoder sees the others only."""

    places: torch.Tensor

    def __init__(self, network: Yatc) -> None:
        super().__init__()
        self.network = network
        self.narrow = nn.Linear(WIDTH, DECODER_WIDTH)
        self.hidden = nn.Parameter(0.02 * torch.randn(1, 1, DECODER_WIDTH))
        self.layers = nn.ModuleList(
            Block(DECODER_WIDTH, HEADS, Gelu(DECODER_WIDTH)) for _ in range(DECODER_LAYERS)
        )
        self.told = nn.Sequential(
            nn.LayerNorm(DECODER_WIDTH), nn.Linear(DECODER_WIDTH, PATCH * PATCH)
        )
        self.register_buffer("places", waves(PACKETS * A_PACKET, DECODER_WIDTH), persistent=False)

    def forward(self, packets: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error of hidden pixels, 0 to 1 each."""
        pixels = patches(packets)
        order = torch.rand(pixels.shape[:2], device=pixels.device).argsort(dim=1)
        seen = order[:, : round(pixels.shape[1] * (1 - HIDDEN_SHARE)), None]
        encoder = self.network.encoder
        tokens = encoder.embed(pixels).gather(1, seen.expand(-1, -1, WIDTH))
        states = self.narrow(encoder.norm(encoder(tokens)))
        every = self.hidden.expand(*pixels.shape[:2], -1).to(states.dtype)
        every = every.scatter(1, seen.expand(-1, -1, DECODER_WIDTH), states) + self.places
        for layer in self.layers:
            every = layer(every)
        is_hidden = torch.ones_like(pixels[..., :1]).scatter(1, seen, 0)
        errors = (self.told(every).float() - pixels).square() * is_hidden
        return errors.sum() / (is_hidden.sum() * PATCH * PATCH)


def patches(packets: torch.Tensor) -> torch.Tensor:
    """Return (flows, 400, 4) float32, packet by packet, of (flows, 5, 320) uint8."""
    pixels = scaled(packets).reshape(-1, PACKETS, ROWS, PATCH, COLUMNS, PATCH)
    return pixels.transpose(3, 4).reshape(-1, PACKETS * A_PACKET, PATCH * PATCH)


def waves(places: int, width: int) -> torch.Tensor:
    """Return (places, width), sines and cosines of places (Vaswani et al., 2017)."""
    rates = 10_000 ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(places)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
