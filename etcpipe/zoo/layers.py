"""Layers that several networks share."""

from itertools import pairwise

import torch
from torch import nn

FAR = -1e4  # instead of infinity, which half precision does not have


def scaled(packets: torch.Tensor) -> torch.Tensor:
    """Return bytes as float32 from 0 to 1."""
    return packets.float() * (1 / 255)


def has_bytes(packets: torch.Tensor) -> torch.Tensor:
    """Return (flows, packets) bool, where a packet came: its first byte has an IP version."""
    return packets[..., 0] != 0


def perceptron(*widths: int, dropout: float = 0.0) -> nn.Sequential:
    """Return linear layers of these widths with ReLU between them, none behind the last."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers[: -2 if dropout else -1])


class MultiHead(nn.Module):
    """Attention of tokens to every one, in several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(
        self, tokens: torch.Tensor, shown: torch.Tensor | None = None, asking: int | None = None
    ) -> torch.Tensor:
        """Return (flows, tokens, width) of the same.

        Args:
            shown: (flows, tokens) bool, tokens that may be attended to; None for all.
            asking: so many tokens are answered, the first ones; None for all.
        """
        flows, count, width = tokens.shape
        split = self.inputs(tokens).reshape(flows, count, 3, self.heads, width // self.heads)
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (queries[:, :, :asking] * self.scale) @ keys.transpose(-1, -2)
        if shown is not None:
            weights = weights + FAR * (~shown)[:, None, None, :].to(weights.dtype)
        mixed = (weights.softmax(dim=-1) @ values).transpose(1, 2)
        return self.output(mixed.flatten(2))


class SwiGlu(nn.Module):
    """A dense part with a gate. Source: Shazeer, GLU Variants, arXiv 2002.05202."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, tokens: torch.Tensor, shown: torch.Tensor | None = None) -> torch.Tensor:
        """Return (flows, tokens, width) of the same."""
        return self.down(nn.functional.silu(self.gate(tokens)) * self.up(tokens))


class Block(nn.Module):
    """A layer of a transformer: normalised before attention and before the dense part."""

    def __init__(self, width: int, heads: int, dense: nn.Module) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = MultiHead(width, heads)
        self.dense = dense

    def forward(
        self, tokens: torch.Tensor, shown: torch.Tensor | None = None, asking: int | None = None
    ) -> torch.Tensor:
        """Return (flows, tokens, width) of the same, of the first `asking`; see MultiHead."""
        mixed = self.attention(self.norms[0](tokens), shown, asking)
        tokens = tokens[:, :asking] + mixed
        return tokens + self.dense(
            self.norms[1](tokens), None if shown is None else shown[:, :asking]
        )
